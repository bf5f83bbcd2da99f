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


def seen_mm(pet: PetHeader, fov_mm: float | None = None) -> float:
    """Return the distance from the axis beyond which no line counts [mm]: `fov_mm`, else the header's, else all."""
    return next((v for v in (fov_mm, pet.fov_mm) if v is not None), pet.radius_mm)
