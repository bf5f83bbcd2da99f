"""What the recipes on simulated samples share: where the anatomy lies, patches of kept samples, cases by number."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from acquisition.errors import ConfigError
from models.noise import floored, level
from models.train.dataset import Samples, Source
from models.train.mr import MrSpec
from models.train.recipe import Case, Split

DATA, CACHE = "ISOCENTER_DATA", "XDG_CACHE_HOME"
"""Environment variables: the folder of the data sets, and that of scratch files (``~/.cache``)."""
_COARSE, _NEAR = 4, 9  # pixels
_MOST = 6.0  # standard deviations of the noise, of detail that counts
_LEAST = 0.1
_TINY = 1e-4
_CONTRAST = (3.0, 15.0)  # standard deviations of the noise, of spots


def source_of(split: Split) -> Source:
    """Return where a split's anatomy comes from.

    Raises
    ------
    ConfigError
        Nothing says where the data sets are.
    """
    if DATA not in os.environ:
        raise ConfigError(DATA, expected="the folder of the data sets", got="nothing", action=f"export {DATA}=FOLDER")
    cache = Path(os.environ.get(CACHE, Path.home() / ".cache")) / "isocenter" / "heads"
    cache.mkdir(parents=True, exist_ok=True)
    return Source(part=split, data=Path(os.environ[DATA]), cache=cache)


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """The part of a denoising recipe that does not depend on the modality; subclasses say what a card says."""

    kind: str
    """Kind of sample, of `models.train.dataset.KINDS`."""
    kept: int
    """Training samples that are drawn once and kept; patches are cut from them."""
    matrices: Sequence[int]
    """Sides of the slices that are drawn, by turns [pixels]."""
    patch: int = 64
    """Side of the patches [pixels]."""
    coarse: float = 0.25
    """Weight of the error's mean over 4 x 4 pixels, in units of its noise: what changes means and grain."""
    detail: float = 0.5
    """How much more an error counts for each standard deviation of the noise that the truth is off its mean nearby."""
    spots: float = 2.0
    """Mean number of small lesions put into every other patch and its truth: a linear reconstruction adds them so."""
    kept_whole: float = 1.0
    """Weight of what is lost of these lesions, as a part of them."""
    dark: bool = True
    """Whether spots may be darker than what is around them."""

    def batch(self, chance: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:
        """Return patches of kept samples, turned and mirrored by chance, in units of the noise of their slice.

        Each patch comes twice, side by side: with small lesions, and as it is.
        """
        pairs = [pair for _ in range(max(size // 2, 1)) for pair in self._patches(chance)]
        x, truth = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
        return x, truth

    def loss(self, estimate: Tensor, truth: Tensor, x: Tensor) -> Tensor:
        """Return the mean error of pixels and of their means in blocks; where there is detail it counts more.

        What minimises the mean error of all pixels makes a faint lesion fainter, as most of what looks like one is
        noise. Weighing by the truth's own detail takes back a part of that; the rest takes `lost`.
        """
        detail = (truth - functional.avg_pool2d(truth, _NEAR, 1, _NEAR // 2, count_include_pad=False)).abs()
        noise = x[:, truth.shape[1] :].clamp_min(_LEAST)
        weight = 1 + self.detail * (detail.amax(dim=1, keepdim=True) / noise).clamp_max(_MOST)
        error = estimate - truth
        means = _COARSE * functional.avg_pool2d(error, _COARSE)
        total = (weight * self.penalty(error)).mean() + self.coarse * self.penalty(means).mean()
        return total + self.kept_whole * lost(error, truth)

    def penalty(self, error: Tensor) -> Tensor:
        """Return what each error costs: its magnitude, smooth about 0."""
        return (error.square() + 1e-4).sqrt()

    def cases(self, split: Split, n: int) -> Iterator[Case]:
        """Yield whole slices."""
        for number in range(n):
            yield self.case(self._sample(split, number))

    def case(self, sample: dict[str, NDArray]) -> Case:
        """Return a sample as the service would see it."""
        target = sample["target"]
        bright = np.abs(target) > 0.05 * np.percentile(np.abs(target), 99)
        return Case(sample["image"], target, self.noise(sample), bright)

    def noise(self, sample: dict[str, NDArray]) -> NDArray[np.float32]:
        """Return the noise map of a sample as the service knows it."""
        return floored(sample["sigma"])

    def _sample(self, split: Split, number: int) -> dict[str, NDArray]:
        turn, index = number % len(self.matrices), number // len(self.matrices)
        return self._sets[split][turn][index]

    @cached_property
    def _sets(self) -> dict[Split, list[Samples]]:
        splits: tuple[Split, ...] = ("training", "calibration", "test")
        return {split: [self._samples(source_of(split), side) for side in self.matrices] for split in splits}

    def _samples(self, source: Source, side: int) -> Samples:
        return Samples(kind=self.kind, source=source, n=1_000_000, spec=MrSpec(matrix=(side, side)))

    @cached_property
    def _drawn(self) -> dict[int, Case]:
        return {}

    def _patches(self, chance: np.random.Generator) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Return input and truth of a patch with small lesions, and without."""
        number = int(chance.integers(self.kept))
        if number not in self._drawn:
            self._drawn[number] = self.case(self._sample("training", number))
        case = self._drawn[number]
        corner = [int(chance.integers(n - self.patch + 1)) for n in case.measured.shape]
        cut = tuple(slice(c, c + self.patch) for c in corner)
        turns, mirror = int(chance.integers(4)), chance.random() < 0.5
        unit = np.float32(level(case.noise))
        made = []
        for more in (self._spots(case.truth[cut], case.noise[cut], chance), 0):
            measured, truth = case.measured[cut] + more, case.truth[cut] + more
            planes = np.stack([*_channels(measured), case.noise[cut], *_channels(truth)]) / unit
            turned = np.rot90(planes, turns, (1, 2))
            mirrored = np.ascontiguousarray(turned[..., ::-1] if mirror else turned, np.float32)
            n = len(planes) // 2
            made.append((mirrored[: n + 1], mirrored[n + 1 :]))
        return made

    def _spots(self, truth: NDArray, noise: NDArray, chance: np.random.Generator) -> NDArray:
        """Return lesions of 2 to 5 pixels for a patch (y, x), as bright against the noise as may be seen."""
        more = np.zeros_like(truth)
        y, x = np.indices(truth.shape, np.float32)
        for _ in range(max(chance.poisson(self.spots), 1 if self.spots else 0)):
            at = tuple(int(chance.integers(n)) for n in truth.shape)
            fwhm, contrast = chance.uniform(1.8, 5.0), np.exp(chance.uniform(*np.log(_CONTRAST)))
            bell = np.exp(-4 * np.log(2) * ((y - at[0]) ** 2 + (x - at[1]) ** 2) / np.float32(fwhm**2))
            sign = -1 if self.dark and chance.random() < 0.5 else 1
            phase = truth[at] / max(abs(truth[at]), 1e-6) if np.iscomplexobj(truth) else 1.0
            more += (sign * contrast * noise[at] * phase * bell).astype(truth.dtype)
        return more


def lost(error: Tensor, truth: Tensor) -> Tensor:
    """Return what a network loses of lesions, and makes of them elsewhere, as a part of them: 0 where they pass whole.

    Patches (n, channel, y, x) come in pairs that differ by lesions alone. A network that takes the noise from both
    alike has the same error in both.
    """
    even = len(truth) // 2 * 2
    if not even:
        return torch.zeros(())
    apart, lesions = (t[0:even:2] - t[1:even:2] for t in (error, truth))
    power = lesions.square().sum((1, 2, 3))
    return ((apart.square().sum((1, 2, 3)) + _TINY) / (power + _TINY)).sqrt().mul(power > _TINY).mean()


def _channels(values: NDArray) -> list[NDArray[np.float32]]:
    parts = [values.real, values.imag] if np.iscomplexobj(values) else [values]
    return [part.astype(np.float32) for part in parts]


def used(*rows: tuple[str, str]) -> dict[str, Any]:
    """Return a card's list of data sets, each used in three parts that share no subject; rows are name, licence."""
    uses = ("training", "calibration", "test")
    return {
        "data": [
            {"name": name, "licence": licence, "used_for": use, "items": 64} for name, licence in rows for use in uses
        ]
    }
