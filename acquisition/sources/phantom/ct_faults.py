"""What goes wrong in a CT scan: a patient who moves, channels that drift or die, scattered radiation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from acquisition.errors import ConfigError
from acquisition.geometry import Vector
from acquisition.scan import CtHeader

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """A rigid motion: straight from pose to pose, at rest before the first and after the last."""

    turns: tuple[float, ...]
    """When each pose is reached, in rotations of the gantry since the first view; growing."""
    shifts_mm: tuple[Vector, ...]
    """Shift of each pose, LPS [mm]."""
    angles_deg: tuple[Vector, ...] = ()
    """Rotation of each pose about x, then y, then z through the pivot [degrees]; empty: none."""
    pivot_mm: Vector = (0.0, 0.0, 0.0)
    """What the rotations turn about, LPS [mm]."""

    def __post_init__(self) -> None:
        counts = {len(self.turns), len(self.shifts_mm), len(self.angles_deg or self.turns)}
        if len(counts) != 1 or not self.turns or list(self.turns) != sorted(self.turns):
            raise ConfigError(
                "CT motion",
                expected="as many shifts and angles as times, times that grow",
                got=f"times {self.turns}, {len(self.shifts_mm)} shifts, {len(self.angles_deg)} angles",
            )

    def poses(self, turns: Floats) -> tuple[Floats, Floats]:
        """Return rotation (n, 3, 3) and shift (n, 3) [mm] at the times `turns` (n,): ``p -> R p + shift``."""
        shifts, angles = self._between(self.shifts_mm, turns), self._between(self.angles_deg, turns)
        matrices = np.stack([_rotation(a) for a in np.deg2rad(angles)])
        pivot = np.asarray(self.pivot_mm)
        return matrices, shifts + pivot - matrices @ pivot

    def _between(self, values: tuple[Vector, ...], turns: Floats) -> Floats:
        if not values:
            return np.zeros((len(turns), 3))
        return np.stack([np.interp(turns, self.turns, [v[i] for v in values]) for i in range(3)], axis=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class CtFaults:
    """What is wrong with the scan; by default nothing."""

    motion: Motion | None = None
    """How the patient moves."""
    gains: tuple[tuple[int, int, float], ...] = ()
    """Elements (row, channel) whose gain has changed since the air scan, and the relative change."""
    gain_sd: float = 0.0
    """Standard deviation of the relative change of every element's gain since the air scan."""
    dying: tuple[tuple[int, int, int], ...] = ()
    """Elements (row, channel) that read the offset from this view of the patient on."""
    scatter: float = 0.0
    """Scattered radiation: part of what the object takes from the beam that reaches the detector again."""
    scatter_mm: float = 90.0
    """Standard deviation of its spread along the channels, at the detector [mm]."""

    output_sd: float = 0.0
    """Standard deviation of the tube's relative output from view to view, which no header tells."""

    def output(self, n_views: int, seed: int) -> Floats:
        """Return what the tube gives in each view of the patient, relative to what the header tells (view,)."""
        return np.exp(self.output_sd * np.random.default_rng([seed, 8]).standard_normal(n_views))

    def gain(self, ct: CtHeader, seed: int) -> Floats:
        """Return what each element's signal is multiplied with in the patient's views (row, channel)."""
        rng = np.random.default_rng([seed, 7])
        gain = 1 + self.gain_sd * rng.standard_normal((ct.n_rows, ct.n_channels))
        for row, channel, change in self.gains:
            gain[row, channel] = 1 + change
        return gain

    def scattered(self, primary: Floats, unattenuated: Floats, ct: CtHeader) -> Floats:
        """Return the scattered radiation in views of `primary` counts (view, row, channel)."""
        potential = primary * np.log(unattenuated / np.maximum(primary, 1e-30))
        sigma = self.scatter_mm / ct.pitch_mm[1]
        return self.scatter * gaussian_filter1d(potential.mean(axis=1, keepdims=True), sigma, mode="constant")


def _rotation(angles_rad: Floats) -> Floats:
    """Return the rotation about x, then y, then z."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles_rad), np.sin(angles_rad)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    turned: Floats = about_z @ about_y @ about_x
    return turned
