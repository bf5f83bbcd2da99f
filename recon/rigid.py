"""Rigid motions, and volumes that follow them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from acquisition.errors import ConfigError
from acquisition.geometry import Grid

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rigid:
    """How one volume lies relative to another: ``p_moving = rotation @ p_fixed + shift``, LPS [mm]."""

    rotation: Floats
    """(3, 3)."""
    shift_mm: Floats
    """(3,)."""

    @property
    def angle_deg(self) -> float:
        """Angle of the rotation [degrees]."""
        return float(np.rad2deg(np.arccos(np.clip((np.trace(self.rotation) - 1) / 2, -1, 1))))

    @property
    def inverse(self) -> Rigid:
        """The way back."""
        return Rigid(self.rotation.T, -self.rotation.T @ self.shift_mm)

    def after(self, first: Rigid) -> Rigid:
        """Return this motion done after another one."""
        return Rigid(self.rotation @ first.rotation, self.rotation @ first.shift_mm + self.shift_mm)

    def way_mm(self, grid: Grid) -> Floats:
        """Return where the centre of a grid goes (3,) [mm]."""
        centre = np.asarray(grid.centre_mm)
        return np.asarray(self.rotation @ centre + self.shift_mm - centre)

    def travel_mm(self, grid: Grid) -> float:
        """Return how far the centre of a grid moves [mm]."""
        return float(np.linalg.norm(self.way_mm(grid)))

    def undone(self, places_mm: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return where places (n, 3) [mm] were before the motion."""
        return np.ascontiguousarray((places_mm - self.shift_mm) @ self.rotation, np.float32)

    def moved(self, data: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
        """Return a volume (z, y, x) after the motion, on its own grid; what comes in at an edge is as the edge was."""
        reverse = np.eye(4)
        reverse[:3, :3], reverse[:3, 3] = self.rotation.T, self.inverse.shift_mm
        index = np.linalg.inv(grid.affine) @ reverse @ grid.affine  # in x, y, z
        turn, shift = index[:3, :3][::-1, ::-1], index[:3, 3][::-1]
        return np.asarray(affine_transform(data, turn, shift, order=1, mode="nearest"), np.float32)


STILL = Rigid(np.eye(3), np.zeros(3))
"""No motion."""


def registration(where: str) -> Any:
    """Return the module `recon.register`, which needs an extra; `where` is named in the error.

    Raises
    ------
    ConfigError
        It is not installed.
    """
    try:
        return importlib.import_module("recon.register")
    except ModuleNotFoundError as error:
        raise ConfigError(
            where,
            expected=f"the package {error.name}",
            got="not installed",
            action="pip install 'isocenter[registration]', or choose a protocol without this step",
        ) from error
