"""A tenth of the dose of contrast agent, filled in: the enhancement that is missing, from what little there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.pair import SLICES, Pair, noise_of_pair, remaining, tissue
from models.train import simulated
from models.train.dataset import Source
from models.train.doses import DOSES, SPEC, Slab, dose_slab
from models.train.mr import MrSpec
from models.train.recipe import Case, Setting, Split
from models.train.simulated import used

_SNR = (10.0, 90.0)
_EDGE = 6  # pixels around a patch that filters need
_BLOCK = 4  # pixels
_MIDDLE = SLICES // 2
_SEEN_AT = 8.0  # standard deviations of the noise, of missing enhancement that counts as such
_FWHM_MM, _BRIGHT = (2.0, 9.0), (0.15, 1.5)  # of spots; part of the middle brightness that is missing
_SPREAD = 0.15  # of what remains of the enhancement, between tissues
_SPLITS: tuple[Split, ...] = ("training", "calibration", "test")


@dataclass(frozen=True, kw_only=True)
class MrLowDose:
    """See the module.

    The loss is the mean error, more of it where something enhances, and that of means over 4 x 4 pixels; nothing is
    adversarial: what is not in the data is not to be invented for the sake of looks.
    """

    spec: MrSpec = SPEC
    """What is drawn."""
    kept: int = 240
    """Slabs that are drawn once and kept; patches are cut from them, each with noise of its own."""
    patch: int = 64
    """Side of the patches [pixels]."""
    enhancing: float = 3.0
    """How much more an error counts where enhancement is missing."""
    coarse: float = 0.5
    """Weight of the error of means."""
    spots: float = 1.0
    """Mean number of enhancing spots put into a patch."""
    settings: ClassVar[Mapping[str, Setting]] = {
        "small": Setting(steps=4500, batch=8, rate=1e-3, cases=48, precision="bf16"),
        "full": Setting(steps=150_000, batch=16, rate=1e-3, cases=96, device="cuda", precision="bf16", workers=8),
        "tiny": Setting(steps=4, batch=2, rate=1e-3, cases=20, average=0.9),
    }

    def card(self) -> dict[str, Any]:
        """Return what a person says of it."""
        return {
            "title": "Full-dose contrast enhancement predicted from a low dose (research)",
            "intended_use": "Research only, off by default: a synthetic image beside the low-dose image, which stays"
            " the image to read. It is a prediction, not an acquisition. Not a medical device.",
            "modality": "MR",
            "anatomy": ["HEAD", "BRAIN"],
            "sequences": [],
            "input": {
                "units": ["1", "a.u."],
                "kinds": ["magnitude"],
                "matrix": [192, 192],
                "ranges": {
                    "snr": [5.0, 200.0],
                    "voxel_mm": [0.9, 1.6],
                    "slice_mm": [0.9, 4.2],
                    "field_strength_t": [1.4, 3.1],
                },
            },
            "network": {
                "name": "lowdose",
                "parameters": {"slices": SLICES, "width": 32, "levels": 3},
                "precision": "bf16",
            },
            "members": 2,
            "training": used(("SynthSeg label maps, doses and sequences simulated on them", "Apache-2.0")),
            "limits": [
                "Trained on simulation alone: 12 healthy heads with drawn lesions, T1-weighted spin echo, gradient echo"
                f" and MPRAGE, {DOSES[0]:g} to {DOSES[1]:g} of the dose; no real pair of doses was seen.",
                "Both images must be of one sequence with the same parameters; lesions below 5 mm may be missed, and"
                " no enhancement is no proof of none.",
                "Enhancement comes out too weak: of lesions from 5 mm on a median of 57 % (SNR 20) to 67 % (SNR 40) is"
                " shown, of faint ones of 8 mm less than a quarter. lowdose_support shows what the network left out.",
                "It sees five slices of 0.9 to 4.2 mm; where the patient moved within a scan it was never tried.",
            ],
        }

    def batch(self, chance: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:
        """Return patches of kept slabs, turned and mirrored by chance, each with its own noise."""
        pairs = [self._patch(chance) for _ in range(size)]
        x, truth = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
        return x, truth

    def loss(self, estimate: Tensor, truth: Tensor, x: Tensor) -> Tensor:
        """Return the mean error of pixels, more where they enhance, and that of their means."""
        weight = 1 + self.enhancing * (truth / _SEEN_AT).clamp(0, 1)
        error = estimate - truth
        means = _BLOCK * functional.avg_pool2d(weight * error, _BLOCK)
        return (weight * _magnitude(error)).mean() + self.coarse * _magnitude(means).mean()

    def cases(self, split: Split, n: int) -> Iterator[Case]:
        """Yield the middle slices of slabs."""
        heads = self._sources[split].heads
        for number in range(n):
            chance = np.random.default_rng([7, _SPLITS.index(split), number])
            slab = dose_slab(heads[int(chance.integers(len(heads)))], chance, self.spec)
            snr = _log_uniform(chance, _SNR)
            pair = pair_of(slab, snr, chance)
            low = pair.low[_MIDDLE]
            yield Case(low, slab.full[_MIDDLE] * np.float32(snr), pair.noise[_MIDDLE], tissue(low), pair)

    @cached_property
    def _sources(self) -> dict[Split, Source]:
        return {split: simulated.source_of(split) for split in _SPLITS}

    @cached_property
    def _drawn(self) -> dict[int, Slab]:
        return {}

    def _patch(self, chance: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        number = int(chance.integers(self.kept))
        if number not in self._drawn:
            heads = self._sources["training"].heads
            head, rng = heads[number % len(heads)], np.random.default_rng([11, number])
            self._drawn[number] = dose_slab(head, rng, self.spec, lesions=5.0)
        whole = self._drawn[number]
        side = self.patch + 2 * _EDGE
        slab = whole.cut(_corner(whole, side, chance), side)
        slab = _spotted(slab, chance, mean=self.spots)
        snr = _log_uniform(chance, _SNR)
        pair = pair_of(slab, snr, chance)
        missing = np.float32(snr) * (slab.full - slab.low)[_MIDDLE] / np.median(pair.noise)
        planes = np.concatenate([pair.planes()[_MIDDLE], missing[None]])[:, _EDGE:-_EDGE, _EDGE:-_EDGE]
        turned = np.rot90(planes, int(chance.integers(4)), (1, 2))
        mirrored = turned[..., ::-1] if chance.random() < 0.5 else turned
        return np.ascontiguousarray(mirrored[:-1]), np.ascontiguousarray(mirrored[-1:])


def pair_of(slab: Slab, snr: float, chance: np.random.Generator) -> Pair:
    """Return a slab as the service would see it after registration, with noise."""
    pre, low = slab.noisy(snr, chance, name="pre"), slab.noisy(snr, chance)
    return Pair(pre=pre, low=low, noise=noise_of_pair(pre, low), dose=slab.dose, field_t=slab.field_t)


def _spotted(slab: Slab, chance: np.random.Generator, *, mean: float) -> Slab:
    """Return the slab with a few enhancing balls with soft edges near its middle slice."""
    low, full = slab.low.copy(), slab.full.copy()
    z, y, x = np.indices(low.shape, np.float32)
    for _ in range(chance.poisson(mean)):
        at = (_MIDDLE + chance.uniform(-1.5, 1.5), *(chance.uniform(_EDGE, n - _EDGE) for n in low.shape[1:]))
        square = sum(((p - a) * v) ** 2 for p, a, v in zip((z, y, x), at, slab.voxel_mm, strict=True))
        radius = np.exp(chance.uniform(*np.log(_FWHM_MM))) / 2
        ball = 1 / (1 + np.exp((np.sqrt(square) - radius) / np.float32(0.35 * slab.voxel_mm[1])))
        whole = np.float32(_log_uniform(chance, _BRIGHT)) * ball.astype(np.float32)
        part = np.float32(min(remaining(slab.dose) * np.exp(chance.normal(0, _SPREAD)), 0.9))
        low, full = low + part * whole, full + whole
    return replace(slab, low=low, full=full)


def _corner(slab: Slab, side: int, chance: np.random.Generator) -> tuple[int, int]:
    """Return where a patch begins that shows something: the brightest of three."""
    n_y, n_x = slab.sigma.shape
    tried = [(int(chance.integers(n_y - side + 1)), int(chance.integers(n_x - side + 1))) for _ in range(3)]
    return max(tried, key=lambda c: float(slab.low[_MIDDLE, c[0] : c[0] + side, c[1] : c[1] + side].mean()))


def _log_uniform(chance: np.random.Generator, between: tuple[float, float]) -> float:
    return float(np.exp(chance.uniform(*np.log(between))))


def _magnitude(error: Tensor) -> Tensor:
    return (error.square() + 1e-2).sqrt()
