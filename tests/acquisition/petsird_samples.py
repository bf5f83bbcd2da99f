"""Scans for the tests of PETSIRD, and the package's own view of a file."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import petsird
from numpy.typing import NDArray
from petsird.helpers import expand_detection_bin
from petsird.helpers.geometry import get_detecting_box

from acquisition.items import Events, Waveform
from acquisition.pet_geometry import is_crystal
from acquisition.scan import Equipment, Patient, PetHeader, Scan, Study, Tracer

PET = PetHeader(
    n_rings=4,
    n_crystals=36,
    radius_mm=300.0,
    ring_pitch_mm=5.0,
    first_angle_rad=0.4,
    block=(2, 9),
    gaps=(8,),
    max_ring_difference=3,
    n_tof=13,
    tof_bin_mm=30.0,
    tof_fwhm_mm=60.0,
    energy_resolution=0.11,
    calibration_bq_per_cps=123.0,
    tracer=Tracer(
        nuclide="^18^Fluorine",
        half_life_s=6586.2,
        branching=0.9673,
        name="FDG",
        dose_bq=3.5e8,
        injected=datetime(2026, 1, 2, 3, 4, 5),
    ),
)
SCAN = Scan(
    uid="sample",
    modality="PT",
    pet=PET,
    patient=Patient(id="P1", sex="F", weight_kg=61.5, height_m=1.75, position="FFP"),
    study=Study(instance_uid="1.2.3", series_instance_uid="1.2.3.4", frame_of_reference_uid="1.2.9"),
    equipment=Equipment(model="Virtual"),
    started=datetime(2026, 1, 2, 4, 4, 5, 250_000),
)


def events(
    pet: PetHeader, n: int, *, start_s: float = 0.0, singles: NDArray | None = None, bed_mm: float = 0.0
) -> Events:
    """A block of random events."""
    rng = np.random.default_rng(round(1000 * start_s) + n)
    crystals = np.flatnonzero(is_crystal(pet)).astype(np.int32)

    def some(count: int) -> NDArray[np.int32]:
        first = rng.integers(0, len(crystals), count)
        return crystals[np.stack([first, (first + rng.integers(1, len(crystals), count)) % len(crystals)], axis=1)]

    return Events(
        start_s=start_s,
        stop_s=start_s + 0.1,
        prompts=some(n),
        delayeds=some(n // 7),
        tof=rng.integers(0, pet.n_tof, n).astype(np.int16) if pet.n_tof > 1 else None,
        delayed_tof=rng.integers(0, pet.n_tof, n // 7).astype(np.int16) if pet.n_tof > 1 else None,
        singles=singles,
        bed_mm=bed_mm,
    )


def breath() -> Waveform:
    """A breathing signal."""
    return Waveform(
        id=2,
        time_stamp=40,
        sample_time_us=20_000.0,
        data=np.array([[0, 10, 40, 10, 5]], np.uint32),
        gain=0.5,
        offset=-3.0,
    )


def lines(pairs: NDArray, place: NDArray, tof: NDArray | None, n_tof: int) -> set[tuple]:
    """What pairs mean, whichever detector is first: both places, and the time-of-flight bin from the first's side."""
    found = set()
    bins = np.zeros(len(pairs), int) if tof is None else tof
    for (a, b), t in zip(pairs.tolist(), bins.tolist(), strict=True):
        ends = [tuple(np.round(place[a], 1).tolist()), tuple(np.round(place[b], 1).tolist())]
        swap = ends[0] > ends[1]
        found.add((*(ends[::-1] if swap else ends), n_tof - 1 - t if swap and n_tof > 1 else t))
    return found


def package_lines(path: Path) -> tuple[petsird.Header, set[tuple], set[tuple], list[petsird.TimeBlock]]:
    """Return header, prompts and delayeds as `lines`, and all time blocks, read by the PETSIRD package."""
    prompts: set[tuple] = set()
    delayeds: set[tuple] = set()
    with petsird.BinaryPETSIRDReader(str(path)) as reader:
        header = reader.read_header()
        blocks = list(reader.read_time_blocks())
    n_tof = header.scanner.tof_bin_edges[0][0].number_of_bins()
    places = {}

    def place(bin_: int) -> tuple[float, ...]:
        if bin_ not in places:
            box = get_detecting_box(header.scanner, 0, expand_detection_bin(header.scanner, 0, bin_))
            middle = np.mean([c.c for c in box.corners], axis=0, dtype=float)
            places[bin_] = tuple((np.round(middle, 1) + 0.0).tolist())
        return places[bin_]

    for block in blocks:
        if isinstance(block, petsird.TimeBlock.EventTimeBlock):
            for kind, found in ((block.value.prompt_events, prompts), (block.value.delayed_events, delayeds)):
                for event in kind[0][0] if kind else ():
                    a, b = (place(i) for i in event.detection_bins)
                    t = event.tof_idx
                    found.add((b, a, n_tof - 1 - t) if a > b else (a, b, t))
    return header, prompts, delayeds, blocks
