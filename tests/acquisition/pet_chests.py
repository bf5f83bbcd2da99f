"""A chest for tests of PET motion: body, lungs, liver and one lesion above the diaphragm, which goes down with it."""

from __future__ import annotations

from functools import cache

import numpy as np

from acquisition.geometry import Grid
from acquisition.items import Events, Image, Waveform
from acquisition.sources.phantom.objects import Ellipsoid, Phantom, Tissue
from acquisition.sources.phantom.pet import PetSimulation
from acquisition.sources.phantom.pet_exam import PetExam, gantry
from acquisition.sources.phantom.pet_objects import LUNG, WATER, PetObject

GANTRY = gantry(n_rings=20, n_crystals=200, ring_pitch_mm=8.0, radius_mm=300.0, block=(10, 10))
LESION_MM = (-60.0, 0.0, 22.0)
"""Where the lesion is at the end of expiration, LPS [mm]."""
LESION_RADIUS_MM = 9.0
WAY_MM = 20.0
"""How far liver and lesion go down with a full breath [mm]."""
_UPTAKE = (1.0, 0.4, 0.4, 4.0, 20.0)


def chest(breath: float = 0.0, *, bq_per_ml: float = 60.0) -> PetObject:
    """Return the chest at a depth of breath from 0 to 1; `bq_per_ml` is the activity of muscle."""
    down, rise = np.array([0.0, 0.0, WAY_MM * breath]), 1 + 0.03 * breath
    solids = (
        ((0.0, 0.0, 0.0), (150.0, 100.0 * rise, 105.0), WATER, -1),
        ((62.0, 0.0, 15.0), (50.0, 65.0, 70.0), LUNG, 0),
        ((-62.0, 0.0, 15.0), (50.0, 65.0, 70.0), LUNG, 0),
        (np.array([-62.0, 0.0, -52.0]) - down, (60.0, 70.0, 45.0), WATER, 0),
        (np.array(LESION_MM) - down, (LESION_RADIUS_MM,) * 3, WATER, 2),
    )
    parts = tuple(Ellipsoid(np.array(c, float), np.diag(a), Tissue(mu, np.inf), p) for c, a, mu, p in solids)
    return PetObject(body=Phantom(ellipsoids=parts), bq_per_ml=tuple(bq_per_ml * u for u in _UPTAKE))


def mu_image(found: PetObject, grid: Grid) -> Image:
    """Return the attenuation of an object on a grid of the gantry [1/mm]."""
    mu = found.body.render(grid, subsamples=(2, 2)).clip(0)
    return Image(data=mu, grid=grid, unit="1/mm", output="mu")


def breathing_exam(**changes: object) -> PetExam:
    """Return a scan of 40 s with a breath each 4 s, in blocks of 0.25 s."""
    fields = {"pet": GANTRY, "duration_s": 40.0, "block_s": 0.25, "scatter": "none", "randoms": "none", "breath_s": 4.0}
    return PetExam(**(fields | changes))  # type: ignore[arg-type]


@cache
def breathing() -> tuple[PetSimulation, tuple[Events | Waveform, ...]]:
    """Return a chest that breathes, and what is measured of it."""
    simulation = PetSimulation(breathing_exam(), chest)
    return simulation, tuple(simulation.items())
