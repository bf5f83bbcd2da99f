"""Rings: detector channels whose gain has drifted since the air scan, found while the patient is measured.

In line integrals such a channel is off by a constant, ``-ln(gain)``, in every view; the patient is not. What a channel
reads beyond the cubic through its four neighbours, and through every second of them, is averaged over the views (the
median of short means, edges of the object left out). The offsets that explain these averages best are sought, with the
drift seen in most channels as their prior: a banded linear system per row. Changes over more than some twenty channels
cannot be told from the object and are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solveh_banded
from scipy.ndimage import median_filter, uniform_filter1d

from acquisition.errors import ConfigError, DataError
from acquisition.items import Item, Projections
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from kernels.ct_stripes import REACH, gather_stripes

Floats = NDArray[np.float64]
Known = tuple[int, Floats, Floats]
"""Step, residuals and weights of one row."""

_BATCHES = 48  # per half turn; the object disturbs some of them, a drift is in all
_VIEWS = 288  # per half turn that are looked at
_LEAST = 24  # batches without which nothing is concluded
_FLOOR = 2e-4  # line integral; no mean is trusted beyond it
_WIDE = 9  # channels around one
_ENDLESS = 1 << 40
_ENOUGH = 4  # half turns after which nothing new is learnt: a channel does not drift within seconds
_STEPS = (1, 2)  # distance of the channels that are compared: fine rings, and broader ones
_STENCIL = np.array([1, -4, 6, -4, 1]) / 6
_ROBUST = 1.4826 * 1.2533  # from the median of the deviations to the standard error of a median, for one batch
_SURE = 5.0  # standard errors from which a channel is called drifted


@dataclass(kw_only=True, eq=False)
class _Scale:
    """What is known at one distance of channels."""

    step: int
    """Distance of the channels that are compared."""
    sums: Floats
    """Differences (batch, row, channel)."""
    counts: NDArray[np.int64]
    """How many."""
    mean: Floats
    """Middle of the differences over all half turns (row, channel)."""
    weight: Floats
    """Inverse of its variance; 0 where nothing is known."""

    def conclude(self, length: float) -> None:
        """Bring the middle up to date with one half turn of batches of `length` views each."""
        full = self.counts > length / 2
        n = full.sum(axis=0)
        means = self.sums / np.maximum(self.counts, 1)
        mean = _middle(np.where(full, means, np.inf), n)
        spread = _ROBUST * _middle(np.where(full, np.abs(means - mean), np.inf), n)
        spread = np.maximum(spread, median_filter(spread, size=(1, _WIDE), mode="nearest"))  # few batches: ask around
        weight = np.where(n >= _LEAST, 1 / (spread**2 / np.maximum(n, 1) + (_FLOOR * self.step) ** 2), 0.0)
        total = self.weight + weight
        self.mean = (self.mean * self.weight + mean * weight) / np.maximum(total, 1e-30)
        self.weight = total
        self.sums[:], self.counts[:] = 0, 0


class Stripes:
    """The offsets of all elements, better known with every view.

    Parameters
    ----------
    shape
        Rows and channels.
    half_turn
        Views in half a turn.
    drift
        Largest usual size of the offsets.
    edge
        Difference from which a channel shows an edge of the object.
    """

    def __init__(self, shape: tuple[int, int], *, half_turn: int, drift: float, edge: float) -> None:
        self._length = max(1, half_turn // _BATCHES)
        self._every = max(1, half_turn // _VIEWS)
        self._edge, self._drift = edge, drift
        self._scales = [
            _Scale(
                step=step,
                sums=np.zeros((_BATCHES, *shape)),
                counts=np.zeros((_BATCHES, *shape), np.int64),
                mean=np.zeros(shape),
                weight=np.zeros(shape),
            )
            for step in _STEPS
            if shape[1] > 4 * (REACH + 2) * step
        ]
        self.n_views = self._half_turns = 0
        self.offsets = np.zeros(shape)

    @property
    def missing(self) -> int:
        """Views until the half turn is full."""
        return self._length * _BATCHES - self.n_views if not self.settled else _ENDLESS

    @property
    def settled(self) -> bool:
        """Whether so many half turns are in that more would change little."""
        return self._half_turns >= _ENOUGH

    @property
    def sure(self) -> NDArray[np.bool_]:
        """Which elements certainly differ from their neighbours (row, channel)."""
        if not self._scales:
            return np.zeros(self.offsets.shape, bool)
        fine = self._scales[0]
        sure: NDArray[np.bool_] = np.abs(fine.mean) * np.sqrt(fine.weight) > _SURE
        return sure

    def add(self, lines: NDArray[np.float32]) -> None:
        """Take line integrals (view, row, channel), at most as many as are missing."""
        number = self.n_views + np.arange(len(lines))
        looked = number % self._every == 0
        part = lines if self._every == 1 else np.ascontiguousarray(lines[looked])
        batch = number[looked] // self._length
        for scale in self._scales:
            gather_stripes(part, batch, (scale.step, self._edge), scale.sums, scale.counts)
        self.n_views += len(lines)
        if not self.missing:
            self.conclude()

    def conclude(self) -> None:
        """Bring the offsets up to date with the half turn so far, and begin the next one."""
        for scale in self._scales:
            scale.conclude(self._length / self._every)
        for row in range(len(self.offsets)):
            known = [(s.step, s.mean[row], s.weight[row]) for s in self._scales]
            self.offsets[row] = _offsets(known, self._drift, self.offsets.shape[1])
        self._half_turns += 1
        self.n_views = 0


def _middle(values: Floats, n: NDArray[np.int64]) -> Floats:
    """Return the median of the `n` finite values along the first axis; 0 where there is none."""
    ordered = np.sort(values, axis=0)
    low = np.take_along_axis(ordered, np.maximum((n - 1) // 2, 0)[None], 0)[0]
    high = np.take_along_axis(ordered, np.minimum(n // 2, len(values) - 1)[None], 0)[0]
    return np.where(n > 0, (low + high) / 2, 0.0)


def _offsets(known: list[Known], drift: float, n: int) -> Floats:
    """Return the offsets of one row: most have drifted as little as the residuals say, some by up to `drift`."""
    if not known or not (known[0][2] > 0).any():
        return np.zeros(n)
    _, residual, weight = known[0]
    there = weight > 0
    excess = np.median(residual[there] ** 2) / 0.455 - np.median(1 / weight[there])
    usual = np.clip(excess / (_STENCIL @ _STENCIL), _FLOOR**2, drift**2)
    first = _explained(known, np.full(n, drift**2))
    fine = first - uniform_filter1d(first, _WIDE, mode="nearest")
    return _explained(known, np.minimum(usual + fine**2, drift**2))


def _explained(known: list[Known], variance: Floats) -> Floats:
    """Return the likeliest offsets of one row: ``min sum w (H o - r)^2 + o^2 / variance``."""
    n = len(variance)
    bands = np.zeros((4 * max(step for step, _, _ in known) + 1, n))
    right = np.zeros(n)
    for step, residual, weight in known:
        inner = np.arange(2 * step, n - 2 * step)
        for i, a in enumerate(_STENCIL):
            np.add.at(right, inner + (i - 2) * step, a * weight[inner] * residual[inner])
            for j, b in enumerate(_STENCIL[: i + 1]):
                np.add.at(bands[(i - j) * step], inner + (j - 2) * step, a * b * weight[inner])
    bands[0] += 1 / variance
    solved: Floats = solveh_banded(bands, right, lower=True)
    return solved


@dataclass(kw_only=True)
class Rings:
    """Take the offsets of drifted channels out of the line integrals.

    The first half turn is held until the offsets are known; from then on every block passes at once, with what is known
    by then (for two turns more is learnt). Put it between ct.air and ct.beam_hardening.
    """

    drift: float = 0.02
    """Expected relative drift of a channel's gain; the larger, the more is taken out."""
    edge: float = 0.15
    """Difference of a line integral from its neighbours above which it is an edge of the patient, not a drift."""
    flag_above: float = 0.01
    """Relative drift of a single channel from which the air calibration is called outdated."""

    def __post_init__(self) -> None:
        if not 0 < self.drift < self.edge or self.flag_above <= 0:
            raise ConfigError(
                "ct.rings",
                expected="drift above 0 and below edge, flag_above above 0",
                got=f"drift {self.drift}, edge {self.edge}, flag_above {self.flag_above}",
            )

    def open(self, scan: Scan) -> None:
        """Prepare for the detector."""
        ct = scan.require_ct()
        self._uid, self._shape = scan.uid, (ct.n_rows, ct.n_channels)
        self._stripes = Stripes(
            self._shape, half_turn=max(ct.views_per_rotation // 2, _BATCHES), drift=self.drift, edge=self.edge
        )
        self._held: list[Projections] = []
        self._known = self._seen = False

    def feed(self, item: Item) -> Iterator[Item]:
        """Take line integrals, give them without stripes; everything else passes.

        Raises
        ------
        DataError
            The views are no line integrals, or of another size.
        """
        if not isinstance(item, Projections) or item.head["flags"].any() or not len(item):
            yield item
            return
        if item.domain != "lines" or item.data.shape[1:] != self._shape:
            raise DataError(
                f"scan {self._uid}: views",
                expected=f"line integrals of {self._shape} elements",
                got=f"{item.domain} of {item.data.shape[1:]}",
                action="put ct.air before this step",
            )
        self._seen = True
        if self._stripes.settled:
            yield self._corrected(item)
            return
        start = 0
        while start < len(item):
            stop = min(start + self._stripes.missing, len(item))
            part = replace(item, head=item.head[start:stop], data=item.data[start:stop])
            if self._known:
                yield self._corrected(part)
            else:
                self._held.append(replace(part, head=part.head.copy(), data=part.data.copy()))
                self._known = stop - start == self._stripes.missing
            if not self._stripes.settled:
                self._stripes.add(part.data)
            if self._known:
                yield from self._released()
            start = stop

    def close(self) -> Iterator[Item]:
        """Give what is still held, and say what was found."""
        if not self._known:
            self._stripes.conclude()
            yield from self._released()
        if self._seen:
            yield self._verdict()

    def _released(self) -> Iterator[Projections]:
        held, self._held = self._held, []
        for block in held:
            yield self._corrected(block)

    def _corrected(self, block: Projections) -> Projections:
        return replace(block, data=block.data - self._stripes.offsets.astype(np.float32))

    def _verdict(self) -> Verdict:
        size, sure = np.abs(self._stripes.offsets), self._stripes.sure
        drifted = sure & (size > self.flag_above)
        worst = np.argsort(np.where(sure, size, 0), axis=None)[::-1][:5]
        places = [np.unravel_index(k, self._shape) for k in worst if drifted.flat[k]]
        return Verdict(
            check=self._name(),
            level=Level.FLAG if drifted.any() else Level.PASS,
            advice=self._advice() if drifted.any() else "No detector channel has drifted.",
            value=100 * float(np.where(sure, size, 0).max()),
            limit=100 * self.flag_above,
            unit="%",
            evidence=f"{int(drifted.sum())} elements; worst: "
            + ", ".join(f"row {r} channel {c} {100 * self._stripes.offsets[r, c]:+.2f} %" for r, c in places)
            if places
            else "",
        )

    def _name(self) -> str:
        return "ct.rings"

    def _advice(self) -> str:
        return "Detector channels have drifted; their rings were taken out: calibrate in air before the next patient."


@dataclass(kw_only=True)
class CheckRings(Rings):
    """Look for the stripes of drifted channels, and leave the data as they are."""

    def feed(self, item: Item) -> Iterator[Item]:
        """Look at line integrals; everything passes at once, unchanged."""
        for _ in super().feed(item):
            pass
        self._held.clear()
        yield item

    def close(self) -> Iterator[Item]:
        """Say what was found."""
        for item in super().close():
            if isinstance(item, Verdict):
                yield item

    def _corrected(self, block: Projections) -> Projections:
        return block

    def _name(self) -> str:
        return "check.ct_rings"

    def _advice(self) -> str:
        return "Detector channels have drifted: expect rings; calibrate in air, and repeat the scan if they disturb."
