"""An object made of ellipsoids: known everywhere in space, and everywhere in k-space.

The object is a tree. Each ellipsoid lies wholly inside its parent and replaces the parent's tissue there; the
root's parent is air. So the signal at a point is a plain sum of ``value(tissue) - value(parent's tissue)``
over the ellipsoids that contain it, and its Fourier transform is the sum of theirs. Coordinates are LPS, mm.

References
----------
C. G. Koay, J. E. Sarlls, E. Özarslan, "Three-dimensional analytical magnetic resonance imaging phantom in the
Fourier domain", MRM 58 (2007), DOI 10.1002/mrm.21292.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from acquisition.errors import ConfigError
from acquisition.geometry import Grid, Vector

Floats = NDArray[np.float64]
Intervals = tuple[NDArray[np.intp], Floats, Floats]
"""Which lines meet a solid, where they enter and where they leave it."""


@dataclass(frozen=True, slots=True)
class Tissue:
    """What one ellipsoid is made of."""

    value: float
    """Signal at echo time zero [a.u.]."""
    t2star_s: float
    """Decay time [s]."""

    def signal(self, te_s: float) -> float:
        """Return the signal at echo time `te_s` [s]."""
        return self.value * float(np.exp(-te_s / self.t2star_s))


AIR = Tissue(0.0, 1.0)
"""Gives no signal."""


@dataclass(frozen=True, slots=True, eq=False)
class Ellipsoid:
    """The points ``centre + matrix @ u`` with ``|u| <= 1``."""

    centre: Floats
    """Centre, LPS [mm], shape (3,)."""
    matrix: Floats
    """Columns are the semi-axes [mm], shape (3, 3)."""
    tissue: Tissue
    """What it is made of."""
    parent: int = -1
    """Index of the ellipsoid it lies in; -1 for air."""
    shape: ClassVar[int] = 0
    """Number of the unit solid in `kernels.ct_lines`."""

    def contains(self, points_mm: ArrayLike) -> NDArray[np.bool_]:
        """Return which of the points (..., 3) [mm] lie inside, shape (...)."""
        return (self.unit(points_mm) ** 2).sum(-1) <= 1.0

    def unit(self, points_mm: ArrayLike) -> Floats:
        """Return the points (..., 3) in the coordinates in which this is the unit ball."""
        return (np.asarray(points_mm, float) - self.centre) @ np.linalg.inv(self.matrix).T

    def extent_mm(self, direction: ArrayLike) -> tuple[float, float]:
        """Return the range of ``direction . p`` over its points [mm]."""
        direction = np.asarray(direction, float)
        middle, half = float(direction @ self.centre), float(np.linalg.norm(direction @ self.matrix))
        return middle - half, middle + half

    def meets(self, starts_mm: Floats, step_mm: Floats) -> Intervals:
        """Return which of the lines ``start + t step`` (n, 3) meet it, and from which t to which."""
        return crossing(self.unit(starts_mm), np.linalg.inv(self.matrix) @ step_mm)

    def spectrum(self, k_per_mm: ArrayLike) -> NDArray[np.complex128]:
        """Return the Fourier transform of its indicator function at ``k`` (..., 3) [1/mm], in mm^3.

        ``|det M| * (sin(q) - q cos(q)) / (2 pi^2 kappa^3) * exp(-2 pi i k.c)``, ``kappa = |M^T k|``,
        ``q = 2 pi kappa`` (DOI 10.1002/mrm.21292, eq. 6).
        """
        k = np.asarray(k_per_mm, float)
        kappa = np.linalg.norm(k @ self.matrix, axis=-1)
        q = 2 * np.pi * np.maximum(kappa, 1e-3)
        ball = np.where(kappa < 1e-3, 4 * np.pi / 3, 4 * np.pi * (np.sin(q) - q * np.cos(q)) / q**3)
        return abs(np.linalg.det(self.matrix)) * ball * np.exp(-2j * np.pi * (k @ self.centre))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Phantom:
    """A tree of ellipsoids with named places."""

    ellipsoids: tuple[Ellipsoid, ...]
    """Parents before children."""
    landmarks_mm: Mapping[str, Vector] = field(default_factory=dict)
    """Named places, LPS [mm]."""
    field_bump: tuple[Vector, float, float] = ((0.0, 0.0, 0.0), 30.0, 0.0)
    """Off-resonance as one Gaussian: centre LPS [mm], standard deviation [mm], height [Hz]."""

    def amplitudes(self, te_s: float = 0.0) -> Floats:
        """Return what each ellipsoid adds to its parent's signal at echo time `te_s` [s], shape (n,)."""
        signals = [e.tissue.signal(te_s) for e in self.ellipsoids]
        return np.array(
            [s - (signals[e.parent] if e.parent >= 0 else 0.0) for s, e in zip(signals, self.ellipsoids, strict=True)]
        )

    def signal(self, points_mm: ArrayLike, te_s: float = 0.0) -> Floats:
        """Return the signal at points (..., 3), LPS [mm], shape (...)."""
        points = np.asarray(points_mm, float)
        total = np.zeros(points.shape[:-1])
        for amplitude, ellipsoid in zip(self.amplitudes(te_s), self.ellipsoids, strict=True):
            total += amplitude * ellipsoid.contains(points)
        return total

    def spectrum(self, k_per_mm: ArrayLike, te_s: float = 0.0) -> NDArray[np.complex128]:
        """Return ``integral rho(p) exp(-2 pi i k.p) dp`` at ``k`` (..., 3) [1/mm], in mm^3."""
        parts = zip(self.amplitudes(te_s), self.ellipsoids, strict=True)
        return sum((a * e.spectrum(k_per_mm) for a, e in parts), np.zeros(np.shape(k_per_mm)[:-1], complex))

    def off_resonance_hz(self, points_mm: ArrayLike) -> Floats:
        """Return the off-resonance at points (..., 3), LPS [mm], in Hz, shape (...)."""
        centre, sigma_mm, height_hz = self.field_bump
        distance2 = ((np.asarray(points_mm, float) - centre) ** 2).sum(-1)
        return height_hz * np.exp(-distance2 / (2 * sigma_mm**2))

    def extent_mm(self, direction: ArrayLike) -> tuple[float, float]:
        """Return the range of ``direction . p`` over the object [mm]."""
        ranges = [e.extent_mm(direction) for e in self.ellipsoids if e.parent < 0]
        return min(low for low, _ in ranges), max(high for _, high in ranges)

    def transformed(self, matrix: ArrayLike, shift_mm: ArrayLike = (0.0, 0.0, 0.0)) -> Phantom:
        """Return the object after ``p -> matrix @ p + shift``; ellipsoids stay ellipsoids, children stay inside."""
        m, shift = np.asarray(matrix, float), np.asarray(shift_mm, float)

        def move(place: ArrayLike) -> Vector:
            x, y, z = (m @ np.asarray(place, float) + shift).tolist()
            return (x, y, z)

        centre, sigma_mm, height_hz = self.field_bump
        return replace(
            self,
            ellipsoids=tuple(
                replace(e, centre=m @ e.centre + shift, matrix=np.ascontiguousarray(m @ e.matrix))
                for e in self.ellipsoids
            ),
            landmarks_mm={name: move(place) for name, place in self.landmarks_mm.items()},
            field_bump=(move(centre), sigma_mm, height_hz),
        )

    def render(self, grid: Grid, te_s: float = 0.0, *, subsamples: tuple[int, int] = (1, 1)) -> NDArray[np.float32]:
        """Return the object averaged over the voxels of `grid`.

        The average is exact along x (the line meets an ellipsoid in one interval) and over `subsamples`
        (z, y) lines per voxel otherwise; along z over the slice thickness, not the slice distance.

        Returns
        -------
        ndarray
            (z, y, x), float32.

        Raises
        ------
        ConfigError
            Fewer than one line per voxel was asked for.
        """
        if min(subsamples) < 1:
            raise ConfigError("render subsamples", expected="at least 1 along z and y", got=str(subsamples))
        planes = [self._plane(grid.plane(z), te_s, subsamples) for z in range(grid.shape[0])]
        return np.stack(planes)

    def _plane(self, grid: Grid, te_s: float, subsamples: tuple[int, int]) -> NDArray[np.float32]:
        n_z, n_y = subsamples
        _, ny, nx = grid.shape
        z_dir, y_dir = np.asarray(grid.z_dir), np.asarray(grid.y_dir)
        rows = ((np.arange(ny * n_y) + 0.5) / n_y - 0.5) * grid.spacing_mm[1]
        depths = ((np.arange(n_z) + 0.5) / n_z - 0.5) * grid.thickness_mm
        starts = (np.asarray(grid.origin_mm) + depths[:, None, None] * z_dir + rows[:, None] * y_dir).reshape(-1, 3)
        step = np.asarray(grid.x_dir) * grid.spacing_mm[2]
        rows_of = np.tile(np.repeat(np.arange(ny), n_y), n_z)
        slopes = np.zeros((ny, nx + 2))
        reach = (float(z_dir @ grid.origin_mm) + depths.min(), float(z_dir @ grid.origin_mm) + depths.max())
        for amplitude, ellipsoid in zip(self.amplitudes(te_s), self.ellipsoids, strict=True):
            low, high = ellipsoid.extent_mm(z_dir)
            if amplitude and low < reach[1] + 1e-6 and high > reach[0] - 1e-6:
                _add_intervals(slopes, ellipsoid, amplitude / (n_z * n_y), (starts, step, rows_of))
        return np.cumsum(slopes, axis=-1)[:, :nx].astype(np.float32)


def _add_intervals(
    slopes: Floats, ellipsoid: Ellipsoid, amplitude: float, lines: tuple[Floats, Floats, NDArray[np.intp]]
) -> None:
    """Add the differences along x of the solid's box-averaged indicator on each line to the line's row."""
    starts, step, rows = lines
    hit, enter, leave = ellipsoid.meets(starts, step)
    width = slopes.shape[1]
    flat = slopes.reshape(-1)
    for edge, sign in ((enter, amplitude), (leave, -amplitude)):
        place = np.clip(edge + 0.5, 0, width - 2)
        index = place.astype(np.intp)
        fraction = place - index
        index += rows[hit] * width
        np.add.at(flat, index, sign * (1 - fraction))
        np.add.at(flat, index + 1, sign * fraction)


def crossing(u: Floats, d: Floats) -> Intervals:
    """Return which of the lines ``u + t d`` (n, dims) cross the unit ball, and from which t to which."""
    a, b = d @ d, u @ d
    discriminant = b**2 - a * ((u**2).sum(-1) - 1.0)
    hit = np.flatnonzero(discriminant > 0)
    root = np.sqrt(discriminant[hit])
    return hit, (-b[hit] - root) / a, (-b[hit] + root) / a
