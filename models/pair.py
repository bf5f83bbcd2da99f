"""Two images of one head, before and after a small dose of contrast agent, and what follows from them alone.

``d = low - pre`` holds what the small dose did. Signal grows with the agent and less so the more there is of it, so the
whole dose gives at most ``d / dose`` (4 % more behind an inversion): of a tenth 13 to 14 % of the enhancement is seen,
not 10. That bound, widened by the noise, is what a network may fill in; where ``d`` is nothing but noise, nothing is
supported.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d, gaussian_filter, gaussian_gradient_magnitude, uniform_filter

from acquisition.errors import ConfigError, DataError
from models.consistency import Residual, residual
from models.noise import level

Floats = NDArray[np.float32]

SLICES = 5
"""Slices that a network sees at once: the one that it fills in and two on either side."""
_BEND = 0.43  # of the dose's effect: 13.7 % of the enhancement remains at a tenth of the dose
_MARGIN = 3.0  # standard deviations of the noise by which the bound is widened
_ACROSS = np.array([0.25, 0.5, 0.25])  # weights of neighbouring slices
_NEAR = 25  # pixels over which noise is levelled
_MEAN_OF_NORMAL, _MEDIAN_OF_NORMAL = float(np.sqrt(2 / np.pi)), 0.6745  # of its magnitude
_MOST = 4.0  # times the median: larger details are edges
_CALM = 40.0  # percentile of the slopes within tissue
_SOME = 0.05  # part of the neighbourhood that must be calm
_TISSUE = 0.15  # of the bright percentile
_DOSES = (0.05, 0.5)


def remaining(dose: float) -> float:
    """Return what part of the full enhancement a part of the dose gives, on average over tissues and sequences."""
    return dose * (1 + _BEND) / (1 + _BEND * dose)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Pair:
    """Both images in one position and of one brightness.

    Raises
    ------
    DataError
        Their shapes differ.
    ConfigError
        The dose is none that the enhancement could be told from.
    """

    pre: Floats
    """Before the agent (z, y, x), brought to where the head lay for `low`, times the ratio of the gains."""
    low: Floats
    """After the small dose (z, y, x)."""
    noise: Floats
    """Standard deviation of the noise of `low` (z, y, x)."""
    dose: float
    """Part of the full dose."""
    field_t: float
    """Field strength [T]."""

    def __post_init__(self) -> None:
        if not self.pre.shape == self.low.shape == self.noise.shape or self.low.ndim != 3:
            got = f"{self.pre.shape}, {self.low.shape}, {self.noise.shape}"
            raise DataError("low-dose pair", expected="pre, low and noise of one shape (z, y, x)", got=got)
        if not _DOSES[0] <= self.dose <= _DOSES[1]:
            raise ConfigError("low-dose pair: dose", expected=f"{_DOSES[0]} to {_DOSES[1]}", got=f"{self.dose:g}")

    @property
    def difference(self) -> Floats:
        """What the small dose did (z, y, x), and noise."""
        return self.low - self.pre

    @property
    def factor(self) -> float:
        """What is missing, over the difference, on average."""
        return 1 / remaining(self.dose) - 1

    def smoothed(self, sd_voxels: float = 1.0) -> Floats:
        """Return the difference blurred by a Gaussian in the plane, and over neighbouring slices."""
        return _blurred(self.difference, sd_voxels)

    def trivial(self) -> Floats:
        """Return the missing enhancement as the blurred difference tells it, amplified: what a network has to beat."""
        return np.float32(self.factor) * self.smoothed()

    def bound(self, margin: float = _MARGIN) -> Floats:
        """Return what is missing at most: ``(1 / dose - 1) (d + margin * noise of d)``, nowhere below 0."""
        wide = self.difference + np.float32(margin * np.sqrt(2)) * self.noise
        return np.float32(1 / self.dose - 1) * np.maximum(wide, 0)

    def support(self) -> Floats:
        """Return how far the blurred difference is above 0, in standard deviations of its noise: data support."""
        return self.smoothed() / (np.float32(blurred_noise(len(self.low)) * np.sqrt(2)) * self.noise)

    def unsupported(self, missing: Floats, margin: float = _MARGIN) -> Floats:
        """Return by how much a filled-in enhancement exceeds what full dose could give for the blurred difference and
        `margin` standard deviations of its noise (z, y, x), 0 where it does not."""
        noise = np.float32(margin * blurred_noise(len(self.low)) * np.sqrt(2)) * self.noise
        most = np.float32(1 / self.dose - 1) * np.maximum(self.smoothed() + noise, 0)
        return np.maximum(_blurred(missing, 1.0) - most, 0)

    def residual(self, missing: Floats) -> Residual:
        """Return what of the difference a filled-in enhancement (z, y, x) does not explain, in units of its noise."""
        explained = missing / np.float32(self.factor)
        return residual(self.difference, explained, np.float32(np.sqrt(2)) * self.noise)

    @property
    def middle(self) -> Pair:
        """The middle slice alone."""
        at = slice(len(self.low) // 2, len(self.low) // 2 + 1)
        return replace(self, pre=self.pre[at], low=self.low[at], noise=self.noise[at])

    def planes(self) -> Floats:
        """Return what a network sees of each slice (z, channel, y, x), in units of the noise's level.

        Channels: amplified blurred difference; bound; difference of 5 slices; before; low dose; dose in tenths; field
        strength in 3 T; noise.
        """
        unit = np.float32(level(self.noise) or 1.0)
        ends = SLICES // 2
        wide = np.pad(self.difference, ((ends, ends), (0, 0), (0, 0)), mode="edge")
        near = [wide[k : k + len(self.low)] for k in range(SLICES)]
        scaled = [p / unit for p in (self.trivial(), self.bound(), *near, self.pre, self.low)]
        told = [np.full_like(self.low, 10 * self.dose), np.full_like(self.low, self.field_t / 3)]
        return np.stack([*scaled, *told, self.noise / unit], axis=1).astype(np.float32)


CHANNELS = SLICES + 7
"""Channels of `Pair.planes`."""


def tissue(image: NDArray) -> NDArray[np.bool_]:
    """Return where an image (z, y, x) shows something."""
    return np.asarray(image > _TISSUE * np.percentile(image, 99))


def dosed(image: Floats, noise: Floats) -> Pair:
    """Return a pair of 5 alike slices (y, x) whose upper half enhances by a twentieth: for comparing engines."""
    low = np.repeat(image[None], SLICES, axis=0)
    pre = low.copy()
    pre[:, : image.shape[0] // 2] *= np.float32(0.95)
    return Pair(pre=pre, low=low, noise=np.repeat(noise[None], SLICES, axis=0), dose=0.1, field_t=3.0)


def noise_of_pair(pre: Floats, low: Floats) -> Floats:
    """Return the standard deviation of the noise of `low` (z, y, x), levelled over 25 pixels.

    From the diagonal details where tissue is even: those of the image hold some structure, those of the difference
    more noise (or less of the earlier image's, where it was interpolated); the smaller of the two is taken.
    """
    inside = tissue(low)
    slopes = gaussian_gradient_magnitude(low, (0, 1.5, 1.5)) if inside.any() else low
    calm = inside & (slopes <= np.percentile(slopes[inside], _CALM)) if inside.any() else inside
    return np.minimum(_detail(low, calm), _detail(low - pre, calm))


def _detail(image: Floats, calm: NDArray[np.bool_]) -> Floats:
    """Return the local standard deviation of white noise in (z, y, x), from diagonal details of `calm` places."""
    diagonal = image - np.roll(image, 1, -1)
    details = np.abs(diagonal - np.roll(diagonal, 1, -2)) / 2
    if not calm.any():
        return np.full_like(image, np.median(details) / _MEDIAN_OF_NORMAL)
    whole = np.median(details[calm])
    size, weight = (min(3, len(image)), _NEAR, _NEAR), calm.astype(np.float32)
    some = uniform_filter(weight, size)
    local = uniform_filter(np.minimum(details, _MOST * whole) * weight, size) / np.maximum(some, 1e-3)
    return np.where(some > _SOME, local / _MEAN_OF_NORMAL, whole / _MEDIAN_OF_NORMAL).astype(np.float32)


def blurred_noise(n_slices: int) -> float:
    """Return the standard deviation of white noise of 1 after `Pair.smoothed` with 1 voxel."""
    impulse = np.zeros(17)
    impulse[8] = 1
    plane = float((gaussian_filter(impulse, 1.0) ** 2).sum())
    across = float((_ACROSS**2).sum()) if n_slices > 1 else 1.0
    return plane * float(np.sqrt(across))


def _blurred(image: Floats, sd_voxels: float) -> Floats:
    plane = gaussian_filter(image, (0, sd_voxels, sd_voxels), mode="nearest")
    return np.asarray(correlate1d(plane, _ACROSS, axis=0, mode="nearest"), np.float32)
