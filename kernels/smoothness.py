"""How much a voxel differs from its neighbours, and what a prior that keeps edges makes of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.compile import compiled

Reals = NDArray[np.floating]


@compiled
def hyperbola(
    volume: Reals,
    neighbours: tuple[NDArray[np.int64], Reals, Reals],
    rows: tuple[int, int],
    slope: Reals,
    bend: Reals,
) -> None:  # pragma: no cover - compiled
    """Add slope and curvature of ``sum_k w_k e_k^2 (sqrt(1 + (d_k / e_k)^2) - 1)``, d_k the differences.

    Every pair is met from both sides, so the slope is that of the sum over pairs. The curvature is that of a parabola
    for each voxel alone which touches the sum at this volume and lies nowhere below it.

    Parameters
    ----------
    volume
        Voxels (z, y, x).
    neighbours
        Steps (n, 3) to the neighbours along z, y, x, each with its opposite; their weights w (n,); the differences e
        (n,) above which it is an edge, in units of the volume.
    rows
        First index along y to work on, and the one after the last.
    slope, bend
        Added to (z, y, x).
    """
    steps, weights, edges = neighbours
    nz, ny, nx = volume.shape
    real = volume.dtype.type
    one = real(1)
    for z in range(nz):
        for y in range(rows[0], rows[1]):
            for n in range(len(weights)):
                z2, y2, dx = z + steps[n, 0], y + steps[n, 1], steps[n, 2]
                if z2 < 0 or z2 >= nz or y2 < 0 or y2 >= ny:
                    continue
                first, last = max(0, -dx), nx - max(0, dx)
                here, there = volume[z, y, first:last], volume[z2, y2, first + dx : last + dx]
                into, bent = slope[z, y, first:last], bend[z, y, first:last]
                weight, scale = weights[n], one / (edges[n] * edges[n])
                for x in range(last - first):
                    d = here[x] - there[x]
                    stiff = weight / np.sqrt(one + d * d * scale)
                    into[x] += stiff * d
                    bent[x] += stiff + stiff
