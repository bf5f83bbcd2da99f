"""How strong the noise of an image is, per pixel: what the networks get beside the image, and what judges them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from acquisition.items import Image

_NORMAL = 0.6744897501960817  # median of |x| of a normal variable with standard deviation 1
_SIGNAL = 95.0  # percentile
Floats = NDArray[np.float32]


def noise_of(image: Image) -> tuple[float, str]:
    """Return the noise's standard deviation in the image's unit, and where it is known from.

    Unit ``1`` says that it is 1 (see ``mri.combine``); otherwise it is estimated from the finest details, which is
    right for white noise and too low for correlated noise.
    """
    if image.unit == "1":
        return 1.0, "the image is in units of its noise"
    return estimate(image.data), "finest details of the image"


def estimate(data: NDArray) -> float:
    """Return the standard deviation of white noise in (..., y, x), from the diagonal Haar details; 0: none is seen.

    Donoho and Johnstone, Biometrika 1994;81:425, DOI 10.1093/biomet/81.3.425. Details that are exactly 0 (padding,
    pixels outside the field of view) do not count; where a pixel is not finite nothing is said: 0.
    """
    if not np.isfinite(data).all():
        return 0.0
    y, x = (n // 2 * 2 for n in data.shape[-2:])
    parts = data[..., :y, :x]
    a, b = parts[..., 0::2, 0::2], parts[..., 0::2, 1::2]
    c, d = parts[..., 1::2, 0::2], parts[..., 1::2, 1::2]
    details = (a - b - c + d) / 2
    values = np.stack([details.real, details.imag]) if np.iscomplexobj(details) else details
    seen = np.abs(values[values != 0]).astype(np.float64)
    return float(np.median(seen) / _NORMAL) if seen.size else 0.0


def snr(data: NDArray, noise: float) -> float:
    """Return the 95th percentile of the magnitude over the noise's standard deviation."""
    return float(np.percentile(np.abs(data), _SIGNAL) / noise)


def noise_maps(image: Image, noise: float, map_: Floats | None) -> Floats:
    """Return the noise of each slice (z, y, x): `noise` times a map (z, y, x), where there is one.

    Parameters
    ----------
    image
        The image.
    noise
        Standard deviation of the noise where the map is 1.
    map_
        How much more or less there is at each place, e.g. the g-factor.
    """
    shape = image.grid.shape
    if map_ is None or not (map_ > 0).any():
        return np.full(shape, noise, np.float32)
    return floored(map_) * np.float32(noise)


def level(map_: NDArray) -> float:
    """Return the typical noise of a map: the median where it is above a fifth of what its largest values are.

    Outside of the object a map may be 0 or tiny, and an image may show little but air.
    """
    high = float(np.percentile(map_, _SIGNAL))
    return float(np.median(map_[map_ > 0.2 * high])) if high > 0 else 0.0


def floored(map_: NDArray) -> Floats:
    """Return a noise map that is nowhere below a tenth of its level, float32."""
    return np.maximum(map_, np.float32(0.1 * level(map_))).astype(np.float32)
