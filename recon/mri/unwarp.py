"""Gradients are not linear far from the isocentre: where each voxel really lies, from spherical harmonics."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.special import lpmv

from acquisition.errors import ConfigError
from acquisition.geometry import Grid
from acquisition.items import Image, Item, Kind
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict

_LINE = re.compile(r"\s*\d+\s+([AB])\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)\s+([-+.\deE]+)\s+([xyz])\s*$")
_RADIUS = re.compile(r"\s*([-+.\deE]+)\s*m\s*=\s*R0")

# LPS -> axes of the gradient coils (left, anterior, inferior of a patient lying head first, supine)
_POSITIONS = {"HFS": (1, -1, -1), "HFP": (-1, 1, -1), "FFS": (-1, -1, 1), "FFP": (1, 1, 1)}


@dataclass(frozen=True, slots=True)
class Harmonics:
    """A gradient system."""

    radius_mm: float
    """R0 [mm]."""
    terms: dict[tuple[str, str, int, int], float]
    """(axis, A or B, n, m) -> coefficient."""

    def displacement_mm(self, places_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far the images of places (..., 3) in coil coordinates lie from them [mm].

        ``d = R0 sum (r / R0)^n N P_n^m(cos theta) (A cos m phi + B sin m phi)`` for n > 1, with
        ``N = sqrt((2 n + 1) (n - m)! / (2 (n + m)!))`` for m > 0, 1 for m = 0, and P without the sign (-1)^m.
        """
        x, y, z = np.moveaxis(places_mm, -1, 0)
        r = np.maximum(np.sqrt(x * x + y * y + z * z), 1e-6)
        cosine, phi = z / r, np.arctan2(y, x)
        out = np.zeros(places_mm.shape)
        known: dict[tuple[int, int], NDArray[np.float64]] = {}
        for (axis, kind, n, m), value in self.terms.items():
            if n <= 1 or value == 0:
                continue
            if (n, m) not in known:
                norm = 1.0 if m == 0 else math.sqrt((2 * n + 1) * math.factorial(n - m) / (2 * math.factorial(n + m)))
                known[n, m] = (r / self.radius_mm) ** n * norm * (-1) ** m * lpmv(m, n, cosine)
            turn = np.cos(m * phi) if kind == "A" else np.sin(m * phi)
            out[..., "xyz".index(axis)] += self.radius_mm * value * known[n, m] * turn
        return out


def read_harmonics(path: Path) -> Harmonics:
    """Read a table of coefficients: lines such as ``3 A( 3, 1)  -0.0125  x`` and one ``0.25 m = R0``.

    Raises
    ------
    ConfigError
        The file is missing, or holds no radius or no coefficient.
    """
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        raise ConfigError("image.unwarp coefficients", expected="a readable file", got=f"{path}: {error}") from error
    radius = [float(m[1]) * 1e3 for m in map(_RADIUS.match, lines) if m]
    terms = {(m[5], m[1], int(m[2]), int(m[3])): float(m[4]) for m in map(_LINE.match, lines) if m}
    if not radius or not radius[0] > 0 or not terms:
        raise ConfigError(
            "image.unwarp coefficients",
            expected="lines like '3 A( 3, 1)  -0.0125  x' and one '0.25 m = R0'",
            got=f"{path.name}: {len(terms)} coefficients, {'a' if radius else 'no'} radius",
            action="take the gradient coefficient file of this scanner model",
        )
    return Harmonics(radius[0], terms)


@dataclass(kw_only=True)
class Unwarp:
    """Move each voxel to where it was measured, brightness by the change of volume; output ``unwarped``.

    A volume is corrected in three dimensions, a slice in its plane; how far slices bend out of their plane is told.
    Output ``displacement`` [mm] gives the warp's length. The conventional image stays.

    References
    ----------
    Jovicich et al., NeuroImage 2006;30:436, DOI 10.1016/j.neuroimage.2005.09.046.
    """

    coefficients: str
    """File with the gradient system's spherical harmonics."""
    flag_above_mm: float = 2.0
    """Bend out of the plane from which a slice is marked [mm]."""

    _harmonics: Harmonics | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.flag_above_mm > 0:
            raise ConfigError("image.unwarp flag_above_mm", expected="above 0", got=str(self.flag_above_mm))

    def open(self, scan: Scan) -> None:
        """Read the coefficients; learn how the patient lies.

        Raises
        ------
        ConfigError
            The file cannot be used, or the patient's position is none that is known.
        """
        self._harmonics = read_harmonics(Path(self.coefficients).expanduser())
        position = scan.patient.position or "HFS"
        if position not in _POSITIONS:
            raise ConfigError("image.unwarp patient position", expected=", ".join(_POSITIONS), got=position)
        self._signs, self._known = np.array(_POSITIONS[position], float), scan.patient.position is not None

    def feed(self, item: Item) -> Iterator[Item]:
        """Pass everything on; give the corrected image behind a conventional magnitude."""
        yield item
        if isinstance(item, Image) and item.output == "conventional" and item.kind is Kind.MAGNITUDE:
            yield from self._corrected(item)

    def close(self) -> Iterator[Item]:
        """Nothing is left to do."""
        return iter(())

    def _corrected(self, image: Image) -> Iterator[Image]:
        assert self._harmonics is not None
        grid = image.grid
        places = _places(grid)
        moved = self._signs * self._harmonics.displacement_mm(self._signs * places)  # back in LPS
        axes = np.stack([grid.z_dir, grid.y_dir, grid.x_dir])
        shift = np.einsum("zyxd,ad->azyx", moved, axes) / np.asarray(grid.spacing_mm)[:, None, None, None]
        out_of_plane = float(np.abs(shift[0]).max()) * grid.spacing_mm[0]
        if grid.shape[0] == 1:
            shift[0] = 0
        data = image.data.reshape(grid.shape) if image.data.ndim == 3 else image.data.reshape(-1, *grid.shape)[0]
        made = map_coordinates(data, np.indices(grid.shape) + shift, order=3, mode="constant", output=np.float32)
        made = np.maximum(made * _volume_change(shift), 0).astype(np.float32)
        told = self._verdict(out_of_plane if grid.shape[0] == 1 else 0.0, float(np.linalg.norm(moved, axis=-1).max()))
        shape = image.data.shape
        yield replace(image, data=made.reshape(shape), output="unwarped", verdicts=(*image.verdicts, told))
        length = np.linalg.norm(moved, axis=-1).astype(np.float32)
        yield replace(image, data=length.reshape(shape), output="displacement", unit="mm")

    def _verdict(self, bend_mm: float, most_mm: float) -> Verdict:
        bent = bend_mm > self.flag_above_mm
        guessed = "" if self._known else ", patient position not given: head first, supine"
        return Verdict(
            check="image.unwarp",
            level=Level.FLAG if bent or not self._known else Level.PASS,
            advice="The slice bends out of its plane: positions across it are uncertain." if bent else "Unwarped.",
            value=bend_mm,
            limit=self.flag_above_mm,
            unit="mm",
            evidence=f"largest displacement {most_mm:.2f} mm{guessed}",
        )


def _places(grid: Grid) -> NDArray[np.float64]:
    """Return the voxel centres (z, y, x, 3), LPS [mm] from the isocentre."""
    z, y, x = np.indices(grid.shape)
    return np.asarray(np.stack([x, y, z], axis=-1) @ grid.affine[:3, :3].T + grid.affine[:3, 3])


def _volume_change(shift: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the determinant of the Jacobian of ``index + shift`` (axis, z, y, x)."""
    jacobian = np.zeros((*shift.shape[1:], 3, 3))
    for a in range(3):
        for b in range(3):
            slope = np.gradient(shift[a], axis=b) if shift.shape[1 + b] > 1 else np.zeros(shift.shape[1:])
            jacobian[..., a, b] = slope + (a == b)
    return np.asarray(np.abs(np.linalg.det(jacobian)))
