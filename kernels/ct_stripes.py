"""What a detector channel reads beyond its neighbours, view after view."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.compile import compiled

REACH = 6
"""Channels on each side of an edge that are left out."""


@compiled
def gather_stripes(
    views: NDArray[np.float32],
    batch: NDArray[np.int64],
    limit: float,
    sums: NDArray[np.float64],
    counts: NDArray[np.int64],
) -> None:  # pragma: no cover - compiled
    """Add up each channel's difference from the cubic through its four neighbours, edges of the object left out.

    Parameters
    ----------
    views
        Line integrals (view, row, channel).
    batch
        Which sum each view belongs to (view,).
    limit
        A difference above it is an edge; `REACH` channels on each side of it are left out of this view.
    sums, counts
        Added to (batch, row, channel).
    """
    n_views, n_rows, n = views.shape
    rest = np.zeros(n)
    for v in range(n_views):
        total, count = sums[batch[v]], counts[batch[v]]
        for r in range(n_rows):
            p = views[v, r]
            last = -REACH
            for c in range(2, n - 2):
                rest[c] = (p[c - 2] + p[c + 2] - 4 * (p[c - 1] + p[c + 1])) / 6 + p[c]
                if abs(rest[c]) > limit:
                    last = c
                done = c - REACH
                if done >= 2 and done - last > REACH:
                    total[r, done] += rest[done]
                    count[r, done] += 1
            for c in range(max(2, n - 2 - REACH, last + REACH + 1), n - 2):
                total[r, c] += rest[c]
                count[r, c] += 1
