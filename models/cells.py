"""The grid on which the network looks for the brain: cubic cells, and what is put into them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

SIDE = 64
"""Cells along each axis."""
CELL_MM = 4.0
"""Side of a cell [mm]."""
_QUANTILE = 90.0


def normalised(image: F32, covered: F32) -> F32:
    """Return the network's input (2, z, y, x): brightness over a bright voxel's, and the coverage (0 or 1).

    Parameters
    ----------
    image
        Magnitude (z, y, x); anything where it was not measured.
    covered
        1 where a slice lies, (z, y, x).
    """
    seen = covered > 0
    values = image[seen]
    bright = values[values > 0.1 * values.max()] if values.size and values.max() > 0 else np.ones(1, np.float32)
    level = np.float32(np.percentile(bright, _QUANTILE))
    return np.stack([np.where(seen, np.minimum(image / level, 2.5), 0), covered]).astype(np.float32)


__all__ = ["CELL_MM", "SIDE", "normalised"]
