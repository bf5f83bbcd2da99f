"""Are a card's weights right, and do all engines of this computer make the same of them?"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.card import Card
from models.engine import available
from models.estimate import Estimator, Floats
from models.load import load
from models.pair import dosed
from models.predict import Predictor
from models.problem import Reconstructor, estimator_of, halved

_SNR = 50.0  # where the card does not limit it
_RUNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One engine beside torch in float32."""

    card: str
    """Name of the card."""
    version: str
    """Its version."""
    engine: str
    """What it ran on, with the precision."""
    apart: float
    """Root mean square difference, in standard deviations of the noise."""
    tolerance: float
    """What the card allows."""
    prepare_s: float
    """Time of the first preparation [s]."""
    run_ms: float
    """Median time of one slice or volume, mirror images included [ms]."""
    matrix: tuple[int, ...]
    """Of the slice or volume."""

    @property
    def agrees(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.apart <= self.tolerance

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping of all fields."""
        return asdict(self)


def compared(path: Path, engines: Sequence[str] = ()) -> Iterator[Comparison]:
    """Check the weights, then yield one comparison for each engine (default: all that are here).

    Raises
    ------
    IsocenterError
        The card, the weights or an engine is not right.
    """
    loaded = load(path)
    data, noise = example(loaded.card)
    judge = _made(estimator_of(loaded, "torch"), data, noise)
    for name in engines or available():
        made = estimator_of(loaded, name)
        made.prepare(data.shape)
        times = []
        for _ in range(_RUNS):
            start = time.perf_counter()
            result = _made(made, data, noise)
            times.append(time.perf_counter() - start)
        yield Comparison(
            card=loaded.card.name,
            version=loaded.card.version,
            engine=made.engine.name,
            apart=float(np.sqrt(np.mean(np.abs((result - judge) / noise) ** 2))),
            tolerance=loaded.card.network.tolerance,
            prepare_s=made.engine.prepare_s,
            run_ms=1000 * float(np.median(times)),
            matrix=data.shape,
        )


def _made(estimator: Estimator, data: NDArray, noise: Floats) -> NDArray:
    if isinstance(estimator, Reconstructor):
        return estimator.solved(halved(data, float(np.median(noise)))).data
    if isinstance(estimator, Predictor):
        return estimator.solved(dosed(data, noise)).data
    return estimator.estimate(data, noise).data


def example(card: Card) -> tuple[NDArray, Floats]:
    """Return a slice or volume in units of its noise, as bright as the card allows, and its noise map: there the
    precision of an engine matters most."""
    chance = np.random.default_rng(1)
    places = np.indices(card.input.matrix, np.float32)
    extent = np.reshape(card.input.matrix, (-1, *(1,) * len(card.input.matrix)))
    radius = np.sqrt((((places + 0.5) / extent - 0.5) ** 2).sum(axis=0))
    top = card.input.ranges.snr[1] if card.input.ranges.snr else _SNR
    ball = np.where(radius < 0.4, top * (0.6 + 0.4 * np.cos(12 * np.pi * radius)), 0.0)
    data = (ball + chance.standard_normal(ball.shape)).astype(np.float32)
    if card.input.kinds == ("complex",):
        return data + 1j * chance.standard_normal(ball.shape).astype(np.float32), np.ones_like(data)
    return data, np.ones_like(data)
