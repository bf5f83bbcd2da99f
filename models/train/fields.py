"""Smooth random things: fields on a plane, splines between knots, motion of a surface."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline

F32 = NDArray[np.float32]


@lru_cache(maxsize=256)
def spline_matrix(n: int, n_knots: int, voxels: int = 0) -> F32:
    """Return the matrix (n, n_knots) of the cubic spline through knots spread evenly from the first to the last cell.

    With `voxels`, which have the same field of view and origin (the one at n // 2), it is (voxels, n_knots).
    """
    knots = np.linspace(0, n - 1, n_knots)
    at = (np.arange(voxels) - voxels // 2) * n / voxels + n // 2 if voxels else np.arange(n)
    matrix = make_interp_spline(knots, np.eye(n_knots), k=3)(at).astype(np.float32)
    matrix.setflags(write=False)
    return matrix


def splined(knots: NDArray, shape: tuple[int, int], voxels: tuple[int, int] = (0, 0)) -> NDArray:
    """Return what lies on knots (..., ky, kx) on all cells (..., y, x), or on the voxels of the same field of view."""
    y, x = (spline_matrix(n, k, v) for n, k, v in zip(shape, knots.shape[-2:], voxels, strict=True))
    return np.matmul(np.matmul(y, knots), x.T)


def smooth_field(shape: tuple[int, int], length: float, rng: np.random.Generator) -> F32:
    """Return a random field (y, x) of about unit variance that changes over `length` cells."""
    n_knots = tuple(max(4, int(np.ceil(n / length)) + 2) for n in shape)
    knots = rng.standard_normal(n_knots, dtype=np.float32)
    return np.asarray(splined(knots, shape)) * np.float32(1.055)  # between knots a spline of white noise is weaker


def texture(shape: tuple[int, int], cell_mm: float, rng: np.random.Generator) -> F32:
    """Return a random field (y, x), variance about 1, with detail from 1.5 to 50 mm: how tissue varies in itself."""
    total = np.zeros(shape, np.float32)
    for length_mm, weight in ((1.5, 0.35), (4.0, 0.45), (12.0, 0.5), (40.0, 0.65)):
        total += np.float32(weight) * smooth_field(shape, max(length_mm / cell_mm, 1.0), rng)
    return total


def vessel_parts(shape: tuple[int, int], cell_mm: float, rng: np.random.Generator) -> F32:
    """Return which part of each cell (y, x) is vessel: where two random surfaces meet, 0.4 to 1.2 mm thick.

    Two smooth fields are both zero on random curves in space; a plane cuts them in spots, or along them where the
    surfaces run together.
    """
    length = rng.uniform(6, 11) / cell_mm
    square = np.zeros(shape, np.float32)
    for _ in range(2):
        field = smooth_field(shape, length, rng)
        slope_y, slope_x = np.gradient(field)
        square += field**2 / (slope_y**2 + slope_x**2 + (0.25 / length) ** 2)
    radius = rng.uniform(0.4, 1.2) / cell_mm * np.exp(0.3 * smooth_field(shape, 3 * length, rng))
    return np.clip(radius - np.sqrt(square) + 0.5, 0, 1).astype(np.float32)
