"""Phase and frequency over the scan: lines that are measured again and again should say the same.

Navigators, phase correction lines, and the central line of each slice are compared with their first measurement. Their
common phase is the drift of the phase; a phase that grows along the readout is a shift of the frequency, and needs no
echo time. Jumps from one to the next are physiology or diffusion; drift is what remains of them over the scan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ConfigError
from acquisition.items import NOT_IMAGING, Flag, Readouts
from acquisition.mri_looking import Looking, kept
from acquisition.verdict import Level, Verdict

_AGAIN = Flag.NAVIGATION | Flag.PHASE_CORRECTION
_NAMES = ("encoding", "slice", "contrast", "phase", "set", "segment", "k1", "k2")
_FEWEST = 4  # measurements of a line before drift is spoken of
_PIXEL = 0.1  # of a pixel's bandwidth: a smaller drift moves nothing
_ALIKE = 0.5  # correlation of magnitudes below which it is another line


@dataclass(slots=True)
class _Line:
    """One line and what became of it."""

    first: NDArray[np.complex64]
    """Its first measurement (coil, k0)."""
    turns: list[float] = field(default_factory=list)
    """Phase of each later one against it [rad]."""
    slopes: list[float] = field(default_factory=list)
    """Growth of the phase along the readout [rad per sample]."""


@dataclass(kw_only=True)
class CheckDrift(Looking):
    """Follow phase and frequency of the lines that come again; told as soon as a drift is larger than the jumps."""

    phase_above: float = 1.0
    """Drift of the phase from which the scan is marked [rad]."""
    frequency_above: float = 30.0
    """Drift of the frequency from which the scan is marked [Hz]; never less than a tenth of a pixel's bandwidth."""

    def __post_init__(self) -> None:
        if min(self.phase_above, self.frequency_above) <= 0:
            raise ConfigError(
                "check.mri_drift", expected="limits above 0", got=f"{self.phase_above}, {self.frequency_above}"
            )

    def _begin(self) -> None:
        self._lines: dict[tuple[int, ...], _Line] = {}
        self._told = set[str]()
        self._most = {"phase": 0.0, "frequency": 0.0}
        self._dwell_us, self._limit_hz = 0.0, self.frequency_above

    def _look(self, item: Readouts) -> Iterator[Verdict]:
        encoding = self._encoding(item)
        again = item.has(_AGAIN)
        if encoding.trajectory in ("cartesian", "epi"):
            centre = [(name, encoding.limits[name].center) for name in ("k1", "k2") if name in encoding.limits]
            middle = ~item.has(NOT_IMAGING | Flag.CALIBRATION)
            for name, value in centre:
                middle &= item.head[name] == value
            again |= middle if centre else False
        for i in np.flatnonzero(again).tolist():
            yield from self._compared(item, i)

    def _compared(self, item: Readouts, i: int) -> Iterator[Verdict]:
        head, line = item.head[i], kept(item)[i]
        kind = int(head["flags"]) & int(_AGAIN | Flag.REVERSE)
        key = (kind, *(int(head[name]) for name in _NAMES), *line.shape)
        if key not in self._lines:
            self._lines[key] = _Line(line.copy())
            return
        known = self._lines[key]
        cross = (line * known.first.conj()).sum(axis=0).astype(np.complex128)
        size = float(np.linalg.norm(line)) * float(np.linalg.norm(known.first))
        if size == 0 or not np.isfinite(size) or np.abs(cross).sum() < _ALIKE * size:
            return
        self._dwell_us = float(head["dwell_us"])
        slope = float(np.angle((cross[1:] * cross[:-1].conj()).sum()))
        known.turns.append(float(np.angle(cross.sum())))
        known.slopes.append(slope)
        yield from self._judged(known, f"slice {head['slice']}, contrast {head['contrast']}")

    def _judged(self, line: _Line, where: str) -> Iterator[Verdict]:
        if len(line.turns) < _FEWEST:
            return
        hertz = 1e6 / (2 * np.pi * self._dwell_us) if self._dwell_us > 0 else 0.0
        for name, values, limit, unit in (
            ("phase", np.unwrap([0.0, *line.turns]), self.phase_above, "rad"),
            ("frequency", np.array([0.0, *line.slopes]) * hertz, self._frequency_limit(line), "Hz"),
        ):
            drift = drifted(values)
            self._most[name] = max(self._most[name], abs(drift))
            if abs(drift) > limit and name not in self._told:
                self._told.add(name)
                yield _verdict(name, drift, limit, unit=unit, where=f"{where}, {len(values)} measurements")

    def _frequency_limit(self, line: _Line) -> float:
        pixel_hz = 1e6 / (self._dwell_us * line.first.shape[1]) if self._dwell_us > 0 else 0.0
        self._limit_hz = max(self.frequency_above, _PIXEL * pixel_hz)
        return self._limit_hz

    def _end(self) -> Iterator[Verdict]:
        if not any(line.turns for line in self._lines.values()):
            return
        for name, limit, unit in (("phase", self.phase_above, "rad"), ("frequency", self._limit_hz, "Hz")):
            if name not in self._told:
                yield _verdict(name, self._most[name], limit, unit=unit, where=f"{len(self._lines)} lines")


def drifted(values: NDArray[np.float64]) -> float:
    """Return the drift of a series, last third against first; 0 where steps between neighbours are as large."""
    third = max(1, len(values) // 3)
    drift = float(np.median(values[-third:]) - np.median(values[:third]))
    return drift if np.median(np.abs(np.diff(values))) < abs(drift) / 2 else 0.0


def _verdict(name: str, drift: float, limit: float, *, unit: str, where: str) -> Verdict:
    strong = abs(drift) > limit
    return Verdict(
        check=f"check.mri_{name}_drift",
        level=Level.FLAG if strong else Level.PASS,
        advice=f"The {name} drifts: let the gradients cool or shim again, then repeat if the image shows it."
        if strong
        else f"The {name} stays.",
        value=drift,
        limit=limit,
        unit=unit,
        evidence=where,
    )
