"""Exact line integrals through ellipsoids, cylinders and boxes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.compile import compiled

_BALL, _CYLINDER = 0, 1
_FAR = 1e30
_PARALLEL = 1e-12


@compiled
def solid_lines(
    spots: NDArray[np.float64],
    columns: NDArray[np.float64],
    heights: NDArray[np.float64],
    bodies: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]],
    out: NDArray[np.float32],
) -> None:  # pragma: no cover - compiled
    """Add up what each solid puts on the ray from a focal spot to a detector element.

    Parameters
    ----------
    spots
        Focal spots (view, 3) [mm].
    columns
        Channels at row height 0 (view, channel, 3) [mm].
    heights
        Heights of the rows (row,) [mm].
    bodies
        Centres (n, 3), inverse matrices (n, 3, 3) into the unit solid, which solid (n,): 0 a ball, 1 a cylinder along
        the third axis, 2 a cube; what each adds per mm, for every material (material, n).
    out
        Line integrals (material, view, row, channel), overwritten.
    """
    centres, inverse, shapes, values = bodies
    total = np.zeros(len(values))
    spot = np.zeros((len(shapes), 3))
    for v in range(out.shape[1]):
        for n in range(len(shapes)):
            for i in range(3):
                spot[n, i] = 0
                for j in range(3):
                    spot[n, i] += inverse[n, i, j] * (spots[v, j] - centres[n, j])
        for r in range(out.shape[2]):
            for c in range(out.shape[3]):
                dx = columns[v, c, 0] - spots[v, 0]
                dy = columns[v, c, 1] - spots[v, 1]
                dz = columns[v, c, 2] + heights[r] - spots[v, 2]
                length = np.sqrt(dx * dx + dy * dy + dz * dz)
                total[:] = 0
                for n in range(len(shapes)):
                    m, u = inverse[n], (spot[n, 0], spot[n, 1], spot[n, 2])
                    d0 = m[0, 0] * dx + m[0, 1] * dy + m[0, 2] * dz
                    d1 = m[1, 0] * dx + m[1, 1] * dy + m[1, 2] * dz
                    d2 = m[2, 0] * dx + m[2, 1] * dy + m[2, 2] * dz
                    part = _chord(u, (d0, d1, d2), shapes[n])
                    if part > 0:
                        for k in range(len(values)):
                            total[k] += values[k, n] * part
                for k in range(len(values)):
                    out[k, v, r, c] = total[k] * length


@compiled
def _chord(
    u: tuple[float, float, float], d: tuple[float, float, float], shape: int
) -> float:  # pragma: no cover - compiled
    """Return the range of t for which ``u + t d`` lies in the unit solid."""
    if shape == _BALL:
        a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
        b = u[0] * d[0] + u[1] * d[1] + u[2] * d[2]
        root = b * b - a * (u[0] * u[0] + u[1] * u[1] + u[2] * u[2] - 1)
        return 2 * np.sqrt(root) / a if root > 0 else 0.0
    low, high = _slab(u[2], d[2])
    if shape == _CYLINDER:
        a = d[0] * d[0] + d[1] * d[1]
        q = u[0] * u[0] + u[1] * u[1] - 1
        b = u[0] * d[0] + u[1] * d[1]
        root = b * b - a * q
        if a < _PARALLEL:
            return high - low if q <= 0 else 0.0
        if root <= 0:
            return 0.0
        half = np.sqrt(root) / a
        return max(min(high, half - b / a) - max(low, -half - b / a), 0.0)
    for i in range(2):
        one, other = _slab(u[i], d[i])
        low, high = max(low, one), min(high, other)
    return max(high - low, 0.0)


@compiled
def _slab(u: float, d: float) -> tuple[float, float]:  # pragma: no cover - compiled
    """Return the range of t for which ``|u + t d| <= 1``."""
    if abs(d) > _PARALLEL:
        one, other = (-1 - u) / d, (1 - u) / d
        return min(one, other), max(one, other)
    if abs(u) > 1:
        return 0.0, 0.0
    return -_FAR, _FAR
