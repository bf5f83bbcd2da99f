"""How far to trust each line integral: the photons behind it, and how many there are without an object.

``Var(p) = 1 / N + s^2 / N^2`` with the counts ``N = N0(channel) ma / ma0 e^-p`` and electronic noise s, so the weight
of a ray is ``N^2 / (N + s^2)`` (Sauer and Bouman, IEEE Trans Signal Process 1993;41:534, DOI 10.1109/78.193196).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from acquisition.scan import CtHeader

Floats = NDArray[np.float64]

_MOST = 1e7  # photons; lines without noise are not trusted more than this
_LEAST = 1.0
_CUBIC = np.array([1.0, -3.0, 3.0, -1.0]) / np.sqrt(20.0)  # blind to what changes smoothly; keeps the noise's variance
_NORMAL = 0.3186  # lower quartile of |x| for a normal x of standard deviation 1
_WIDTH = 31  # channels over which the bowtie's profile is smoothed


def estimated(lines: NDArray[np.float32], current: Floats) -> Floats:
    """Return the photons of each channel without an object and at current 1, shape (n_channels,), read from the noise.

    ``N0(c) = 1 / Var(noise(c) sqrt(current e^-p))``. The noise is what a cubic difference leaves, along channels,
    views or rows, whichever finds the least: an edge only ever adds to it. The variance is that of a normal
    distribution with the same lower quartile of absolute values, for the same reason.

    Parameters
    ----------
    lines
        Line integrals (view, row, channel).
    current
        Tube current of each view, in any unit, (view, 1).
    """
    strength = np.sqrt(current[..., None] * np.exp(-lines.astype(float)))
    found = [_spread(lines, strength, axis) for axis in range(3) if lines.shape[axis] >= len(_CUBIC)]
    spread = np.min(found, axis=0) if found else np.zeros(lines.shape[2])
    spread = median_filter(spread, min(_WIDTH, len(spread)), mode="nearest")
    return np.clip(1 / np.maximum(spread, 1e-9) ** 2, _LEAST, _MOST)


def currents(ct: CtHeader, head: NDArray[np.void]) -> Floats:
    """Return the tube current of each view in units of the calibration's, 1 where nobody says, shape (n,)."""
    if not ct.ma or not (head["ma"] > 0).all():
        return np.ones(len(head))
    return head["ma"].astype(float) / ct.ma


def trust(lines: NDArray[np.float32], unattenuated: NDArray[np.floating], electronic: float) -> NDArray[np.float32]:
    """Return one over the variance of each line integral, (view, row, channel).

    Parameters
    ----------
    lines
        Line integrals (view, row, channel).
    unattenuated
        Photons without an object (view, channel).
    electronic
        Standard deviation of the electronic noise [photons].
    """
    counts = unattenuated[:, None, :] * np.exp(-lines.astype(float))
    return (counts * counts / (counts + electronic**2 + 1e-30)).astype(np.float32)


def _spread(lines: NDArray[np.float32], strength: Floats, axis: int) -> Floats:
    """Return the standard deviation of the noise of each channel, times the square root of what the object let by."""
    n = lines.shape[axis] - len(_CUBIC) + 1
    parts = [np.moveaxis(lines, axis, 0)[k : k + n] * w for k, w in enumerate(_CUBIC)]
    scaled = np.abs(np.sum(parts, axis=0)) * np.moveaxis(strength, axis, 0)[1 : n + 1]
    spread = np.quantile(np.moveaxis(scaled, 0, axis), 0.25, axis=(0, 1)) / _NORMAL
    return np.pad(spread, (1, 2), mode="edge") if axis == 2 else spread
