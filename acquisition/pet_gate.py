"""Gates: which parts of a PET scan show the patient at one depth, or in one phase, of the breath.

A gate is a `TimeFrame` of many short parts, so that everything that reads a frame (events, randoms, scatter, decay)
counts the same seconds and activity stays right. Blocks of events are not divided: when within a block an event
happened is not known.

References
----------
W. van Elmpt et al., "Optimal gating compared to 3D and 4D PET reconstruction for characterization of lung tumours",
Eur J Nucl Med Mol Imaging 38 (2011) 843, DOI 10.1007/s00259-010-1716-6: the narrowest range of depths that holds a
given share of the counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.signal import find_peaks

from acquisition.ct_geometry import patient_axes
from acquisition.errors import ConfigError, DataError
from acquisition.items import Events, Item, TimeFrame, Waveform
from acquisition.pet_breath import Breath, Pictures, belt_breath
from acquisition.pet_geometry import checked
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

GATED, QUIET = "gated", "quiet"
"""Names of the images of all gates, and of the quietest part of the scan."""
_CHECK = "pet.gate"
_LONGEST_S = 0.8


@dataclass(kw_only=True)
class Gate:
    """Sort the scan by the patient's breath; what reconstructs behind this Step makes an image of each gate.

    The breath is that of a belt where one measured all the time, else it is taken from the events. Images ``gated``,
    gate 1 the end of expiration (by amplitude) or of inspiration (by phase), and ``quiet``. The ungated image stays.
    """

    n_gates: int = 4
    """Gates; 0: none."""
    sort: Literal["amplitude", "phase"] = "amplitude"
    """Into gates of as many counts each by depth of the breath, or of as much time each from breath to breath."""
    quiet_percent: float = 35.0
    """Share of the counts in the image of the quietest part, the narrowest range of depths that holds it [%]; 0: no
    such image."""
    signal: Literal["any", "belt", "events"] = "any"
    """Where the breath is taken from."""
    window_s: float = 0.2
    """Least time over which the breath is averaged [s]."""
    trust: float = 0.7
    """Correlation with the true breath that a signal from events must be expected to have; else nothing is gated."""

    def __post_init__(self) -> None:
        counts = self.n_gates == 0 or 2 <= self.n_gates <= 32
        if not counts or not 0 <= self.quiet_percent < 100 or self.window_s <= 0 or not 0 <= self.trust < 1:
            raise ConfigError(
                _CHECK,
                expected="0 or 2 to 32 gates, a share below 100 %, a window above 0 s, a trust from 0 to below 1",
                got=f"{self.n_gates}, {self.quiet_percent} %, {self.window_s} s, {self.trust}",
            )

    def open(self, scan: Scan) -> None:
        """Prepare for the scanner.

        Raises
        ------
        HeaderError
            Not a PET scan, or a geometry that no line can be drawn from.
        """
        pet = checked(scan.require_pet(), f"scan {scan.uid}")
        towards_head = float(np.sign(patient_axes(scan.patient.position)[2][2]))
        self._pictures = None if self.signal == "belt" else Pictures(pet, towards_head=towards_head)
        self._waveforms: list[Waveform] = []
        self._window: list[Events] = []
        self._beds_mm: set[float] = set()
        self._samples: list[tuple[float, float, int]] = []  # begin and end [s], counts

    def feed(self, item: Item) -> Iterator[Item]:
        """Look at events and the belt; everything passes."""
        if isinstance(item, Waveform):
            self._waveforms.append(item)
        elif isinstance(item, Events):
            self._window.append(item)
            self._beds_mm.add(round(item.bed_mm or 0.0))
            if item.stop_s - self._window[0].start_s >= self.window_s - 1e-9:
                self._finish()
        yield item

    def close(self) -> Iterator[Item]:
        """Give the gates as frames, and say how they were found."""
        if self._window:
            self._finish()
        try:
            breath = self._breath()
        except DataError as error:
            yield _not_gated(str(error))
            return
        if breath.trust < self.trust:
            yield _not_gated(f"trust {breath.trust:.2f} of a breath of {breath.period_s:.1f} s from events")
            return
        counts = np.array([n for *_, n in self._samples], float)
        frames = list(self._frames(breath, counts))
        yield from frames
        yield _gated(breath, frames, counts.sum())

    def _finish(self) -> None:
        """Close a sample of the signal."""
        blocks = self._window
        self._samples.append((blocks[0].start_s, blocks[-1].stop_s, sum(len(b) for b in blocks)))
        if self._pictures is not None:
            self._pictures.add(blocks)
        self._window = []

    def _breath(self) -> Breath:
        """Return the breath; raises DataError where none was measured."""
        starts, stops = (np.array([s[k] for s in self._samples], float) for k in (0, 1))
        if len(self._beds_mm) > 1:
            raise DataError("gating", expected="the table at rest", got=f"{len(self._beds_mm)} positions")
        longest = float((stops - starts).max(initial=0.0))
        if longest > _LONGEST_S:
            raise DataError(
                "gating", expected=f"blocks of events up to {_LONGEST_S} s", got=f"{longest:g} s", action="send shorter"
            )
        belt = None if self.signal == "events" else belt_breath(self._waveforms, starts, stops)
        if belt is not None:
            return belt
        if self._pictures is None:
            raise DataError("gating by belt", expected="its signal over the whole scan", got="not all of it")
        return self._pictures.breath(starts, stops)

    def _frames(self, breath: Breath, counts: Floats) -> Iterator[TimeFrame]:
        """Yield the gates, then the quietest part."""
        if self.n_gates:
            gates = by_amplitude if self.sort == "amplitude" else by_phase
            number = gates(breath, counts, self.n_gates)
            for gate in range(self.n_gates):
                if (number == gate).any():
                    yield _frame(breath, number == gate, output=GATED, gate=gate, n_gates=self.n_gates)
        if self.quiet_percent:
            yield _frame(breath, quietest(breath.depth, counts, self.quiet_percent / 100), output=QUIET)


def by_amplitude(breath: Breath, counts: Floats, n_gates: int) -> Ints:
    """Return the gate of each sample (sample,), 0 the shallowest; every gate has as many counts as far as possible."""
    order = np.argsort(breath.depth, kind="stable")
    before = np.concatenate([[0.0], np.cumsum(counts[order])])
    number = np.empty(len(order), np.int64)
    middle = (before[1:] + before[:-1]) / 2
    number[order] = np.minimum((middle / max(before[-1], 1.0) * n_gates).astype(np.int64), n_gates - 1)
    return number


def by_phase(breath: Breath, counts: Floats, n_gates: int) -> Ints:
    """Return the gate of each sample (sample,), 0 around the deepest breath; -1 before and after all.

    `counts` is not used: all gates are as long.
    """
    middle = (breath.start_s + breath.stop_s) / 2
    step_s = float(np.median(np.diff(breath.start_s)))
    far = max(1, int(0.6 * breath.period_s / step_s))
    peaks, _ = find_peaks(breath.depth, distance=far, prominence=0.3 * np.ptp(np.percentile(breath.depth, [5, 95])))
    if len(peaks) < 2:
        return np.full(len(middle), -1, np.int64)
    cycle = np.interp(middle, middle[peaks], np.arange(len(peaks)), left=-1.0, right=-1.0)
    number = np.floor(((cycle + 0.5 / n_gates) % 1) * n_gates).astype(np.int64) % n_gates
    return np.where(cycle < 0, -1, number)


def quietest(depth: Floats, counts: Floats, share: float) -> NDArray[np.bool_]:
    """Return which samples lie in the narrowest range of depths that holds a share (0 to 1) of the counts."""
    order = np.argsort(depth, kind="stable")
    total, values = np.concatenate([[0.0], np.cumsum(counts[order])]), depth[order]
    last = np.searchsorted(total, total[:-1] + share * total[-1] - 1e-9)
    possible = np.flatnonzero(last < len(total))
    widths = values[last[possible] - 1] - values[possible]
    first = int(possible[widths.argmin()])
    inside = np.zeros(len(depth), bool)
    inside[order[first : last[first]]] = True
    return inside


def parts_of(start_s: Floats, stop_s: Floats, inside: NDArray[np.bool_]) -> tuple[tuple[float, float], ...]:
    """Return begin and end [s] of what is inside, neighbouring samples (sample,) as one part."""
    parts: list[tuple[float, float]] = []
    for a, b in zip(start_s[inside].tolist(), stop_s[inside].tolist(), strict=True):
        if parts and a - parts[-1][1] < 1e-6:
            parts[-1] = (parts[-1][0], b)
        else:
            parts.append((a, b))
    return tuple(parts)


def _frame(breath: Breath, inside: NDArray[np.bool_], *, output: str, gate: int = 0, n_gates: int = 1) -> TimeFrame:
    return TimeFrame(
        start_s=float(breath.start_s[0]),
        stop_s=float(breath.stop_s[-1]),
        parts=parts_of(breath.start_s, breath.stop_s, inside),
        output=output,
        gate=gate,
        n_gates=n_gates,
        source=breath.source,
        period_s=breath.period_s,
    )


def _gated(breath: Breath, frames: Sequence[TimeFrame], counts: float) -> Verdict:
    spent = ", ".join(f"{f.output} {f.gate + 1}: {f.duration_s:.1f} s" for f in frames)
    sure = f", trust {breath.trust:.2f}, direction {breath.direction:.2f}" if breath.source == "events" else ""
    return Verdict(
        check=_CHECK,
        level=Level.PASS,
        advice=f"The scan was sorted by the breath, a breath each {breath.period_s:.1f} s.",
        value=breath.period_s,
        unit="s",
        evidence=f"signal: {breath.source}{sure}; {counts:.0f} counts; {spent}",
    )


def _not_gated(why: str) -> Verdict:
    return Verdict(
        check=_CHECK,
        level=Level.FLAG,
        advice="The scan was not gated, because no breath could be found: read the ungated image.",
        evidence=why,
    )
