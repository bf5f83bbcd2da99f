"""Scatter of a frame: simulated from a first image of the frame, and given to the likelihood as expected counts."""

from __future__ import annotations

from dataclasses import dataclass, replace

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

BEYOND_MM = 80.0
"""How far beyond the image activity that scatters is looked for [mm]."""
_END_MM = 20.0
_DENSE_PER_MM = 0.004


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
    """Return the scatter of activity (z, y, x) [Bq/mL], at the start of the scan, on a grid in the gantry.

    Beyond the image, as far as attenuation is known there, at most `BEYOND_MM`, activity is taken to go on as it ends:
    of a long object a fifth of the scatter comes from there.
    """
    longer = _longer(grid, attenuation)
    mu = resampled(attenuation, longer)
    first = round((grid.origin_mm[2] - longer.origin_mm[2]) / grid.spacing_mm[0])
    after = longer.shape[0] - grid.shape[0] - first
    depth = max(1, min(len(activity), round(_END_MM / grid.spacing_mm[0])))
    ends = [
        np.repeat(part.mean(axis=0)[None], n, axis=0)
        for part, n in ((activity[:depth], first), (activity[-depth:], after))
    ]
    for end, dense in zip(ends, (mu[:first], mu[len(mu) - after :]), strict=True):
        end *= dense > _DENSE_PER_MM
    whole = np.concatenate([ends[0], activity, ends[1]])
    images = [Image(data=data, grid=longer, unit=unit) for data, unit in ((whole, "Bq/mL"), (mu, "1/mm"))]
    return ScatterCounts(simulate(images[0], images[1], norm), per_bq, norm.pet)


def _longer(grid: Grid, attenuation: Attenuation) -> Grid:
    """Return a grid that goes on along z as far as attenuation is known, at most `BEYOND_MM` to each side."""
    dz, z, own = grid.spacing_mm[0], grid.origin_mm[2], attenuation.grid
    low, high = own.origin_mm[2], own.origin_mm[2] + (own.shape[0] - 1) * own.spacing_mm[0]
    top = z + (grid.shape[0] - 1) * dz
    below, above = (int(np.clip(reach, 0, BEYOND_MM) // dz) for reach in (z - low, high - top))
    x, y, _ = grid.origin_mm
    return replace(grid, shape=(grid.shape[0] + below + above, *grid.shape[1:]), origin_mm=(x, y, z - below * dz))


def resampled(attenuation: Attenuation, grid: Grid) -> NDArray[np.float32]:
    """Return the attenuation [1/mm] on another grid along the same axes; 0 beyond its own."""
    axes = []
    for axis in range(3):
        n, step, own = grid.shape[axis], grid.spacing_mm[axis], attenuation.grid
        first = grid.origin_mm[2 - axis] - own.origin_mm[2 - axis]
        axes.append((first + step * np.arange(n)) / own.spacing_mm[axis])
    places = np.meshgrid(*axes, indexing="ij")
    return map_coordinates(attenuation.mu_per_mm, places, order=1, mode="grid-constant").astype(np.float32)
