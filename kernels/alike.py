"""Sums of non-local means: every voxel and its like within reach, one offset at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.compile import compiled

F32 = NDArray[np.float32]


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
        Steps (z, y, x) to the other voxel, none of them both 0 and in the wrong order: z, then y, then x from 0.
    shape
        Half of the patch's side, the mean square difference that noise alone makes, and how much more halves no
        weight: the weight is ``exp(-max(d - noise, 0) / more)``.
    room
        Scratch (y, x) for a plane of differences, and (z, y, x) for their sums over rows and columns.
    sums
        Weighed values, weights, largest weight, all (z, y, x).
    """
    dz, dy, dx = offset
    half, floor, more = shape
    plane, boxes = room
    total, weights, most = sums
    n_z, n_y, n_x = values.shape
    y0, y1 = max(0, -dy), min(n_y, n_y - dy)
    x0, x1 = max(0, -dx), min(n_x, n_x - dx)
    deep = min(half, n_z - 1)
    for z in range(n_z - dz):
        for y in range(y0, y1):
            for x in range(x0, x1):
                d = scaled[z, y, x] - scaled[z + dz, y + dy, x + dx]
                plane[y, x] = d * d
        for y in range(y0, y1):  # along x; edges repeat
            for x in range(x0, x1):
                s = np.float32(0)
                for k in range(-half, half + 1):
                    s += plane[y, min(max(x + k, x0), x1 - 1)]
                boxes[z, y, x] = s
        for x in range(x0, x1):
            for y in range(y0, y1):
                plane[y, x] = boxes[z, y, x]
        for y in range(y0, y1):
            for x in range(x0, x1):
                boxes[z, y, x] = 0
            for k in range(-half, half + 1):
                row = min(max(y + k, y0), y1 - 1)
                for x in range(x0, x1):
                    boxes[z, y, x] += plane[row, x]
    size = np.float32((2 * half + 1) ** 2 * (2 * deep + 1))
    for z in range(n_z - dz):
        for y in range(y0, y1):
            for x in range(x0, x1):
                plane[y, x] = 0
            for k in range(-deep, deep + 1):
                other = min(max(z + k, 0), n_z - dz - 1)
                for x in range(x0, x1):
                    plane[y, x] += boxes[other, y, x]
            for x in range(x0, x1):
                w = np.exp(-max(plane[y, x] / size - floor, 0) / more)
                total[z, y, x] += w * values[z + dz, y + dy, x + dx]
                weights[z, y, x] += w
                most[z, y, x] = max(most[z, y, x], w)
                total[z + dz, y + dy, x + dx] += w * values[z, y, x]
                weights[z + dz, y + dy, x + dx] += w
                most[z + dz, y + dy, x + dx] = max(most[z + dz, y + dy, x + dx], w)
