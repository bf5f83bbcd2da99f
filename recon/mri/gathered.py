"""What all maps share: the images of one slice that differ in one counter, gathered until all are there."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ConfigError
from acquisition.items import Image, Item, Kind, Position
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict

COUNTERS = ("contrast", "set", "repetition", "phase")


@dataclass(kw_only=True)
class Gathered:
    """Pass everything on; when all images of a slice are there, give what is made of them behind the last one."""

    counter: str = "contrast"
    """Counter that tells them apart: contrast, set, repetition or phase."""

    _name = "map"
    _kinds: ClassVar[tuple[Kind, ...]] = (Kind.MAGNITUDE, Kind.REAL, Kind.COMPLEX)
    _n = 0

    def __post_init__(self) -> None:
        for field, fine, expected in self._rules():
            if not fine:
                raise ConfigError(f"{self._name} {field}", expected=expected, got=str(getattr(self, field)))

    def _rules(self) -> Sequence[tuple[str, bool, str]]:
        return (("counter", self.counter in COUNTERS, ", ".join(COUNTERS)),)

    def open(self, scan: Scan) -> None:
        """Learn how many images belong together; forget the scan before."""
        self._n = self._expected(scan)
        self._images: dict[Position, dict[int, Image]] = {}

    def feed(self, item: Item) -> Iterator[Item]:
        """Pass everything on; give the maps of a slice behind its last image."""
        yield item
        if not isinstance(item, Image) or item.output != "conventional" or item.kind not in self._kinds:
            return
        index = int(getattr(item.position, self.counter))
        if index >= self._n:
            return
        key = replace(item.position, **{self.counter: 0})
        images = self._images.setdefault(key, {})
        images[index] = item
        if len(images) == self._n:
            del self._images[key]
            yield from self._made([images[i] for i in range(self._n)])

    def close(self) -> Iterator[Item]:
        """Say which slices lack images."""
        if self._images:
            yield Verdict(
                check=self._name,
                level=Level.FLAG,
                advice=f"{len(self._images)} slices lack images: no map of them was made.",
                value=float(len(self._images)),
                unit="slices",
                evidence=f"{self._n} images of each {self.counter} expected",
            )

    @abstractmethod
    def _expected(self, scan: Scan) -> int:
        """Return how many images one map is made of."""

    @abstractmethod
    def _made(self, images: list[Image]) -> Iterable[Image]:
        """Return the maps of one slice."""


def mapped(images: Sequence[Image], data: NDArray, *, output: str, unit: str, **changes: Any) -> Image:
    """Return a map in the place of the first of the images it was made of; it is as late as the last of them.

    `changes` may name the kind (magnitude otherwise) and verdicts to add.
    """
    return replace(
        images[0],
        data=data.astype(np.float32),
        kind=changes.get("kind", Kind.MAGNITUDE),
        output=output,
        unit=unit,
        verdicts=(*images[0].verdicts, *changes.get("verdicts", ())),
        last_readout_s=max(i.last_readout_s for i in images),
    )


def foreground(first: NDArray, threshold: float) -> NDArray[np.bool_]:
    """Return where the signal is above this part of its 99th percentile."""
    return np.asarray(first > threshold * np.percentile(first, 99))
