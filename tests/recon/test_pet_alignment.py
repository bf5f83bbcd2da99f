"""CT against PET: a map that lies off is reported with its shift, one that fits is not."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from acquisition.errors import ConfigError
from acquisition.geometry import Vector
from acquisition.items import Events, Image
from acquisition.scan import Scan
from acquisition.sources.phantom.pet import PetSimulation
from acquisition.sources.phantom.pet_objects import torso
from acquisition.verdict import Level, Verdict
from recon.pet.alignment import CheckAlignment
from recon.pet.volume import VoxelOptions, gantry_grid
from tests.acquisition.pet_chests import GANTRY, breathing_exam, mu_image

OPTIONS = {"voxel_mm": 8.0, "slice_mm": 4.0, "fov_mm": 400.0}


@cache
def _measured() -> tuple[Scan, tuple[object, ...], Image]:
    """Return a torso about its diaphragm: its scan, what was counted, and its map, longer than the rings."""
    patient = torso(1, bq_per_ml_per_suv=500.0, centre_mm=(0.0, 0.0, -30.0))
    simulation = PetSimulation(breathing_exam(breath_s=0.0, duration_s=6.0, block_s=3.0), patient)
    grid = gantry_grid(GANTRY, VoxelOptions(**OPTIONS))
    longer = replace(grid, shape=(grid.shape[0] + 16, *grid.shape[1:]), origin_mm=grid.world((-8, 0, 0)))
    return simulation.scan, (simulation.normalisation, *simulation.events()), mu_image(patient, longer)


def _found(shift_mm: Vector) -> tuple[Verdict, np.ndarray]:
    scan, items, mu = _measured()
    x, y, z = np.add(mu.grid.origin_mm, shift_mm).tolist()
    check = CheckAlignment(**OPTIONS)
    check.open(scan)
    for item in (replace(mu, grid=replace(mu.grid, origin_mm=(x, y, z))), *items):
        assert list(check.feed(item)) == [item]
    (verdict,) = check.close()
    assert isinstance(verdict, Verdict)
    words = verdict.evidence.replace(",", "").split()
    return verdict, np.array([float(words[words.index(a) + 1]) for a in ("x", "y", "z")])


@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), (3.0, 0.0, -3.0)])
def test_a_map_that_fits_is_silent(shift: Vector) -> None:
    verdict, told = _found(shift)
    assert verdict.level is Level.PASS
    np.testing.assert_allclose(told[:2], shift[:2], atol=1.5)
    assert abs(told[2] - shift[2]) < 5.0


@pytest.mark.parametrize("shift", [(10.0, 0.0, 0.0), (0.0, -10.0, 0.0), (0.0, 0.0, 20.0), (0, 0, -20)])
def test_a_map_that_lies_off_is_told(shift: Vector) -> None:
    verdict, told = _found(shift)
    assert verdict.level is Level.FLAG and "align CT and PET" in verdict.advice
    np.testing.assert_allclose(told[:2], shift[:2], atol=1.5)
    assert abs(told[2] - shift[2]) < 9.0


def test_nothing_is_said_without_a_map_and_doubt_is_told() -> None:
    scan, items, mu = _measured()
    for first, count in ((items[0], 0), (replace(mu, data=0 * mu.data), 1)):
        check = CheckAlignment(**OPTIONS)
        check.open(scan)
        for item in (first, *(i for i in items if isinstance(i, Events))):
            list(check.feed(item))
        found = list(check.close())
        assert len(found) == count and all(v.level is Level.FLAG and "could not be checked" in v.advice for v in found)
    with pytest.raises(ConfigError, match=r"check\.pet_ct: expected limits above 0 mm"):
        CheckAlignment(limit_mm=0.0)
