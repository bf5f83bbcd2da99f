"""Frames of a few spokes, reconstructed together: what brightens is seen when it brightens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from acquisition.errors import ConfigError, ReconError
from acquisition.items import Image
from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.noncartesian import NonCartesianExam, NonCartesianSimulation
from acquisition.sources.phantom.trajectories import radial
from integration.protocol import Library
from integration.router import choose
from integration.runner import Run
from recon.mri.grasp import Grasp
from tests.phantoms import nrmse

LIBRARY = Library()
N, SPOKES, PER_FRAME = 48, 104, 13


def subject() -> NonCartesianSimulation:
    base = MriExam(matrix=(1, N, N), n_coils=6, snr=float("inf"), n_noise=0, protocol_name="liver grasp")
    return NonCartesianSimulation(
        NonCartesianExam(base=base, traj=radial(SPOKES, 2 * N, golden=True), kind="goldenangle")
    )


def images(**changes: Any) -> tuple[list[Image], NonCartesianSimulation]:
    """The object brightens by half from the fifth frame on."""
    simulation = subject()
    blocks = [
        replace(b, data=b.data * np.float32(1.5 if i >= 4 * PER_FRAME else 1.0))
        for i, b in enumerate(simulation.readouts())
    ]
    changes = {"mri.grasp.per_frame": PER_FRAME} | {f"mri.grasp.{k}": v for k, v in changes.items()}
    run = Run(simulation.scan, LIBRARY["mri_grasp"].with_changes(changes))
    run.open()
    return [image for block in blocks for image in run.feed(block)] + list(run.close()), simulation


@pytest.fixture(scope="module")
def found() -> tuple[list[Image], NonCartesianSimulation]:
    return images()


def test_the_router_knows_it() -> None:
    assert choose(LIBRARY, subject().scan).name == "mri_grasp"


def test_every_frame_shows_the_object(found: tuple[list[Image], NonCartesianSimulation]) -> None:
    frames, simulation = found
    assert [i.position.repetition for i in frames] == list(range(8))
    truth = simulation.truth()
    for frame in frames:
        pixels = frame.data[0]
        assert nrmse(pixels * (pixels * truth).sum() / (pixels**2).sum(), truth) < 0.2  # corners of k-space are empty


def test_the_contrast_arrives_when_it_does(found: tuple[list[Image], NonCartesianSimulation]) -> None:
    means = np.array([frame.data.mean() for frame in found[0]])
    assert np.allclose(means[:4] / means[:4].mean(), 1, atol=0.05)
    assert np.allclose(means[4:] / means[4:].mean(), 1, atol=0.05)
    assert means[4:].mean() / means[:4].mean() == pytest.approx(1.5, abs=0.06)


def test_together_is_better_than_alone(found: tuple[list[Image], NonCartesianSimulation]) -> None:
    alone, simulation = images(weight=0.0)
    truth = simulation.truth()

    def error(frame: Image) -> float:
        return nrmse(frame.data[0] * (frame.data[0] * truth).sum() / (frame.data[0] ** 2).sum(), truth)

    assert np.mean([error(f) for f in found[0]]) < 0.9 * np.mean([error(f) for f in alone])


def test_frequencies_of_time_as_prior() -> None:
    frames, _ = images(prior="fourier", weight=0.005, n_iterations=10)
    assert len(frames) == 8


def test_too_few_spokes_are_refused() -> None:
    with pytest.raises(ReconError, match="two frames of 60 spokes or more, got 104 spokes"):
        images(per_frame=60)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"per_frame": 0}, "per_frame"), ({"prior": "magic"}, "variation or fourier"), ({"weight": -1}, "weight")],
)
def test_wrong_parameters_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Grasp(**changes)
