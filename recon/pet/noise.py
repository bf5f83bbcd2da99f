"""Noise of a PET image from its own counts: both halves of the events make an image each, and differ by noise alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

_NEAR = 3.0  # pixels over which the halves' difference is averaged, at least
_WIDER = 0.64  # times the FWHM of the image's filter
Floats = NDArray[np.float32]


def halves_noise(image: NDArray, one: NDArray, other: NDArray, *, fwhm_px: float) -> Floats:
    """Return the standard deviation of the noise of an image (..., y, x), in its unit.

    Half of the difference of two halves has the noise of the whole. Noise of OSEM grows with the image (Barrett et al.,
    Phys Med Biol 1994;39:833, DOI 10.1088/0031-9155/39/5/004), so neighbours share the noise relative to the image.

    Parameters
    ----------
    image
        The image of all counts (..., y, x).
    one, other
        Images of either half of the counts, in the same unit.
    fwhm_px
        Width of the filter that the images went through, 0 without [pixels].
    """
    spread = max(_NEAR, _WIDER * fwhm_px)
    sigma = (*(0,) * (image.ndim - 2), spread, spread)
    level = gaussian_filter(image.astype(np.float32), sigma)
    difference = gaussian_filter(((one - other) / 2).astype(np.float32) ** 2, sigma)
    relative = difference / np.maximum(gaussian_filter(level**2, sigma), np.float32(1e-9))
    return np.asarray(np.sqrt(relative) * np.maximum(level, 0), np.float32)
