"""Drifted channels: planted, found and taken out; a patient without them is left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.ct import Air
from acquisition.ct_rings import CheckRings, Rings, Stripes
from acquisition.errors import ConfigError, DataError
from acquisition.items import Projections
from acquisition.sources.phantom.ct import CtExam, CtSimulation, gantry
from acquisition.sources.phantom.ct_faults import CtFaults
from acquisition.sources.phantom.ct_objects import water
from acquisition.sources.phantom.ct_people import person
from acquisition.verdict import Level
from kernels.ct_stripes import REACH, gather_stripes
from tests.acquisition.ct_samples import HELICAL, line_blocks, sent, through, verdict, views

AXIAL = gantry(mode="axial", n_rows=2, centre=(0.5, 183.75))
GAINS = ((0, 120, 0.02), (1, 131, -0.03), (0, 220, -0.015), (1, 240, 0.04))


@pytest.mark.parametrize("step", [1, 2, 3])
def test_the_kernel_sums_what_the_loop_says(step: int) -> None:
    rng = np.random.default_rng(1)
    n = 80
    lines = rng.normal(0, 0.02, (7, 2, n)).astype(np.float32)
    lines[3, 1, 40:] += 1
    lines[5, 0, : 4 * step] += 1
    batch = np.array([0, 0, 1, 1, 1, 0, 1])
    sums, counts = np.zeros((2, 2, n)), np.zeros((2, 2, n), np.int64)
    gather_stripes(lines, batch, (step, 0.15), sums, counts)
    stencil = np.zeros(4 * step + 1)
    stencil[::step] = np.array([1, -4, 6, -4, 1]) / 6
    expected, number = np.zeros_like(sums), np.zeros_like(counts)
    inner = range(2 * step, n - 2 * step)
    for v in range(7):
        for r in range(2):
            rest = np.zeros(n)
            rest[inner] = np.convolve(lines[v, r].astype(float), stencil, mode="valid")
            edges = np.flatnonzero(np.abs(rest) > 0.15)
            for c in inner:
                if not bool((np.abs(edges - c) <= REACH * step).any()):
                    expected[batch[v], r, c] += rest[c]
                    number[batch[v], r, c] += 1
    np.testing.assert_array_equal(counts, number)
    np.testing.assert_allclose(sums, expected, atol=1e-6)
    assert counts[1, 1, 40] == 3 and counts[1, 0, 40] == 4


@pytest.mark.parametrize("region", ["chest", "abdomen"])
def test_offsets_are_those_planted(region: str) -> None:
    exam = CtExam(ct=AXIAL, turns=1.0, faults=CtFaults(gains=GAINS))
    simulation = CtSimulation(exam, person(region, 1))
    step = Rings()
    items = through([Air(), step], simulation)
    clean = simulation.lines()
    planted = views(through([Air()], simulation)) - clean
    left = views(items) - clean
    for row, channel, gain in GAINS:
        assert planted[:, row, channel] == pytest.approx(-np.log(1 + gain), abs=2e-3)
        assert np.abs(left[:, row, channel]).max() < 0.25 * abs(np.log(1 + gain))
    assert np.square(left).mean() < 0.1 * np.square(planted).mean()
    found = verdict(items, "ct.rings")
    assert found.level is Level.FLAG and "calibrate in air" in found.advice
    assert found.value == pytest.approx(4.0, rel=0.2) and "row 1 channel 240" in found.evidence


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_scan_without_drift_is_left_alone(seed: int) -> None:
    for region in ("chest", "abdomen", "head"):
        simulation, blocks = line_blocks(CtExam(ct=AXIAL, turns=1.0, seed=seed), person(region, seed))
        items = sent([Rings()], simulation, blocks)
        assert verdict(items, "ct.rings").level is Level.PASS
        assert np.sqrt(np.square(views(items) - views(blocks)).mean()) < 7e-4
        noisy, blocks = line_blocks(CtExam(ct=AXIAL, turns=1.0, seed=seed, photons=3e5), person(region, seed))
        assert verdict(sent([CheckRings()], noisy, blocks), "check.ct_rings").level is Level.PASS


def test_even_a_centred_cylinder_keeps_its_edge() -> None:
    simulation, blocks = line_blocks(CtExam(ct=AXIAL, turns=1.0), water(100))
    change = views(sent([Rings()], simulation, blocks)) - views(blocks)
    assert np.abs(change).max() < 5e-3


def test_random_drift_of_all_channels_loses_its_fine_part() -> None:
    exam = CtExam(ct=AXIAL, turns=1.0, photons=3e5, faults=CtFaults(gain_sd=0.01))
    simulation, blocks = line_blocks(exam, person("chest", 2))
    wrong = views(blocks) - simulation.lines()
    left = views(sent([Rings()], simulation, blocks)) - simulation.lines()

    def fine(rest: np.ndarray) -> float:
        mean = rest.mean(axis=0)
        return float(np.median(np.abs(np.diff(mean, 2, axis=-1))))

    assert fine(left) < 0.35 * fine(wrong)


def test_blocks_of_any_size_give_the_same_and_only_half_a_turn_is_held() -> None:
    exam = CtExam(ct=HELICAL, turns=2.3, feed_mm=10.0, faults=CtFaults(gain_sd=0.01))
    made = []
    for block in (1, 50, 999):
        simulation, blocks = line_blocks(exam, person("abdomen", 1), block=block)
        step = Rings()
        step.open(simulation.scan)
        held = 0
        out = []
        for item in blocks:
            out += list(step.feed(item))
            held = max(held, sum(len(b) for b in step._held))
        assert held <= HELICAL.views_per_rotation // 2
        made.append(views([*out, *step.close()]))
    np.testing.assert_allclose(made[1], made[0], atol=1e-6)
    np.testing.assert_allclose(made[2], made[0], atol=1e-6)


def test_checking_changes_nothing() -> None:
    exam = CtExam(ct=AXIAL, turns=0.7, faults=CtFaults(gains=GAINS))
    simulation, blocks = line_blocks(exam, person("chest", 1))
    items = sent([CheckRings()], simulation, blocks)
    assert all(a is b for a, b in zip(items, blocks, strict=False))
    assert verdict(items, "check.ct_rings").level is Level.FLAG


def test_less_than_half_a_turn_is_used_as_far_as_it_goes() -> None:
    exam = CtExam(ct=AXIAL, turns=0.4, faults=CtFaults(gains=GAINS))
    simulation, blocks = line_blocks(exam, person("chest", 1))
    items = sent([Rings()], simulation, blocks)
    assert np.abs(views(items) - simulation.lines())[:, 1, 240].max() < 0.01
    short, blocks = line_blocks(replace(exam, turns=0.1), person("chest", 1))
    np.testing.assert_array_equal(views(sent([Rings()], short, blocks)), views(blocks))


def test_what_is_unknown_stays_zero() -> None:
    stripes = Stripes((1, 30), half_turn=48, drift=0.02, edge=0.15)
    stripes.add(np.random.default_rng(1).normal(0, 5, (48, 1, 30)).astype(np.float32))
    assert not stripes.offsets.any() and stripes.missing == 48


def test_wrong_input_is_refused() -> None:
    simulation, blocks = line_blocks(CtExam(ct=AXIAL, turns=0.2))
    step = Rings()
    step.open(simulation.scan)
    assert list(step.feed("other")) == ["other"]
    assert isinstance(blocks[0], Projections)
    with pytest.raises(DataError, match=r"put ct\.air before"):
        list(step.feed(replace(blocks[0], domain="counts")))
    with pytest.raises(DataError, match=r"line integrals of \(2, 368\)"):
        list(step.feed(replace(blocks[0], data=blocks[0].data[:, :1])))
    with pytest.raises(ConfigError, match="drift above 0 and below edge"):
        Rings(drift=0.2, edge=0.1)
    empty = Rings()
    empty.open(simulation.scan)
    assert list(empty.close()) == []


def test_a_fast_gantry_is_looked_at_now_and_then() -> None:
    rng = np.random.default_rng(2)
    offset = np.zeros((2, 60))
    offset[1, 30] = 0.02
    found = []
    for half_turn in (288, 1152):
        stripes = Stripes((2, 60), half_turn=half_turn, drift=0.02, edge=0.15)
        for _ in range(half_turn // 48):
            stripes.add((offset + rng.normal(0, 0.002, (48, 2, 60))).astype(np.float32))
        assert stripes.sure[1, 30] and not stripes.sure[0].any()
        found.append(stripes.offsets)
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)
    assert found[0][1, 30] == pytest.approx(0.02, abs=2e-3)
