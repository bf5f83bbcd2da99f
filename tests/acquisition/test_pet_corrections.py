"""Corrections of PET data against formulas, and randoms against what was drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.errors import ConfigError, DataError
from acquisition.geometry import Grid
from acquisition.items import Image, TimeFrame
from acquisition.pet import decay_factor, live_part, mu_map, mu_of_hu, rate_factor
from acquisition.pet_norm import Normalisation, blocks, central_bq_per_cps, uniform
from acquisition.pet_randoms import from_delayeds, from_singles
from acquisition.sources.phantom.pet import RANDOM, PetSimulation
from acquisition.sources.phantom.pet_exam import F18, PetExam, gantry
from acquisition.sources.phantom.pet_objects import cylinder


def test_decay_over_a_frame_is_the_integral() -> None:
    frame = TimeFrame(start_s=600.0, stop_s=1800.0)
    lam = np.log(2) / F18.half_life_s
    t = np.linspace(600, 1800, 20001)
    mean = np.exp(-lam * t).mean()
    assert decay_factor(F18, frame) * mean == pytest.approx(1, rel=1e-4)
    assert decay_factor(F18, frame, reference_s=600.0) * mean * np.exp(lam * 600) == pytest.approx(1, rel=1e-4)
    assert rate_factor(F18, frame) == pytest.approx(decay_factor(F18, frame) / 0.9673 / 1200)
    assert decay_factor(F18, TimeFrame(start_s=0, stop_s=1e-3)) == pytest.approx(1, abs=1e-6)
    with pytest.raises(DataError, match="longer than 0 s"):
        decay_factor(F18, TimeFrame(start_s=5, stop_s=5))
    with pytest.raises(DataError, match="branching: expected more than 0"):
        rate_factor(replace(F18, branching=0.0), frame)


def test_dead_time_is_undone() -> None:
    met = np.array([0.0, 1e3, 1e5, 9e5])
    np.testing.assert_allclose(live_part(met * np.exp(-met * 1e-6), 1e-6), np.exp(-met * 1e-6), rtol=1e-9)
    np.testing.assert_array_equal(live_part(met, 0.0), 1)
    with pytest.raises(DataError, match="at most 367879 counts per s"):
        live_part(4e5, 1e-6)


def test_ct_numbers_become_attenuation_by_the_tables() -> None:
    np.testing.assert_allclose(mu_of_hu([-1000, 0, 1000]), [0, 0.0096, 0.0096 + 5.73e-3], atol=1e-7)
    np.testing.assert_allclose(mu_of_hu([1000.0], kvp=140, vendor="GE MEDICAL SYSTEMS"), [0.0154], rtol=1e-5)
    np.testing.assert_allclose(mu_of_hu([1000.0], kvp=80), [0.01373], rtol=1e-5)
    assert (np.diff(mu_of_hu(np.arange(-1100.0, 2000.0))) >= -2e-5).all()
    with pytest.raises(ConfigError, match="one of 80, 100, 120, 140 kV, got 90"):
        mu_of_hu(0, kvp=90)


def test_a_ct_is_put_on_the_grid_of_pet() -> None:
    fine = Grid.from_centre((5, -3, 20), shape=(20, 100, 100), spacing_mm=(3, 2, 2), directions=np.eye(3))
    body = cylinder(radius_mm=60, length_mm=400).body
    hu = (body.render(fine) / 0.0096 - 1) * 1000
    coarse = Grid.from_centre((0, 0, 20), shape=(6, 30, 34), spacing_mm=(8, 6, 6), directions=np.eye(3))
    mu = mu_map(Image(data=hu, grid=fine, unit="HU"), coarse, fwhm_mm=6.0)
    truth = body.render(coarse, subsamples=(1, 4))
    assert mu.grid is coarse and mu.unit == "1/mm"
    assert np.abs(mu.data.sum(axis=(1, 2)) / truth.sum(axis=(1, 2)) - 1).max() < 0.01
    assert mu.data[3, 15, 17] == pytest.approx(0.0096, rel=1e-3)
    assert np.abs(mu.data - truth).max() < 0.006
    with pytest.raises(DataError, match="in HU"):
        mu_map(mu, coarse)


def test_efficiency_is_crystals_times_solid_angle() -> None:
    pet = gantry()
    norm = uniform(pet, fov_mm=300.0)
    pairs = np.array([[0, 120], [0, 15 * 240 + 120], [0, 80], [0, 2], [5, 125]], np.int32)
    e = norm.efficiency(pairs)
    assert e[0] == pytest.approx(1) and e[4] == pytest.approx(1)
    assert e[1] == pytest.approx((680 / np.hypot(680, 120)) ** 4, rel=1e-5)
    chord, cos = 680 * np.sin(np.pi / 3), np.sin(np.pi / 3)
    assert e[2] == pytest.approx(cos**2 * (680 / chord) ** 2, rel=1e-5) and e[3] == 0
    halved = Normalisation(pet=replace(pet, max_ring_difference=3), crystals=norm.crystals / 2, fov_mm=300.0)
    np.testing.assert_allclose(halved.efficiency(pairs)[:2], [0.25, 0])
    np.testing.assert_allclose(halved.efficiency(pairs[:, ::-1].copy()), halved.efficiency(pairs))
    area = 8 * 2 * np.pi * 340 / 240
    assert central_bq_per_cps(pet) == pytest.approx(1000 * 2 * np.pi * 680**2 / area**2)
    with pytest.raises(DataError, match="3840 finite numbers"):
        Normalisation(pet=pet, crystals=np.ones(3, np.float32), fov_mm=300.0)
    group, n = blocks(pet)
    assert n == 48 and (np.bincount(group) == 80).all() and group[8 * 240] == 24


def test_randoms_from_delayeds_are_those_that_were_drawn() -> None:
    simulation = PetSimulation(
        PetExam(duration_s=1.0, scatter="none"), cylinder(bq_per_ml=8e3).transformed(np.eye(3), (60, 0, 0))
    )
    late, drawn = [], []
    for events, kind in simulation.labelled():
        late.append(events.delayeds)
        drawn.append(events.prompts[kind == RANDOM])
    late, drawn = np.concatenate(late), np.concatenate(drawn)
    pet = simulation.exam.pet
    fitted = from_delayeds(pet, late, fov_mm=300.0)
    assert fitted.total == pytest.approx(len(late), rel=1e-6)
    lines = np.random.default_rng(0).integers(0, 3840, (300_000, 2)).astype(np.int32)
    lines = lines[simulation.normalisation.efficiency(lines) > 0]
    singles = simulation.singles(0.0)
    truth = 4.5e-9 * singles[lines[:, 0]] * singles[lines[:, 1]]
    found = fitted.counts(lines)
    error = np.sqrt(((found - truth) ** 2).mean()) / truth.mean()
    raw = 1 / np.sqrt(truth.mean())
    assert error < 0.2 and error < raw / 10
    assert found.sum() == pytest.approx(truth.sum(), rel=0.01)
    exact = from_singles(pet, singles, window_ns=4.5, duration_s=1.0)
    np.testing.assert_allclose(exact.counts(lines), truth, rtol=1e-9)
    np.testing.assert_allclose(exact.per_bin(lines) * 13, truth, rtol=1e-9)
    near = exact.counts(drawn).mean() / exact.counts(late).mean()
    assert near == pytest.approx(1, abs=0.02)
    assert from_delayeds(pet, late[:0]).total == 0
    with pytest.raises(DataError, match="detectors 0 to 3839"):
        from_delayeds(pet, np.array([[0, 4000]], np.int32))
    with pytest.raises(DataError, match="3840 rates"):
        from_singles(pet, singles[:5], window_ns=4.5, duration_s=1.0)


def test_lines_that_are_never_counted_take_no_randoms() -> None:
    """A sinogram narrower than the rings: what was counted must not be shared out among lines beyond it."""
    pet = replace(gantry(n_rings=4, n_crystals=120), fov_mm=200.0)
    rng = np.random.default_rng(1)
    pairs = np.sort(rng.integers(0, 480, (400_000, 2)), axis=1).astype(np.int32)
    turn = np.pi * ((pairs[:, 0] - pairs[:, 1]) % 120) / 120
    counted = pairs[(340 * np.abs(np.cos(turn)) <= 200) & (pairs[:, 0] % 120 != pairs[:, 1] % 120)]
    lines = np.stack(np.triu_indices(480, 1), axis=-1).astype(np.int32)
    lines = lines[uniform(pet).efficiency(lines) > 0]
    assert from_delayeds(pet, counted).counts(lines).sum() == pytest.approx(len(counted), rel=0.002)
    wide = from_delayeds(replace(pet, fov_mm=None), counted)
    assert wide.counts(lines).sum() < 0.6 * len(counted)
    singles = np.full(480, 1e4)
    rate = from_singles(pet, singles, window_ns=4.0, duration_s=1.0)
    assert rate.total == pytest.approx(rate.counts(lines).sum(), rel=1e-6)
