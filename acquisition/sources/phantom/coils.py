"""Receive arrays: loops of wire around the head, their sensitivities and their noise.

By reciprocity the sensitivity of a loop is the transverse field that unit current in it would make,
``c(p) = B_x(p) - i B_y(p)`` with the main field along z (head to feet), from the law of Biot and Savart.
Maps are scaled so that ``sum_i |c_i(p)|^2 = 1`` everywhere, as after a perfect receive normalisation: the root
sum of squares of the coil images is then the object itself.

References
----------
D. I. Hoult, R. E. Richards, J. Magn. Reson. 24 (1976), DOI 10.1016/0022-2364(76)90233-X.
P. B. Roemer et al., "The NMR phased array", MRM 16 (1990), DOI 10.1002/mrm.1910160203.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from acquisition.errors import ConfigError

_N_SEGMENTS = 24
_WIRE_MM = 8.0  # Closer to the wire than this the field no longer grows: a wire has a thickness.


@dataclass(frozen=True, slots=True, eq=False)
class ReceiveArray:
    """Circular loops."""

    centres_mm: NDArray[np.float64]
    """Loop centres, LPS [mm], shape (n_coils, 3)."""
    normals: NDArray[np.float64]
    """Unit vectors along the loops' axes, shape (n_coils, 3)."""
    radius_mm: float
    """Radius of every loop [mm]."""

    def __len__(self) -> int:
        return len(self.centres_mm)

    def sensitivities(self, points_mm: ArrayLike) -> NDArray[np.complex64]:
        """Return the normalised sensitivities at points (..., 3), LPS [mm], shape (n_coils, ...)."""
        maps = self.fields(points_mm)
        maps /= np.linalg.norm(maps, axis=0)
        return maps.astype(np.complex64)

    def fields(self, points_mm: ArrayLike) -> NDArray[np.complex128]:
        """Return ``B_x - i B_y`` of unit current in each loop, arbitrary scale, at points (..., 3), (n_coils, ...)."""
        points = np.asarray(points_mm, float)
        flat = points.reshape(-1, 3)
        maps = np.stack([self._transverse(coil, flat) for coil in range(len(self))])
        return maps.reshape(len(self), *points.shape[:-1])

    def _transverse(self, coil: int, points: NDArray[np.float64]) -> NDArray[np.complex128]:
        """Return B_x - i B_y of one loop at points (n, 3), arbitrary scale, shape (n,)."""
        middle, current = self._segments(coil)
        x, y, z = (points[:, None] - middle).transpose(2, 0, 1)
        square = x * x + y * y + z * z + _WIRE_MM**2
        weight = 1 / (square * np.sqrt(square))
        along_x, along_y, along_z = current.T
        field_x, field_y = (along_y * z - along_z * y) * weight, (along_z * x - along_x * z) * weight
        return field_x.sum(1) - 1j * field_y.sum(1)

    def _segments(self, coil: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return middles and current vectors of the straight pieces of one loop, both (segment, 3)."""
        normal = self.normals[coil]
        helper = np.eye(3)[np.argmin(np.abs(normal))]
        first = np.cross(normal, helper)
        first /= np.linalg.norm(first)
        second = np.cross(normal, first)
        angle = 2 * np.pi * np.arange(_N_SEGMENTS) / _N_SEGMENTS
        circle = np.cos(angle)[:, None] * first + np.sin(angle)[:, None] * second
        along = -np.sin(angle)[:, None] * first + np.cos(angle)[:, None] * second
        return self.centres_mm[coil] + self.radius_mm * circle, along

    def noise_covariance(self, seed: int = 0) -> NDArray[np.complex128]:
        """Return a noise covariance of this array, mean variance 1, shape (n_coils, n_coils).

        Neighbours share noise (up to 0.4, falling with distance), with coil-dependent phase; gains differ by
        about 20 %.
        """
        rng = np.random.default_rng([seed, 2])
        distance = np.linalg.norm(self.centres_mm[:, None] - self.centres_mm, axis=-1)
        shared = 0.4 * np.exp(-((distance / (1.5 * self.radius_mm)) ** 2)) + 0.6 * np.eye(len(self))
        gain = np.exp(0.2 * rng.normal(size=len(self)) + 2j * np.pi * rng.random(len(self)))
        covariance = gain[:, None] * shared * gain.conj()
        return covariance / np.trace(covariance).real * len(self)


def cage(n_coils: int, *, radii_mm: tuple[float, float] = (118.0, 135.0)) -> ReceiveArray:
    """Return `n_coils` loops in rings around the head, looking inwards.

    Parameters
    ----------
    n_coils
        1 or more; up to 6 make one ring, up to 16 two, more three.
    radii_mm
        Half-axes of the rings along left-right and anterior-posterior [mm].

    Raises
    ------
    ConfigError
        No coil was asked for.
    """
    if n_coils < 1:
        raise ConfigError("cage", expected="at least one coil", got=str(n_coils))
    n_rings = 1 if n_coils <= 6 else 2 if n_coils <= 16 else 3
    ring = np.arange(n_coils) % n_rings
    per_ring = np.bincount(ring)[ring]
    angle = 2 * np.pi * (np.arange(n_coils) // n_rings + 0.5 * ring / n_rings + 0.1) / per_ring
    height = (ring - (n_rings - 1) / 2) * 70.0 + 15.0
    centres = np.stack([radii_mm[0] * np.cos(angle), radii_mm[1] * np.sin(angle), height], axis=1)
    inwards = -centres * np.array([1, 1, 0.3])
    normals = inwards / np.linalg.norm(inwards, axis=1, keepdims=True)
    radius = float(np.clip(2.6 * np.pi * np.mean(radii_mm) / max(per_ring), 45.0, 75.0) / 1.3)
    return ReceiveArray(centres, normals, radius)
