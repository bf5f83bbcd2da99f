"""Sums of non-local means: every voxel and its like within reach, one offset at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.compile import compiled

F32 = NDArray[np.float32]
_NOTHING = 14.0  # exp(-14) is lost in single precision
Box = tuple[int, int, int, int]


@compiled
def add_alike(
    values: F32,
    scaled: F32,
    offset: tuple[int, int, int],
    shape: tuple[int, float, float],
    room: tuple[F32, F32],
    sums: tuple[F32, F32, F32],
) -> None:  # pragma: no cover - compiled
    """Add to each voxel the one `offset` away, and the other way round, weighed by how alike their patches are.

    Parameters
    ----------
    values
        The volume (z, y, x).
    scaled
        The same in units of its noise.
    offset
        Steps (z, y, x) to the other voxel; z from 0.
    shape
        Half of the patch's side, noise, more: the weight is ``exp(-max(d - noise, 0) / more)``, d mean square.
    room
        Scratch (y, x) and (z, y, x).
    sums
        Weighed values, weights, largest weight, all (z, y, x).
    """
    dz, dy, dx = offset
    (half, floor, more), (plane, boxes) = shape, room
    total, weights, most = sums
    n_z, n_y, n_x = values.shape
    y0, y1, x0, x1 = box = (max(0, -dy), min(n_y, n_y - dy), max(0, -dx), min(n_x, n_x - dx))
    for z in range(n_z - dz):
        _box_sums(scaled[z], scaled[z + dz], offset, box, half, (plane, boxes[z]))
    deep = min(half, n_z - 1)
    size = np.float32((2 * half + 1) ** 2 * (2 * deep + 1))
    for z in range(n_z - dz):
        plane[y0:y1, x0:x1] = 0
        for k in range(-deep, deep + 1):
            plane[y0:y1, x0:x1] += boxes[min(max(z + k, 0), n_z - dz - 1), y0:y1, x0:x1]
        for y in range(y0, y1):
            for x in range(x0, x1):
                excess = max(plane[y, x] / size - floor, np.float32(0)) / more
                if excess > _NOTHING:
                    continue
                w = np.exp(-excess)
                total[z, y, x] += w * values[z + dz, y + dy, x + dx]
                weights[z, y, x] += w
                most[z, y, x] = max(most[z, y, x], w)
                total[z + dz, y + dy, x + dx] += w * values[z, y, x]
                weights[z + dz, y + dy, x + dx] += w
                most[z + dz, y + dy, x + dx] = max(most[z + dz, y + dy, x + dx], w)


@compiled
def _box_sums(
    one: F32, other: F32, offset: tuple[int, int, int], box: Box, half: int, room: tuple[F32, F32]
) -> None:  # pragma: no cover - compiled
    """Leave the square differences of two planes (y, x), summed over patches, in the second scratch plane.

    `box` is where both have pixels: first and last y, first and last x; at its edges pixels repeat.
    """
    plane, sums = room
    y0, y1, x0, x1 = box
    for y in range(y0, y1):
        for x in range(x0, x1):
            d = one[y, x] - other[y + offset[1], x + offset[2]]
            sums[y, x] = d * d
        for x in range(x0, x1):
            s = np.float32(0)
            for k in range(-half, half + 1):
                s += sums[y, min(max(x + k, x0), x1 - 1)]
            plane[y, x] = s
    for y in range(y0, y1):
        sums[y, x0:x1] = 0
        for k in range(-half, half + 1):
            row = min(max(y + k, y0), y1 - 1)
            for x in range(x0, x1):
                sums[y, x] += plane[row, x]
