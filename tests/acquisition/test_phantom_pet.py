"""The virtual PET scanner: counts as solid angle, attenuation, decay and chance have it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.errors import ConfigError
from acquisition.geometry import Grid
from acquisition.items import Events, Waveform
from acquisition.pet_geometry import detectors_mm
from acquisition.pet_norm import blocks
from acquisition.sources.phantom.pet import RANDOM, SCATTERED, TRUE, PetSimulation
from acquisition.sources.phantom.pet_exam import F18, PetExam, gantry
from acquisition.sources.phantom.pet_faults import PetFaults, PetMotion, drift, jump
from acquisition.sources.phantom.pet_objects import PetObject, brain, breathing_torso, cylinder, nema_body, point, torso

QUIET = {"scatter": "none", "randoms": "none", "spread": 0.0}


def _all(simulation: PetSimulation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    parts = [(e.prompts, e.tof, k) for e, k in simulation.labelled()]
    pairs, tof, kind = zip(*parts, strict=True)
    return np.concatenate(pairs), np.concatenate(tof), np.concatenate(kind)


def _between(simulation: PetSimulation, n: int = 400_000) -> np.ndarray:
    """Return random lines and the number of lines that each stands for."""
    total = simulation.exam.pet.n_rings * simulation.exam.pet.n_crystals
    pairs = np.random.default_rng(0).integers(0, total, (n, 2)).astype(np.int32)
    return np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)


def test_a_point_in_the_middle_is_seen_under_the_rings_solid_angle() -> None:
    simulation = PetSimulation(PetExam(duration_s=2.0, efficiency=0.5, **QUIET), point(bq=1e6))
    counts = [len(e) for e in simulation.events()]
    angle = 64 / np.hypot(64, 340)
    expected = 1e6 * 0.9673 * 0.5**2 * angle * 0.5
    assert np.mean(counts) == pytest.approx(expected, rel=4 / np.sqrt(sum(counts)))
    moved = PetSimulation(PetExam(duration_s=0.5, efficiency=0.5, **QUIET), point((0.0, 0.0, 60.0), bq=1e6))
    assert len(moved.block(0)[0]) < 0.15 * expected


def test_counts_of_blocks_are_poisson() -> None:
    exam = PetExam(duration_s=20.0, block_s=0.05, **QUIET)
    counts = np.array([len(e) for e in PetSimulation(exam, point(bq=1e5)).events()])
    assert len(counts) == 400 and counts.var() / counts.mean() == pytest.approx(1, abs=0.25)


def test_time_of_flight_has_its_width_and_its_sign() -> None:
    exam = PetExam(pet=gantry(n_tof=101, tof_bin_mm=5.0, ctr_ps=300.0), duration_s=1.0, **QUIET)
    place = np.array([60.0, -30.0, 10.0])
    pairs, tof, _ = _all(PetSimulation(exam, point(tuple(place), bq=1e6)))
    ends = detectors_mm(exam.pet)[pairs].astype(float)
    line = ends[:, 1] - ends[:, 0]
    line /= np.linalg.norm(line, axis=1, keepdims=True)
    expected = ((place - ends.mean(axis=1)) * line).sum(axis=1)
    off = (tof - 50) * 5.0 - expected
    assert off.mean() == pytest.approx(0, abs=0.5)
    assert off.std() * 2.3548 == pytest.approx(exam.pet.tof_fwhm_mm, rel=0.03)
    assert exam.pet.tof_fwhm_mm == pytest.approx(44.97, rel=1e-3)


def test_the_middle_of_a_cylinder_is_attenuated_by_both_halves() -> None:
    exam = PetExam(duration_s=2.0, **QUIET)
    hot = cylinder(radius_mm=2.0, length_mm=4.0, bq_per_ml=2e7)
    body = cylinder(radius_mm=100.0, length_mm=400.0).body.ellipsoids[0]
    inner = replace(hot.body.ellipsoids[0], parent=0)
    inside = PetObject(body=replace(hot.body, ellipsoids=(body, inner)), bq_per_ml=(0.0, 2e7))
    air = PetObject(
        body=replace(hot.body, ellipsoids=(replace(inner, parent=-1, tissue=point().body.ellipsoids[0].tissue),)),
        bq_per_ml=(2e7,),
    )
    free, dimmed = (sum(map(len, PetSimulation(exam, o).events())) for o in (air, inside))
    assert dimmed / free == pytest.approx(np.exp(-200 * 0.0096), rel=0.03)


def test_lines_count_what_normalisation_attenuation_and_calibration_say() -> None:
    exam = PetExam(duration_s=1.0, randoms="none", spread=0.15)
    simulation = PetSimulation(exam, cylinder(radius_mm=80, length_mm=400, bq_per_ml=3e3))
    counted, _, kind = _all(simulation)
    lines = _between(simulation)
    lines = lines[(lines[:, 0] - lines[:, 1]) % 240 != 0]
    away = 340 * np.abs(np.cos(np.pi * (lines[:, 0] - lines[:, 1]) / 240))
    ends = detectors_mm(exam.pet)[lines].astype(float)
    slope = np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1) / np.hypot(*(ends[:, 1] - ends[:, 0])[:, :2].T)
    chord = 2 * np.sqrt(np.maximum(80**2 - away**2, 0)) * slope
    pet = simulation.scan.require_pet()
    expected = 3e3 * chord * simulation.normalisation.efficiency(lines) * simulation.attenuation(lines)
    n = 3840 * (3840 - 16) / 2 / len(lines)
    total = expected.sum() * n * pet.tracer.branching / pet.calibration_bq_per_cps
    trues = counted[kind == TRUE]
    assert len(trues) == pytest.approx(total, rel=0.02)
    counts, model = np.bincount(trues.ravel(), minlength=3840), simulation.normalisation.crystals
    good = model > 1
    ratio = counts[good].mean() / counts[~good].mean()
    assert ratio == pytest.approx(model[good].mean() / model[~good].mean(), rel=0.03) and ratio > 1.2
    assert 0.2 < (kind == SCATTERED).sum() / len(trues) < 0.6


def test_delayeds_are_like_randoms_and_these_grow_with_the_square() -> None:
    exam = PetExam(duration_s=1.0, scatter="none")
    found = {}
    for level in (1e4, 2e4):
        simulation = PetSimulation(exam, cylinder(bq_per_ml=level, radius_mm=60))
        randoms, late, singles = 0, 0, simulation.singles(0.0)
        for events, kind in simulation.labelled():
            randoms, late = randoms + (kind == RANDOM).sum(), late + len(events.delayeds)
            assert set(np.unique(events.delayed_tof)) == set(range(13))
        assert randoms == pytest.approx(late, rel=5 / np.sqrt(late))
        a, b = np.divmod(np.arange(240)[:, None] - np.arange(240), 240)[1], 0
        near = np.abs(340 * np.cos(np.pi * (a + b) / 240)) <= exam.fov_mm
        ring = singles.reshape(16, 240).sum(axis=0)
        assert late == pytest.approx(4.5e-9 * (ring @ near @ ring) / 2, rel=0.02)
        found[level] = late
    assert found[2e4] / found[1e4] == pytest.approx(4, rel=0.03)


def test_counts_decay() -> None:
    tracer = replace(gantry().tracer, half_life_s=2.0)
    exam = PetExam(pet=gantry(tracer=tracer), duration_s=6.0, block_s=1.0, **QUIET)
    counts = np.array([len(e) for e in PetSimulation(exam, point(bq=4e5)).events()])
    np.testing.assert_allclose(counts[1:] / counts[:-1], 0.5**0.5, atol=0.03)
    lam = np.log(2) / 2
    assert counts[0] / PetSimulation(exam, point(bq=4e5)).n_blocks > 0
    assert counts.sum() == pytest.approx(counts[0] * (1 - np.exp(-6 * lam)) / (1 - np.exp(-lam)), rel=0.02)


def test_dead_time_takes_counts_and_singles_show_it() -> None:
    body = cylinder(bq_per_ml=2e4, radius_mm=60)
    exam = PetExam(duration_s=0.5, scatter="none")
    slow = replace(exam, dead_time_s=5e-7)
    free, busy = (PetSimulation(e, body).block(0)[0] for e in (exam, slow))
    group, n = blocks(exam.pet)
    met = np.bincount(group, PetSimulation(exam, body).singles(0.25), n)
    np.testing.assert_allclose(busy.singles / 0.5, met * np.exp(-met * 5e-7), rtol=0.02)
    live = np.exp(-met * 5e-7).mean()
    assert live < 0.97 and len(busy) / len(free) == pytest.approx(live**2, rel=0.03)


def test_every_block_repeats_and_seeds_differ() -> None:
    exam = PetExam(duration_s=0.4, block_s=0.2)
    a, b = PetSimulation(exam, cylinder(bq_per_ml=500)), PetSimulation(exam, cylinder(bq_per_ml=500))
    first = a.block(1)[0]
    again = list(b.events())[1]
    np.testing.assert_array_equal(first.prompts, again.prompts)
    np.testing.assert_array_equal(first.tof, again.tof)
    assert (first.start_s, first.stop_s) == (0.2, 0.4) and (first.prompts[:, 0] < first.prompts[:, 1]).all()
    other = PetSimulation(replace(exam, seed=2), cylinder(bq_per_ml=500)).block(1)[0]
    assert len(other) != len(first) or (other.prompts != first.prompts).any()


def test_the_header_places_crystals_as_the_geometry_does() -> None:
    """A point near the rings is counted by the crystal that lies there, whichever way they are numbered."""
    for turn, first in ((1, 0.0), (-1, 0.7)):
        pet = gantry(turn=turn, first_angle_rad=first, max_ring_difference=5)
        pairs, _, _ = _all(PetSimulation(PetExam(pet=pet, duration_s=0.5, **QUIET), point((300.0, 20.0, 30.0), bq=1e6)))
        place = detectors_mm(pet)
        near = place[np.unique(pairs)[np.argmax(np.bincount(pairs.ravel())[np.unique(pairs)])]]
        np.testing.assert_allclose(near, [339, 22, 30], atol=12)
        assert np.abs(np.diff(pairs // 240, axis=1)).max() == 5


def test_patients_move_breathe_and_blocks_fail() -> None:
    motion = PetMotion(times_s=(1.0, 3.0), shifts_mm=((0, 0, 0), (10, 0, -4)), turns_deg=(0.0, 90.0))
    assert motion.pose(2.0) == ((5.0, 0.0, -2.0), 45.0)
    simulation = PetSimulation(
        PetExam(
            faults=PetFaults(motion=jump(1.0, (0, 0, 20), turn_deg=90), blocks=((2, 1.0, 0.0),)),
            duration_s=2.0,
            **QUIET,
        ),
        point((40.0, 0.0, 0.0), bq=1e5),
    )
    np.testing.assert_allclose(simulation.object_at(0.5).body.ellipsoids[0].centre, [40, 0, 0], atol=1e-9)
    np.testing.assert_allclose(simulation.object_at(1.5).body.ellipsoids[0].centre, [0, 40, 20], atol=1e-9)
    group, _ = blocks(simulation.exam.pet)
    for n, dead in ((0, False), (3, True)):
        assert (not (group[simulation.block(n)[0].prompts] == 2).any()) == dead
    assert drift(0.0, 4.0, (8, 0, 0)).pose(1.0)[0][0] == 2.0
    lost = PetSimulation(
        PetExam(faults=PetFaults(dropouts=((0.25, 9.0, 0.0),)), duration_s=1.0, **QUIET), point(bq=1e6)
    )
    a, b = (len(e) for e in lost.events())
    assert b == 0 and a > 10_000
    breathing = PetSimulation(PetExam(breath_s=4.0, duration_s=4.0), breathing_torso(3))
    low = [breathing.object_at(t).body.ellipsoids[11].centre[2] for t in (0.0, 2.0)]
    assert low[1] < low[0] - 15
    assert isinstance(next(iter(breathing.items())), Waveform)


def test_objects_hold_the_activity_they_say() -> None:
    grid = Grid.from_centre((0, 0, 0), shape=(20, 160, 160), spacing_mm=(1, 2, 2), directions=np.eye(3))
    nema = nema_body(cold=(5,))
    volume = nema.activity.render(grid)
    assert volume[10, 80, 80] == 0 and volume.max() == pytest.approx(4 * 5300, rel=1e-6)
    x, y, _ = nema.landmarks_mm["sphere_37"]
    assert nema.activity.signal((x, y, 0)) == 0 and nema.body.signal((x, y, 0)) == pytest.approx(0.0096)
    assert len({tuple(np.round(torso(s).bq_per_ml, 3)) for s in range(5)}) == 5
    for body in (torso(4), brain(2)):
        assert body.body.signal(np.zeros((1, 3))) > 0 and min(body.bq_per_ml) >= 0
    assert any(name.startswith("lesion") for name in torso(4).landmarks_mm)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ConfigError, match="efficiency of up to 1"):
        PetExam(efficiency=1.2)
    with pytest.raises(ConfigError, match=r"fit into rings of 340\.0 mm"):
        PetSimulation(PetExam(duration_s=0.5), cylinder(radius_mm=338)).block(0)
    with pytest.raises(ConfigError, match="0 Bq/mL or more"):
        PetObject(body=cylinder().body, bq_per_ml=(-1.0,))
    with pytest.raises(ConfigError, match="times that grow"):
        PetMotion(times_s=(2.0, 1.0), shifts_mm=((0, 0, 0), (1, 0, 0)))
    with pytest.raises(ConfigError, match="parts from 0 to 1"):
        PetFaults(dropouts=((0.0, 1.0, 2.0),))
    assert isinstance(PetSimulation(PetExam(duration_s=0.5), point()).block(0)[0], Events)


def test_the_table_carries_the_patient_from_position_to_position() -> None:
    exam = PetExam(
        pet=gantry(tracer=replace(F18, half_life_s=8.0)),
        duration_s=1.0,
        block_s=0.5,
        beds_mm=(0.0, -40.0, -80.0),
        bed_pause_s=3.0,
        **QUIET,
    )
    simulation = PetSimulation(exam, point((0.0, 0.0, 40.0), bq=3e5))
    found = list(simulation.events())
    assert [(e.start_s, e.stop_s, e.bed_mm) for e in found[1:5]] == [
        (0.5, 1.0, 0.0),
        (4.0, 4.5, -40.0),
        (4.5, 5.0, -40.0),
        (8.0, 8.5, -80.0),
    ]
    assert simulation.scan.require_pet().beds_mm == exam.beds_mm
    ring = [float((e.prompts // 240).mean() - 7.5) * 8.0 for e in found]
    np.testing.assert_allclose(ring, np.repeat([40.0, 0.0, -40.0], 2), atol=1.5)
    counts = np.array([len(e) for e in found])
    assert counts[4] / counts[0] == pytest.approx(0.5, rel=0.05)  # as far from the middle, one half-life later
    with pytest.raises(ConfigError, match="a position of the table"):
        PetExam(beds_mm=())
