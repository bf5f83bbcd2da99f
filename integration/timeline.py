"""When each image reached each station: last readout, on the wire to the scanner, in the spool, in the archive.

Times inside are time.monotonic(); the archive's answer comes from the journal, which other processes write with
the wall clock, so it is turned into ours here.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from acquisition.items import Image, Position
from integration.delivery.rows import Delivery

_JOBS = 64


@dataclass(slots=True)
class Moments:
    """The way of one image; times [s], time.monotonic(), None as long as it has not happened."""

    output: str
    """Name of the result."""
    position: Position
    """Counters of the frame."""
    last_readout_s: float
    """Its last readout arrived."""
    made_s: float
    """Its pixels were ready."""
    on_wire_s: float | None = None
    """Its last byte was handed to the network."""
    spooled_s: float | None = None
    """It was safe on disk and in the journal."""
    sop_uids: tuple[str, ...] = ()
    """SOPInstanceUIDs of its slices."""
    archived_s: dict[str, float] = field(default_factory=dict)
    """By destination: the last of its slices was answered with Success."""

    def note_wire(self) -> None:
        """Its last byte was handed to the network now."""
        self.on_wire_s = time.monotonic()

    def note_spooled(self, sop_uids: Iterable[str]) -> None:
        """It is safe on disk and in the journal now, as these objects."""
        self.spooled_s, self.sop_uids = time.monotonic(), tuple(sop_uids)

    def as_dict(self) -> dict[str, object]:
        """Return it with times as milliseconds after the last readout."""
        start = self.last_readout_s
        after = {
            name: None if moment is None else round(1e3 * (moment - start), 2)
            for name, moment in (("made", self.made_s), ("wire", self.on_wire_s), ("spool", self.spooled_s))
        }
        archive = {name: round(1e3 * (moment - start), 2) for name, moment in self.archived_s.items()}
        where: dict[str, object] = {
            "output": self.output,
            "position": asdict(self.position),
            "sop_uids": list(self.sop_uids),
        }
        return where | {f"{name}_ms": value for name, value in after.items()} | {"archive_ms": archive}


class Timeline:
    """The moments of the images of the last scans; any thread may note one."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, list[Moments]] = OrderedDict()
        self._lock = threading.Lock()

    def made(self, job: str, image: Image) -> Moments:
        """Note a new image; write the later moments into what is returned."""
        moments = Moments(image.output, image.position, image.last_readout_s, time.monotonic())
        with self._lock:
            self._jobs.setdefault(job, []).append(moments)
            while len(self._jobs) > _JOBS:
                self._jobs.popitem(last=False)
        return moments

    def of(self, job: str, deliveries: Iterable[Delivery] = ()) -> list[Moments]:
        """Return the moments of the images of `job` in the order in which they were made, archives included."""
        with self._lock:
            rows = list(self._jobs.get(job, ()))
        offset = time.monotonic() - time.time()
        sent: dict[str, dict[str, float]] = {}
        for d in deliveries:
            if d.sent_at is not None:
                sent.setdefault(d.sop_uid, {})[d.destination] = d.sent_at + offset
        return [replace(row, archived_s=_answered(row.sop_uids, sent)) for row in rows]


def _answered(sop_uids: Iterable[str], sent: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return by destination when the last of the objects was there; destinations that lack one are left out."""
    answers = [sent.get(uid, {}) for uid in sop_uids]
    names = set.intersection(*map(set, answers)) if answers else set()
    return {name: max(answer[name] for answer in answers) for name in sorted(names)}


def percentiles(values_ms: Sequence[float]) -> dict[str, float]:
    """Return p50, p99 and the largest of latencies [ms]; nothing when there are none."""
    if not values_ms:
        return {}
    p50, p99 = np.percentile(values_ms, [50, 99])
    return {"p50": round(float(p50), 2), "p99": round(float(p99), 2), "max": round(max(values_ms), 2)}


def latencies(rows: Iterable[Moments]) -> dict[str, dict[str, float]]:
    """Return the percentiles of each station [ms after the last readout]; archives as ``archive NAME``."""
    times: dict[str, list[float]] = {}
    for row in rows:
        stations = {"made": row.made_s, "wire": row.on_wire_s, "spool": row.spooled_s}
        stations |= {f"archive {name}": moment for name, moment in row.archived_s.items()}
        for name, moment in stations.items():
            if moment is not None and row.last_readout_s > 0:
                times.setdefault(name, []).append(1e3 * (moment - row.last_readout_s))
    return {name: percentiles(values) for name, values in times.items()}
