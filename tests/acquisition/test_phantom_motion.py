"""The torso that breathes, the patient who turns, and the belt that measures it."""

from __future__ import annotations

import numpy as np
import pytest

from acquisition.errors import ConfigError
from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.head import head
from acquisition.sources.phantom.motion import RESPIRATION, breathing, moving, poses, respiration
from acquisition.sources.phantom.mri import Simulation
from acquisition.sources.phantom.torso import body_array, torso


def picture(**state: float) -> np.ndarray:
    exam = MriExam(
        matrix=(1, 96, 96), fov_mm=(400.0, 400.0), orientation="coronal", position_mm=(0.0, -10.0, -20.0), n_coils=4
    )
    return Simulation(exam, torso(**state), coils=body_array(4)).truth(0).data[0]


def test_one_seed_is_one_person_and_another_is_another() -> None:
    np.testing.assert_array_equal(picture(seed=3), picture(seed=3))
    assert np.abs(picture(seed=3) - picture(seed=4)).max() > 0.1


def test_the_liver_goes_down_with_a_breath_and_the_lungs_grow() -> None:
    out, full = torso(1, breath=0.0), torso(1, breath=1.0)
    assert full.landmarks_mm["liver"][2] < out.landmarks_mm["liver"][2] - 14
    assert full.landmarks_mm["spine"][2] == pytest.approx(out.landmarks_mm["spine"][2])
    assert (picture(seed=1, breath=1.0) < 0.1).sum() > (picture(seed=1, breath=0.0) < 0.1).sum()


def test_ventricles_shrink_in_systole() -> None:
    wide, small = torso(2, beat=0.0), torso(2, beat=0.5)
    volumes = [sorted(abs(np.linalg.det(e.matrix)) for e in t.ellipsoids) for t in (wide, small)]
    changed = [b / a for a, b in zip(*volumes, strict=True) if not np.isclose(a, b)]
    assert changed
    assert all(0.2 < c < 0.6 for c in changed)


def test_the_schedule_follows_the_breath() -> None:
    plan = breathing(200, tr_s=0.05, period_s=4.0, n_states=6)
    assert len(plan.states) == 200
    assert len(plan.objects) == len(set(plan.states)) <= 6
    assert plan.trace.max() == pytest.approx(1, abs=0.01)
    beating = breathing(200, tr_s=0.05, period_s=4.0, n_states=4, pulse_s=1.0)
    assert len(beating.objects) > len(plan.objects)


def test_the_belt_tells_the_breath() -> None:
    plan = breathing(400, tr_s=0.02, period_s=4.0)
    belt = respiration(plan, tr_s=0.02)
    assert belt.id == RESPIRATION
    assert belt.data.shape == (1, 400)
    assert belt.data.max() == 4095
    np.testing.assert_allclose(belt.data[0] / 4095, plan.trace, atol=0.02)


def test_a_turned_patient_is_the_turned_picture() -> None:
    exam = MriExam(matrix=(1, 64, 64), n_coils=2)
    centre = tuple(exam.grid.plane(0).centre_mm)
    plan = poses(head(0), [(0.0, (0.0, 0.0, 0.0)), (180.0, (0.0, 0.0, 0.0))], [0, 1], centre_mm=centre)
    still, turned = (Simulation(exam, o).truth(0).data[0] for o in plan.objects)
    np.testing.assert_allclose(turned[::-1, ::-1], still, atol=0.02)


@pytest.mark.parametrize("bad", [{"n_readouts": 0}, {"tr_s": 0.0}, {"period_s": -1.0}, {"n_states": 1}])
def test_impossible_times(bad: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        breathing(**({"n_readouts": 10, "tr_s": 0.1} | bad))


def test_a_breath_beyond_full_is_refused() -> None:
    with pytest.raises(ConfigError, match="breath"):
        torso(0, breath=1.5)


def test_a_patient_who_moves_during_a_cartesian_scan() -> None:
    exam = MriExam(matrix=(1, 64, 64), n_coils=2, snr=float("inf"), n_noise=0)
    centre = tuple(exam.grid.plane(0).centre_mm)
    plan = poses(head(0), [(0.0, (0.0, 0.0, 0.0)), (5.0, (4.0, 0.0, 0.0))], [0] * 30 + [1], centre_mm=centre)
    scan, blocks = moving(exam, plan)
    still, moved = (list(Simulation(exam, o).readouts()) for o in plan.objects)
    for number, block in enumerate(blocks):
        np.testing.assert_array_equal(block.data, (still if number < 30 else moved)[number].data)
    assert number == 63
    assert scan.require_mr().encodings[0].matrix[1] == 64
