"""Cone-beam filtered backprojection against the analytic object, in HU, on both kinds of detector."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.interpolate import RegularGridInterpolator

from acquisition.errors import DataError, HeaderError, ReconError
from acquisition.items import Image, Projections
from acquisition.sources.phantom.ct import CtExam, CtSimulation, gantry
from acquisition.sources.phantom.ct_objects import built, head, water
from acquisition.sources.phantom.objects import Phantom
from recon.ct.cone import Cone
from recon.ct.fbp import Axial
from recon.ct.redundancy import redundancy
from tests.recon.test_ct_fbp import flat, truth


def scanner(detector: str, **changes: object) -> CtExam:
    fields = {"n_rows": 24, "n_channels": 300, "pitch_mm": (3.0, 2.2), "centre": (11.5, 149.25)}
    return CtExam(ct=gantry(mode="axial", detector=detector, views_per_rotation=360, **(fields | changes)))


def measured(exam: CtExam, step: Cone | Axial, phantom: Phantom | None = None) -> tuple[CtSimulation, list[Image]]:
    simulation = CtSimulation(exam, head() if phantom is None else phantom)
    lines = simulation.lines()
    step.open(simulation.scan)
    made: list[object] = []
    for start in range(0, len(lines), 50):
        block = Projections(
            head=simulation.head[start : start + 50], data=lines[start : start + 50], domain="lines", received_s=4.0
        )
        made += step.feed(block)
    made += step.close()
    return simulation, [i for i in made if isinstance(i, Image)]


TURNS = {
    "full": (1.0, {}),
    "more than full": (1.4, {}),
    "short": (0.74, {}),
    "aside": (1.0, {"centre": (11.5, 80.0)}),
    "aside, other way": (1.0, {"centre": (11.5, 219.0)}),
}


@pytest.mark.parametrize("detector", ["flat", "cylindrical"])
@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("turn", TURNS)
def test_hu_are_right_and_nothing_is_flipped(detector: str, direction: int, turn: str) -> None:
    turns, changes = TURNS[turn]
    exam = replace(scanner(detector, **changes), turns=turns, direction=direction, start_z_mm=8.0)
    step = Cone(matrix=100, fov_mm=210, kernel="soft", thickness_mm=2, increment_mm=6)
    simulation, images = measured(exam, step)
    assert len(images) >= 3
    for image in images:
        expected = truth(simulation, image)
        inside = flat(expected) & (expected > -900)
        error = np.abs(image.data - expected)
        assert abs(np.median((image.data - expected)[inside])) < 2
        assert np.percentile(error[inside], 90) < 12
        assert image.last_readout_s == 4.0 and image.provenance.notes["kernel"] == "SOFT"
        for axis in (1, 2):
            lopsided = inside & (np.abs(np.flip(expected, axis) - expected) > 20) & flat(np.flip(expected, axis))
            if lopsided.any():
                assert np.median(np.abs(np.flip(image.data, axis) - expected)[lopsided]) > 15
    assert any((np.abs(np.flip(truth(simulation, i), 2) - truth(simulation, i)) > 20).any() for i in images)


def test_the_outer_half_that_only_a_detector_moved_aside_sees_is_right() -> None:
    exam = scanner("flat", centre=(11.5, 60.0))
    phantom = water(160)
    simulation, [image] = measured(exam, Cone(matrix=80, fov_mm=400, thickness_mm=4, increment_mm=90), phantom)
    x = image.grid.origin_mm[0] + np.arange(80) * image.grid.spacing_mm[2]
    r = np.hypot(x[None, :], x[:, None])
    for low, high in ((0, 50), (60, 100), (110, 150)):
        assert abs(image.data[0][(r >= low) & (r < high)].mean()) < 4
    assert simulation.exam.ct.source_isocentre_mm * np.sin(np.arctan(60 * 2.2 / 1085.6)) < 75


def test_one_row_agrees_with_the_parallel_path() -> None:
    exam = replace(scanner("cylindrical", n_rows=1, centre=(0.0, 149.25)), turns=1.2)
    grid = {"matrix": 100, "fov_mm": 210.0, "kernel": "soft"}
    (_, [cone]), (_, [parallel]) = measured(exam, Cone(**grid)), measured(exam, Axial(**grid))
    smooth = flat(truth(CtSimulation(exam, head()), cone))
    assert np.percentile(np.abs(cone.data - parallel.data)[smooth], 95) < 10


def test_a_ball_off_the_plane_keeps_place_and_size() -> None:
    phantom = built({"water": (None, 0, (0, 0, 0), (70, 70, 300)), "ball": ("water", 500, (30, -25, 7), (6, 6, 6))})
    _, images = measured(
        scanner("flat"), Cone(matrix=100, fov_mm=150, kernel="soft", thickness_mm=1.0, increment_mm=1.0), phantom
    )
    volume = np.concatenate([i.data for i in images])
    mass = np.clip(volume - 60, 0, None) * (np.abs(volume) < 900)
    z = np.array([i.grid.origin_mm[2] for i in images])
    x = images[0].grid.origin_mm[0] + np.arange(100) * 1.5
    near = (np.abs(z - 7) < 9)[:, None, None] & (np.hypot(x[None, :] - 30, x[:, None] + 25) < 9)[None]
    mass = mass * near
    centre = [(mass.sum((0, 1)) * x).sum(), (mass.sum((0, 2)) * x).sum(), (mass.sum((1, 2)) * z).sum()]
    np.testing.assert_allclose(np.array(centre) / mass.sum(), (30, -25, 7), atol=0.1)


def test_table_positions_follow_each_other() -> None:
    exams = [replace(scanner("flat", n_rows=4, centre=(1.5, 149.25)), start_z_mm=z) for z in (0.0, 12.0)]
    step = Cone(matrix=16, thickness_mm=2, increment_mm=2)
    step.open(CtSimulation(exams[0]).scan)
    images = []
    for exam in exams:
        simulation = CtSimulation(exam, water(60))
        images += list(step.feed(Projections(head=simulation.head, data=simulation.lines(), domain="lines")))
    first = len(images)
    images += step.close()
    assert first and len(images) == 2 * first
    assert images[first].grid.origin_mm[2] - images[0].grid.origin_mm[2] == pytest.approx(12.0)
    assert [i.position.slice for i in images] == list(range(len(images)))


def test_a_ray_and_its_opposite_count_one_together() -> None:
    even, aside = np.linspace(-0.25, 0.25, 101), np.linspace(-0.1, 0.3, 81)
    for turns, fan in ((0.75, even), (0.64, even), (1.0, even), (1.0, aside), (1.0, -aside[::-1]), (1.3, even)):
        beta = np.arange(round(1440 * turns)) * 2 * np.pi / 1440
        weight = RegularGridInterpolator(
            (beta, fan), redundancy(beta, fan, where="test"), bounds_error=False, fill_value=0
        )
        late = beta[::37][beta[::37] < min(np.pi, beta[-1] - np.pi + 0.2)]
        for b in late[2:]:
            again = b + 2 * np.pi * np.arange(-1, 2)[:, None]
            total = weight((again, fan)).sum(0) + weight((again + np.pi - 2 * fan, -fan)).sum(0)
            assert (np.abs(total[2:-2] - 1) < 0.01).mean() > 0.96  # the rest falls between the last view and the first


def test_what_covers_too_little_is_refused() -> None:
    with pytest.raises(ReconError, match="half a turn and the fan angle"):
        measured(replace(scanner("flat"), turns=0.55), Cone(matrix=8))
    with pytest.raises(ReconError, match="moved aside"):
        measured(replace(scanner("flat", centre=(11.5, 80.0)), turns=0.8), Cone(matrix=8))
    with pytest.raises(ReconError, match="expected views of the patient"):
        measured(replace(scanner("flat"), turns=0.001), Cone(matrix=8))
    with pytest.raises(HeaderError, match="choose a helical protocol"):
        Cone().open(CtSimulation(CtExam(feed_mm=5.0)).scan)
    simulation = CtSimulation(scanner("flat"))
    step = Cone(matrix=8)
    step.open(simulation.scan)
    block = Projections(head=simulation.head[:4], data=simulation.lines(0, 4), domain="lines")
    with pytest.raises(DataError, match="a resting focal spot"):
        moved = block.head.copy()
        moved["z_shift_mm"] = 0.5
        list(step.feed(replace(block, head=moved)))
    with pytest.raises(DataError, match="line integrals"):
        list(step.feed(replace(block, domain="counts")))
    with pytest.raises(DataError, match="24 x 300 elements"):
        list(step.feed(replace(block, data=block.data[:, :2])))
    list(step.feed(replace(block, head=block.head[::-1].copy())))
    list(step.feed(block))
    with pytest.raises(DataError, match="turns one way"):
        list(step.close())
