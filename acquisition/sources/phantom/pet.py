"""The virtual PET scanner: rings of crystals that count annihilation photons from solids, block of time by block.

Decays, flight, attenuation, one Compton scattering, detection and random coincidences are drawn as they happen
(`kernels.pet_emit`), so counts are Poisson and nothing is weighted. Photons that scatter twice are lost. Everything is
drawn from the exam's seed; block n is the same whether or not those before it were made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ConfigError
from acquisition.geometry import Vector
from acquisition.items import Events, Waveform
from acquisition.pet_geometry import checked, detectors_mm, is_crystal
from acquisition.pet_norm import Normalisation, blocks, central_bq_per_cps
from acquisition.scan import Equipment, Patient, Scan
from acquisition.sources.phantom.objects import Ellipsoid
from acquisition.sources.phantom.pet_exam import F18, LIGHT_MM_PER_S, PetExam
from acquisition.sources.phantom.pet_objects import PetObject
from kernels.ct_lines import solid_lines
from kernels.pet_emit import Bodies, Gantry, Setup, Source, State, emit, singles, sources

Floats = NDArray[np.float64]
TRUE, SCATTERED, RANDOM = 0, 1, 2
"""Kinds of coincidences in `PetSimulation.labelled`."""

_SIGMA = 1 / np.sqrt(8 * np.log(2))
_CHUNK = 1 << 18
_THREADS = min(4, os.cpu_count() or 1)
_POINTS = 400
_LEVELS = 10  # depths of breath told apart
SCATTERED_SINGLES = 0.6
"""Scattered photons among the singles, against those that were not."""
RESPIRATION = 2
"""Kind of the waveform of the breath."""
_SAMPLE_S = 0.02
_VOLUME = {0: 4 * np.pi / 3, 1: 2 * np.pi, 2: 8.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What lies in the rings at one time, as the kernels read it."""

    object: PetObject
    bodies: Bodies
    mu_max: float
    rates: Floats
    """Decays per second of each solid, branching not counted [Bq]."""
    singles: Floats
    """Photons counted by each detector without dead time [1/s]."""


class PetSimulation:
    """One exam on the virtual scanner; every iteration gives the same data.

    Parameters
    ----------
    exam
        What is measured.
    patient
        The object, or the object at each depth of breath from 0 to 1.
    """

    def __init__(self, exam: PetExam, patient: PetObject | Callable[[float], PetObject]) -> None:
        checked(exam.pet, "PET exam")
        self.exam = exam
        self._patient = patient if callable(patient) else lambda _: patient
        self._state = lru_cache(maxsize=64)(self._prepared)
        self._chance = self._drawn_crystals()

    @cached_property
    def scan(self) -> Scan:
        """The header."""
        exam, started = self.exam, datetime(2026, 1, 15, 10, 30)
        tracer = exam.pet.tracer or F18
        if exam.dose_bq > 0:
            tracer = replace(tracer, dose_bq=exam.dose_bq, injected=started - timedelta(seconds=exam.uptake_s))
        calibration = central_bq_per_cps(exam.pet, pair_efficiency=exam.efficiency**2)
        return Scan(
            uid=f"pet-phantom-{exam.seed}",
            modality="PT",
            protocol_name="virtual PET",
            patient=Patient(id="PHANTOM", name="Phantom^PET", position="HFS", weight_kg=75.0, height_m=1.75, sex="M"),
            equipment=Equipment(vendor="Isocenter", model="Virtual PET scanner"),
            started=started,
            pet=replace(
                exam.pet,
                calibration_bq_per_cps=calibration,
                tracer=tracer,
                dead_time_s=exam.dead_time_s,
                beds_mm=exam.beds_mm,
            ),
        )

    @cached_property
    def normalisation(self) -> Normalisation:
        """What a perfect normalisation scan would find; dead blocks are as good as before."""
        crystals = (self._chance / self.exam.efficiency).astype(np.float32)
        return Normalisation(pet=self.exam.pet, crystals=crystals, fov_mm=self.exam.fov_mm)

    @property
    def n_blocks(self) -> int:
        """Blocks of the scan."""
        return self._per_bed * len(self.exam.beds_mm)

    @property
    def _per_bed(self) -> int:
        return int(np.ceil(self.exam.duration_s / self.exam.block_s - 1e-9))

    def _when(self, number: int) -> tuple[float, float, float]:
        """Return begin and end [s] of a block, and where the table is [mm]."""
        exam = self.exam
        bed, number = divmod(number, self._per_bed)
        since = bed * (exam.duration_s + exam.bed_pause_s)
        stop = min((number + 1) * exam.block_s, exam.duration_s)
        return since + number * exam.block_s, since + stop, exam.beds_mm[bed]

    def _bed_mm(self, time_s: float) -> float:
        """Return where the table is at a time [s]; during a pause where it was [mm]."""
        bed = int(time_s / (self.exam.duration_s + self.exam.bed_pause_s))
        return self.exam.beds_mm[min(max(bed, 0), len(self.exam.beds_mm) - 1)]

    def object_at(self, time_s: float) -> PetObject:
        """Return the object as it lies at a time [s]; its activity is that of the start of the scan."""
        return self._state(*self._key(time_s)).object

    def breath(self, time_s: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Return the depth of the breath, 0 to 1, at times [s]: ``sin^4`` (DOI 10.1118/1.598577)."""
        if self.exam.breath_s == 0:
            return np.zeros(np.shape(time_s))
        return np.asarray(np.sin(np.pi * np.asarray(time_s) / self.exam.breath_s) ** 4)

    def attenuation(self, pairs: NDArray[np.int32], *, time_s: float = 0.0) -> NDArray[np.float32]:
        """Return the exact part of photon pairs that gets through on each line (line, 2), shape (line,)."""
        place = detectors_mm(self.exam.pet).astype(float)
        out = np.empty((1, len(pairs), 1, 1), np.float32)
        centres, inverse, shapes, values = self._state(*self._key(time_s)).bodies
        ends = np.ascontiguousarray(place[pairs[:, 1]][:, None])
        solid_lines(place[pairs[:, 0]], ends, np.zeros(1), (centres, inverse, shapes, values[None]), out)
        return np.exp(-out[0, :, 0, 0])

    def singles(self, time_s: float) -> Floats:
        """Return the photons that each detector counts at a time [1/s], without dead time (detector,)."""
        return self._state(*self._key(time_s)).singles * self._decayed(time_s) * self._alive(time_s)

    def events(self) -> Iterator[Events]:
        """Yield the blocks of the scan."""
        for n in range(self.n_blocks):
            yield self.block(n)[0]

    def items(self) -> Iterator[Events | Waveform]:
        """Yield the blocks, each behind the breath that the belt measured meanwhile, where the patient breathes."""
        for n in range(self.n_blocks):
            events, _ = self.block(n)
            if self.exam.breath_s:
                times = np.arange(events.start_s, events.stop_s - 1e-9, _SAMPLE_S)
                data = np.round(4095 * self.breath(times)).astype(np.uint32)[None]
                stamp = round(1000 * events.start_s)
                yield Waveform(id=RESPIRATION, time_stamp=stamp, sample_time_us=1e6 * _SAMPLE_S, data=data)
            yield events

    def labelled(self) -> Iterator[tuple[Events, NDArray[np.uint8]]]:
        """Yield each block with the kind of its prompts (event,): `TRUE`, `SCATTERED` or `RANDOM`."""
        for n in range(self.n_blocks):
            yield self.block(n)

    def block(self, number: int) -> tuple[Events, NDArray[np.uint8]]:
        """Return block `number`, counted from 0, and the kind of its prompts."""
        exam = self.exam
        start, stop, bed_mm = self._when(number)
        rng = np.random.default_rng([exam.seed, number])
        middle = (start + stop) / 2
        state = self._state(*self._key(middle))
        keep = exam.faults.kept(start, stop)
        live, counted = self._live(state, middle)
        pairs, away, kind = self._coincidences(state, (start, stop, keep), live, rng)
        if exam.randoms == "delayed":
            length = (stop - start) * keep
            false, spots = self._randoms(counted, length, rng)
            late, late_spots = self._randoms(counted, length, rng)
            pairs, away = np.concatenate([pairs, false]), np.concatenate([away, spots])
            kind = np.concatenate([kind, np.full(len(false), RANDOM, np.uint8)])
        else:
            late, late_spots = np.zeros((0, 2), np.int32), np.zeros(0)
        order = rng.permutation(len(pairs))
        pairs, tof, kind = self._timed(pairs[order], away[order], kind[order])
        late, late_tof, _ = self._timed(late, late_spots, np.zeros(len(late), np.uint8))
        group, n_groups = blocks(exam.pet)
        expected = np.bincount(group, counted, n_groups) * (stop - start)
        events = Events(
            start_s=start,
            stop_s=stop,
            prompts=pairs,
            delayeds=late,
            tof=tof,
            delayed_tof=late_tof,
            singles=rng.poisson(expected).astype(np.uint32),
            bed_mm=bed_mm,
        )
        return events, kind

    def _coincidences(
        self, state: _State, when: tuple[float, float, float], live: Floats, rng: np.random.Generator
    ) -> tuple[NDArray[np.int32], Floats, NDArray[np.uint8]]:
        """Return detectors, place along the line [mm] and kind of the pairs counted between two times."""
        exam, (start, stop, keep) = self.exam, when
        tracer, scatter = exam.pet.tracer or F18, exam.scatter == "single"
        lam = np.log(2) / tracer.half_life_s
        seconds = (np.exp(-lam * start) - np.exp(-lam * stop)) / lam * tracer.branching * keep * (1 + scatter)
        low, high = exam.pet.energy_kev
        detection = (self._chance * live, low, high, exam.pet.energy_resolution * 511 * _SIGMA, state.mu_max)
        parts = state.object.activity.ellipsoids
        shapes = np.array([e.shape for e in parts])
        shared = (*_arrays(parts), shapes, np.array([e.parent for e in parts]))
        tasks = []
        for n, rate in enumerate(state.rates.tolist()):
            most = self._most(parts[n])
            decays = int(rng.poisson(rate * seconds * most))
            setup = (self._gantry, detection, (most, exam.fov_mm, int(scatter)))
            sizes = [min(_CHUNK, decays - k) for k in range(0, decays, _CHUNK)]
            tasks += [(size, (*shared, n), state.bodies, setup, _seed(rng)) for size in sizes]
        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(_emitted, tasks))
        if not found:
            return np.zeros((0, 2), np.int32), np.zeros(0), np.zeros(0, np.uint8)
        pairs, away, kind = (np.concatenate(a) for a in zip(*found, strict=True))
        blur = exam.pet.tof_fwhm_mm * _SIGMA * rng.standard_normal(len(away))
        return pairs, away + blur, kind

    def _randoms(self, counted: Floats, seconds: float, rng: np.random.Generator) -> tuple[NDArray[np.int32], Floats]:
        """Return detectors and place along the line of coincidences by chance."""
        exam, total = self.exam, float(counted.sum())
        n = int(rng.poisson(exam.window_ns * 1e-9 * total**2 / 2 * seconds))
        table = np.cumsum(counted) / max(total, 1e-300)
        pairs = np.minimum(np.searchsorted(table, rng.random((n, 2))), len(table) - 1).astype(np.int32)
        pairs = np.sort(pairs, axis=1)
        turn = np.pi * ((pairs[:, 0] - pairs[:, 1]) % exam.pet.n_crystals) / exam.pet.n_crystals
        pairs = pairs[(exam.pet.radius_mm * np.abs(np.cos(turn)) <= exam.fov_mm) & (pairs[:, 0] != pairs[:, 1])]
        return pairs, exam.window_ns * 1e-9 * LIGHT_MM_PER_S / 2 * (rng.random(len(pairs)) - 0.5)

    def _timed(
        self, pairs: NDArray[np.int32], away: Floats, kind: NDArray[np.uint8]
    ) -> tuple[NDArray[np.int32], NDArray[np.int16] | None, NDArray[np.uint8]]:
        """Return the events that fall into a time-of-flight bin and a difference of rings that counts."""
        pet = self.exam.pet
        place = np.floor(away / pet.tof_bin_mm + pet.n_tof / 2) if pet.n_tof > 1 else np.zeros(len(away))
        keep = (place >= 0) & (place < pet.n_tof)
        if pet.max_ring_difference is not None:
            keep &= np.abs(np.diff(pairs // pet.n_crystals, axis=1)[:, 0]) <= pet.max_ring_difference
        tof = place[keep].astype(np.int16) if pet.n_tof > 1 else None
        return np.ascontiguousarray(pairs[keep]), tof, kind[keep]

    def _key(self, time_s: float) -> tuple[int, Vector, float]:
        motion = self.exam.faults.motion
        (x, y, z), turn = motion.pose(time_s) if motion else ((0.0, 0.0, 0.0), 0.0)
        return round(float(self.breath(time_s)) * _LEVELS), (x, y, z + self._bed_mm(time_s)), turn

    def _prepared(self, level: int, shift_mm: Vector, turn_deg: float) -> _State:
        """Return the object at a depth of breath and in a pose."""
        c, s = np.cos(np.deg2rad(turn_deg)), np.sin(np.deg2rad(turn_deg))
        turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        place = turn @ np.asarray(self.exam.patient_mm) + shift_mm
        found = self._patient(level / _LEVELS).transformed(turn, place)
        parts = found.body.ellipsoids
        centres, _, inverse = _arrays(parts)
        bodies = (centres, inverse, np.array([e.shape for e in parts]), found.body.amplitudes())
        volume_ml = [abs(np.linalg.det(e.matrix)) * _VOLUME[e.shape] / 1000 for e in parts]
        rates = np.array(found.bq_per_ml) * volume_ml
        mu_max = max(e.tissue.value for e in parts)
        return _State(
            object=found, bodies=bodies, mu_max=mu_max, rates=rates, singles=self._single_rates(found, rates, bodies)
        )

    def _single_rates(self, found: PetObject, rates: Floats, bodies: Bodies) -> Floats:
        """Return the photons that each detector counts [1/s], scattered ones as many as the exam says."""
        if self.exam.randoms == "none" and self.exam.dead_time_s == 0:
            return np.zeros(len(self._chance))
        parts = found.activity.ellipsoids
        rng = np.random.default_rng([self.exam.seed, 41])
        shared = (*_arrays(parts), np.array([e.shape for e in parts]), np.array([e.parent for e in parts]))
        place, total = detectors_mm(self.exam.pet).astype(float), np.zeros(len(self._chance))
        normals = -place * [1, 1, 0] / np.hypot(place[:, :1], place[:, 1:2])
        for n, rate in enumerate(rates.tolist()):
            points = np.empty((int(np.ceil(_POINTS * rate / max(rates.sum(), 1e-300))), 3))
            count = sources((*shared, n), _seed(rng), points)
            part = np.empty(len(total))
            singles(points[:count], place, -normals, bodies, part)
            total += part * rate / max(len(points), 1)
        pet = self.exam.pet
        area = pet.ring_pitch_mm * 2 * np.pi * pet.radius_mm / pet.n_crystals
        branching = (pet.tracer or F18).branching
        return total * area * 2 * branching * (1 + SCATTERED_SINGLES) * self._chance

    def _live(self, state: _State, time_s: float) -> tuple[Floats, Floats]:
        """Return what is left of each detector's efficiency at a time [s], and the photons it counts [1/s]."""
        group, n_groups = blocks(self.exam.pet)
        left = self.exam.faults.left(time_s, group)
        met = state.singles * self._decayed(time_s) * left
        live = left * np.exp(-self.exam.dead_time_s * np.bincount(group, met, n_groups))[group]
        return live, met * live / np.maximum(left, 1e-300)

    def _alive(self, time_s: float) -> Floats:
        return self.exam.faults.left(time_s, blocks(self.exam.pet)[0])

    def _decayed(self, time_s: float) -> float:
        return float(0.5 ** (time_s / (self.exam.pet.tracer or F18).half_life_s))

    def _drawn_crystals(self) -> Floats:
        """Return the probability that each crystal counts a photon, its mean that of the exam."""
        good = is_crystal(self.exam.pet)
        rng = np.random.default_rng([self.exam.seed, 43])
        chance = np.clip(1 + self.exam.spread * rng.standard_normal(len(good)), 0.2, 1 / self.exam.efficiency)
        return np.where(good, self.exam.efficiency * chance / chance[good].mean(), 0.0)

    @cached_property
    def _gantry(self) -> Gantry:
        pet = self.exam.pet
        return pet.n_rings, pet.n_crystals, pet.radius_mm, pet.ring_pitch_mm, pet.first_angle_rad, pet.turn

    def _most(self, part: Ellipsoid) -> float:
        """Return the largest part of all directions that the rings take up for a point of a solid."""
        angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        far = 1.01 * max(part.extent_mm((np.cos(a), np.sin(a), 0.0))[1] for a in angles.tolist())
        pet = self.exam.pet
        if far >= 0.98 * pet.radius_mm:
            raise ConfigError("PET object", expected=f"to fit into rings of {pet.radius_mm} mm", got=f"{far:.0f} mm")
        half, near = pet.n_rings * pet.ring_pitch_mm / 2, pet.radius_mm - far
        return float(half / np.hypot(half, near))


def _arrays(parts: tuple[Ellipsoid, ...]) -> tuple[Floats, Floats, Floats]:
    """Return centres, matrices and inverse matrices."""
    matrices = np.array([e.matrix for e in parts])
    return np.array([e.centre for e in parts]), matrices, np.linalg.inv(matrices)


def _seed(rng: np.random.Generator) -> State:
    return rng.integers(0, 2**64, 1, np.uint64)


def _emitted(
    task: tuple[int, Source, Bodies, Setup, State],
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.uint8]]:
    """Return what `kernels.pet_emit.emit` finds in so many decays."""
    size, source, bodies, setup, state = task
    out = (np.empty((size, 2), np.int32), np.empty(size, np.float32), np.empty(size, np.uint8))
    count = emit(size, source, bodies, setup, state, out)
    return out[0][:count].copy(), out[1][:count].copy(), out[2][:count].copy()
