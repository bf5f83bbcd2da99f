"""Siemens Biograph mMR: PETLINK list-mode of 32 bits with its Interfile header.

A coincidence is an offset into a sinogram [plane][view][bin] without compression: 4084 planes (segments 0, +1, -1 ...
60), 252 views, 344 bins. The ring has 504 places, every ninth (0, 9, 18 ...) a gap between blocks. Siemens counts
rings from the far end of the tunnel, towards the feet of a patient who lies head first; here they grow towards the
head, so ring r of the file is ring 63 - r. Checked on data: no event of the sample meets a gap, the vertex of the
brain lies towards the head, and the image from steep rings agrees with that from flat ones for this sign of the
segments alone (15 standard errors).

References
----------
Delso et al., J Nucl Med 52:1914, 2011, DOI 10.2967/jnumed.111.092726 (the scanner).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import DataError, FileFormatError
from acquisition.items import Events
from acquisition.pet_geometry import checked
from acquisition.pet_sinogram import crystal_pairs, ring_pairs
from acquisition.scan import Equipment, Patient, PetHeader, Scan, Study, Tracer
from acquisition.sources.interfile_header import Header, read_header
from acquisition.sources.mrd_raw import RawFile, RawItem
from acquisition.verdict import Level, Verdict
from kernels import petlink

BLOCK_MS = 200
"""Time that one block of events covers [ms]."""

_CHUNK = 1 << 18
_LONGEST_GAP_MS = 10_000
_DEPTH_MM = 6.7  # where photons are absorbed, behind the crystal's face
_SIZES = {  # what the header must say, or the offsets mean something else
    "lm event and tag words format (bits)": 32,
    "axial compression": 1,
    "number of rings": 64,
    "maximum ring difference": 60,
    "number of projections": 344,
    "number of views": 252,
}
_N_CRYSTALS, _N_RINGS = 504, 64
_NUCLIDES = {"F-18": "^18^Fluorine", "C-11": "^11^Carbon", "O-15": "^15^Oxygen", "N-13": "^13^Nitrogen"}
_NUCLIDES |= {"GA-68": "^68^Gallium", "RB-82": "^82^Rubidium", "CU-64": "^64^Copper", "ZR-89": "^89^Zirconium"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """What a list-mode file holds."""

    prompts: int
    """Coincidences."""
    delayeds: int
    """Delayed coincidences."""
    time_tags: int
    """Time tags, one per millisecond."""
    other_tags: tuple[int, int, int]
    """Tags of the kinds 1 (singles), 2 and 3 (dead time, gates, gantry); their payload is not used."""


def is_list_mode(header: Header) -> bool:
    """Return whether an Interfile header belongs to PETLINK list-mode."""
    return header.word("data format", "").lower() == "coincidencelist"


def read_mmr(header: Header, *, block_ms: int = BLOCK_MS) -> RawFile:
    """Open list-mode by its header.

    Parameters
    ----------
    header
        The parsed header.
    block_ms
        Time that one block of events covers [ms].

    Returns
    -------
    RawFile
        Its items are `Events`.

    Raises
    ------
    HeaderError
        It is list-mode of another kind.
    FileFormatError
        The data file is missing or cut within a word.
    """
    words = _words(header)
    return RawFile(
        path=header.path,
        format="Siemens PETLINK list-mode",
        scan=_scan(header, len(words)),
        source=lambda: _blocks(words, header, block_ms),
    )


def census(path: Path) -> Census:
    """Count what is in the list-mode file of the header at `path`.

    Raises
    ------
    HeaderError, FileFormatError, DataError
        As when reading it.
    """
    header = read_header(path)
    reader = _Reader(_words(header), path.name)
    prompts, delayeds = reader.until(1 << 62)
    tags = [int(n) for n in reader.counts[petlink.FIRST_TAG : petlink.FIRST_TAG + 4]]
    return Census(
        prompts=len(prompts), delayeds=len(delayeds), time_tags=tags[0], other_tags=(tags[1], tags[2], tags[3])
    )


def _words(header: Header) -> NDArray[np.uint32]:
    """Map the words of the data file, if header and size say that they are what is decoded here."""
    for key, expected in _SIZES.items():
        found = header.count(key)
        if found != expected:
            raise header.wrong(key, f"{expected}, as the Biograph mMR writes", str(found))
    path = header.data_path()
    offset, size = header.count("data offset in bytes", 0), path.stat().st_size
    if size <= offset or (size - offset) % 4:
        raise FileFormatError(
            f"file {path.name}", expected="words of 4 bytes", got=f"{size - offset} bytes", action="copy the file again"
        )
    return np.memmap(path, "<u4", mode="r", offset=offset)


class _Reader:
    """Words decoded in order, some time at once."""

    def __init__(self, words: NDArray[np.uint32], name: str) -> None:
        self._words, self._name, self._at = words, name, 0
        rings = _N_RINGS - 1 - ring_pairs(_N_RINGS, 60)
        self._axial = np.ascontiguousarray(rings * _N_CRYSTALS, np.int32)
        self._transaxial = crystal_pairs(_N_CRYSTALS, 252, 344).reshape(-1, 2)
        self._events = np.empty((_CHUNK, 2), np.int32)
        self.counts = np.zeros(petlink.N_COUNTS, np.int64)

    @property
    def done(self) -> bool:
        """Whether all words were read."""
        return self._at >= len(self._words)

    @property
    def next_ms(self) -> int:
        """The time tag at which the last call stopped [ms]."""
        return int(self._words[self._at] & 0x1FFFFFFF)

    def until(self, stop_ms: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return prompts and delayeds up to `stop_ms`.

        Raises
        ------
        DataError
            A coincidence lies outside the sinogram.
        """
        prompts, delayeds = [self._events[:0]], [self._events[:0]]
        while not self.done:
            words = np.asarray(self._words[self._at : self._at + _CHUNK])
            n = petlink.decode(words, stop_ms, self._axial, self._transaxial, self._events[: len(words)], self.counts)
            n_prompts, n_delayeds = self.counts[petlink.PROMPTS], self.counts[petlink.DELAYEDS]
            prompts.append(self._events[:n_prompts].copy())
            delayeds.append(self._events[len(words) - n_delayeds : len(words)][::-1].copy())
            self._at += n
            if self.counts[petlink.WRONG]:
                raise DataError(
                    f"file {self._name}, before word {self._at}",
                    expected="offsets within 4084 planes x 252 views x 344 bins",
                    got=f"{self.counts[petlink.WRONG]} beyond",
                    action="copy the file again; was it recorded with another compression?",
                )
            if n < len(words):
                break
        return np.concatenate(prompts), np.concatenate(delayeds)


def _blocks(words: NDArray[np.uint32], header: Header, block_ms: int) -> Iterator[RawItem]:
    name, bed = header.path.name, header.number("start horizontal bed position (mm)", 0.0)
    reader = _Reader(words, name)
    start = _first_ms(words) // block_ms * block_ms
    while not reader.done:
        stop = start + block_ms
        prompts, delayeds = reader.until(stop)
        end = int(reader.counts[petlink.TIME_MS]) + 1 if reader.done else stop
        yield Events(start_s=start / 1000, stop_s=end / 1000, prompts=prompts, delayeds=delayeds, bed_mm=bed)
        if not reader.done and reader.next_ms - stop > _LONGEST_GAP_MS:
            raise DataError(
                f"file {name}",
                expected="time tags every millisecond",
                got=f"{stop} ms, then {reader.next_ms} ms",
                action="copy the file again; what came before is good",
            )
        start = stop


def _first_ms(words: NDArray[np.uint32]) -> int:
    """Return the first time tag of the file [ms], 0 if there is none soon."""
    first = np.asarray(words[:_CHUNK])
    tags = first[(first >> 29) == 4]
    return int(tags[0] & 0x1FFFFFFF) if len(tags) else 0


def _scan(header: Header, n_words: int) -> Scan:
    digest = hashlib.sha256(f"{header.text}{n_words}".encode()).hexdigest()
    started = header.moment("study date", "study time")
    missing = header.count("total listmode word counts", n_words) - n_words
    verdicts = (
        Verdict(
            check="pet.cut",
            level=Level.FLAG,
            advice="The list-mode file ends early; images show only the time that is there.",
            value=float(missing),
            unit="words",
            evidence=f"{n_words} of {n_words + missing} words",
        ),
    )
    return Scan(
        uid=f"mmr-{digest[:16]}",
        modality="PT",
        patient=Patient(position=header.word("patient orientation", "") or None),
        study=Study(
            date=started.strftime("%Y%m%d") if started else None,
            time=started.strftime("%H%M%S") if started else None,
        ),
        equipment=Equipment(vendor="SIEMENS", model="Biograph_mMR"),
        started=started,
        pet=checked(_geometry(header), f"file {header.path.name}"),
        header=header.text,
        verdicts=verdicts if missing > 0 else (),
    )


def _geometry(header: Header) -> PetHeader:
    radius_mm = 10 * header.number("gantry crystal radius (cm)") + _DEPTH_MM
    return PetHeader(
        n_rings=_N_RINGS,
        n_crystals=_N_CRYSTALS,
        radius_mm=radius_mm,
        fov_mm=radius_mm * float(np.sin(np.pi * (_SIZES["number of projections"] // 2 + 0.5) / _N_CRYSTALS)),
        ring_pitch_mm=10 * header.number("distance between rings (cm)"),
        first_angle_rad=-np.pi / 2,
        turn=1,
        block=(8, 9),
        gaps=(0,),
        max_ring_difference=header.count("maximum ring difference"),
        energy_kev=(
            header.number("energy window lower level (kev)", index=1),
            header.number("energy window upper level (kev)", index=1),
        ),
        energy_resolution=0.145,
        crystal_mm=(4.0, 4.0),
        tracer=_tracer(header),
    )


def _tracer(header: Header) -> Tracer | None:
    if not header.has("isotope name"):
        return None
    name = header.word("isotope name")
    dose = header.number("tracer activity at time of injection (bq)", 0.0)
    return Tracer(
        nuclide=_NUCLIDES.get(name.upper(), name),
        half_life_s=header.number("isotope gamma halflife (sec)"),
        branching=header.number("isotope branching factor"),
        name=header.word("radiopharmaceutical", "") or None,
        dose_bq=dose or None,
        injected=header.moment("tracer injection date", "tracer injection time"),
    )
