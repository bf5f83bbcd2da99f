"""What a network changed, held against the noise of the data: noise is all that it may take away.

In whitened units an image and its denoised version may differ by noise alone. So the change must be no larger than
the noise, and without structure: means of blocks of white noise are normal variables, a lesion that is added or
taken away is not. Noise that is correlated raises both figures; the card's limits are those of its calibration data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK = 8
"""Side of a block [pixels]."""


@dataclass(frozen=True, slots=True)
class Residual:
    """How far the enhanced image is from the measured one."""

    rms: float
    """Root mean square of the change, in standard deviations of the noise."""
    peak: float
    """Largest magnitude of a block's mean times its side, in the same unit."""


def residual(conventional: NDArray, enhanced: NDArray, noise: NDArray) -> Residual:
    """Return the change between two images (..., y, x) with the noise map `noise`, same unit; of the worst slice."""
    changes = ((enhanced - conventional) / noise).reshape(-1, *conventional.shape[-2:])
    rms = np.sqrt(np.mean(np.abs(changes).astype(np.float64) ** 2, axis=(1, 2)))
    peak = max(float(np.abs(_block_means(change)).max(initial=0.0)) for change in changes)
    return Residual(float(rms.max()), peak)


def _block_means(values: NDArray) -> NDArray:
    """Return the mean of each block times its side; blocks overlap by half."""
    n_y, n_x = values.shape
    side_y, side_x = min(BLOCK, n_y), min(BLOCK, n_x)
    sums = np.zeros((n_y + 1, n_x + 1), np.complex128 if np.iscomplexobj(values) else np.float64)
    np.cumsum(np.cumsum(values, axis=0, dtype=sums.dtype), axis=1, out=sums[1:, 1:])
    first, last = sums[:-side_y, :], sums[side_y:, :]
    rows = last - first
    blocks = rows[:, side_x:] - rows[:, :-side_x]
    means: NDArray = blocks[:: max(side_y // 2, 1), :: max(side_x // 2, 1)] / np.sqrt(side_y * side_x)
    return means
