"""Recipe of the network that finds the brain in a localizer: template coordinates of every cell of a head in any pose."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.train.atlas import Atlas, load_atlas
from models.train.labels import Head
from models.train.localizer import sample
from models.train.recipe import Setting, Split
from models.train.simulated import CACHE, source_of, used

_BRAIN_WEIGHT = 0.1


class BrainLandmarks:
    """Random heads in random poses, contrasts and coverages; see `models.train.localizer`."""

    settings: Mapping[str, Setting] = {
        "tiny": Setting(steps=3, batch=1, rate=1e-3, cases=2),
        "small": Setting(steps=4000, batch=4, rate=2e-3, cases=64, precision="bf16", average=0.998),
        "full": Setting(steps=60000, batch=16, rate=2e-3, cases=200, device="cuda", precision="bf16", workers=12),
    }

    def card(self) -> dict[str, Any]:
        """Return the words of the card."""
        return {
            "title": "Template coordinates of a localizer of the head",
            "intended_use": "Finds the brain in localizers of the head, for the planning of the next series, which a "
            "person confirms. Research software, not a medical device.",
            "modality": "MR",
            "anatomy": ["HEAD", "BRAIN"],
            "network": {"name": "locator", "parameters": {"width": 48}},
            "training": used(("SynthSeg label maps of 16 heads", "Apache-2.0")),
            "limits": [
                "heads of adults, 16 of them, all in simulated contrast; children were never seen",
                "turned by up to 45 degrees from a supine position",
                "knee, spine, heart and any other body part: never",
                "after large resections the template does not fit; the plan is then refused or has low confidence",
            ],
        }

    def batch(self, chance: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:
        """Return inputs (n, 2, z, y, x) and truths (n, 5, z/4, y/4, x/4): coordinates, brain, weight."""
        pairs = [self._sample("training", chance) for _ in range(size)]
        x, truth = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
        return x, truth

    def loss(self, estimate: Tensor, truth: Tensor, x: Tensor) -> Tensor:
        """Return the mean distance of the brain's coordinates [100 mm], and the error of what is brain."""
        weight = truth[:, 4]
        distance = ((estimate[:, :3] - truth[:, :3]).square().sum(1) + 1e-4).sqrt()
        brain = functional.binary_cross_entropy_with_logits(estimate[:, 3], truth[:, 3])
        return (distance * weight).sum() / weight.sum().clamp_min(1.0) + _BRAIN_WEIGHT * brain

    def heads(self, split: Split) -> list[tuple[Head, Atlas]]:
        """Return the heads of a split with their maps."""
        return self._heads[split]

    def _sample(self, split: Split, chance: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        heads = self._heads[split]
        head, atlas = heads[int(chance.integers(len(heads)))]
        return sample(head, atlas, chance)

    @cached_property
    def _heads(self) -> dict[Split, list[tuple[Head, Atlas]]]:
        cache = Path(os.environ.get(CACHE, Path.home() / ".cache")) / "isocenter" / "heads"
        splits: tuple[Split, ...] = ("training", "calibration", "test")
        return {s: [(h, load_atlas(h, cache)) for h in source_of(s).heads] for s in splits}
