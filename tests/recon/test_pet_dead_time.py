"""Dead time, branching and calibration reach the final image, frame by frame."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from acquisition.errors import DataError
from acquisition.geometry import Grid
from acquisition.items import Events, Image, TimeFrame
from acquisition.scan import Scan
from acquisition.sources.phantom.pet import PetSimulation
from acquisition.sources.phantom.pet_exam import PetExam, gantry
from acquisition.sources.phantom.pet_objects import cylinder
from recon.pet.gather import Gathered, equivalent_s
from recon.pet.osem import Osem

BQ = 9e3
GRID = Grid.from_centre((0, 0, 0), shape=(15, 41, 41), spacing_mm=(8, 5, 5), directions=np.eye(3))


@cache
def simulation(dead_time_s: float = 1.5e-6, offset_mm: float = 0.0) -> PetSimulation:
    pet = gantry(n_rings=8, n_crystals=120, ring_pitch_mm=16.0)
    exam = PetExam(
        pet=pet, duration_s=2.0, block_s=0.5, scatter="none", randoms="none", dead_time_s=dead_time_s, spread=0.0
    )
    body = cylinder(radius_mm=70.0, length_mm=90.0, bq_per_ml=BQ, mu_per_mm=0.0)
    return PetSimulation(exam, body.transformed(np.eye(3), (offset_mm, 0.0, 0.0)))


def image_of(blocks: list[Events], scan: Scan, offset_mm: float = 0.0, **options: object) -> list[Image]:
    fov = 2 * (100.0 + abs(offset_mm))
    step = Osem(voxel_mm=8.0, slice_mm=8.0, fov_mm=fov, n_iterations=2, n_subsets=6, scatter="none", **options)  # type: ignore[arg-type]
    step.open(scan)
    for item in (simulation(1.5e-6).normalisation, *blocks):
        assert not list(step.feed(item))
    return [i for i in step.close() if isinstance(i, Image)]


def middle(image: Image, offset_mm: float = 0.0) -> float:
    z, y, x = (
        image.grid.origin_mm[2 - a] + np.arange(image.grid.shape[a]) * image.grid.spacing_mm[a] for a in range(3)
    )
    disc = np.hypot(x[None] - offset_mm, y[:, None]) < 50
    return float(image.data[np.abs(z) < 30][:, disc].mean())


def test_planted_dead_time_is_undone() -> None:
    found = simulation()
    blocks = list(found.events())
    lost = 1 - sum(map(len, blocks)) / sum(map(len, simulation(0.0).events()))
    assert lost > 0.15
    (image,) = image_of(blocks, found.scan)
    assert middle(image) == pytest.approx(BQ, rel=0.02)
    assert image.attributes["corrected"].split()[0] == "DTIM"
    assert float(image.provenance.notes["live"].split()[0]) == pytest.approx(100 * (1 - lost), abs=1.0)
    unaware = replace(found.scan, pet=replace(found.scan.require_pet(), dead_time_s=0.0))
    (wrong,) = image_of(blocks, unaware)
    assert middle(wrong) == pytest.approx((1 - lost) * BQ, rel=0.02)
    assert "DTIM" not in wrong.attributes["corrected"]


def test_each_frame_has_its_own_dead_time() -> None:
    """Blocks with half of the singles: their frame is corrected for less."""
    found = simulation()
    blocks = [replace(b, singles=b.singles // (2 if b.start_s >= 1.0 else 1)) for b in found.events()]
    first, second = image_of(blocks, found.scan, frames_s=(1.0, 1.0))
    live = [float(i.provenance.notes["live"].split()[0]) for i in (first, second)]
    assert live[1] > 1.08 * live[0]
    assert middle(first) * live[0] == pytest.approx(middle(second) * live[1], rel=0.02)
    assert middle(first) == pytest.approx(BQ, rel=0.02)


def test_blocks_that_differ_change_the_lines_not_only_the_time() -> None:
    """An object at the side makes the near blocks blinder."""
    found = simulation(0.7e-6, 130.0)
    data = Gathered(found.scan.require_pet(), "scan")
    blocks = list(found.events())
    assert data.takes(found.normalisation) and all(data.takes(b) for b in blocks)
    frame = TimeFrame(start_s=0.0, stop_s=2.0)
    model, counted = data.counting(frame)
    crystals = model.normalisation.crystals
    assert np.ptp(crystals) > 0.1 and crystals.mean() == pytest.approx(1.0, rel=1e-5)
    truth = found._live(found._state(0, (0.0, 0.0, 0.0), 0.0), 1.0)[0]
    np.testing.assert_allclose(crystals * np.sqrt(counted.live), truth, rtol=0.01)
    (image,) = image_of(blocks, found.scan, 130.0)
    assert middle(image, 130.0) == pytest.approx(BQ, rel=0.025)


def test_singles_of_detectors_do_as_well_and_others_are_refused() -> None:
    found = simulation()
    pet, block = found.scan.require_pet(), next(iter(found.events()))
    whole, single = Gathered(pet, "scan x"), Gathered(pet, "scan x")
    frame, per_block = TimeFrame(start_s=0.0, stop_s=0.5), pet.n_rings * pet.n_crystals // len(block.singles)
    whole.takes(block)
    group = np.arange(pet.n_rings) // 8 * (pet.n_crystals // 10)
    spread = (block.singles / per_block)[(group[:, None] + np.arange(pet.n_crystals) // 10)].ravel()
    single.takes(replace(block, singles=spread))
    np.testing.assert_allclose(single.live(frame), whole.live(frame), rtol=1e-6)
    silent = Gathered(pet, "scan x")
    silent.takes(replace(block, singles=None))
    assert silent.live(frame) is None
    (image,) = image_of([replace(block, singles=None)], found.scan)
    assert "DTIM" in image.verdicts[0].evidence
    odd = Gathered(pet, "scan x")
    odd.takes(replace(block, singles=block.singles[:5]))
    with pytest.raises(DataError, match="scan x: dead time: expected single counts of 12 blocks or 960 detectors"):
        odd.live(frame)


def test_one_frame_holds_length_decay_and_dead_time() -> None:
    tracer = simulation().scan.require_pet().tracer
    frame = TimeFrame(start_s=tracer.half_life_s, stop_s=tracer.half_life_s + 10.0, live=0.8)
    assert equivalent_s(frame, None) == pytest.approx(8.0)
    assert equivalent_s(frame, tracer) == pytest.approx(4.0, rel=1e-3)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_branching_and_calibration_scale_the_image_exactly(factor: float) -> None:
    scan = simulation().scan
    pet, block = scan.require_pet(), [next(iter(simulation().events()))]
    (plain,) = image_of(block, scan)
    calibrated = replace(scan, pet=replace(pet, calibration_bq_per_cps=factor * pet.calibration_bq_per_cps))
    np.testing.assert_allclose(image_of(block, calibrated)[0].data, factor * plain.data, rtol=1e-5)
    rare = replace(scan, pet=replace(pet, tracer=replace(pet.tracer, branching=pet.tracer.branching / 3)))
    np.testing.assert_allclose(image_of(block, rare)[0].data, 3 * plain.data, rtol=1e-5)
