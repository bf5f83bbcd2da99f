"""How strong the noise is at each place of an image, read from the image itself: ``image.noise``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, percentile_filter, zoom

from acquisition.errors import ConfigError
from acquisition.items import Image, Item, Kind
from acquisition.scan import Scan

NOISE = "noise"
"""Output of maps of the noise's standard deviation, in the unit of the image that they belong to."""
_BEND = np.array([1.0, -3.0, 3.0, -1.0]) / np.sqrt(20.0)  # blind to what changes smoothly; keeps the noise's variance
_QUANTILE = 25  # percent: an edge only ever adds
_NORMAL = 0.3186393639643752  # lower quartile of |x| of a normal x of standard deviation 1
_MOST = 2.0  # times the lower quartile of the map; beyond it is structure
_NONE, _HIGH = 0.01, 95.0  # part of the map's percentile below which there is nothing
_LEAST = 1e-4
_THIN = 3  # pixels: of so many the quantile takes one
Floats = NDArray[np.float32]


@dataclass(kw_only=True)
class NoiseMap:
    """Give, behind each conventional image, a map of its noise's standard deviation (output ``noise``).

    For images whose noise no reconstruction has told, as those of CT. Noise is what is left of differences over a few
    pixels, as small as in the lower quartile of a neighbourhood: edges and texture add to differences, so they are
    taken for noise only where they fill the neighbourhood.
    """

    lag_px: int = 3
    """Distance of the pixels that are compared; noise is taken to be independent over it [pixels]."""
    window_px: int = 33
    """Side of the neighbourhood over which the noise is alike [pixels]."""

    def __post_init__(self) -> None:
        for name, value, least in (("lag_px", self.lag_px, 1), ("window_px", self.window_px, 8)):
            if value < least:
                raise ConfigError(f"image.noise {name}", expected=f"at least {least} pixels", got=str(value))

    def open(self, scan: Scan) -> None:
        """Nothing depends on the scan."""

    def feed(self, item: Item) -> Iterator[Item]:
        """Pass everything on; behind each conventional image its noise."""
        yield item
        if isinstance(item, Image) and item.output == "conventional":
            data = local_noise(item.data, lag=self.lag_px, window=self.window_px)
            yield replace(item, data=data, kind=Kind.MAGNITUDE, output=NOISE)

    def close(self) -> Iterator[Item]:
        """Nothing is left to do."""
        return iter(())


def local_noise(data: NDArray, *, lag: int = 3, window: int = 33) -> Floats:
    """Return the standard deviation of the noise at each pixel of images (..., y, x), in their unit, float32.

    The cubic difference over `lag` pixels along x and y, ``(a - 3b + 3c - d) / sqrt(20)``, is a normal variable with
    the noise's standard deviation where the noise is independent over `lag`. Its lower quartile in a neighbourhood says
    how large that is; the smaller of both directions counts. Of complex images the real part's noise is given.

    Parameters
    ----------
    data
        Real or complex values, at least ``3 lag + 1`` pixels each way; smaller images give 0.
    lag
        Distance of the compared pixels.
    window
        Side of the neighbourhood [pixels].
    """
    images = data.real.reshape(-1, *data.shape[-2:])
    if min(images.shape[-2:]) <= 3 * lag:
        return np.zeros(data.shape, np.float32)
    maps = [_local(image, lag, window) for image in images]
    return np.stack(maps).reshape(data.shape)


def _local(image: NDArray, lag: int, window: int) -> Floats:
    """Return the noise of one image (y, x); where structure hides it, what is near by says it."""
    thin = np.minimum(_spread(image, lag, window), _spread(image.T, lag, window).T)
    there = thin > _NONE * np.percentile(thin, _HIGH)  # outside of the reconstructed circle there is no noise at all
    if not there.any():
        return np.zeros(image.shape, np.float32)
    trusted = there & (thin <= _MOST * np.percentile(thin[there], _QUANTILE))
    near = window / _THIN / 2
    share = gaussian_filter(trusted.astype(np.float32), near) + _LEAST
    smooth = (gaussian_filter(np.where(trusted, thin, 0), near) + _LEAST * thin[trusted].mean()) / share
    scale = [a / b for a, b in zip(image.shape, thin.shape, strict=True)]
    return np.asarray(zoom(smooth, scale, order=1, mode="nearest", grid_mode=True), np.float32)


def _spread(image: NDArray, lag: int, window: int) -> Floats:
    """Return the local standard deviation of an image's bends along y, on every few pixels (y, x)."""
    n = image.shape[0] - 3 * lag
    bend = np.abs(sum(np.float32(w) * image[k * lag : k * lag + n] for k, w in enumerate(_BEND)))
    before = 3 * lag // 2
    whole = np.pad(bend.astype(np.float32), ((before, 3 * lag - before), (0, 0)), mode="symmetric")
    thin = percentile_filter(whole[::_THIN, ::_THIN], _QUANTILE, size=max(window // _THIN, 3), mode="reflect")
    return np.asarray(thin / np.float32(_NORMAL), np.float32)
