"""A recipe: everything that makes one network's weights again, but for the loop, which all recipes share."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from acquisition.errors import ConfigError, one_of
from models.pair import Pair
from models.problem import Problem

RECIPES: dict[str, str] = {
    "ellipses": "models.train.ellipses:Ellipses",
    "mr_denoise": "models.train.mr_denoise:MrDenoise",
    "ct_denoise": "models.train.ct_denoise:CtDenoise",
    "pet_denoise": "models.train.pet_denoise:PetDenoise",
    "mr_unrolled": "models.train.unrolled:UnrolledMr",
    "mr_lowdose": "models.train.mr_lowdose:MrLowDose",
}
"""Name -> ``module:Class``; the name is that of the card."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How much work a training is."""

    steps: int
    """Steps of the optimiser."""
    batch: int
    """Patches per step."""
    rate: float
    """Largest learning rate."""
    cases: int
    """Images each of calibration and test."""
    device: str = "cpu"
    """cpu or cuda."""
    precision: Literal["bf16", "f32"] = "f32"
    """Of the network's passes; the loss, the weights and their moments are float32."""
    workers: int = 0
    """Processes that draw batches ahead; 0: none but the training's own."""
    average: float = 0.999
    """Of the weights: the part that stays per step; 0 takes the last ones."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or not self.rate > 0 or not 0 <= self.average < 1 or self.cases < 2:
            raise ConfigError(
                "setting", expected="steps, batch from 1, cases from 2, rate above 0, average in [0, 1)", got=str(self)
            )


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One image whose truth is known."""

    measured: NDArray
    """The conventional image (y, x)."""
    truth: NDArray
    """What it would be without noise (y, x), same unit."""
    noise: NDArray[np.float32]
    """Standard deviation of its noise (y, x), same unit."""
    inside: NDArray[np.bool_] | None = None
    """Where figures are taken (y, x); None: everywhere."""
    problem: Problem | Pair | None = None
    """The k-space behind it, or the pair of images, for a network that works on that."""


Split = Literal["training", "calibration", "test"]
"""No subject, object or volume is in two of them."""


class Recipe(Protocol):
    """What is special to one network."""

    settings: Mapping[str, Setting]
    """By name: ``small`` fits two CPU cores and two hours, ``full`` is for a GPU."""

    def card(self) -> dict[str, Any]:
        """Return the card without what the training finds out: weights, training's figures, metrics, calibration.

        ``training: {data: [...]}`` names the data, ``limits`` and ``intended_use`` are a person's words.
        """

    def batch(self, chance: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:
        """Return `size` inputs (n, channel, y, x), the noise map last, and truths (n, image channel, y, x).

        Both in units of the noise. All chance comes from `chance`, so that a training can go on after a stop.
        """

    def loss(self, estimate: Tensor, truth: Tensor, x: Tensor) -> Tensor:
        """Return what is minimised; `estimate` is the corrected image."""

    def cases(self, split: Split, n: int) -> Iterator[Case]:
        """Yield `n` images of a split, the same ones each time."""


def recipe(name: str) -> Recipe:
    """Return a recipe.

    Raises
    ------
    ConfigError
        There is none of this name.
    """
    if name not in RECIPES:
        raise ConfigError(f"recipe {name!r}", expected=one_of(name, RECIPES), got=repr(name))
    module, _, attribute = RECIPES[name].partition(":")
    made: Recipe = getattr(importlib.import_module(module), attribute)()
    return made


def setting(of: Recipe, name: str) -> Setting:
    """Return a recipe's setting.

    Raises
    ------
    ConfigError
        It has none of this name.
    """
    if name not in of.settings:
        raise ConfigError(f"setting {name!r}", expected=one_of(name, of.settings), got=repr(name))
    return of.settings[name]


def charbonnier(estimate: Tensor, truth: Tensor) -> Tensor:
    """Return the mean of ``sqrt(error^2 + 1e-4)``: like the mean error, but smooth. DOI 10.1109/ICIP.1994.413553."""
    return ((estimate - truth).square() + 1e-4).sqrt().mean()


__all__ = ["RECIPES", "Case", "Recipe", "Setting", "Split", "charbonnier", "recipe", "setting"]
