"""Scatter of a frame: simulated from a first image of the frame, and given to the likelihood as expected counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from acquisition.geometry import Grid
from acquisition.items import Image, TimeFrame
from acquisition.pet_norm import Normalisation
from acquisition.scan import PetHeader
from recon.pet.gather import equivalent_s
from recon.pet.project import Bins, Pairs
from recon.pet.scatter import Scatter, simulate
from recon.pet.sensitivity import Attenuation
from recon.pet.tails import TailScale


@dataclass(frozen=True, slots=True)
class ScatterCounts:
    """Scattered coincidences that a simulation expects."""

    scatter: Scatter
    """As activity on lines [Bq/mL mm]."""
    per_bq: float
    """Counts per second and unit of it: branching over calibration [1/(Bq s)]."""
    pet: PetHeader
    """The scanner and its tracer."""
    scale: TailScale | None = None
    """What it is multiplied with, plane by plane; None: 1."""
    name: str = "scatter"
    """What it is."""

    def expected(self, pairs: Pairs, tof: Bins | None, frame: TimeFrame) -> NDArray[np.float32]:
        """Return the scatter expected in a frame on each line and time-of-flight bin (event,)."""
        seconds = equivalent_s(frame, self.pet.tracer)
        found = self.scatter.integrals(pairs, tof) * np.float32(self.per_bq * seconds)
        return found if self.scale is None else found * self.scale.of(pairs)


def scatter_counts(
    activity: NDArray[np.float32], grid: Grid, attenuation: Attenuation, *, norm: Normalisation, per_bq: float
) -> ScatterCounts:
    """Return the scatter of activity (z, y, x) [Bq/mL], at the start of the scan, on a grid in the gantry."""
    mu = resampled(attenuation, grid)
    images = [Image(data=data, grid=grid, unit=unit) for data, unit in ((activity, "Bq/mL"), (mu, "1/mm"))]
    return ScatterCounts(simulate(images[0], images[1], norm), per_bq, norm.pet)


def resampled(attenuation: Attenuation, grid: Grid) -> NDArray[np.float32]:
    """Return the attenuation [1/mm] on another grid along the same axes; 0 beyond its own."""
    axes = []
    for axis in range(3):
        n, step, own = grid.shape[axis], grid.spacing_mm[axis], attenuation.grid
        first = grid.origin_mm[2 - axis] - own.origin_mm[2 - axis]
        axes.append((first + step * np.arange(n)) / own.spacing_mm[axis])
    places = np.meshgrid(*axes, indexing="ij")
    return map_coordinates(attenuation.mu_per_mm, places, order=1, mode="grid-constant").astype(np.float32)
