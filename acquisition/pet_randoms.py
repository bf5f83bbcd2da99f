"""Random coincidences: expected counts of every line from the delayed ones, smoothed by their structure.

Two photons that have nothing to do with each other meet detectors a and b at the rate ``2 tau s_a s_b``. So thousands
of rates s explain millions of lines: they are fitted to the fan sums of the delayeds, which takes the noise out.

References
----------
R. D. Badawi, M. P. Miller, D. L. Bailey, P. K. Marsden, "Randoms variance reduction in 3D PET", Phys Med Biol 44
(1999) 941, DOI 10.1088/0031-9155/44/4/010.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import DataError
from acquisition.pet_geometry import seen_mm
from acquisition.scan import PetHeader

Floats = NDArray[np.float64]
_ROUNDS = 60


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Randoms:
    """Expected random coincidences of every line of response in one time frame."""

    pet: PetHeader
    """The scanner."""
    rates: Floats
    """Square root of the expected counts of a line of two such detectors, all time-of-flight bins (detector,)."""
    fov_mm: float
    """Distance from the axis beyond which lines are not counted [mm]."""

    def counts(self, pairs: NDArray[np.int32]) -> Floats:
        """Return the expected random counts of lines (line, 2) over all time-of-flight bins, shape (line,).

        Lines that are never in coincidence are not left out.
        """
        return self.rates[pairs[:, 0]] * self.rates[pairs[:, 1]]

    def per_bin(self, pairs: NDArray[np.int32]) -> Floats:
        """Return the same for one time-of-flight bin: randoms fall into all bins alike."""
        return self.counts(pairs) / self.pet.n_tof

    @property
    def total(self) -> float:
        """Expected random counts of all lines."""
        return float((self.rates * _fans(self.pet, self.rates, self.fov_mm)).sum() / 2)


def from_delayeds(pet: PetHeader, delayeds: NDArray[np.int32], *, fov_mm: float | None = None) -> Randoms:
    """Return the randoms that explain delayed coincidences best.

    Parameters
    ----------
    pet
        The scanner.
    delayeds
        Detectors of the delayed coincidences of the frame (event, 2).
    fov_mm
        Distance from the axis beyond which lines are not counted [mm]; that of the header when absent.

    Raises
    ------
    DataError
        A detector does not exist.
    """
    fov, n = seen_mm(pet, fov_mm), pet.n_rings * pet.n_crystals
    if len(delayeds) and (delayeds.min() < 0 or delayeds.max() >= n):
        raise DataError("delayeds", expected=f"detectors 0 to {n - 1}", got=f"{delayeds.min()} to {delayeds.max()}")
    sums = np.bincount(delayeds.ravel(), minlength=n).astype(float)
    rates = np.sqrt(sums / max(sums.mean(), 1e-300))
    for _ in range(_ROUNDS):
        rates = np.sqrt(rates * sums / np.maximum(_fans(pet, rates, fov), 1e-300))
    return Randoms(pet=pet, rates=rates, fov_mm=fov)


def from_singles(pet: PetHeader, singles_per_s: Floats, *, window_ns: float, duration_s: float) -> Randoms:
    """Return the randoms of detectors that count `singles_per_s` photons (detector,) for `duration_s` [s].

    Parameters
    ----------
    pet, singles_per_s, duration_s
        The scanner, the photons counted [1/s] and the time [s].
    window_ns
        Full width of the coincidence window, 2 tau [ns].

    Raises
    ------
    DataError
        There is not one rate of 0 or more for each detector.
    """
    n = pet.n_rings * pet.n_crystals
    if singles_per_s.shape != (n,) or singles_per_s.min() < 0:
        raise DataError("singles", expected=f"{n} rates of 0 or more", got=f"shape {singles_per_s.shape}")
    rates = np.sqrt(window_ns * 1e-9 * duration_s) * singles_per_s
    return Randoms(pet=pet, rates=rates, fov_mm=seen_mm(pet))


def _fans(pet: PetHeader, rates: Floats, fov_mm: float) -> Floats:
    """Return the sum of the rates of all detectors in coincidence with each one (detector,)."""
    turn = np.pi * np.arange(pet.n_crystals) / pet.n_crystals
    across = (pet.radius_mm * np.abs(np.cos(turn)) <= fov_mm).astype(float)
    across[0] = 0
    table = rates.reshape(pet.n_rings, pet.n_crystals)
    n = pet.n_crystals
    found = np.fft.irfft(np.fft.rfft(table, axis=1) * np.fft.rfft(across), n, axis=1)
    ring = np.arange(pet.n_rings)
    most = pet.n_rings if pet.max_ring_difference is None else pet.max_ring_difference
    near = (np.abs(ring[:, None] - ring) <= most).astype(float)
    return np.asarray(near @ np.maximum(found, 0)).ravel()
