"""Is an image like those that a network was trained on? A distance between a few figures of its content.

The score is the Mahalanobis distance of the figures to the training's, over the root of their number: about 1 for an
image of the training. Its threshold is a quantile on data that training never saw. Lee et al., NeurIPS 2018, arXiv
1807.03888, take such a distance between a network's features; figures of the image itself need no network, and
say which of them is off. What looks like the training in all figures, and is not, passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from acquisition.errors import DataError, FileFormatError

_LEVELS = (5, 25, 50, 75, 90)
_STEPS = (50, 90, 99)
_BANDS = (0.03, 0.08, 0.16, 0.3, 0.5)  # cycles per pixel
_LEAST = 1e-6
_LEAST_PIXELS = 16
_SMOOTH, _NOTHING, _OBJECT = 1.5, 0.02, 0.2  # pixels, part of the largest value, of the median
_RIDGE = 0.05  # of each variance: the figures of few images say little about their correlation

Doubles = NDArray[np.float64]

FEATURES = (
    "log SNR",
    *(f"brightness {p} %" for p in _LEVELS),
    *(f"log steps {p} %" for p in _STEPS),
    "log finest details",
    *(f"log power above {low:g}" for low in _BANDS[:-1]),
)
"""What the figures are, in order."""


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """The figures of the training images."""

    mean: Doubles
    """(k,)."""
    precision: Doubles
    """Inverse covariance (k, k)."""

    def __post_init__(self) -> None:
        k = len(FEATURES)
        if self.mean.shape != (k,) or self.precision.shape != (k, k):
            raise FileFormatError(
                "statistics of training images",
                expected=f"{k} figures",
                got=f"{self.mean.shape}, {self.precision.shape}",
                action="publish the card anew with this version",
            )

    def score(self, figures: Doubles) -> float:
        """Return the distance of an image's figures (k,)."""
        off = figures - self.mean
        square = float(off @ self.precision @ off)
        return float(np.sqrt(max(square, 0.0) / len(off)))

    def strangest(self, figures: Doubles) -> str:
        """Return which figure is farthest off, in words."""
        spread = np.sqrt(np.diag(np.linalg.inv(self.precision)))
        off = (figures - self.mean) / spread
        worst = int(np.argmax(np.abs(off)))
        return f"{FEATURES[worst]}: {figures[worst]:.3g}, in training {self.mean[worst]:.3g} +- {spread[worst]:.2g}"


def features(data: NDArray, noise: float) -> Doubles:
    """Return the figures (k,) of an image (..., y, x), in float64.

    Parameters
    ----------
    data
        Real or complex values, finite.
    noise
        Standard deviation of the noise, in the same unit.

    Raises
    ------
    DataError
        It is too small to have figures.
    """
    if min(data.shape[-2:], default=0) < _LEAST_PIXELS:
        raise DataError(
            "figures of an image", expected=f"{_LEAST_PIXELS} x {_LEAST_PIXELS} pixels", got=f"{data.shape}"
        )
    real = np.abs(data) if np.iscomplexobj(data) else data
    values = real.astype(np.float64).reshape(-1, *data.shape[-2:])
    values = values - np.percentile(values, 1)  # HU begin at -1000
    bright = max(float(np.percentile(values, 99)), _LEAST)
    values = values / bright
    down, across = np.diff(values, axis=-2)[..., :-1], np.diff(values, axis=-1)[..., :-1, :]
    steps = np.percentile(np.hypot(down, across), _STEPS)
    fine = np.median(np.abs(np.diff(down, axis=-1)))
    figures = [
        _log(bright / max(noise, _LEAST)),
        *np.percentile(values, _LEVELS),
        *(_log(s) for s in steps),
        _log(fine * bright / max(noise, _LEAST)),
        *_spectrum(values),
    ]
    return np.array(figures, np.float64)


def around_object(data: NDArray) -> NDArray:
    """Return the box around the object in an image (..., y, x); the image where that box is smaller than figures need.

    The object is what is above a fifth of the median of all that is not next to nothing, after smoothing in the plane.
    """
    sigma = (*(0.0,) * (data.ndim - 2), _SMOOTH, _SMOOTH)
    smooth = gaussian_filter(np.abs(data).astype(np.float32), sigma)
    some = smooth[smooth > _NOTHING * float(smooth.max())]
    inside = smooth > _OBJECT * float(np.median(some)) if some.size else smooth > 0
    spans = []
    for axis in range(data.ndim):
        seen = np.flatnonzero(inside.any(axis=tuple(a for a in range(data.ndim) if a != axis)))
        spans.append(slice(int(seen[0]), int(seen[-1]) + 1) if seen.size else slice(None))
    box = data[tuple(spans)]
    return box if min(box.shape[-2:]) >= _LEAST_PIXELS else data


REGIONS: Mapping[str, Callable[[NDArray], NDArray]] = {"image": lambda data: data, "object": around_object}
"""What figures are taken from, as cards name it."""


def fitted(figures: Doubles) -> Statistics:
    """Return the statistics of training images' figures (n, k).

    Raises
    ------
    DataError
        There are too few images.
    """
    if len(figures) <= figures.shape[1]:
        raise DataError("statistics", expected=f"more than {figures.shape[1]} images", got=str(len(figures)))
    covariance = np.cov(figures, rowvar=False)
    spread = np.maximum(np.diag(covariance), _LEAST)
    precision = np.linalg.inv(covariance + _RIDGE * np.diag(spread)).astype(np.float64)
    return Statistics(figures.mean(axis=0), precision)


def _spectrum(values: Doubles) -> list[float]:
    """Return the logarithm of the mean power in rings of frequency, relative to the whole."""
    n_y, n_x = values.shape[-2:]
    window = np.hanning(n_y)[:, None] * np.hanning(n_x)
    power = (np.abs(np.fft.rfft2((values - values.mean()) * window)) ** 2).mean(axis=0)
    frequency = np.hypot(np.fft.fftfreq(n_y)[:, None], np.fft.rfftfreq(n_x))
    total = max(float(power.sum()), _LEAST)
    rings = pairwise(_BANDS)
    return [_log(float(power[(frequency >= low) & (frequency < high)].sum()) / total) for low, high in rings]


def _log(value: float) -> float:
    return float(np.log(max(value, _LEAST)))
