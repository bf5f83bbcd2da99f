"""The virtual CT scanner: rays where the geometry says, lengths that are exact, noise as physics has it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.ct_geometry import (
    checked,
    detector_columns,
    fan_angles,
    focal_spots,
    patient_axes,
    row_heights_mm,
)
from acquisition.errors import ConfigError, HeaderError
from acquisition.items import Projections, View
from acquisition.sources.phantom.ct import CtExam, CtSimulation, gantry
from acquisition.sources.phantom.ct_objects import abdomen, built, chest, head, water

SMALL = gantry(n_rows=3, n_channels=41, pitch_mm=(4.0, 22.0), centre=(0.7, 19.6), views_per_rotation=12)


def test_a_ray_of_the_fan_is_the_parallel_ray_of_the_docs() -> None:
    ct = SMALL
    for detector in ("cylindrical", "flat"):
        simulation = CtSimulation(CtExam(ct=replace(ct, detector=detector), direction=-1))
        spots, columns = (
            focal_spots(simulation.exam.ct, simulation.head),
            detector_columns(simulation.exam.ct, simulation.head),
        )
        fan = fan_angles(simulation.exam.ct)
        theta = simulation.head["angle_rad"][:, None] - fan
        across = np.stack([-np.sin(theta), np.cos(theta)], -1)
        for point in (spots[:, None, :2], columns[..., :2]):
            distance = (np.broadcast_to(point, across.shape) * across).sum(-1)
            expected = np.broadcast_to(ct.source_isocentre_mm * np.sin(fan), distance.shape)
            np.testing.assert_allclose(distance, expected, atol=1e-9)


def test_line_integrals_equal_sums_along_the_ray() -> None:
    phantom = built(
        {
            "body": (None, 0.0, (20, -30, 5), (90, 60, 50)),
            "hole": ("body", -1000.0, (40, -40, 0), (20, 10, 30)),
        }
    )
    exam = CtExam(ct=SMALL, focal_spot_shifts=((0.0, 0.0, 0.0), (0.002, 1.0, -2.0)), feed_mm=20.0)
    simulation = CtSimulation(exam, phantom)
    lines = simulation.lines()
    spots, columns = focal_spots(SMALL, simulation.head), detector_columns(SMALL, simulation.head)
    for v, r, c in ((0, 0, 18), (1, 2, 22), (5, 1, 16), (11, 2, 20)):
        end = columns[v, c] + [0, 0, row_heights_mm(SMALL)[r]]
        steps = (np.arange(40000) + 0.5) / 40000
        points = spots[v] + steps[:, None] * (end - spots[v])
        summed = phantom.signal(points).mean() * np.linalg.norm(end - spots[v]) * SMALL.mu_water_per_mm
        assert lines[v, r, c] == pytest.approx(summed, abs=2e-3)
    assert lines.max() > 1


def test_counts_come_with_dark_and_air_and_repeat() -> None:
    simulation = CtSimulation(CtExam(ct=SMALL, photons=1e4, electronic=5.0, bad_elements=((1, 4),)))
    first, second = list(simulation.projections(block=5)), list(simulation.projections(block=5))
    assert [len(b) for b in first] == [16, 16, 5, 5, 2]
    assert first[0].has(View.DARK).all() and first[1].has(View.AIR).all() and not first[2].has(View.AIR).any()
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.data, b.data)
    assert (first[2].data[:, 1, 4] == 120).all()
    assert len(first[2].select(np.array([True, False, True, False, False]))) == 2


def test_noise_has_the_variance_of_poisson_plus_electronics() -> None:
    exam = CtExam(ct=replace(SMALL, views_per_rotation=4000), photons=2000.0, electronic=30.0, bowtie=0.0)
    counts = np.concatenate([b.data for b in CtSimulation(exam, water(1.0)).projections(block=500)][2:])
    edge = counts[:, :, 0]  # misses the object
    assert edge.mean() == pytest.approx(2120, rel=5e-3)
    assert edge.var() == pytest.approx(2000 + 900, rel=5e-2)


def test_modulation_is_in_the_head_and_in_the_counts() -> None:
    simulation = CtSimulation(CtExam(ct=SMALL, modulation=0.5, start_angle_rad=0.0), water(1.0))
    *_, block = simulation.projections(block=100)
    assert isinstance(block, Projections)
    np.testing.assert_allclose((block.data[:, 0, 0] - 120) / (block.data[0, 0, 0] - 120), block.head["ma"] / 300, 1e-4)


def test_objects_are_proper_trees_and_show_any_flip() -> None:
    for phantom in (chest(), abdomen(), head()):
        rng = np.random.default_rng(1)
        for e in phantom.ellipsoids:
            if e.parent >= 0:
                u = rng.normal(size=(500, 3))
                surface = e.centre + (u / np.linalg.norm(u, axis=1, keepdims=True)) @ e.matrix.T
                assert phantom.ellipsoids[e.parent].contains(surface).all(), e.centre
                others = [o for o in phantom.ellipsoids if o.parent == e.parent and o is not e]
                assert not any(o.contains(surface).any() for o in others), e.centre
        places = rng.uniform(-80, 80, size=(5000, 3))
        for axis in range(3):
            mirrored = places * np.where(np.arange(3) == axis, -1, 1)
            assert (np.abs(phantom.signal(places) - phantom.signal(mirrored)) > 0.02).sum() > 10


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ConfigError, match="direction 1 or -1"):
        CtExam(direction=0)
    with pytest.raises(HeaderError, match="isocentre between tube and detector"):
        checked(replace(SMALL, source_detector_mm=500.0), "scan x")
    with pytest.raises(HeaderError, match="expected a CT scan, got modality MR"):
        replace(CtSimulation(CtExam(ct=SMALL)).scan, modality="MR", ct=None).require_ct()


def test_the_gantry_knows_how_patients_lie() -> None:
    """Down in the gantry is what the patient lies on; its z is where the feet-first one has the feet."""
    below = {"S": (0, 1, 0), "P": (0, -1, 0), "DR": (-1, 0, 0), "DL": (1, 0, 0)}
    for first, up in (("HF", 1), ("FF", -1)):
        for side, down in below.items():
            x, y, z = np.array(patient_axes(first + side))
            assert y.tolist() == list(down) and z.tolist() == [0, 0, up]
            np.testing.assert_array_equal(np.cross(x, y), z)
    assert patient_axes(None) == patient_axes("HFS")
    with pytest.raises(HeaderError, match=r"patient position: expected HFS, .*, got STANDING"):
        patient_axes("STANDING")
