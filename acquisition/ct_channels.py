"""Detector channels that fail while the patient is measured: found by what their neighbours read, and interpolated.

The air scan cannot show them. A channel that differs from its neighbours by a factor of e in almost every view of a
quarter turn does not see the patient: what lies in the patient moves on to other channels. What differs in most rows at
once does lie in the patient (a needle in the axis).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from acquisition.ct_reference import Reference, neighbours
from acquisition.errors import ConfigError
from acquisition.items import Item, Projections
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict

Elements = list[tuple[int, int]]

_SUSPECT = 0.2  # part of the limit from which the mean over a window is looked at more closely
_AROUND = 7  # channels whose median an element is compared with
_NAMED = 10


@dataclass(kw_only=True)
class Channels:
    """Interpolate elements that stop counting, or count anything but the patient, during the scan.

    Put it before ct.air. Views are held for half a turn at most.
    """

    differs: float = 1.0
    """Difference of an element's line integral from its neighbours that the patient cannot make."""
    views: float = 0.9
    """Part of a quarter turn's views in which it must differ."""
    turn: float = 0.25
    """Part of a turn that is judged at a time."""

    def __post_init__(self) -> None:
        if self.differs <= 0 or not 0.5 < self.views <= 1 or not 0 < self.turn <= 1:
            raise ConfigError(
                "ct.channels",
                expected="differs above 0, views above 0.5 and turn above 0, both at most 1",
                got=f"{self.differs}, {self.views}, {self.turn}",
            )

    def open(self, scan: Scan) -> None:
        """Prepare for the detector."""
        ct = scan.require_ct()
        self._reference = Reference(scan)
        self._length = max(4, round(self.turn * ct.views_per_rotation))
        self._gathered: list[Projections] = []
        self._before: tuple[Projections, Elements] | None = None
        self._ago: set[tuple[int, int]] = set()
        self._found: dict[tuple[int, int], int] = {}
        self._seen = False

    def feed(self, item: Item) -> Iterator[Item]:
        """Take counts, give them repaired half a turn later; everything else passes.

        Raises
        ------
        DataError
            Views came before dark or air views, or are of another size.
        """
        if not isinstance(item, Projections) or item.domain != "counts" or not len(item):
            yield item
            return
        calibration, block = self._reference.apart(item)
        if calibration is not None:
            yield calibration
        if block is not None:
            self._gathered.append(replace(block, head=block.head.copy(), data=block.data.copy()))
            self._seen = True
        while sum(len(b) for b in self._gathered) >= self._length:
            yield from self._judged(self._window())

    def close(self) -> Iterator[Item]:
        """Give what is still held, and say what was found."""
        while self._gathered:
            yield from self._judged(self._window())
        yield from self._released(set())
        if self._seen:
            yield self._verdict()

    def _window(self) -> Projections:
        """Return the next views to judge together."""
        head = np.concatenate([b.head for b in self._gathered])
        data = np.concatenate([b.data for b in self._gathered])
        last = self._gathered[-1]
        n = min(self._length, len(head))
        self._gathered = [replace(last, head=head[n:], data=data[n:])] if n < len(head) else []
        return replace(last, head=head[:n], data=data[:n])

    def _judged(self, window: Projections) -> Iterator[Item]:
        """Find the failed elements of a window; with them the window before it can be repaired."""
        lines = self._lines(window, slice(None))
        mean = lines.mean(axis=0)
        rest = mean - median_filter(mean, size=(1, _AROUND), mode="nearest")
        odd = np.abs(rest) > _SUSPECT * self.differs
        suspects = [(int(r), int(c)) for r, c in zip(*np.nonzero(odd), strict=True)]
        failed = []
        for row, channel in suspects:
            differs = np.abs(self._rest(lines, row, channel, odd[row])) > self.differs
            if differs.mean() >= self.views:
                failed.append((row, channel))
        n_rows = lines.shape[1]
        columns = [c for _, c in failed]
        failed = [(r, c) for r, c in failed if n_rows < 4 or columns.count(c) <= n_rows / 2]
        yield from self._released(set(failed))
        self._before = (window, failed)

    def _released(self, after: set[tuple[int, int]]) -> Iterator[Item]:
        """Give the window before, with the elements repaired that failed in it, or next to it."""
        if self._before is None:
            return
        window, failed = self._before
        self._before = None
        near = (after | self._ago) - set(failed)
        self._ago = set(failed)
        if not failed and not near:
            yield window
            return
        lines = self._lines(window, slice(None))
        broken = np.zeros(lines.shape, bool)
        for row, channel in failed:
            broken[:, row, channel] = True
        odd = np.zeros(lines.shape[1:], bool)
        for row, channel in (*failed, *near):
            odd[row, channel] = True
        for row, channel in near:
            broken[:, row, channel] = np.abs(self._rest(lines, row, channel, odd[row])) > self.differs
        for row, channel in sorted({*failed, *near}):
            views = np.flatnonzero(broken[:, row, channel])
            if len(views):
                first = int(window.head["view"][views[0]])
                self._found[row, channel] = min(first, self._found.get((row, channel), first))
                self._repair(window, (row, channel), views, odd[row])
        yield window

    def _lines(self, block: Projections, views: slice) -> NDArray[np.float32]:
        part = replace(block, head=block.head[views], data=block.data[views])
        counts = np.maximum(part.data - self._reference.dark(), np.float32(1))
        made: NDArray[np.float32] = np.log(self._reference.air(part)) - np.log(counts)
        return made

    def _rest(self, lines: NDArray[np.float32], row: int, channel: int, odd: NDArray[np.bool_]) -> NDArray[np.float32]:
        a, b, weight = neighbours(odd, channel)
        rest: NDArray[np.float32] = lines[:, row, channel] - (1 - weight) * lines[:, row, a] - weight * lines[:, row, b]
        return rest

    def _repair(
        self, window: Projections, place: tuple[int, int], views: NDArray[np.intp], odd: NDArray[np.bool_]
    ) -> None:
        """Interpolate one element between its good neighbours in some views of the window, in place."""
        row, channel = place
        a, b, weight = neighbours(odd, channel)
        part = replace(window, head=window.head[views], data=window.data[views])
        dark, air = self._reference.dark()[row], self._reference.air(part)[:, row]
        through = [np.maximum(window.data[views, row, k] - dark[k], 1) / air[:, k] for k in (a, b)]
        mixed = np.exp((1 - weight) * np.log(through[0]) + weight * np.log(through[1]))
        window.data[views, row, channel] = dark[channel] + air[:, channel] * mixed

    def _verdict(self) -> Verdict:
        n = len(self._found)
        named = [f"row {r} channel {c} from view {v}" for (r, c), v in sorted(self._found.items())[:_NAMED]]
        return Verdict(
            check="ct.channels",
            level=Level.FLAG if n else Level.PASS,
            advice="Detector elements failed during the scan and were interpolated: call service."
            if n
            else "All detector elements counted during the scan.",
            value=float(n),
            limit=0.0,
            unit="elements",
            evidence=", ".join(named),
        )
