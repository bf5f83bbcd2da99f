"""Normalisation of a PET scanner by components: how well each line of response counts.

An image of activity x [Bq/mL] makes, on the line of detectors a and b,
``counts per s = e_a e_b g_ab exp(-line integral of mu) * line integral of x [Bq/mL mm] / calibration_bq_per_cps``
where e is the efficiency of a crystal (mean 1) and g the solid angle of the pair against that of two opposing crystals
of one ring: ``cos_a cos_b (2 R / d)^2``, d their distance, cos_a the angle of incidence. Where a scanner's own
normalisation tells geometry, g is that of `SinogramFactors` instead.

References
----------
M. E. Casey, H. Gadagkar, D. Newport, "A component based method for normalization in volume PET", 3D meeting (1995).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import DataError
from acquisition.pet_geometry import checked, detectors_mm, is_crystal, seen_mm
from acquisition.pet_sinogram import sinogram_bin
from acquisition.scan import PetHeader
from kernels.pet_pairs import pair_efficiency


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SinogramFactors:
    """What a scanner's normalisation says of lines by their place in an uncompressed sinogram.

    The factor of a line of rings r and s is ``geometric[r + s, bin] * interference[bin, view mod n] * axial[r, s]``.
    """

    n_crystals: int
    """Crystals per ring, gaps included."""
    geometric: NDArray[np.float32]
    """By sum of the rings and bin (2 ring - 1, bin)."""
    interference: NDArray[np.float32]
    """By bin and view, repeated with every block (bin, crystal of block)."""
    axial: NDArray[np.float32]
    """By ring of the first and of the second detector of the sinogram (ring, ring); 0: never in coincidence."""

    def __post_init__(self) -> None:
        n_rings, n_bins = len(self.axial), self.geometric.shape[-1]
        shapes = (self.geometric.shape, self.interference.shape[:1], self.axial.shape)
        values = np.concatenate([a.ravel() for a in (self.geometric, self.interference, self.axial)])
        if shapes != ((2 * n_rings - 1, n_bins), (n_bins,), (n_rings, n_rings)) or not (values >= 0).all():
            raise DataError(
                "normalisation: factors of the sinogram",
                expected=f"numbers of 0 or more for {2 * n_rings - 1} sums of rings, {n_bins} bins, {n_rings} rings",
                got=f"shapes {shapes}, the least {values.min(initial=0.0)}",
                action="use the normalisation of this scanner",
            )

    def of(self, pairs: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the factors of the lines of detectors (line, 2), shape (line,)."""
        ring, crystal = np.divmod(pairs, self.n_crystals)
        n_bins = self.geometric.shape[1]
        view, bin_, swapped = sinogram_bin(crystal, self.n_crystals, n_bins)
        inside = (bin_ >= 0) & (bin_ < n_bins)
        at = np.where(inside, bin_, 0)
        first, second = (np.where(swapped, ring[:, 1 - k], ring[:, k]) for k in (0, 1))
        found = self.geometric[first + second, at] * self.interference[at, view % self.interference.shape[1]]
        return np.where(inside, found * self.axial[first, second], np.float32(0))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Normalisation:
    """Efficiency of every line of response, from that of its detectors and its geometry."""

    pet: PetHeader
    """The scanner."""
    crystals: NDArray[np.float32]
    """Efficiency of each detector (detector,), mean 1 over the crystals; 0 where there is none or it is dead."""
    fov_mm: float
    """Distance from the axis beyond which lines are not counted [mm]."""
    sinogram: SinogramFactors | None = None
    """Takes the place of the solid angle; None: the solid angle holds."""
    places_mm: NDArray[np.float32] = field(init=False, repr=False)
    """Where the detectors are (detector, 3) [mm]."""

    def __post_init__(self) -> None:
        checked(self.pet, "normalisation")
        n = self.pet.n_rings * self.pet.n_crystals
        if self.crystals.shape != (n,) or not np.isfinite(self.crystals).all() or self.crystals.min() < 0:
            raise DataError(
                "normalisation: efficiencies",
                expected=f"{n} finite numbers of 0 or more, one per detector",
                got=f"shape {self.crystals.shape}",
                action="use the normalisation of this scanner",
            )
        object.__setattr__(self, "places_mm", detectors_mm(self.pet).astype(np.float32))

    def efficiency(self, pairs: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the efficiency of the lines of detectors (line, 2), shape (line,); 0: never in coincidence."""
        out = np.empty(len(pairs), np.float32)
        most = self.pet.n_rings if self.pet.max_ring_difference is None else self.pet.max_ring_difference
        limits = (self.pet.n_crystals, most, float(self.pet.radius_mm), float(self.fov_mm))
        pairs = np.asarray(pairs, np.int32)
        pair_efficiency(pairs, self.places_mm, self.crystals, limits, out)
        if self.sinogram is None:
            return out
        return np.where(out > 0, self.crystals[pairs].prod(axis=1) * self.sinogram.of(pairs), np.float32(0))

    def key(self) -> bytes:
        """Return what tells this normalisation from another one of the same scanner."""
        parts = [repr(self.fov_mm).encode(), self.crystals.tobytes()]
        if self.sinogram is not None:
            parts += [a.tobytes() for a in (self.sinogram.geometric, self.sinogram.interference, self.sinogram.axial)]
        return b"|".join(parts)


def uniform(pet: PetHeader, *, fov_mm: float | None = None) -> Normalisation:
    """Return the normalisation of a scanner whose crystals are all alike; without `fov_mm` the header's lines count."""
    return Normalisation(pet=pet, crystals=is_crystal(pet).astype(np.float32), fov_mm=seen_mm(pet, fov_mm))


def central_bq_per_cps(pet: PetHeader, *, pair_efficiency: float = 1.0) -> float:
    """Return the calibration of a cylinder without gaps between its crystals.

    Two opposing crystals of area A at distance d see ``A^2 / (2 pi d^2)`` of each Bq/mm^3 mm of their line.

    Parameters
    ----------
    pet
        The scanner.
    pair_efficiency
        Probability that both photons are counted when they hit crystals of efficiency 1.
    """
    area = pet.ring_pitch_mm * 2 * np.pi * pet.radius_mm / pet.n_crystals
    return float(1000 * 2 * np.pi * (2 * pet.radius_mm) ** 2 / (area**2 * pair_efficiency))


def blocks(pet: PetHeader) -> tuple[NDArray[np.int64], int]:
    """Return the block of each detector (detector,) and how many there are; each is its own where none are told.

    Blocks are counted along the ring first, then along the axis.
    """
    ring, crystal = np.divmod(np.arange(pet.n_rings * pet.n_crystals), pet.n_crystals)
    deep, wide = pet.block[0] or 1, pet.block[1] or 1
    around = -(-pet.n_crystals // wide)
    return ring // deep * around + crystal // wide, -(-pet.n_rings // deep) * around
