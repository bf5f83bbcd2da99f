"""The numbers of an MR image: which one it is in its series, from the counters it was measured with."""

from __future__ import annotations

from dataclasses import dataclass

from acquisition.items import Position
from acquisition.scan import MrHeader
from acquisition.verdict import Level, Verdict
from integration.dicom.mr_sequence import is_3d
from integration.dicom.series import OUTER
from integration.dicom.text import Elements


@dataclass(frozen=True, slots=True)
class Numbering:
    """Numbers by the encoding limits of one scan; a counter of which the header is silent has one value."""

    header: MrHeader
    """The scan."""

    def instance(self, position: Position, z: int, *, n_z: int) -> int:
        """Return InstanceNumber: slices first, then contrasts, phases, repetitions, sets, averages; from 1."""
        slab = n_z if is_3d(self.header) else 1
        number = 0
        for counter in OUTER:
            number = number * self._count(counter) + self._value(position, counter)
        return number * slab + z + 1

    def elements(self, position: Position) -> Elements:
        """Return acquisition and temporal numbers of a frame."""
        number = 0
        for counter in ("average", "set", "repetition"):
            number = number * self._count(counter) + self._value(position, counter)
        n_times = self._count("repetition") * self._count("phase")
        if n_times == 1:
            return {"AcquisitionNumber": number + 1}
        time = self._value(position, "repetition") * self._count("phase") + self._value(position, "phase")
        return {
            "AcquisitionNumber": number + 1,
            "TemporalPositionIdentifier": time + 1,
            "NumberOfTemporalPositions": n_times,
        }

    def check(self, position: Position) -> tuple[Verdict, ...]:
        """Return a FLAG where a counter is outside what the header says."""
        limits = self.header.encodings[0].limits
        wrong = [
            f"{c} {getattr(position, c)} of {limits[c].minimum} ... {limits[c].maximum}"
            for c in OUTER
            if c in limits and not limits[c].minimum <= getattr(position, c) <= limits[c].maximum
        ]
        if not wrong:
            return ()
        return (
            Verdict(
                check="dicom.number",
                level=Level.FLAG,
                advice="The scan measured more than its header announced: image numbers may occur twice.",
                evidence=", ".join(wrong),
            ),
        )

    def _count(self, counter: str) -> int:
        limit = self.header.encodings[0].limit(counter)
        return max(1, limit.maximum - limit.minimum + 1)

    def _value(self, position: Position, counter: str) -> int:
        return max(0, getattr(position, counter) - self.header.encodings[0].limit(counter).minimum)
