"""PETSIRD, the raw data format of the Emission Tomography Standardization Initiative: its binary form, read.

The file carries its schema, and is read by it: versions 0.9 to 0.12 are tested. Events come as `Events`, one per time
block of the file; singles as part of the block of the same time, bed movement as `bed_mm` of the events that follow,
ECG, breathing and other signals as `Waveform`.

Time-of-flight bins of the format lie along (t1 - t2) c / 2: bin 0 is at the first detector's side, as here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import DataError
from acquisition.items import Events, Waveform
from acquisition.scan import Equipment, Scan
from acquisition.sources.mrd_raw import RawFile, RawItem, reading
from acquisition.sources.petsird_exam import exam_of, tracer_of
from acquisition.sources.petsird_geometry import Detectors, detectors_of
from acquisition.sources.petsird_wire import MAGIC, Codec, Cursor, Schema, opened
from kernels import varint

OUR_METHOD = "counts per s = factor * product of efficiencies * solid angle * integral of Bq/mL along the line in mm"
"""How the calibration factor is meant in files written here; that of others is not used."""

RINGS_TEXT = "; rings differ by at most {}"
"""What is said there besides, where a scanner does not accept all rings: the format has no other place for it."""

_NEEDED = {
    "TimeInterval": ("start", "stop"),
    "EventTimeBlock": ("timeInterval", "singleEvents", "promptEvents", "delayedEvents"),
    "ExternalSignalTimeBlock": ("timeInterval", "signalID", "signalValues"),
    "BedMovementTimeBlock": ("timeInterval", "transform"),
    "SinglesHistogramTimeBlock": ("timeInterval",),
}
"""Types of the schema and the fields that are read."""
_SIGNALS = {"ecgTrace": 0, "ecgTrigger": 0, "respTrace": 2, "respTrigger": 2, "otherMotionSignal": 3}
_SIGNALS |= {"otherMotionTrigger": 3}
_OTHER_SIGNAL = 4
_FULL = float(2**32 - 1)


def is_petsird(first: bytes) -> bool:
    """Return whether a file with these first bytes is in yardl's binary form."""
    return first.startswith(MAGIC)


def read_petsird(path: Path) -> RawFile:
    """Open a file.

    Raises
    ------
    FileFormatError
        It is damaged, or its schema is not one of PETSIRD.
    HeaderError
        Its scanner is of a kind that is not supported.
    """
    read = _Opened.at(path)
    with reading(path, "header of PETSIRD"):
        pet = read.detectors.pet
        exam = read.header["exam"]
        scan = Scan(
            uid=f"petsird-{read.digest[:16]}",
            modality="PT",
            equipment=Equipment(model=read.header["scanner"]["modelName"] or None),
            pet=replace(pet, tracer=tracer_of(exam), **_calibration(read.header["scanner"])),
            **exam_of(exam),
        )
    return RawFile(path=path, format="PETSIRD", scan=scan, source=lambda: _items(_Opened.at(path)))


def read_efficiencies(path: Path) -> NDArray[np.float32] | None:
    """Return how well each detector counts (detector,), 0 in gaps; None where the file does not say.

    Raises
    ------
    FileFormatError, HeaderError
        As when opening it.
    """
    read = _Opened.at(path)
    told = read.header["scanner"]["detectionEfficiencies"]["detectionBinEfficiencies"]
    if not told or not all(len(t) for t in told):
        return None
    pet = read.detectors.pet
    total, n_bins = (np.zeros(pet.n_rings * pet.n_crystals) for _ in range(2))
    for table, values in zip(read.detectors.tables, told, strict=True):
        np.add.at(total, table, np.asarray(values, float))
        np.add.at(n_bins, table, 1.0)
    return (total / np.maximum(n_bins, 1)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A file, read up to its first time block."""

    path: Path
    cursor: Cursor
    header: dict[str, Any]
    blocks: Codec
    detectors: Detectors
    digest: str

    @classmethod
    def at(cls, path: Path) -> _Opened:
        where = f"file {path.name}"
        with reading(path, "PETSIRD file"):
            data = np.memmap(path, np.uint8, mode="r")
            cursor, text = opened(data, where)
            schema = Schema(text, where)
            if [name for name, _ in schema.steps] != ["header", "timeBlocks"]:
                raise schema.unfit("header, then timeBlocks", ", ".join(name for name, _ in schema.steps))
            _check_types(schema)
            header, blocks = schema.codec(schema.steps[0][1]), schema.codec(schema.steps[1][1]["stream"]["items"])
            found = header.read(cursor)
            digest = hashlib.sha256(data[: cursor.at].tobytes()).hexdigest()
            return cls(path, cursor, found, blocks, detectors_of(found["scanner"], where), digest)


def _check_types(schema: Schema) -> None:
    """Refuse a schema whose events or time blocks are not what is decoded here."""
    event = schema.codec("PETSIRD.CoincidenceEvent")
    if event.flat != ("uint32", 3) or list(event.fields or ()) != ["detectionBins", "tofIdx"]:
        raise schema.unfit("coincidences of two detection bins and tofIdx", ", ".join(event.fields or ()))
    for name, needed in _NEEDED.items():
        fields = schema.codec(f"PETSIRD.{name}").fields or {}
        if missing := [f for f in needed if f not in fields]:
            raise schema.unfit(f"{name} with {', '.join(missing)}", ", ".join(fields))


def _calibration(scanner: dict[str, Any]) -> dict[str, Any]:
    """Return the calibration and the limit of the rings, from files written here."""
    told = scanner["detectionEfficiencies"]
    text, factor = told["methodDescription"], float(told["calibrationFactor"])
    rings = re.search(RINGS_TEXT.format(r"(\d+)"), text)
    return {
        "calibration_bq_per_cps": 1 / factor if text.startswith(OUR_METHOD) and factor > 0 else None,
        "max_ring_difference": int(rings[1]) if rings else None,
    }


def _items(read: _Opened) -> Iterator[RawItem]:
    """Yield events and signals; an event block waits for the singles that may follow it."""
    with reading(read.path, "time block of PETSIRD"):
        yield from _read_items(read)


def _read_items(read: _Opened) -> Iterator[RawItem]:
    cursor, bed_mm = read.cursor, 0.0
    signals = {s["id"]: s["type"] for s in (read.header["exam"] or {}).get("externalSignals", ())}
    waiting: Events | None = None
    singles: tuple[tuple[float, float], NDArray[np.uint32]] | None = None
    while n := cursor.length():
        for _ in range(n):
            kind, block = read.blocks.read(cursor)
            start_s, stop_s = (block["timeInterval"][k] / 1000 for k in ("start", "stop"))
            if kind == "EventTimeBlock":
                if waiting is not None:
                    yield waiting
                waiting = _events(block, read.detectors, cursor.where, bed_mm)
            elif kind == "SinglesHistogramTimeBlock":
                singles = (start_s, stop_s), _singles(block, read.detectors)
            elif kind == "BedMovementTimeBlock":
                bed_mm = float(np.asarray(block["transform"]["matrix"])[2, 3])
            elif kind == "ExternalSignalTimeBlock":
                yield _waveform(block, signals.get(block["signalID"], "other"))
            if waiting is not None and singles is not None and singles[0] == (waiting.start_s, waiting.stop_s):
                waiting, singles = replace(waiting, singles=singles[1]), None
    if waiting is not None:
        yield waiting


def _events(block: dict[str, Any], detectors: Detectors, where: str, bed_mm: float) -> Events:
    start_s, stop_s = (block["timeInterval"][k] / 1000 for k in ("start", "stop"))
    timed = detectors.pet.n_tof > 1
    where = f"{where}, {start_s:g} s"
    prompts, tof = _pairs(block["promptEvents"], detectors, where)
    delayeds, delayed_tof = _pairs(block["delayedEvents"], detectors, where)
    return Events(
        start_s=start_s,
        stop_s=stop_s,
        prompts=prompts,
        delayeds=delayeds,
        tof=tof if timed else None,
        delayed_tof=delayed_tof if timed else None,
        singles=_counted(block["singleEvents"], detectors) if any(len(s) for s in block["singleEvents"]) else None,
        bed_mm=bed_mm,
    )


def _pairs(
    events: list[list[NDArray[np.uint32]]], detectors: Detectors, where: str
) -> tuple[NDArray[np.int32], NDArray[np.int16]]:
    """Return detectors (event, 2) and time-of-flight bins (event,) of events by types of both modules."""
    lists = [(i, j, columns) for i, row in enumerate(events) for j, columns in enumerate(row) if len(columns)]
    n = sum(len(columns) for *_, columns in lists)
    pairs, tof, at = np.empty((n, 2), np.int32), np.empty(n, np.int16), 0
    for i, j, columns in lists:
        part = slice(at, at := at + len(columns))
        known = max(i, j) < len(detectors.tables)
        wrong = len(columns)
        if known:
            wrong = varint.place(columns, detectors.tables[i], detectors.tables[j], pairs[part], tof[part])
        if wrong or columns[:, 2].max() >= detectors.pet.n_tof:
            raise DataError(
                f"{where}: coincidences of module types {i}, {j}",
                expected=f"detection bins of the header's scanner and {detectors.pet.n_tof} time-of-flight bins",
                got=f"{wrong} of {len(columns)} outside" if wrong else f"time-of-flight bin {columns[:, 2].max()}",
                action="the file contradicts its own header; write it again",
            )
    return pairs, tof


def _counted(singles: list[NDArray[np.uint32]], detectors: Detectors) -> NDArray[np.uint32]:
    """Return singles per detector, from lists of single events per type of module."""
    n = detectors.pet.n_rings * detectors.pet.n_crystals
    places = [table[columns[:, 0]] for table, columns in zip(detectors.tables, singles, strict=True) if len(columns)]
    return np.bincount(np.concatenate(places), minlength=n).astype(np.uint32)


def _singles(block: dict[str, Any], detectors: Detectors) -> NDArray[np.uint32]:
    """Return a histogram of singles: per detector where the file has it so, else per unit of the file.

    0.9 calls the histograms per detection bin ``singlesHistograms``.
    """
    units = block.get("singlesPerSinglesUnitHistogram") or ()
    if len(units):
        return np.array([np.sum(unit) for unit in units], np.uint32)
    bins = block["singlesHistograms" if "singlesHistograms" in block else "singlesPerDetectionBinHistogram"]
    if [len(b) for b in bins] != [len(t) for t in detectors.tables]:
        return np.concatenate([np.asarray(b, np.uint32) for b in bins])
    out = np.zeros(detectors.pet.n_rings * detectors.pet.n_crystals, np.int64)
    for table, values in zip(detectors.tables, bins, strict=True):
        np.add.at(out, table, np.asarray(values, np.int64))
    return out.astype(np.uint32)


def _waveform(block: dict[str, Any], kind: str) -> Waveform:
    """Return a signal; a trigger is one sample 1 with flag 1."""
    start, stop = (block["timeInterval"][k] for k in ("start", "stop"))
    trigger = kind.endswith("Trigger") or kind in ("externalSync", "mrPulseStart")
    values = np.ones(1) if trigger else np.asarray(block["signalValues"], float)
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    gain = (high - low) / _FULL if high > low and not trigger else 1.0
    low = 0.0 if trigger else low
    return Waveform(
        id=_SIGNALS.get(kind, _OTHER_SIGNAL),
        time_stamp=start,
        sample_time_us=1000 * (stop - start) / max(len(values), 1),
        data=np.rint((values - low) / gain).astype(np.uint32)[None],
        gain=gain,
        offset=low,
        flags=int(trigger),
    )
