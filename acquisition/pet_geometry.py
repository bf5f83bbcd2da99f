"""Where the detectors of a PET scanner are: the one geometry that every source fills and every projector reads.

Gantry coordinates are LPS [mm] of a patient who lies head first supine, the axis of the rings at x = y = 0, the middle
of the rings at z = 0. A line of response runs from its first detector to its second; time-of-flight bin b of n lies
``(b - (n - 1) / 2) tof_bin_mm`` from its middle towards the second detector.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import HeaderError
from acquisition.scan import PetHeader


def checked(pet: PetHeader, where: str) -> PetHeader:
    """Return `pet` if lines of response can be drawn from it.

    Raises
    ------
    HeaderError
        A size is not positive, or time of flight lacks its width.
    """
    sizes = (pet.n_rings, pet.n_crystals, pet.radius_mm, pet.ring_pitch_mm, pet.n_tof)
    timed = pet.n_tof == 1 or (pet.tof_bin_mm > 0 and pet.tof_fwhm_mm > 0)
    if not all(np.isfinite(s) and s > 0 for s in sizes) or not timed:
        raise HeaderError(
            f"{where}: PET geometry",
            expected="positive sizes, and width and resolution of the time-of-flight bins",
            got=f"{pet.n_rings} rings of {pet.n_crystals}, radius {pet.radius_mm} mm, pitch {pet.ring_pitch_mm} mm, "
            f"{pet.n_tof} bins of {pet.tof_bin_mm} mm, {pet.tof_fwhm_mm} mm",
            action="check the geometry in the header",
        )
    return pet


def detectors_mm(pet: PetHeader) -> NDArray[np.float32]:
    """Return where each detector is, shape (n_rings * n_crystals, 3), LPS [mm]."""
    if pet.detectors_mm is not None:
        return pet.detectors_mm
    angle = pet.first_angle_rad + pet.turn * 2 * np.pi * np.arange(pet.n_crystals) / pet.n_crystals
    z = (np.arange(pet.n_rings) - (pet.n_rings - 1) / 2) * pet.ring_pitch_mm
    ring = np.stack([pet.radius_mm * np.cos(angle), pet.radius_mm * np.sin(angle)], axis=-1)
    place = np.empty((pet.n_rings, pet.n_crystals, 3), np.float32)
    place[..., :2], place[..., 2] = ring, z[:, None]
    return place.reshape(-1, 3)


def is_crystal(pet: PetHeader) -> NDArray[np.bool_]:
    """Return which detectors are crystals and not gaps, shape (n_rings * n_crystals,)."""
    within = np.arange(pet.n_crystals) % (pet.block[1] or pet.n_crystals)
    return np.tile(~np.isin(within, pet.gaps), pet.n_rings)


def places_mm(
    pet: PetHeader, detectors: NDArray[np.float64], pairs: NDArray[np.int32], tof: NDArray[np.int16] | None
) -> NDArray[np.float64]:
    """Return where events most likely happened (event, 3) [mm]: in the middle of their time-of-flight bin, or line.

    Parameters
    ----------
    pet, detectors
        The scanner, and where its detectors are (detector, 3) [mm].
    pairs, tof
        Detectors (event, 2) and time-of-flight bins (event,) of the events; no bins: not measured.
    """
    first, second = detectors[pairs[:, 0]], detectors[pairs[:, 1]]
    middle = (first + second) / 2
    if tof is None or pet.n_tof < 2:
        return middle
    way, line = (tof - (pet.n_tof - 1) / 2) * pet.tof_bin_mm, second - first
    return np.asarray(middle + line * (way / np.maximum(np.linalg.norm(line, axis=1), 1e-9))[:, None])


def coarse_sinogram(
    detectors: NDArray[np.float64],
    pairs: NDArray[np.int32],
    shape: tuple[int, int, int],
    *,
    width_mm: float,
    length_mm: float,
) -> NDArray[np.float64]:
    """Return how many lines fall into each bin of a coarse sinogram (angle, distance, part of the axis).

    Parameters
    ----------
    detectors, pairs
        Where the detectors are (detector, 3) [mm], and those of the lines (line, 2).
    shape
        Bins.
    width_mm, length_mm
        Greatest distance from the axis, and length along it, that are told apart [mm].
    """
    first, second = detectors[pairs[:, 0]], detectors[pairs[:, 1]]
    across = second[:, :2] - first[:, :2]
    angle = np.arctan2(across[:, 1], across[:, 0]) % (2 * np.pi)
    away = first[:, 0] * across[:, 1] - first[:, 1] * across[:, 0]
    away = np.where(angle >= np.pi, -away, away) / np.maximum(np.hypot(across[:, 0], across[:, 1]), 1e-9)
    z = (first[:, 2] + second[:, 2]) / 2
    parts = (angle % np.pi / np.pi, (away / width_mm + 1) / 2, z / length_mm + 0.5)
    index = [np.clip((p * n).astype(int), 0, n - 1) for p, n in zip(parts, shape, strict=True)]
    return np.bincount(np.ravel_multi_index(index, shape), minlength=int(np.prod(shape))).reshape(shape).astype(float)


def axial_lines(pet: PetHeader, n_parts: int) -> NDArray[np.float64]:
    """Return how many pairs of rings have their middle in each part of the axis (part,)."""
    one, other = np.indices((pet.n_rings, pet.n_rings))
    if pet.max_ring_difference is not None:
        near = np.abs(one - other) <= pet.max_ring_difference
        one, other = one[near], other[near]
    middle = (one + other).ravel() / max(2 * (pet.n_rings - 1), 1)
    return np.bincount(np.clip((middle * n_parts).astype(int), 0, n_parts - 1), minlength=n_parts).astype(float)


def seen_mm(pet: PetHeader, fov_mm: float | None = None) -> float:
    """Return the distance from the axis beyond which no line counts [mm]: `fov_mm`, else the header's, else all."""
    return next((v for v in (fov_mm, pet.fov_mm) if v is not None), pet.radius_mm)
