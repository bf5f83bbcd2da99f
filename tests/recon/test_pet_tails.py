"""Simulated scatter is scaled to the counts beside the patient: planted scatter is found and undone in the image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from acquisition.errors import ConfigError
from acquisition.geometry import Grid
from acquisition.items import Events, Image, TimeFrame
from acquisition.sources.phantom.objects import Phantom, Tissue
from acquisition.sources.phantom.pet import SCATTERED, PetSimulation
from acquisition.sources.phantom.pet_exam import PetExam, gantry
from acquisition.sources.phantom.pet_objects import WATER, PetObject, cylinder
from acquisition.sources.phantom.solids import Cylinder
from acquisition.verdict import Level
from integration.steps import make
from recon.pet.osem import Osem
from recon.pet.scattered import scatter_counts
from recon.pet.sensitivity import LineModel, attenuation_of
from recon.pet.tails import TailScale, tail_scale

BQ, RADIUS, COLD, HALF_MM = 7e3, 90.0, (45.0, 0.0, 22.0), 48.0
FINE = Grid.from_centre((0, 0, 0), shape=(26, 71, 71), spacing_mm=(5, 3, 3), directions=np.eye(3))
FRAME = TimeFrame(start_s=0.0, stop_s=2.0)


def _object() -> PetObject:
    """A warm cylinder with a cold rod that scatters as water does."""
    x, y, r = COLD
    rods = [((0.0, 0.0, 0.0), (RADIUS, RADIUS, HALF_MM), -1), ((x, y, 0.0), (r, r, HALF_MM - 0.1), 0)]
    parts = [Cylinder(np.array(c), np.diag(a), Tissue(WATER, np.inf), parent) for c, a, parent in rods]
    return PetObject(body=Phantom(ellipsoids=tuple(parts)), bq_per_ml=(BQ, 0.0))


@cache
def simulation(n_tof: int = 13) -> PetSimulation:
    timed = {} if n_tof > 1 else {"n_tof": 1, "tof_bin_mm": 0.0}
    pet = gantry(n_rings=12, n_crystals=160, ring_pitch_mm=10.0, **timed)
    return PetSimulation(PetExam(pet=pet, duration_s=2.0, block_s=1.0, efficiency=0.6), _object())


@cache
def drawn(n_tof: int = 13) -> tuple[tuple[Events, np.ndarray], ...]:
    return tuple(simulation(n_tof).labelled())


def planted(part: float, n_tof: int = 13) -> list[Events]:
    """The scan with so much of the scatter that was drawn: some dropped, or counted twice."""
    out, rng = [], np.random.default_rng(2)
    for block, kind in drawn(n_tof):
        times = np.ones(len(kind), int)
        scattered = kind == SCATTERED
        times[scattered] = np.floor(part + rng.random(scattered.sum()))
        tof = None if block.tof is None else np.repeat(block.tof, times)
        out.append(replace(block, prompts=np.repeat(block.prompts, times, axis=0), tof=tof))
    return out


def mu() -> Image:
    data = _object().body.render(FINE, subsamples=(2, 2))
    return Image(data=np.maximum(data, 0).astype(np.float32), grid=FINE, unit="1/mm", output="mu")


def fitted(part: float, n_tof: int = 13) -> TailScale:
    """The scale that is fitted to scatter simulated from the true activity."""
    found, norm = simulation(n_tof), simulation(n_tof).normalisation
    pet = found.scan.require_pet()
    model = LineModel(pet, replace(norm, pet=pet), attenuation_of(mu()))
    activity = _object().activity.render(FINE, subsamples=(2, 2)).astype(np.float32)
    per_bq = pet.tracer.branching / pet.calibration_bq_per_cps
    counts = scatter_counts(activity, FINE, model.attenuation, norm=model.normalisation, per_bq=per_bq)
    blocks = planted(part, n_tof)
    pairs = np.concatenate([b.prompts for b in blocks])
    tof = None if n_tof == 1 else np.concatenate([b.tof for b in blocks])

    class Delayed:
        name = "randoms"

        def expected(self, pairs: np.ndarray, tof: np.ndarray | None, frame: TimeFrame) -> np.ndarray:
            singles = found.singles(0.0)
            return 4.5e-9 * 2.0 * singles[pairs[:, 0]] * singles[pairs[:, 1]] / pet.n_tof

    return tail_scale(model, (pairs, tof, None), FRAME, scatter=counts, others=[Delayed()])


@pytest.mark.parametrize(("part", "n_tof"), [(0.7, 13), (1.5, 13), (1.0, 1), (1.5, 1)])
def test_planted_scatter_is_found(part: float, n_tof: int) -> None:
    found = fitted(part, n_tof)
    assert found.found == pytest.approx(part, rel=0.06)
    assert found.overall == pytest.approx(part, rel=0.06)
    assert np.abs(found.factors / part - 1).max() < 0.25
    assert found.verdict.level is Level.PASS and found.clamped == 0
    assert found.verdict.value == found.overall and f"counts say {found.found:.2f}" in found.verdict.evidence


@pytest.mark.parametrize(("part", "limit"), [(3.0, 2.0), (0.1, 0.5)])
def test_what_cannot_be_is_kept_at_a_limit_and_said(part: float, limit: float) -> None:
    found = fitted(part)
    assert found.overall == limit and found.clamped > 0
    assert found.factors.min() >= 0.5 and found.factors.max() <= 2.0
    assert found.verdict.level is Level.FLAG and found.verdict.limit == limit
    assert "do not trust small differences" in found.verdict.advice


def test_planes_get_their_own_scale() -> None:
    """Twice the scatter in one half of the rings, none more in the other."""
    blocks = [e for e, _ in drawn()]
    kinds = [k for _, k in drawn()]
    pet = simulation().scan.require_pet()
    more = []
    for block, kind in zip(blocks, kinds, strict=True):
        low = block.prompts.sum(axis=1) // pet.n_crystals < pet.n_rings
        times = 1 + (low & (kind == SCATTERED))
        more.append(replace(block, prompts=np.repeat(block.prompts, times, axis=0), tof=np.repeat(block.tof, times)))
    (image,), scale = reconstructed(more)
    low, high = scale.factors[0, :10].mean(), scale.factors[0, -10:].mean()
    assert low > 1.3 * high
    assert image.attributes["quantitative"] == "yes"


def reconstructed(blocks: list[Events], **options: object) -> tuple[list[Image], TailScale]:
    scan = simulation().scan
    step = Osem(voxel_mm=6.0, slice_mm=10.0, fov_mm=230.0, n_iterations=3, n_subsets=10, **options)  # type: ignore[arg-type]
    step.open(scan)
    for item in (simulation().normalisation, mu(), *blocks):
        assert not list(step.feed(item))
    images = [i for i in step.close() if isinstance(i, Image)]
    scale = next(b.scale for b in step._data.backgrounds if b.name == "scatter")
    return images, scale


def regions(image: Image) -> tuple[float, float]:
    """Mean of the warm part and of the cold rod [Bq/mL]."""
    z, y, x = (
        image.grid.origin_mm[2 - a] + np.arange(image.grid.shape[a]) * image.grid.spacing_mm[a] for a in range(3)
    )
    slab = np.abs(z) <= 30
    warm = (np.hypot(x[None], y[:, None]) < 70) & (np.hypot(x[None] - COLD[0], y[:, None]) > 34)
    cold = np.hypot(x[None] - COLD[0], y[:, None]) < 9
    return float(image.data[slab][:, warm].mean()), float(image.data[slab][:, cold].mean())


SCALES: dict[str, Callable[[], list[Events]]] = {
    "as simulated": lambda: planted(1.0),
    "half as much again": lambda: planted(1.5),
    "a third less": lambda: planted(0.67),
}


@pytest.mark.parametrize("name", SCALES)
def test_activity_and_cold_rod_are_right_whatever_the_scatter(name: str) -> None:
    (image,), scale = reconstructed(SCALES[name]())
    warm, cold = regions(image)
    assert warm == pytest.approx(BQ, rel=0.02)
    assert cold < 0.06 * BQ
    (verdict,) = [v for v in image.verdicts if v.check == "pet.scatter_scale"]
    assert verdict.value == scale.overall


def test_without_the_scale_more_scatter_is_taken_for_activity() -> None:
    (image,), _ = reconstructed(planted(1.5), scatter_limits=(1.0, 1.0))
    warm, cold = regions(image)
    assert warm > 1.05 * BQ and cold > 0.07 * BQ
    assert [v.level for v in image.verdicts if v.check == "pet.scatter_scale"] == [Level.FLAG]


def test_scatter_from_beyond_the_rings_is_foretold_where_attenuation_is_known() -> None:
    """A cylinder twice as long as the scanner, whose image ends with the rings."""
    pet = gantry(n_rings=8, n_crystals=120, ring_pitch_mm=12.0)
    body = cylinder(radius_mm=90.0, length_mm=240.0, bq_per_ml=BQ)
    found = PetSimulation(PetExam(pet=pet, duration_s=1.0, efficiency=0.8, randoms="none"), body)
    pet = found.scan.require_pet()
    inside = Grid.from_centre((0, 0, 0), shape=(15, 41, 41), spacing_mm=(6, 5, 5), directions=np.eye(3))
    activity = body.activity.render(inside, subsamples=(1, 2)).astype(np.float32)
    blocks, per_bq = list(found.events()), pet.tracer.branching / pet.calibration_bq_per_cps
    pairs, tof = np.concatenate([b.prompts for b in blocks]), np.concatenate([b.tof for b in blocks])
    scales = []
    for planes in (41, 15):
        grid = Grid.from_centre((0, 0, 0), shape=(planes, 41, 41), spacing_mm=(6, 5, 5), directions=np.eye(3))
        mu = np.maximum(body.body.render(grid, subsamples=(1, 2)), 0).astype(np.float32)
        seen = attenuation_of(Image(data=mu, grid=grid, unit="1/mm"))
        model = LineModel(pet, replace(found.normalisation, pet=pet), seen)
        counts = scatter_counts(activity, inside, seen, norm=model.normalisation, per_bq=per_bq)
        frame = TimeFrame(start_s=0.0, stop_s=1.0)
        scales.append(tail_scale(model, (pairs, tof, None), frame, scatter=counts, others=[]).found)
    assert scales[0] == pytest.approx(1.0, abs=0.07)
    assert scales[1] > scales[0] + 0.08


@pytest.mark.parametrize("limits", [(2.0, 0.5), (0.0, 1.0)])
def test_limits_that_are_none_are_refused(limits: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match=r"pet\.osem: expected scatter_limits above 0, the least first, got"):
        Osem(scatter_limits=limits)
    assert make("pet.osem", {"scatter_limits": [0.8, 1.2]}, where="test").scatter_limits == (0.8, 1.2)
