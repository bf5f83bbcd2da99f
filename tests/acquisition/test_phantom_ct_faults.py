"""Planted CT faults do what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.errors import ConfigError
from acquisition.items import Projections
from acquisition.sources.phantom.ct import CtExam, CtSimulation, gantry
from acquisition.sources.phantom.ct_faults import CtFaults, Motion
from acquisition.sources.phantom.ct_objects import abdomen, water

SMALL = gantry(mode="axial", n_rows=3, n_channels=60, pitch_mm=(4.0, 15.0), centre=(1.0, 29.6), views_per_rotation=24)


def patient_views(exam: CtExam) -> np.ndarray:
    blocks = list(CtSimulation(exam, water(90)).projections(block=7))[2:]
    assert all(isinstance(b, Projections) for b in blocks)
    return np.concatenate([b.data for b in blocks]) - 120


def test_a_moved_patient_is_the_object_moved() -> None:
    motion = Motion(turns=(0.4, 0.6), shifts_mm=((0, 0, 0), (10, -5, 3)), angles_deg=((0, 0, 0), (3, -4, 12)))
    still = CtSimulation(CtExam(ct=SMALL), abdomen())
    moved = CtSimulation(CtExam(ct=SMALL, faults=CtFaults(motion=motion)), abdomen())
    np.testing.assert_array_equal(moved.lines(0, 9), still.lines(0, 9))
    rotation, shift = motion.poses(np.array([0.6, 2.0]))
    np.testing.assert_array_equal(rotation[0], rotation[1])
    after = CtSimulation(CtExam(ct=SMALL), abdomen().transformed(rotation[0], shift[0]))
    np.testing.assert_allclose(moved.lines(15, 24), after.lines(15, 24), atol=1e-5)
    assert np.abs(moved.lines(9, 15) - still.lines(9, 15)).max() > 0.1


def test_rotations_leave_the_pivot_where_it_is() -> None:
    motion = Motion(turns=(0.0,), shifts_mm=((0, 0, 0),), angles_deg=((10, 20, 30),), pivot_mm=(4, 5, 6))
    rotation, shift = motion.poses(np.array([0.5]))
    np.testing.assert_allclose(rotation[0] @ [4, 5, 6] + shift[0], [4, 5, 6])
    with pytest.raises(ConfigError, match="as many shifts"):
        Motion(turns=(0.0, 1.0), shifts_mm=((0, 0, 0),))
    with pytest.raises(ConfigError, match="times that grow"):
        Motion(turns=(1.0, 0.0), shifts_mm=((0, 0, 0), (1, 0, 0)))


def test_an_off_centre_patient_is_the_object_shifted() -> None:
    off = CtSimulation(CtExam(ct=SMALL, patient_mm=(20, -30, 5)), abdomen())
    by_hand = CtSimulation(CtExam(ct=SMALL), abdomen().transformed(np.eye(3), (20, -30, 5)))
    np.testing.assert_array_equal(off.lines(), by_hand.lines())


def test_gains_change_the_patients_views_alone() -> None:
    faults = CtFaults(gains=((1, 20, 0.05), (2, 30, -0.02)), gain_sd=0.01)
    clean, drifted = patient_views(CtExam(ct=SMALL)), patient_views(CtExam(ct=SMALL, faults=faults))
    gain = drifted / clean
    np.testing.assert_allclose(gain, np.broadcast_to(gain[:1], gain.shape), rtol=1e-4)
    assert gain[0, 1, 20] == pytest.approx(1.05, rel=1e-3) and gain[0, 2, 30] == pytest.approx(0.98, rel=1e-3)
    assert np.delete(gain[0].ravel(), [80, 150]).std() == pytest.approx(0.01, rel=0.2)
    other = patient_views(CtExam(ct=SMALL, faults=faults, seed=2))
    assert np.abs(other / clean - gain).max() > 5e-3


def test_an_element_dies_when_it_should() -> None:
    views = patient_views(CtExam(ct=SMALL, faults=CtFaults(dying=((1, 29, 10),))))
    assert (views[:10, 1, 29] > 1).all() and (views[10:, 1, 29] == 0).all()


def test_scatter_is_smooth_adds_and_comes_from_the_object() -> None:
    clean, foggy = patient_views(CtExam(ct=SMALL)), patient_views(CtExam(ct=SMALL, faults=CtFaults(scatter=0.05)))
    fog = foggy - clean
    assert (fog > 0).all()
    assert np.abs(np.diff(fog, 2, axis=-1)).max() < 0.05 * fog.max()
    assert 0.1 < (fog / clean)[:, :, 29].mean() < 0.6
    assert fog[:, :, 30].mean() > 1.2 * fog[:, :, 0].mean()


def test_the_tube_current_follows_z() -> None:
    exam = CtExam(ct=replace(SMALL, mode="helical"), turns=4, feed_mm=-20.0, modulation_z=0.4)
    ma = CtSimulation(exam, water(50)).head["ma"] / 200
    assert ma[0] == pytest.approx(1.4) and ma[-1] == pytest.approx(0.6) and (np.diff(ma) < 0).all()
    with pytest.raises(ConfigError, match="modulations below 1"):
        CtExam(modulation=0.6, modulation_z=0.5)
    with pytest.raises(ConfigError, match="a ray per channel"):
        CtExam(subrays=0)
