"""Where the detectors of a PETSIRD scanner are, and which of them a detection bin means.

PETSIRD places boxes by rigid transformations: an element in its module, the module in the gantry. A photon is taken to
be absorbed in the middle of its box. Rings and crystals are found from these places; a scanner that has no rings of
equal size becomes one list of detectors in the order of the file. Its gantry coordinates are taken as ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import HeaderError
from acquisition.pet_geometry import checked, detectors_mm
from acquisition.scan import PetHeader

_SAME_MM, _SAME_RAD = 0.05, 1e-3
_FARTHEST_MM = 1e4


@dataclass(frozen=True, slots=True)
class Detectors:
    """What detection bins mean."""

    pet: PetHeader
    """The scanner."""
    tables: tuple[NDArray[np.int32], ...]
    """Detector of each detection bin, per type of module."""


def detectors_of(scanner: dict[str, Any], where: str) -> Detectors:
    """Find rings and crystals of a scanner as its header describes it.

    Raises
    ------
    HeaderError
        There is no detector, or time-of-flight bins differ in width or between types of modules.
    """
    modules = scanner["scannerGeometry"]["replicatedModules"]
    with np.errstate(invalid="ignore", over="ignore"):
        places = [_centres(module) for module in modules]
    counts = [len(p) for p in places]
    if not sum(counts):
        raise HeaderError(f"{where}: scanner geometry", expected="detecting elements", got="none")
    if not all((np.abs(p) < _FARTHEST_MM).all() for p in places):  # false for NaN, too
        raise HeaderError(
            f"{where}: scanner geometry",
            expected=f"elements within {_FARTHEST_MM:g} mm of the middle",
            got="others, or no numbers",
            action="write the file again",
        )
    energies = [max(1, len(e["edges"]) - 1) for e in scanner["eventEnergyBinEdges"]] or [1] * len(modules)
    pet, order = _rings(np.concatenate(places))
    starts = np.concatenate([[0], np.cumsum(counts)])
    tables = tuple(
        np.repeat(order[a:b], n).astype(np.int32) for a, b, n in zip(starts, starts[1:], energies, strict=False)
    )
    n_tof, width, fwhm = _tof(scanner, where)
    resolution = scanner["energyResolutionAt511"]
    pet = replace(
        pet,
        block=_block(pet, order[: len(modules[0]["object"]["detectingElements"]["transforms"])]),
        n_tof=n_tof,
        tof_bin_mm=width,
        tof_fwhm_mm=fwhm,
        energy_kev=_window(scanner) or pet.energy_kev,
        energy_resolution=float(resolution[0]) if len(resolution) and resolution[0] > 0 else pet.energy_resolution,
        crystal_mm=_crystal(modules[0]),
    )
    return Detectors(checked(pet, where), tables)


def _centres(module: dict[str, Any]) -> NDArray[np.float64]:
    """Return the middle of each element of all modules of a type, modules slowest, (element, 3) [mm]."""
    elements = module["object"]["detectingElements"]
    middle = np.asarray(elements["object"]["shape"]["corners"], float).reshape(8, 3).mean(axis=0)
    within = np.asarray(elements["transforms"], float).reshape(-1, 3, 4)
    of_module = np.asarray(module["transforms"], float).reshape(-1, 3, 4)
    local = within[:, :, :3] @ middle + within[:, :, 3]
    turned = np.einsum("mij,ej->mei", of_module[:, :, :3], local)
    return (turned + of_module[:, None, :, 3]).reshape(-1, 3)


def _crystal(module: dict[str, Any]) -> tuple[float, float]:
    corners = np.asarray(module["object"]["detectingElements"]["object"]["shape"]["corners"], float).reshape(8, 3)
    _, across, along = np.ptp(corners, axis=0)
    return float(along), float(across)


def _rings(place: NDArray[np.float64]) -> tuple[PetHeader, NDArray[np.int64]]:
    """Return the cylinder, and which of its detectors each element is, shape (element,)."""
    radius = np.hypot(place[:, 0], place[:, 1])
    levels, ring = _levels(place[:, 2])
    angle = np.arctan2(place[:, 1], place[:, 0])
    turn = _turn(angle)
    from_first = (turn * (angle - angle[0]) + _SAME_RAD) % (2 * np.pi) - _SAME_RAD
    order = np.lexsort((from_first, ring))
    n_rings, per_ring = len(levels), np.bincount(ring)
    listed = PetHeader(
        n_rings=1,
        n_crystals=len(place),
        radius_mm=float(radius.mean()),
        ring_pitch_mm=1.0,
        detectors_mm=place.astype(np.float32),
    )
    if len(set(per_ring)) > 1:
        return listed, np.arange(len(place))
    angles = from_first[order].reshape(n_rings, -1)
    steps = np.diff(angles[0], append=angles[0, 0] + 2 * np.pi)
    if np.ptp(angles, axis=0).max() > _SAME_RAD or steps.min() < _SAME_RAD:
        return listed, np.arange(len(place))
    slots, crystal = _slots(angles[0])
    detector = np.empty(len(place), np.int64)
    detector[order] = (np.arange(n_rings)[:, None] * slots + crystal).ravel()
    block, gaps = _pattern(slots, crystal)
    pet = PetHeader(
        n_rings=n_rings,
        n_crystals=slots,
        radius_mm=float(radius.mean()),
        ring_pitch_mm=float(np.ptp(levels) / (n_rings - 1)) if n_rings > 1 else 1.0,
        first_angle_rad=float(angle[0]),
        turn=turn,
        block=(0, block) if gaps else (0, 0),
        gaps=gaps,
    )
    ideal = detectors_mm(pet)
    if np.abs(ideal[detector] - place).max() > _SAME_MM:
        ideal[detector] = place
        pet = replace(pet, detectors_mm=ideal)
    return pet, detector


def _levels(z: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the different values of `z`, and which of them each is."""
    order = np.argsort(z, kind="stable")
    level = np.concatenate([[0], np.cumsum(np.diff(z[order]) > _SAME_MM)])
    ring = np.empty(len(z), np.int64)
    ring[order] = level
    return np.bincount(ring, z) / np.bincount(ring), ring


def _turn(angle: NDArray[np.float64]) -> Literal[1, -1]:
    """Return which way the elements follow each other: the sign of the first step of the angle."""
    steps = (np.diff(angle) + np.pi) % (2 * np.pi) - np.pi
    first = steps[np.abs(steps) > _SAME_RAD][:1]
    return -1 if len(first) and first[0] < 0 else 1


def _slots(angle: NDArray[np.float64]) -> tuple[int, NDArray[np.int64]]:
    """Return places per ring, gaps included, and the place of each crystal; as many as crystals if irregular."""
    step = float(np.diff(angle, append=angle[0] + 2 * np.pi).min())
    n = round(2 * np.pi / step)
    slot = np.rint((angle - angle[0]) * n / (2 * np.pi)).astype(np.int64)
    regular = np.abs((angle - angle[0]) - slot * 2 * np.pi / n).max() < 0.1 * step
    if not regular or len(set(slot % n)) < len(slot) or n > 2 * len(slot):
        return len(angle), np.arange(len(angle))
    return n, slot


def _pattern(slots: int, crystal: NDArray[np.int64]) -> tuple[int, tuple[int, ...]]:
    """Return the shortest period of gaps around the ring, and the gaps in it."""
    there = np.zeros(slots, bool)
    there[crystal] = True
    if there.all():
        return 0, ()
    fitting = (p for p in range(2, slots + 1) if slots % p == 0 and (there.reshape(-1, p) == there[:p]).all())
    period = next(fitting)
    return period, tuple(int(i) for i in np.flatnonzero(~there[:period]))


def _block(pet: PetHeader, module: NDArray[np.int64]) -> tuple[int, int]:
    """Return rings and crystals of a block, from the detectors of a module if they fill a rectangle of the cylinder."""
    rings, crystals = (len(np.unique(part)) for part in np.divmod(module, pet.n_crystals))
    around = pet.block[1] or crystals
    whole = rings == pet.n_rings and (crystals == 1 or around == pet.n_crystals)
    fills = rings * crystals == len(module) and crystals + len(pet.gaps) == around
    return pet.block if whole or not fills or pet.n_rings % rings or pet.n_crystals % around else (rings, around)


def _tof(scanner: dict[str, Any], where: str) -> tuple[int, float, float]:
    """Return number, width [mm] and resolution [mm] of the time-of-flight bins."""
    edges = [np.asarray(e["edges"], float) for row in scanner["tofBinEdges"] for e in row if len(e["edges"]) > 1]
    widths = [float(w) for row in scanner["tofResolution"] for w in row]
    if not edges or max(len(e) for e in edges) == 2:
        return 1, 0.0, 0.0
    first = edges[0]
    step = np.diff(first)
    same = all(len(e) == len(first) and np.allclose(e, first, atol=1e-3) for e in edges)
    if not same or np.ptp(step) > 0.01 * step.mean() or abs(first[0] + first[-1]) > 0.01 * step.mean():
        raise HeaderError(
            f"{where}: tofBinEdges",
            expected="equal bins around 0, the same for all types of modules",
            got=f"{[len(e) - 1 for e in edges]} bins, {step.min():.4g} to {step.max():.4g} mm wide",
            action="such a scanner is not supported yet",
        )
    return len(step), float(step.mean()), max(widths, default=0.0)


def _window(scanner: dict[str, Any]) -> tuple[float, float] | None:
    edges = [e["edges"] for e in scanner["eventEnergyBinEdges"] if len(e["edges"]) > 1]
    return (float(edges[0][0]), float(edges[0][-1])) if edges else None
