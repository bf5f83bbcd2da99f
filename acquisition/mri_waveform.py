"""Is a breathing signal fit to be used? No signal, a signal at its stops, and breaths that are none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ConfigError
from acquisition.items import Item, Waveform
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict

RESPIRATION = 2
"""Kind of the waveform of a belt or a respiratory navigator."""
_LEAST_S = 10.0  # shorter signals are not judged
_STEP_S = 0.05  # samples closer together say nothing more
_OUTSIDE = 0.5  # usual depths beyond the usual range

Floats = NDArray[np.float64]


@dataclass(kw_only=True)
class CheckWaveform:
    """Judge the respiratory signal at the end of the scan, or as soon as it has been without signal for long."""

    outliers_above: float = 0.03
    """Part of the time beyond the usual range from which the signal is marked."""
    stops_above: float = 0.15
    """Part of the time at the largest or smallest value from which the signal is cut off."""

    def __post_init__(self) -> None:
        if not (0 < self.outliers_above < 1 and 0 < self.stops_above < 1):
            raise ConfigError(
                "check.mri_waveform",
                expected="parts between 0 and 1",
                got=f"{self.outliers_above}, {self.stops_above}",
            )

    def open(self, scan: Scan) -> None:
        """Forget the scan before."""
        self._parts: list[Floats] = []
        self._time_s = 0.0

    def feed(self, item: Item) -> Iterator[Item]:
        """Pass everything on; keep a few samples of respiration."""
        yield item
        if isinstance(item, Waveform) and item.id == RESPIRATION and item.data.size:
            every = max(1, round(_STEP_S / max(item.sample_time_us * 1e-6, 1e-6)))
            self._parts.append(item.offset + item.gain * item.data[0, ::every].astype(float))
            self._time_s += item.data.shape[1] * item.sample_time_us * 1e-6

    def close(self) -> Iterator[Item]:
        """Say how the signal was."""
        if self._time_s >= _LEAST_S:
            yield self._judged(np.concatenate(self._parts))

    def _judged(self, values: Floats) -> Verdict:
        low, high = np.percentile(values, [10, 90])
        span = float(high - low)
        at_stop = max(float((values == end).mean()) for end in (values.min(), values.max()))
        far = (values > high + _OUTSIDE * span) | (values < low - _OUTSIDE * span)
        part = float(far.mean())
        if span <= 1e-9 * max(abs(float(values.max())), 1e-30):
            told = Level.FLAG, "The respiratory signal does not move: check the belt or the navigator.", 1.0
        elif at_stop > self.stops_above:
            told = Level.FLAG, "The respiratory signal is cut off at its stop: loosen or tighten the belt.", at_stop
        elif part > self.outliers_above:
            told = Level.FLAG, "The respiratory signal jumps (cough, sigh, movement): gating may be wrong.", part
        else:
            told = Level.PASS, "The respiratory signal is regular.", part
        level, advice, value = told
        limit = self.stops_above if at_stop > self.stops_above else self.outliers_above
        return Verdict(
            check="check.mri_waveform",
            level=level,
            advice=advice,
            value=100 * value,
            limit=100 * limit,
            unit="% of the time",
            evidence=f"{self._time_s:.0f} s, usual range {low:.4g} to {high:.4g}, "
            f"{100 * part:.1f} % beyond, {100 * at_stop:.1f} % at a stop",
        )
