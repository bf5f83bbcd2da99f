"""What a detector channel reads beyond its neighbours, view after view."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.compile import compiled

REACH = 6
"""Steps on each side of an edge that are left out."""


@compiled
def gather_stripes(
    views: NDArray[np.float32],
    batch: NDArray[np.int64],
    scale: tuple[int, float],
    sums: NDArray[np.float64],
    counts: NDArray[np.int64],
) -> None:  # pragma: no cover - compiled
    """Add up each channel's difference from the cubic through four others, edges of the object left out.

    Parameters
    ----------
    views
        Line integrals (view, row, channel).
    batch
        Which sum each view belongs to (view,).
    scale
        Step from channel to channel (the four are one and two steps away), and the difference above which it is an
        edge; `REACH` steps on each side of an edge are left out of this view.
    sums, counts
        Added to (batch, row, channel).
    """
    step, limit = scale
    n_views, n_rows, n = views.shape
    reach, rim = REACH * step, 2 * step
    rest = np.zeros(n)
    for v in range(n_views):
        total, count = sums[batch[v]], counts[batch[v]]
        for r in range(n_rows):
            p = views[v, r]
            last = -reach
            for c in range(rim, n - rim):
                rest[c] = (p[c - rim] + p[c + rim] - 4 * (p[c - step] + p[c + step])) / 6 + p[c]
                if abs(rest[c]) > limit:
                    last = c
                done = c - reach
                if done >= rim and done - last > reach:
                    total[r, done] += rest[done]
                    count[r, done] += 1
            for c in range(max(rim, n - rim - reach, last + reach + 1), n - rim):
                total[r, c] += rest[c]
                count[r, c] += 1
