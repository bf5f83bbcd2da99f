"""A scan's slices as its images come, thinned so that a check at the end is quick and memory small."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acquisition.geometry import Grid
from acquisition.items import Image, Item, Kind
from acquisition.scan import Scan
from acquisition.verdict import Verdict

Floats = NDArray[np.float32]

CONVENTIONAL = "conventional"
_MOST = 16
_SMALLEST = 24


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """One slice."""

    data: Floats
    """Magnitudes, HU or activities (y, x)."""
    grid: Grid
    """Where it lies; one slice."""
    index: int
    """Its number among the slices that came, from 0."""

    @property
    def name(self) -> str:
        """Return how to find it again."""
        return f"slice {self.index + 1}"


class Planes:
    """Keeps an even choice of the slices that come, never more than twice `most`."""

    def __init__(self, most: int = _MOST) -> None:
        self._most, self._every, self.n = most, 1, 0
        self.kept: list[Plane] = []

    def add(self, image: Image) -> None:
        """Take the slices of an image; complex values by their magnitude."""
        planes = image.data.reshape(-1, *image.data.shape[-2:])
        n_z = image.grid.shape[0]
        for z, data in enumerate(planes):
            if self.n % self._every == 0 and min(data.shape) >= _SMALLEST:
                values = np.abs(data) if np.iscomplexobj(data) else data
                self.kept.append(Plane(np.asarray(values, np.float32), image.grid.plane(z % n_z), self.n))
            self.n += 1
            if len(self.kept) > 2 * self._most:
                self.kept, self._every = self.kept[::2], 2 * self._every

    @property
    def middle(self) -> list[Plane]:
        """Return at most `most` of the slices, without the outer sixth at either end where there are enough."""
        cut = len(self.kept) // 6
        inner = self.kept[cut : len(self.kept) - cut]
        step = -(-len(inner) // self._most)
        return inner[:: max(step, 1)]


class LookingAtImages:
    """What checks of images share: all passes at once; conventional magnitudes are judged at the end."""

    _scan: Scan
    _planes: Planes

    def open(self, scan: Scan) -> None:
        """Remember the scan."""
        self._scan, self._planes = scan, Planes()

    def feed(self, item: Item) -> Iterator[Item]:
        """Pass everything on; keep some conventional slices."""
        if isinstance(item, Image) and item.output == CONVENTIONAL and item.kind in (Kind.MAGNITUDE, Kind.COMPLEX):
            self._planes.add(item)
        yield item

    def close(self) -> Iterator[Item]:
        """Say what was found."""
        yield from self._judged()

    def _judged(self) -> Iterator[Verdict]:
        raise NotImplementedError
