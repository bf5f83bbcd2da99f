"""A patient who turns and shifts between blades; blades that fit nothing; readouts that are no blades."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.errors import ConfigError, DataError
from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.head import head
from acquisition.sources.phantom.motion import poses
from acquisition.sources.phantom.noncartesian import NonCartesianExam, NonCartesianSimulation
from acquisition.sources.phantom.trajectories import propeller, radial
from acquisition.verdict import Level
from integration.protocol import Library
from integration.router import choose
from recon.mri.propeller import Propeller
from tests.phantoms import nrmse
from tests.recon.test_mri_noncartesian import images

LIBRARY = Library()
BLADES, LINES = 12, 18


def scan(moves: list[tuple[float, tuple[float, float, float]]], states: list[int]) -> NonCartesianSimulation:
    base = MriExam(matrix=(1, 64, 64), n_coils=6, snr=200.0, n_noise=0)
    traj = propeller(BLADES, LINES, 128, matrix=64)
    centre = tuple(base.grid.plane(0).centre_mm)
    schedule = poses(head(base.seed), moves, np.repeat(states, LINES).tolist(), centre_mm=centre)
    exam = NonCartesianExam(base=base, traj=traj, states=schedule.states)
    return NonCartesianSimulation(exam, schedule.objects)


def uncorrected(subject: NonCartesianSimulation) -> object:
    """What the blades show when nothing is looked for."""
    steps = tuple((n, p) for n, p in LIBRARY["mri_propeller"].steps if n != "mri.propeller")
    band = np.abs(subject.exam.traj).max(axis=(0, 2)) < 0.49
    blocks = [replace(b, data=b.data[..., band], traj=b.traj[:, band]) for b in subject.readouts()]
    for block in blocks:
        block.head["n_samples"], block.head["center_sample"] = band.sum(), int(band[: band.size // 2].sum())
    (image,) = images(subject.scan, blocks, LIBRARY["mri_propeller"].model_copy(update={"steps": steps}))
    return image


def error(image: object, subject: NonCartesianSimulation, state: int = 0) -> float:
    truth, found = subject.truth(0, state), image.data[0]  # type: ignore[attr-defined]
    return nrmse(found * (found * truth).sum() / (found**2).sum(), truth)


STILL = [(0.0, (0.0, 0.0, 0.0))]
MOVED = [*STILL, (6.0, (6.0, -3.0, 0.0))]


def test_a_still_patient_stays_as_he_is() -> None:
    subject = scan(STILL, [0] * BLADES)
    (image,) = images(subject.scan, list(subject.readouts()), "mri_propeller")
    assert error(image, subject) < 1.15 * error(uncorrected(subject), subject) + 0.01
    (told,) = (v for v in image.verdicts if v.check == "mri.propeller")
    assert told.level is Level.PASS
    assert told.value < 1


def test_turn_and_shift_are_undone() -> None:
    subject = scan(MOVED, [0] * 8 + [1] * 4)
    (corrected,) = images(subject.scan, list(subject.readouts()), "mri_propeller")
    assert error(corrected, subject) < 0.3 * error(uncorrected(subject), subject)
    (told,) = (v for v in corrected.verdicts if v.check == "mri.propeller")
    assert told.value == pytest.approx(6, abs=0.4)


def test_the_router_knows_it_by_its_name() -> None:
    subject = scan(STILL, [0] * BLADES).scan
    assert choose(LIBRARY, replace(subject, protocol_name="t2_blade_tra")).name == "mri_propeller"


def test_spokes_are_no_blades() -> None:
    base = MriExam(matrix=(1, 64, 64), n_coils=2, snr=float("inf"), n_noise=0)
    subject = NonCartesianSimulation(NonCartesianExam(base=base, traj=radial(30, 128)))
    with pytest.raises(DataError, match="blades"):
        images(subject.scan, list(subject.readouts()), "mri_propeller")


@pytest.mark.parametrize(("name", "value"), [("max_rotation_deg", 95.0), ("max_shift", 0.7)])
def test_impossible_parameters(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        Propeller(**{name: value})
