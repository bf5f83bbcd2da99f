"""What CT backprojections have in common: tables of columns and depths, read for a tile of pixels, planes abreast."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.compile import compiled

Floats = NDArray[np.float32]

LANES = 16
"""Planes that are backprojected together."""
BLOCK = 16
"""Neighbouring columns that are interpolated together."""
TOGETHER = 4
"""Directions whose tables are read in one pass over the image."""
MISS = 0.2
"""Detector rows by which a ray may miss its plane at the cone's edge."""


@compiled
def crossing(
    ray: tuple[float, float, float, float], tile: tuple[float, float, float, float]
) -> tuple[float, float]:  # pragma: no cover - compiled
    """Return t at which (a + b t, c + d t) enters and leaves a tile (centre, half widths); none if not low < high."""
    a, b, c, d = ray
    xc, yc, hx, hy = tile
    low, high = -1e9, 1e9
    for start, along, centre, half in ((a, b, xc, hx), (c, d, yc, hy)):
        if abs(along) < 1e-9:
            if abs(start - centre) > half:
                return 0.0, -1.0
            continue
        first, second = (centre - half - start) / along, (centre + half - start) / along
        low, high = max(low, min(first, second)), min(high, max(first, second))
    return low, high


@compiled
def gather(table: Floats, stride: int, base: NDArray[np.uint32], part: Floats, out: Floats) -> None:  # pragma: no cover
    """Add to a line of pixels what the tables of `TOGETHER` directions say, all planes of a pixel side by side.

    Parameters
    ----------
    table
        Flat (direction, column, depth, plane).
    stride
        Values from one column to the next.
    base
        Index of the column before each pixel (direction, x).
    part
        Weights of the columns before and after it (direction, 2, x).
    out
        Pixels (x, `LANES`).
    """
    after = np.uint64(stride)
    for x in range(out.shape[0]):
        a, b = np.uint64(base[0, x]), np.uint64(base[1, x])
        c, d = np.uint64(base[2, x]), np.uint64(base[3, x])
        a0, b0, c0, d0 = part[0, 0, x], part[1, 0, x], part[2, 0, x], part[3, 0, x]
        a1, b1, c1, d1 = part[0, 1, x], part[1, 1, x], part[2, 1, x], part[3, 1, x]
        for i in range(LANES):
            k = np.uint64(i)
            total = a0 * table[a + k] + a1 * table[a + k + after]
            total += b0 * table[b + k] + b1 * table[b + k + after]
            total += c0 * table[c + k] + c1 * table[c + k + after]
            total += d0 * table[d + k] + d1 * table[d + k + after]
            out[x, i] += total
