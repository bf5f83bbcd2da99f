"""How sure the network is of each pixel: the spread over mirror images, made an interval by conformal calibration.

A network that is sure gives the same for an image and its mirror image. That spread alone is too small, and not in
proportion everywhere; so the half-width is ``factor * sqrt(spread^2 + (floor * noise)^2)``, the factor such that on
calibration data the wanted part of the pixels lies inside. Angelopoulos et al., ICML 2022, arXiv 2202.05265 (intervals
for images); the promise holds on average over images like those of the calibration, not for each pixel of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from acquisition.errors import DataError
from models.card import Uncertainty

FLIPS: dict[int, tuple[tuple[int, ...], ...]] = {1: ((),), 2: ((), (-1,)), 4: ((), (-1,), (-2,), (-2, -1))}
"""Number of members -> axes that each one mirrors."""
_NEAR = 5  # pixels
Floats = NDArray[np.float32]


def united(estimates: Sequence[NDArray], members: int) -> tuple[NDArray, Floats]:
    """Return mean (channel, ..., y, x) and spread (..., y, x) of what a network made of the mirror images.

    Few members say little about the variance of one pixel, so it is averaged over its neighbours in the plane.
    """
    back = np.stack([np.flip(e, axes) for e, axes in zip(estimates, FLIPS[members], strict=True)])
    mean = back.mean(axis=0)
    variance = (np.abs(back - mean) ** 2).sum(axis=(0, 1)) / max(members - 1, 1)
    near = uniform_filter(variance, (*(1,) * (variance.ndim - 2), _NEAR, _NEAR))
    return mean, np.sqrt(np.maximum(near, 0), dtype=np.float32)


def scale(spread: Floats, noise: Floats, floor: float) -> Floats:
    """Return the scale of the interval (y, x): the spread, and a part of the noise that it never falls below."""
    return np.hypot(spread, floor * noise)


def factor(ratios: Sequence[NDArray], coverage: float) -> float:
    """Return the half-width over the scale, from calibration images.

    Parameters
    ----------
    ratios
        Per image: magnitude of the error over the scale, of each pixel.
    coverage
        Part of the pixels that shall lie inside. Pixels of one image depend on each other, so the correction for
        the finite sample counts images.

    Raises
    ------
    DataError
        There are too few images.
    """
    if len(ratios) < 2:
        raise DataError("calibration of the uncertainty", expected="2 images or more", got=str(len(ratios)))
    pooled = np.concatenate([r.ravel() for r in ratios])
    n = len(ratios)
    return float(np.quantile(pooled, min(1.0, coverage * (n + 1) / n)))


def half_width(spread: Floats, noise: Floats, *, card: Uncertainty, strength: float) -> Floats:
    """Return the half-width (y, x) of the interval around an image of this strength, in the noise's unit.

    Of the conventional image's noise the part ``1 - strength`` stays.
    """
    network = strength * card.factor * scale(spread, noise, card.floor)
    measured = (1 - strength) * NormalDist().inv_cdf((1 + card.coverage) / 2) * noise
    return np.hypot(network, measured).astype(np.float32)
