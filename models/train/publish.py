"""From trained weights to a card: calibrate on held-out images, measure on others, write both files."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from acquisition.errors import LimitError
from models.card import FILE, MAX_WEIGHTS, Card, parse_card
from models.consistency import BLOCK, Residual, residual
from models.estimate import Estimate, Estimator
from models.load import Loaded, packed
from models.noise import level
from models.ood import REGIONS, Statistics, features, fitted
from models.pair import Pair
from models.predict import Predictor
from models.problem import Problem, Reconstructor, estimator_of
from models.train.figures import FIGURES, interval
from models.train.loop import Trained
from models.train.recipe import Case, Recipe, Setting
from models.uncertainty import factor, scale

WEIGHTS = "weights.safetensors"
_OOD_QUANTILE = 0.99
_OOD_MARGIN = 1.35  # people differ: quantiles of held-out PET volumes lie up to so far apart
_COVERAGE = 0.9
_FLOOR = 0.1
_FLAG, _REFUSE = 1.15, 1.4  # times the largest change on calibration data, or what all of the noise amounts to
_ENOUGH = 48  # calibration images
_FALSE_ALARM = 1e-3  # of an image whose noise, and nothing else, was taken away
_PROVISIONAL: dict[str, Any] = {
    "weights": {"file": WEIGHTS, "sha256": "0" * 64, "size": 1},
    "metrics": [
        {"name": "none yet", "unit": "", "value": 0.0, "ci95": [0.0, 0.0], "items": 2, "data": "none"},
    ],
    "ood": {"threshold": 1.0, "quantile": _OOD_QUANTILE, "items": 2},
    "consistency": {name: {"flag_above": 1.0, "refuse_above": 1.0} for name in ("rms", "peak")},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How the weights were made."""

    recipe: str
    """Its name."""
    setting_name: str
    """Name of the setting."""
    setting: Setting
    """The setting."""
    seed: int
    """Of all chance."""
    version: str
    """Of the card."""


def publish(trained: Trained, recipe: Recipe, run: Run, folder: Path) -> Card:
    """Calibrate, measure, and write ``card.yaml`` and ``weights.safetensors`` into `folder`.

    Raises
    ------
    ConfigError
        The recipe's part of the card is wrong.
    LimitError
        The weights are too large for a card.
    """
    document = provisional(recipe, run, trained)
    where = f"card of recipe {run.recipe}"
    card = parse_card(document, where=where)
    fit = [_figures(card, c) for c in recipe.cases("training", max(2 * run.setting.cases, 64))]
    statistics = fitted(np.stack(fit))
    estimator = _estimator(card, trained.network, statistics)
    document |= calibrated(list(recipe.cases("calibration", run.setting.cases)), estimator)
    document["metrics"] = measured(list(recipe.cases("test", run.setting.cases)), estimator, where=run.recipe)
    data = packed(trained.network, statistics)
    if len(data) > MAX_WEIGHTS:
        raise LimitError(where, expected=f"weights of at most {MAX_WEIGHTS} bytes", got=str(len(data)))
    document["weights"] = {"file": WEIGHTS, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    card = parse_card(document, where=where)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(data)
    (folder / FILE).write_text(card.text(), encoding="utf-8")
    return card


def provisional(recipe: Recipe, run: Run, trained: Trained) -> dict[str, Any]:
    """Return the recipe's card with the facts of the training, and place-holders for what is measured next."""
    document = {**_PROVISIONAL, **recipe.card(), "name": run.recipe, "version": run.version}
    members = document.pop("members", 4)
    document["uncertainty"] = {"members": members, "coverage": _COVERAGE, "factor": 1.0, "floor": _FLOOR, "items": 2}
    setting = run.setting
    document["training"] = {
        "recipe": run.recipe,
        "setting": f"{run.setting_name}: {setting.steps} steps of {setting.batch}, rate {setting.rate:g}",
        "seed": run.seed,
        "steps": trained.step,
        "minutes": round(max(trained.seconds / 60, 0.01), 2),
        "machine": f"{_processor(setting.device)}, torch {torch.__version__}",
        **document["training"],
    }
    held_out = {"calibration": setting.cases, "test": setting.cases}
    for row in document["training"]["data"]:
        row["items"] = held_out.get(row["used_for"], row.get("items"))
    return document


def calibrated(cases: Sequence[Case], estimator: Estimator) -> dict[str, Any]:
    """Return the card's limits, from images that training never saw."""
    estimates = [estimated(estimator, c) for c in cases]
    scores = [estimator.statistics.score(_figures(estimator.card, c)) for c in cases]
    changes = [_change(c, e) for c, e in zip(cases, estimates, strict=True)]
    ratios = [_ratio(c, e) for c, e in zip(cases, estimates, strict=True)]
    card = estimator.card
    return {
        "ood": {
            "threshold": _rounded(_OOD_MARGIN * float(np.quantile(scores, _OOD_QUANTILE))),
            "quantile": _OOD_QUANTILE,
            "items": len(cases),
        },
        "consistency": _bounds(cases, changes, largest_of_noise(card.input.matrix)),
        "uncertainty": {
            **card.uncertainty.model_dump(),
            "factor": _rounded(factor(ratios, card.uncertainty.coverage)),
            "items": len(cases),
        },
    }


def _bounds(cases: Sequence[Case], changes: Sequence[Residual], noise_alone: float) -> dict[str, dict[str, float]]:
    """Return the limits of what a network may change.

    What all of the noise amounts to is never refused. It is marked where enough images say that this network takes
    less of it, and so is a change below that of any of them; a network that works on raw data may leave no change.
    """
    enough = len(cases) >= _ENOUGH and all(c.problem is None for c in cases)
    found = {}
    for name, least in (("rms", 1.0), ("peak", noise_alone)):
        values = [getattr(change, name) for change in changes]
        largest = max(least, *values)
        found[name] = {
            "flag_above": _rounded(_FLAG * (max(values) if enough else largest)),
            "refuse_above": _rounded(_REFUSE * largest),
        }
        if enough and name == "rms":
            found[name]["flag_below"] = _rounded(min(values) / _FLAG)
    return found


def largest_of_noise(matrix: tuple[int, ...]) -> float:
    """Return what the largest block mean of white noise (times its side) stays below, but for false alarms."""
    blocks = 2 * float(np.prod(matrix)) / (BLOCK // 2) ** 2
    return NormalDist().inv_cdf(1 - _FALSE_ALARM / blocks)


def estimated(estimator: Estimator, case: Case) -> Estimate:
    """Return what a network makes of a case: from its image, its k-space, or its pair of images."""
    if isinstance(case.problem, Problem) and isinstance(estimator, Reconstructor):
        return estimator.solved(case.problem)
    if isinstance(case.problem, Pair) and isinstance(estimator, Predictor):
        return estimator.solved(case.problem)
    return estimator.estimate(case.measured, case.noise)


def measured(cases: Sequence[Case], estimator: Estimator, *, where: str) -> list[dict[str, Any]]:
    """Return the card's metrics: figures of the network's images and of the conventional ones."""
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in FIGURES}
    for case in cases:
        inside = np.ones(case.truth.shape, bool) if case.inside is None else case.inside
        network = estimated(estimator, case).data
        for name, (function, _) in FIGURES.items():
            rows[name].append((function(network, case.truth, inside), function(case.measured, case.truth, inside)))
    found = []
    for name, pairs in rows.items():
        value, low, high = interval([network for network, _ in pairs])
        conventional = float(np.mean([before for _, before in pairs]))
        found.append(
            {
                "name": name,
                "unit": FIGURES[name][1],
                "value": _rounded(value),
                "ci95": [min(_rounded(low), _rounded(value)), max(_rounded(high), _rounded(value))],
                "conventional": _rounded(conventional),
                "items": len(pairs),
                "data": f"test images of {where}",
            }
        )
    return found


def covered(cases: Sequence[Case], estimator: Estimator) -> float:
    """Return the part of the pixels whose truth lies within the uncertainty, at strength 1."""
    ratios = [_ratio(c, estimated(estimator, c)) for c in cases]
    return float(np.mean(np.concatenate(ratios) <= estimator.card.uncertainty.factor))


def _figures(card: Card, case: Case) -> NDArray:
    """Return what the score of foreign images looks at."""
    return features(REGIONS[card.input.figures](case.measured), level(case.noise))


def _change(case: Case, estimate: Estimate) -> Residual:
    if case.problem is None:
        return residual(case.measured, estimate.data, case.noise)
    if isinstance(case.problem, Pair):
        return case.problem.middle.residual((estimate.data - case.measured)[None])
    return case.problem.residual(torch.from_numpy(estimate.data))


def _ratio(case: Case, estimate: Estimate) -> NDArray:
    inside = slice(None) if case.inside is None else case.inside
    width = scale(estimate.spread, case.noise, _FLOOR)
    ratio: NDArray = (np.abs(estimate.data - case.truth) / width)[inside].ravel()
    return ratio


def _estimator(card: Card, network: nn.Module, statistics: Statistics) -> Estimator:
    return estimator_of(Loaded(card, network, statistics), "torch")


def _processor(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} CPU threads, {platform.machine()}"


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
