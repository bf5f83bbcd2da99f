"""Single scatter simulation against scatter that was drawn photon by photon."""

from __future__ import annotations

import numpy as np
import pytest

from acquisition.errors import ConfigError, DataError
from acquisition.geometry import Grid
from acquisition.items import Image
from acquisition.sources.phantom.pet import SCATTERED, PetSimulation
from acquisition.sources.phantom.pet_exam import PetExam, gantry
from acquisition.sources.phantom.pet_objects import cylinder
from recon.pet.scatter import Scatter, ScatterOptions, simulate

GRID = Grid.from_centre((0, 0, 0), shape=(16, 60, 60), spacing_mm=(8, 6, 6), directions=np.eye(3))


@pytest.fixture(scope="module")
def simulation() -> PetSimulation:
    body = cylinder(radius_mm=90, length_mm=120).transformed(np.eye(3), (40, 10, 0))
    return PetSimulation(PetExam(duration_s=1.0, randoms="none"), body)


@pytest.fixture(scope="module")
def drawn(simulation: PetSimulation) -> tuple[np.ndarray, np.ndarray]:
    parts = [(e.prompts[k == SCATTERED], e.tof[k == SCATTERED]) for e, k in simulation.labelled()]
    pairs, tof = zip(*parts, strict=True)
    return np.concatenate(pairs), np.concatenate(tof)


@pytest.fixture(scope="module")
def scatter(simulation: PetSimulation) -> Scatter:
    return simulate(*_volumes(simulation), simulation.normalisation)


def _volumes(simulation: PetSimulation) -> tuple[Image, Image]:
    found = simulation.object_at(0.0)
    activity = found.activity.render(GRID, subsamples=(2, 2))
    return Image(data=activity, grid=GRID, unit="Bq/mL"), Image(
        data=found.body.render(GRID, subsamples=(2, 2)), grid=GRID, unit="1/mm"
    )


def _lines(n: int = 500_000) -> tuple[np.ndarray, float]:
    pairs = np.sort(np.random.default_rng(0).integers(0, 3840, (n, 2)), axis=1).astype(np.int32)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return pairs, 3840 * 3839 / 2 / len(pairs)


def _away(pairs: np.ndarray) -> np.ndarray:
    return 340 * np.abs(np.cos(np.pi * (pairs[:, 0] - pairs[:, 1]) / 240))


def test_counts_and_shape_are_those_drawn(simulation, drawn, scatter) -> None:
    pairs, each = _lines()
    pet = simulation.scan.require_pet()
    expected = scatter.integrals(pairs) * each * pet.tracer.branching / pet.calibration_bq_per_cps
    assert expected.sum() == pytest.approx(len(drawn[0]), rel=0.04)
    edges = np.arange(0, 181, 30)
    for of, bins in ((_away, edges), (lambda p: np.abs(p[:, 0] // 240 - p[:, 1] // 240), np.arange(0, 16, 3))):
        found = np.histogram(of(pairs), bins, weights=expected)[0]
        truth = np.histogram(of(drawn[0]), bins)[0]
        np.testing.assert_allclose(found, truth, rtol=0.06)


def test_time_of_flight_bins_are_those_drawn_and_add_up(simulation, drawn, scatter) -> None:
    pairs, _ = _lines(60_000)
    bins = np.arange(13)
    parts = np.array([scatter.integrals(pairs, np.full(len(pairs), b, np.int16)) for b in bins])
    np.testing.assert_allclose(parts.sum(axis=0), scatter.integrals(pairs), rtol=1e-4, atol=1e-6)
    share, truth = parts.sum(axis=1) / parts.sum(), np.bincount(drawn[1], minlength=13) / len(drawn[1])
    np.testing.assert_allclose(share, truth, atol=0.01)
    swapped = scatter.integrals(pairs[:, ::-1].copy(), np.full(len(pairs), 5, np.int16))
    np.testing.assert_allclose(swapped, parts[7], rtol=1e-3, atol=parts.max() * 1e-5)


def test_sides_are_told_apart(simulation, drawn, scatter) -> None:
    """The object lies at +x: time of flight and lines must lean there, not to the other side."""
    line = np.array([[8 * 240, 8 * 240 + 120]], np.int32)
    towards = [float(scatter.integrals(line, np.array([b], np.int16))[0]) for b in range(13)]
    assert np.dot(np.arange(13) - 6, towards) < 0
    across = np.array([[240 * 8 + k, 240 * 9 - k] for k in (50, 70)], np.int32)
    left, right = scatter.integrals(across)
    assert left > 1.3 * right


def test_it_is_proportional(simulation, scatter) -> None:
    activity, mu = _volumes(simulation)
    twice = simulate(Image(data=2 * activity.data, grid=GRID), mu, simulation.normalisation)
    np.testing.assert_allclose(twice.table, 2 * scatter.table, rtol=1e-4, atol=1e-6 * scatter.table.max())
    pairs, _ = _lines(1000)
    np.testing.assert_allclose(scatter.scaled(1.3).integrals(pairs), 1.3 * scatter.integrals(pairs), rtol=1e-5)


def test_without_time_of_flight_the_sum_remains(simulation, scatter) -> None:
    plain = PetSimulation(PetExam(pet=gantry(n_tof=1, tof_bin_mm=0.0), duration_s=1.0), cylinder())
    found = simulate(*_volumes(simulation), plain.normalisation)
    pairs, _ = _lines(2000)
    np.testing.assert_allclose(found.integrals(pairs).sum(), scatter.integrals(pairs).sum(), rtol=0.02)


def test_what_does_not_fit_is_refused(simulation) -> None:
    activity, mu = _volumes(simulation)
    other = Grid.from_centre((5, 0, 0), shape=(16, 60, 60), spacing_mm=(8, 6, 6), directions=np.eye(3))
    with pytest.raises(DataError, match="one grid along x, y and z"):
        simulate(activity, Image(data=mu.data, grid=other), simulation.normalisation)
    with pytest.raises(ConfigError, match="2 rings, 8 angles or more"):
        ScatterOptions(rings=1)
