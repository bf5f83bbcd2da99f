"""A Step works on one scan while it runs; a Chain is Steps one behind the other.

``open`` is told the header and prepares everything that takes time. ``feed`` is the hot path: it is called
while the scanner still measures. ``close`` does what could not be done before. A Step passes on what is not
meant for it, so nothing is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from acquisition.items import Item
from acquisition.scan import Scan


class Step(Protocol):
    """One stage of a protocol; structural, nothing to inherit."""

    def open(self, scan: Scan) -> None:
        """Prepare for `scan`: check that it can be done, allocate, warm up.

        Raises
        ------
        IsocenterError
            This scan cannot be handled; nothing has been measured in vain yet.
        """

    def feed(self, item: Item) -> Iterable[Item]:
        """Take one item; return what is ready now."""

    def close(self) -> Iterable[Item]:
        """The scan is over: return the rest."""


class Chain:
    """Steps one behind the other, itself a Step."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = tuple(steps)

    def open(self, scan: Scan) -> None:
        """Open every Step."""
        for step in self.steps:
            step.open(scan)

    def feed(self, item: Item) -> Iterator[Item]:
        """Push one item through all Steps; items come out as soon as the last Step gives them."""
        return self._push(item, 0)

    def close(self) -> Iterator[Item]:
        """Close the Steps in order, each one's rest going through those behind it."""
        for position, step in enumerate(self.steps):
            for item in step.close():
                yield from self._push(item, position + 1)

    def _push(self, item: Item, position: int) -> Iterator[Item]:
        if position == len(self.steps):
            yield item
            return
        for out in self.steps[position].feed(item):
            yield from self._push(out, position + 1)
