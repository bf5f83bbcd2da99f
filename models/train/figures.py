"""Figures of merit on images whose truth is known, and how certain their means are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from acquisition.errors import DataError

_DRAWS = 2000
_WINDOW = 7


def psnr(image: NDArray, truth: NDArray, inside: NDArray[np.bool_]) -> float:
    """Return the peak signal-to-noise ratio [dB]; the peak is the truth's 99.9th percentile inside."""
    error = float(np.mean(np.abs(image - truth)[inside].astype(np.float64) ** 2))
    return float(20 * np.log10(np.percentile(np.abs(truth[inside]), 99.9)) - 10 * np.log10(error))


def nrmse(image: NDArray, truth: NDArray, inside: NDArray[np.bool_]) -> float:
    """Return the root mean square error over that of the truth."""
    return float(np.linalg.norm((image - truth)[inside]) / np.linalg.norm(truth[inside]))


def ssim(image: NDArray, truth: NDArray, inside: NDArray[np.bool_]) -> float:
    """Return the mean structural similarity (window 7 x 7, peak as in `psnr`). DOI 10.1109/TIP.2003.819861."""
    a, b = np.abs(image).astype(np.float64), np.abs(truth).astype(np.float64)
    peak = float(np.percentile(b[inside], 99.9))
    mean_a, mean_b = uniform_filter(a, _WINDOW), uniform_filter(b, _WINDOW)
    unbiased = _WINDOW**2 / (_WINDOW**2 - 1)
    var_a = unbiased * (uniform_filter(a * a, _WINDOW) - mean_a**2)
    var_b = unbiased * (uniform_filter(b * b, _WINDOW) - mean_b**2)
    both = unbiased * (uniform_filter(a * b, _WINDOW) - mean_a * mean_b)
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    map_ = (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return float(map_[inside].mean())


FIGURES = {"PSNR": (psnr, "dB"), "SSIM": (ssim, ""), "NRMSE": (nrmse, "")}
"""Name -> function, unit."""


def interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float, float]:
    """Return the mean and its 95 % confidence interval, by the percentile bootstrap over items.

    Efron and Tibshirani, Stat Sci 1986;1:54, DOI 10.1214/ss/1177013815.

    Raises
    ------
    DataError
        There are fewer than two items.
    """
    items = np.asarray(values, np.float64)
    if items.size < 2:
        raise DataError("confidence interval", expected="2 items or more", got=str(items.size))
    draws = np.random.default_rng(seed).integers(items.size, size=(_DRAWS, items.size))
    low, high = np.percentile(items[draws].mean(axis=1), (2.5, 97.5))
    mean = float(items.mean())
    return mean, min(float(low), mean), max(float(high), mean)
