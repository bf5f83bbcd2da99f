"""Cylinders and boxes for virtual test objects: as ellipsoids, known everywhere in space and in k-space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import j1

from acquisition.sources.phantom.objects import Ellipsoid, Floats, Intervals, crossing


@dataclass(frozen=True, slots=True, eq=False)
class Cylinder(Ellipsoid):
    """The points ``centre + matrix @ u`` with ``u_0^2 + u_1^2 <= 1`` and ``|u_2| <= 1``."""

    shape: ClassVar[int] = 1

    def contains(self, points_mm: ArrayLike) -> NDArray[np.bool_]:
        """Return which of the points (..., 3) [mm] lie inside, shape (...)."""
        u = self.unit(points_mm)
        return ((u[..., :2] ** 2).sum(-1) <= 1.0) & (np.abs(u[..., 2]) <= 1.0)

    def extent_mm(self, direction: ArrayLike) -> tuple[float, float]:
        """Return the range of ``direction . p`` over its points [mm]."""
        direction = np.asarray(direction, float)
        middle, along = float(direction @ self.centre), direction @ self.matrix
        half = float(np.hypot(along[0], along[1]) + abs(along[2]))
        return middle - half, middle + half

    def spectrum(self, k_per_mm: ArrayLike) -> NDArray[np.complex128]:
        """Return the Fourier transform of its indicator function at ``k`` (..., 3) [1/mm], in mm^3."""
        k = np.asarray(k_per_mm, float)
        q = k @ self.matrix
        kappa = np.maximum(np.hypot(q[..., 0], q[..., 1]), 1e-6)
        body = j1(2 * np.pi * kappa) / kappa * 2 * np.sinc(2 * q[..., 2])
        return abs(np.linalg.det(self.matrix)) * body * np.exp(-2j * np.pi * (k @ self.centre))

    def meets(self, starts_mm: Floats, step_mm: Floats) -> Intervals:
        """Return which of the lines ``start + t step`` meet it, and from where to where."""
        u, d = self.unit(starts_mm), np.linalg.inv(self.matrix) @ step_mm
        return _both(_round(u, d, 2), _slab(u[:, 2], float(d[2])))


@dataclass(frozen=True, slots=True, eq=False)
class Box(Ellipsoid):
    """The points ``centre + matrix @ u`` with ``|u_i| <= 1``."""

    shape: ClassVar[int] = 2

    def contains(self, points_mm: ArrayLike) -> NDArray[np.bool_]:
        """Return which of the points (..., 3) [mm] lie inside, shape (...)."""
        return np.abs(self.unit(points_mm)).max(-1) <= 1.0

    def extent_mm(self, direction: ArrayLike) -> tuple[float, float]:
        """Return the range of ``direction . p`` over its points [mm]."""
        direction = np.asarray(direction, float)
        middle, half = float(direction @ self.centre), float(np.abs(direction @ self.matrix).sum())
        return middle - half, middle + half

    def spectrum(self, k_per_mm: ArrayLike) -> NDArray[np.complex128]:
        """Return the Fourier transform of its indicator function at ``k`` (..., 3) [1/mm], in mm^3."""
        k = np.asarray(k_per_mm, float)
        body = 8 * np.sinc(2 * (k @ self.matrix)).prod(-1)
        return abs(np.linalg.det(self.matrix)) * body * np.exp(-2j * np.pi * (k @ self.centre))

    def meets(self, starts_mm: Floats, step_mm: Floats) -> Intervals:
        """Return which of the lines ``start + t step`` meet it, and from where to where."""
        u, d = self.unit(starts_mm), np.linalg.inv(self.matrix) @ step_mm
        first = _both(_slab(u[:, 0], float(d[0])), _slab(u[:, 1], float(d[1])))
        return _both(first, _slab(u[:, 2], float(d[2])))


def _round(u: Floats, d: Floats, n: int) -> Intervals:
    if d[:n] @ d[:n] > 1e-18:
        return crossing(u[:, :n], d[:n])
    return _where((u[:, :n] ** 2).sum(-1) <= 1)


def _slab(u: Floats, d: float) -> Intervals:
    if abs(d) < 1e-9:
        return _where(np.abs(u) <= 1)
    ends = np.stack([(-1 - u) / d, (1 - u) / d])
    return np.arange(len(u)), ends.min(0), ends.max(0)


def _where(inside: NDArray[np.bool_]) -> Intervals:
    hit = np.flatnonzero(inside)
    return hit, np.full(len(hit), -np.inf), np.full(len(hit), np.inf)


def _both(one: Intervals, other: Intervals) -> Intervals:
    """Return where both hold."""
    hit, a, b = np.intersect1d(one[0], other[0], return_indices=True)
    low, high = np.maximum(one[1][a], other[1][b]), np.minimum(one[2][a], other[2][b])
    keep = high > low
    return hit[keep], low[keep], high[keep]
