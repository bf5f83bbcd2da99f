"""The smallest recipe: ellipses of even brightness in white noise. It shows how a recipe is written and proves that
the way from a recipe to a card works; its network is for ellipses, not for patients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.train.recipe import Case, Setting, Split, charbonnier

_FIRST = {"training": 0, "calibration": 1_000_000, "test": 2_000_000}
"""First seed of the images of each split."""
_SNR = (5.0, 60.0)
_PATCH = 64
_MATRIX = 64


class Ellipses:
    """See the module."""

    settings: Mapping[str, Setting] = {
        "small": Setting(steps=600, batch=4, rate=1e-3, cases=32, average=0.99),
        "tiny": Setting(steps=30, batch=2, rate=1e-3, cases=24, average=0.9),
    }

    def card(self) -> dict[str, Any]:
        """Return what a person says of it."""
        return {
            "title": "Ellipses in white noise, denoised (an example)",
            "intended_use": "To try the machinery. Not for images of people.",
            "modality": "MR",
            "anatomy": ["PHANTOM"],
            "sequences": [],
            "input": {
                "units": ["1"],
                "kinds": ["magnitude", "real"],
                "matrix": [_MATRIX, _MATRIX],
                "ranges": {"snr": [4.0, 80.0]},
            },
            "network": {"name": "unet", "parameters": {"width": 32, "levels": 2}, "precision": "bf16"},
            "members": 2,
            "training": {
                "data": [
                    {"name": f"ellipses drawn by chance, {use}", "licence": "Apache-2.0", "used_for": use, "items": 64}
                    for use in ("training", "calibration", "test")
                ]
            },
            "limits": ["Knows ellipses only: texture and thin lines are smoothed away."],
        }

    def batch(self, chance: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:
        """Return drawn images in units of their noise."""
        truths = np.stack([drawn(chance, _PATCH) for _ in range(size)])[:, None]
        noisy = truths + chance.standard_normal(truths.shape, np.float32)
        x = np.concatenate([noisy, np.ones_like(noisy)], axis=1)
        return torch.from_numpy(x), torch.from_numpy(truths)

    def loss(self, estimate: Tensor, truth: Tensor, x: Tensor) -> Tensor:
        """Return the mean error."""
        return charbonnier(estimate, truth)

    def cases(self, split: Split, n: int) -> Iterator[Case]:
        """Yield drawn images, in units of their noise."""
        for index in range(n):
            chance = np.random.default_rng(_FIRST[split] + index)
            truth = drawn(chance, _MATRIX)
            noisy = truth + chance.standard_normal(truth.shape, np.float32)
            yield Case(noisy, truth, np.ones_like(truth))


def drawn(chance: np.random.Generator, matrix: int) -> NDArray[np.float32]:
    """Return one image (y, x) of a few ellipses in units of the noise, its brightness drawn as well."""
    y, x = np.mgrid[:matrix, :matrix] / (matrix - 1) * 2 - 1
    image = np.zeros((matrix, matrix))
    for _ in range(int(chance.integers(4, 9))):
        centre, axes = chance.uniform(-0.5, 0.5, 2), chance.uniform(0.1, 0.6, 2)
        turn = chance.uniform(0, np.pi)
        u = (x - centre[0]) * np.cos(turn) + (y - centre[1]) * np.sin(turn)
        v = (y - centre[1]) * np.cos(turn) - (x - centre[0]) * np.sin(turn)
        image[(u / axes[0]) ** 2 + (v / axes[1]) ** 2 < 1] += chance.uniform(0.2, 1.0)
    snr = np.exp(chance.uniform(*np.log(_SNR)))
    result: NDArray[np.float32] = (image / max(float(np.percentile(image, 95)), 0.2) * snr).astype(np.float32)
    return result
