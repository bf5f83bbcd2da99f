"""Rows that the patient leaves, completed: what lies beyond the fan is taken for a cylinder of water.

Hsieh et al., Med Phys 2004;31:2385, DOI 10.1118/1.1776673.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FITTED = 8  # columns at the edge from which the cylinder is fitted


def complete(rows: NDArray[np.float32], measured: slice, mu: float) -> None:
    """Complete rows of line integrals on both sides, in place.

    The cylinder has the value and the slope of the row at the edge of the fan; it ends where its chord does.

    Parameters
    ----------
    rows
        Parallel rows (view, row, column).
    measured
        Columns that were measured.
    mu
        Attenuation of water per distance of columns.
    """
    _outwards(rows[..., measured.start :: -1], rows[..., measured.start : measured.start + _FITTED], mu)
    last = measured.stop - 1
    _outwards(rows[..., last:], rows[..., last : last - _FITTED : -1], mu)


def _outwards(beyond: NDArray[np.float32], inside: NDArray[np.float32], mu: float) -> None:
    """Write the columns after the first one of `beyond`; `inside` runs from the edge inwards."""
    if beyond.shape[-1] < 2:
        return
    at = np.arange(inside.shape[-1], dtype=np.float32)
    slope, edge = np.polynomial.polynomial.polyfit(at, inside.reshape(-1, len(at)).T, 1)[::-1]
    edge = np.maximum(edge, 0).reshape((*inside.shape[:-1], 1))
    falling = np.maximum(slope, 0).reshape(edge.shape)
    offset = edge * falling / (4 * mu * mu)
    square = (edge / (2 * mu)) ** 2 + offset**2
    away = np.arange(1, beyond.shape[-1], dtype=np.float32)
    beyond[..., 1:] = 2 * mu * np.sqrt(np.maximum(square - (offset + away) ** 2, 0))
