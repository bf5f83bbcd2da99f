"""PETSIRD 0.12, its binary form, written: block by block, so that a scan can be written while it runs.

Elements of a cylinder stand in modules of the size of a detector block, crystals of gaps are left out; detectors of
another arrangement are the elements of one module. The format wants the detection bin of the first detector to be the
greater one: pairs are exchanged where needed, and their time-of-flight bin with them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import DataError
from acquisition.items import Events, Waveform
from acquisition.pet_geometry import checked, detectors_mm, is_crystal
from acquisition.scan import PetHeader, Scan
from acquisition.sources.petsird import OUR_METHOD, RINGS_TEXT
from acquisition.sources.petsird_exam import to_exam
from acquisition.sources.petsird_schema import schema_text
from acquisition.sources.petsird_wire import Schema, preamble

_DEPTH_MM = 20.0
_SIGNALS = ("ecgTrace", "ecgTrigger", "respTrace", "respTrigger", "otherMotionSignal", "otherMotionTrigger", "other")
_KINDS = {(0, 0): 0, (0, 1): 1, (2, 0): 2, (2, 1): 3, (3, 0): 4, (3, 1): 5}
_NO_MOVE = np.eye(3, 4, dtype=np.float32)


def write_petsird(
    path: Path, scan: Scan, *, items: Iterable[object], crystals: NDArray[np.float32] | None = None
) -> None:
    """Write a whole scan to a file; parameters as of `PetsirdWriter`, items other than events and signals are left out.

    Raises
    ------
    HeaderError, DataError
        As of `PetsirdWriter`.
    """
    with path.open("wb") as file, PetsirdWriter(file, scan, crystals=crystals) as writer:
        for item in items:
            if isinstance(item, Events | Waveform):
                writer.write(item)


class PetsirdWriter:
    """Writes one scan; a context manager that ends the stream.

    Parameters
    ----------
    file
        Where the bytes go.
    scan
        The PET scan.
    crystals
        How well each detector counts (detector,), mean 1; None: equally well.

    Raises
    ------
    HeaderError
        It is no PET scan, or its geometry is unusable.
    """

    def __init__(self, file: BinaryIO, scan: Scan, *, crystals: NDArray[np.float32] | None = None) -> None:
        self._file, self._scan, self._crystals = file, scan, crystals
        self._pet = checked(scan.require_pet(), f"scan {scan.uid}")
        self._layout = _layout(self._pet)
        self._schema = Schema(schema_text(), "PETSIRD 0.12")
        self._block = self._schema.codec("PETSIRD.TimeBlock")
        self._begun, self._bed_mm = False, 0.0
        self._early: list[Waveform] = []  # signals before the first events, which say whether there are singles

    def __enter__(self) -> PetsirdWriter:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()

    def write(self, item: Events | Waveform) -> None:
        """Append events or a signal.

        Raises
        ------
        DataError
            Events name a gap or a detector that there is not, or singles are neither per detector nor per block.
        """
        if isinstance(item, Waveform) and not self._begun:
            self._early.append(item)
            return
        out = bytearray()
        if isinstance(item, Waveform):
            self._append(out, "ExternalSignalTimeBlock", _signal(item))
        else:
            self._begin(out, item)
            self._events(out, item)
        self._file.write(out)

    def close(self) -> None:
        """End the stream; the file stays open."""
        out = bytearray()
        self._begin(out, None)
        out.append(0)
        self._file.write(out)

    def _begin(self, out: bytearray, first: Events | None) -> None:
        """Append the header, once, and the signals that came before."""
        if self._begun:
            return
        self._begun = True
        singles = None if first is None else first.singles
        out += preamble(schema_text())
        scanner = _scanner(self._scan, self._layout, self._crystals)
        scanner |= _singles_level(self._pet, self._layout, singles)
        exam = to_exam(self._scan)
        exam["externalSignals"] = [{"type": s, "description": s, "id": i} for i, s in enumerate(_SIGNALS)]
        self._schema.codec("PETSIRD.Header").write(out, {"scanner": scanner, "exam": exam})
        for waveform in self._early:
            self._append(out, "ExternalSignalTimeBlock", _signal(waveform))

    def _append(self, out: bytearray, kind: str, block: dict[str, Any]) -> None:
        out.append(1)
        self._block.write(out, (kind, block))

    def _events(self, out: bytearray, events: Events) -> None:
        interval = {"start": round(1000 * events.start_s), "stop": round(1000 * events.stop_s)}
        if events.bed_mm != self._bed_mm:
            self._bed_mm = events.bed_mm
            moved = _NO_MOVE.copy()
            moved[2, 3] = self._bed_mm
            still = {"start": interval["start"], "stop": interval["start"]}
            self._append(out, "BedMovementTimeBlock", {"timeInterval": still, "transform": {"matrix": moved}})
        block = {
            "timeInterval": interval,
            "singleEvents": [],
            "promptEvents": [[self._columns(events.prompts, events.tof)]],
            "delayedEvents": [[self._columns(events.delayeds, events.delayed_tof)]],
            "tripleEvents": [],
            "quadrupleEvents": [],
        }
        self._append(out, "EventTimeBlock", block)
        if events.singles is not None:
            self._append(out, "SinglesHistogramTimeBlock", self._singles(interval, events.singles))

    def _columns(self, pairs: NDArray[np.int32], tof: NDArray[np.int16] | None) -> NDArray[np.uint32]:
        """Return detection bins, the greater first, and time-of-flight bins, shape (event, 3)."""
        n_detectors, n_tof = len(self._layout.bins), self._pet.n_tof
        inside = len(pairs) == 0 or (pairs.min() >= 0 and pairs.max() < n_detectors)
        bins = self._layout.bins[pairs] if inside else np.full((1, 2), -1)
        if (bins < 0).any():
            raise DataError(
                f"scan {self._scan.uid}: events",
                expected=f"crystals among {n_detectors} detectors",
                got="a gap" if inside else f"detectors {pairs.min()} to {pairs.max()}",
                action="correct what made the events",
            )
        out = np.empty((len(pairs), 3), np.uint32)
        swap = bins[:, 0] < bins[:, 1]
        out[:, :2] = np.where(swap[:, None], bins[:, ::-1], bins)
        bin_ = np.zeros(len(pairs), np.int64) if tof is None else tof.astype(np.int64)
        out[:, 2] = np.where(swap, n_tof - 1 - bin_, bin_) if n_tof > 1 else 0
        return out

    def _singles(self, interval: dict[str, int], singles: NDArray[np.uint32]) -> dict[str, Any]:
        per_detector = len(singles) == len(self._layout.bins)
        return {
            "timeInterval": interval,
            "singlesPerSinglesUnitHistogram": [] if per_detector else [singles[i : i + 1] for i in range(len(singles))],
            "singlesPerDetectionBinHistogram": [singles[self._layout.detectors]] if per_detector else [],
        }


@dataclass(frozen=True, slots=True)
class _Layout:
    """Which element of which module each detector is."""

    modules: NDArray[np.float32]
    """Transformations of the modules (module, 12)."""
    elements: NDArray[np.float32]
    """Transformations of the elements within a module (element, 12)."""
    detectors: NDArray[np.int64]
    """Detector of each detection bin (bin,)."""
    bins: NDArray[np.int64]
    """Detection bin of each detector (detector,); -1: a gap."""


def _layout(pet: PetHeader) -> _Layout:
    n_all = pet.n_rings * pet.n_crystals
    if pet.detectors_mm is not None:
        detectors = np.flatnonzero(is_crystal(pet))
        placed = np.tile(_NO_MOVE, (len(detectors), 1, 1))
        placed[:, :, 3] = detectors_mm(pet)[detectors]
        modules, elements = _NO_MOVE[None], placed
    else:
        modules, elements, detectors = _cylinder(pet)
    bins = np.full(n_all, -1)
    bins[detectors] = np.arange(len(detectors))
    return _Layout(modules.reshape(-1, 12), elements.reshape(-1, 12), detectors, bins)


def _cylinder(pet: PetHeader) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Return transformations of modules and elements, and the detector of each detection bin."""
    along, around = pet.block[0] or pet.n_rings, pet.block[1] or 1
    if pet.n_rings % along:
        along = pet.n_rings
    if pet.n_crystals % around:
        around = pet.n_crystals
    there = np.flatnonzero(is_crystal(pet)[:around])
    step = pet.turn * 2 * np.pi / pet.n_crystals
    z = (np.arange(pet.n_rings) - (pet.n_rings - 1) / 2) * pet.ring_pitch_mm
    ring, crystal = (a.ravel() for a in np.meshgrid(np.arange(along), there, indexing="ij"))
    elements = _turned(crystal * step)
    elements[:, :, 3] = elements[:, :, :3] @ np.array([pet.radius_mm, 0, 0]) + [0, 0, 1] * (z[ring] - z[0])[:, None]
    first_ring, first = (
        a.ravel()
        for a in np.meshgrid(np.arange(0, pet.n_rings, along), np.arange(0, pet.n_crystals, around), indexing="ij")
    )
    modules = _turned(pet.first_angle_rad + first * step)
    modules[:, 2, 3] = z[first_ring]
    detectors = (first_ring[:, None] + ring) * pet.n_crystals + first[:, None] + crystal
    return modules.astype(np.float32), elements.astype(np.float32), detectors.ravel()


def _turned(angle: NDArray) -> NDArray[np.float64]:
    """Return rotations about z (n, 3, 4)."""
    out = np.zeros((len(angle), 3, 4))
    out[:, 0, 0], out[:, 0, 1] = np.cos(angle), -np.sin(angle)
    out[:, 1, 0], out[:, 1, 1] = np.sin(angle), np.cos(angle)
    out[:, 2, 2] = 1
    return out


def _scanner(scan: Scan, layout: _Layout, crystals: NDArray[np.float32] | None) -> dict[str, Any]:
    pet = scan.require_pet()
    half = np.array([_DEPTH_MM, pet.crystal_mm[1], pet.crystal_mm[0]]) / 2
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    box = {"shape": {"corners": (signs * half).astype(np.float32)}, "materialId": 0}
    module = {"detectingElements": {"object": box, "transforms": layout.elements}, "nonDetectingElements": []}
    reach = pet.n_tof / 2 * pet.tof_bin_mm if pet.n_tof > 1 else 2 * pet.radius_mm
    limited = "" if pet.max_ring_difference is None else RINGS_TEXT.format(pet.max_ring_difference)
    efficiencies = [] if crystals is None else [np.asarray(crystals, np.float32)[layout.detectors]]
    energies = {"edges": np.array(pet.energy_kev, np.float32)}
    calibration = pet.calibration_bq_per_cps
    return {
        "modelName": scan.equipment.model or "",
        "scannerGeometry": {
            "replicatedModules": [{"object": module, "transforms": layout.modules}],
            "nonDetectingVolumes": None,
        },
        "bulkMaterials": [],
        "gantryAlignment": None,
        "collimatorType": "",
        "tofBinEdges": [[{"edges": np.linspace(-reach, reach, pet.n_tof + 1, dtype=np.float32)}]],
        "tofResolution": [[pet.tof_fwhm_mm]],
        "eventEnergyBinEdges": [energies],
        "energyResolutionAt511": [pet.energy_resolution],
        "singleEventPolicy": "none",
        "promptEventPolicy": "rejectHigherMultiples",
        "delayedEventPolicy": "rejectHigherMultiples",
        "tripleEventPolicy": "none",
        "quadrupleEventPolicy": "none",
        "detectionEfficiencies": {
            "methodDescription": (OUR_METHOD if calibration else "not calibrated") + limited,
            "calibrationFactor": 1 / calibration if calibration else 1.0,
            "detectionBinEfficiencies": efficiencies,
            "modulePairSGIDLUT": [],
            "modulePairEfficienciesVectors": [],
        },
    }


def _singles_level(pet: PetHeader, layout: _Layout, singles: NDArray[np.uint32] | None) -> dict[str, Any]:
    n_modules = len(layout.modules)
    n_singles = 0 if singles is None else len(singles)
    if n_singles not in (0, len(layout.bins), n_modules):
        raise DataError(
            "events: singles",
            expected=f"one count per detector ({len(layout.bins)}) or per block ({n_modules})",
            got=f"{n_singles}",
            action="sum them per detector block",
        )
    per_module = n_singles == n_modules and n_singles != len(layout.bins)
    edges = [{"edges": np.array(pet.energy_kev, np.float32)}] if n_singles else []
    return {
        "singlesHistogramLevel": "none" if not n_singles else "module" if per_module else "all",
        "moduleSinglesUnitIdxLUTs": [np.arange(n_modules)] if per_module else [],
        "singlesHistogramEnergyBinEdges": edges,
    }


def _signal(waveform: Waveform) -> dict[str, Any]:
    n = waveform.data.shape[1]
    stop = waveform.time_stamp + round(n * waveform.sample_time_us / 1000)
    values = waveform.offset + waveform.gain * waveform.data[0].astype(np.float64)
    kind = _KINDS.get((waveform.id, waveform.flags & 1), len(_SIGNALS) - 1)
    return {
        "timeInterval": {"start": waveform.time_stamp, "stop": stop},
        "signalID": kind,
        "signalValues": values.astype(np.float32),
    }
