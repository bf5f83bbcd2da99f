"""Was a receiver overdriven? Its largest value then comes again and again, and no natural signal does that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from acquisition.errors import ConfigError
from acquisition.items import Readouts
from acquisition.mri_looking import Looking
from acquisition.verdict import Level, Verdict

_SAME = 1e-6  # relative difference of values that are one
_COARSE = 200  # steps of a receiver below which values repeat by chance
_LISTED = 10


@dataclass(kw_only=True)
class CheckOverflow(Looking):
    """Count how often the real or imaginary part of a receiver stands at its largest value of the scan.

    Told as soon as `least` samples at different places of k-space are there. Repetitions of one place count once, so
    that data without noise are no overflow. Stands in front of everything that changes samples.
    """

    least: int = 4
    """Samples at one receiver's largest value that are an overflow."""
    full_scale: float = 0.0
    """Value at which the receiver is full, in units of the raw data; 0: not known."""

    def __post_init__(self) -> None:
        if self.least < 2 or self.full_scale < 0:
            raise ConfigError(
                "check.mri_overflow",
                expected="least 2 or more, full_scale 0 or more",
                got=f"{self.least}, {self.full_scale}",
            )

    def _begin(self) -> None:
        self._largest = np.zeros(0, np.float32)
        self._places: dict[int, set[tuple[int, ...]]] = {}
        self._told = False

    def _look(self, item: Readouts) -> Iterator[Verdict]:
        data = item.data if item.data.strides[2] == item.data.itemsize else np.ascontiguousarray(item.data)
        parts = data.view(np.float32)
        peak = np.maximum(parts.max(axis=(0, 2)), -parts.min(axis=(0, 2)))
        if len(self._largest) != len(peak):
            self._largest, self._places = np.zeros_like(peak), {}
        for coil in np.flatnonzero(np.isfinite(peak) & (peak > 0) & (peak >= self._largest * (1 - _SAME))).tolist():
            if peak[coil] > self._largest[coil] * (1 + _SAME):
                self._largest[coil], self._places[coil] = peak[coil], set()
            self._mark(item, parts[:, coil], coil)
            if not self._told and self._full(coil, parts[:, coil]):
                self._told = True
                yield self._verdict(coil)

    def _mark(self, item: Readouts, part: np.ndarray, coil: int) -> None:
        rows, samples = np.nonzero(np.abs(part) >= self._largest[coil] * (1 - _SAME))
        for row, sample in zip(rows.tolist(), samples.tolist(), strict=True):
            head = item.head[row]
            self._places[coil].add((*(int(head[name]) for name in ("slice", "contrast", "k2", "k1")), sample))

    def _full(self, coil: int, part: np.ndarray) -> bool:
        if self.full_scale and self._largest[coil] >= self.full_scale * (1 - _SAME):
            return True
        size = np.abs(part)
        smallest = float(size[size > 0].min())
        return len(self._places[coil]) >= self.least and float(self._largest[coil]) > _COARSE * smallest

    def _verdict(self, coil: int) -> Verdict:
        found = sorted(self._places[coil])
        places = "; ".join(f"slice {s}, k2 {z}, k1 {y}, sample {p // 2}" for s, _, z, y, p in found[:_LISTED])
        return Verdict(
            check="check.mri_overflow",
            level=Level.HOLD,
            advice="A receiver was overdriven: repeat with a lower receiver gain.",
            value=float(len(found)),
            limit=float(self.least),
            unit="samples",
            evidence=f"coil {coil} stands at {float(self._largest[coil]):.6g}: {places}",
        )

    def _end(self) -> Iterator[Verdict]:
        if not self._told and len(self._largest):
            most = max((len(found) for found in self._places.values()), default=0)
            advice = "No receiver was overdriven."
            yield Verdict(
                check="check.mri_overflow",
                level=Level.PASS,
                advice=advice,
                value=float(most),
                limit=float(self.least),
                unit="samples",
            )
