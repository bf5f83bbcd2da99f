"""Training samples by number: the same number is the same sample, on any machine, in any order, in any worker.

Each sample draws all its chance from ``(seed, kind, part, number)``. Heads and volumes are read when the first sample
is asked for, heads as memory-mapped files of a scratch folder, so workers share them and nothing large is copied to
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from acquisition.errors import ConfigError
from models.train.ct import chest_slice, ct_sample, head_slice
from models.train.labels import SPLIT, Head, load_heads
from models.train.mr import MrSpec, Sample, denoise_sample, gad_sample, unrolled_sample
from models.train.pet import load_volumes, pet_sample, random_activity

T = TypeVar("T")

PARTS = tuple(SPLIT)
"""training, calibration, test: no head and no volume is in two of them."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the anatomy of one part comes from."""

    part: str
    """One of `PARTS`."""
    data: Path
    """Folder of the data sets."""
    cache: Path
    """Scratch folder for the heads (12 MB each)."""

    @cached_property
    def heads(self) -> list[Head]:
        """The part's heads."""
        return load_heads(self.part, data=self.data, cache=self.cache)

    @cached_property
    def volumes(self) -> list[tuple[np.ndarray, float]]:
        """The part's PET volumes and their pixels [mm]."""
        return load_volumes(self.part, data=self.data)

    def __getstate__(self) -> dict[str, object]:
        """Hand over where things are, not the things: another process maps them itself."""
        return {"part": self.part, "data": self.data, "cache": self.cache}


def _unrolled(source: Source, rng: np.random.Generator, spec: MrSpec | None) -> Sample:
    return unrolled_sample(_any(source.heads, rng), rng, spec)


def _denoise(source: Source, rng: np.random.Generator, spec: MrSpec | None) -> Sample:
    return denoise_sample(_any(source.heads, rng), rng, spec)


def _gad(source: Source, rng: np.random.Generator, spec: MrSpec | None) -> Sample:
    return gad_sample(_any(source.heads, rng), rng, spec)


def _ct(source: Source, rng: np.random.Generator, spec: MrSpec | None) -> Sample:
    shape = (256, 256) if spec is None else spec.matrix
    if rng.random() < 0.5:
        pixel = float(rng.uniform(0.85, 1.1)) * 256 / shape[0]
        truth = head_slice(_any(source.heads, rng), shape, rng, pixel_mm=pixel)
    else:
        pixel = float(rng.uniform(1.35, 1.6)) * 256 / shape[0]
        truth = chest_slice(shape, rng, pixel_mm=pixel)
    made = ct_sample(truth, rng, pixel_mm=pixel)
    return {"image": made.low, "sigma": made.sigma, "target": made.target, "full": made.full}


def _pet(source: Source, rng: np.random.Generator, spec: MrSpec | None) -> Sample:
    volume, pixel = _any(source.volumes, rng)
    activity, pixel = random_activity(volume, pixel, rng, n=64 if spec is None else spec.matrix[0])
    made = pet_sample(activity, pixel, rng)
    return {"image": made.low, "sigma": made.sigma, "target": made.target}


def _any(choices: Sequence[T], rng: np.random.Generator) -> T:
    return choices[int(rng.integers(len(choices)))]


KINDS: Mapping[str, Callable[[Source, np.random.Generator, MrSpec | None], Sample]] = {
    "unrolled": _unrolled,
    "denoise": _denoise,
    "gad": _gad,
    "ct": _ct,
    "pet": _pet,
}
"""Kind of sample -> how it is drawn; what is in it says the function it calls."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """`n` samples of one kind; a map-style data set for torch's DataLoader, with any number of workers.

    Raises
    ------
    ConfigError
        The kind or the part is unknown, or there are no samples.
    """

    kind: str
    """One of `KINDS`."""
    source: Source
    """Where the anatomy comes from."""
    n: int
    """How many samples there are."""
    seed: int = 0
    """Another seed, other samples."""
    spec: MrSpec | None = field(default=None)
    """What is drawn; its matrix also for CT (square) and PET; None: what is usual for the kind."""

    def __post_init__(self) -> None:
        for name, got, known in (("kind", self.kind, tuple(KINDS)), ("part", self.source.part, PARTS)):
            if got not in known:
                raise ConfigError(f"samples {name}", expected=f"one of {', '.join(known)}", got=repr(got))
        if self.n < 1:
            raise ConfigError("samples n", expected="at least 1", got=str(self.n))

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, number: int) -> Sample:
        """Return sample `number`, 0 to n - 1.

        Raises
        ------
        IndexError
            There is no such sample.
        """
        if not 0 <= number < self.n:
            raise IndexError(f"sample {number}: there are {self.n}")
        kind, part = list(KINDS).index(self.kind), PARTS.index(self.source.part)
        return KINDS[self.kind](self.source, np.random.default_rng([self.seed, kind, part, number]), self.spec)
