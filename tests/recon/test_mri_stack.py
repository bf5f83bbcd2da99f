"""Volumes from trajectories: stacks of stars, turned stacks, kooshballs; missing partitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.errors import DataError
from acquisition.items import Image
from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.noncartesian import NonCartesianExam, NonCartesianSimulation
from acquisition.sources.phantom.trajectories import kooshball, radial
from acquisition.verdict import Level
from recon.mri.gather import Gather
from tests.phantoms import nrmse
from tests.recon.test_mri_noncartesian import images


def volume(traj: np.ndarray, nz: int = 12, **changes: object) -> NonCartesianSimulation:
    fields = {"matrix": (nz, 40, 40), "kind": "3D", "n_coils": 4, "snr": float("inf"), "n_noise": 0, "gap_mm": 0.0}
    base = MriExam(**(fields | changes))  # type: ignore[arg-type]
    return NonCartesianSimulation(NonCartesianExam(base=base, traj=traj))


def error(image: Image, subject: NonCartesianSimulation) -> float:
    """NRMSE after a scalar fit, within the part of k-space that was reached."""
    truth = subject.truth().astype(complex)
    axes = (1, 2) if subject.exam.traj.shape[2] == 2 else (0, 1, 2)
    spectrum = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(truth)))
    places = np.indices(truth.shape)
    far = sum(((places[a] - truth.shape[a] // 2) / (truth.shape[a] / 2 - 0.5)) ** 2 for a in axes)
    spectrum[far > 1] = 0
    wanted = np.abs(np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(spectrum))))
    return nrmse(image.data * (image.data * wanted).sum() / (image.data**2).sum(), wanted)


def test_a_stack_of_stars_shows_the_object() -> None:
    subject = volume(radial(60, 80, golden=True))
    (image,) = images(subject.scan, list(subject.readouts()))
    assert image.data.shape == (12, 40, 40)
    assert error(image, subject) < 0.12
    assert "12 of 12 partitions" in image.provenance.notes["stack"]


def test_a_kooshball_shows_the_object() -> None:
    subject = volume(kooshball(1500, 64), nz=32, matrix=(32, 32, 32), thickness_mm=7.5)
    (image,) = images(subject.scan, list(subject.readouts()))
    assert image.data.shape == (32, 32, 32)
    assert error(image, subject) < 0.2


def test_a_missing_partition_is_told() -> None:
    subject = volume(radial(40, 80))
    blocks = [b for b in subject.readouts() if int(b.head["k2"][0]) != 2]
    (image,) = images(subject.scan, blocks)
    (told,) = (v for v in image.verdicts if v.check == "mri.partitions")
    assert told.level is Level.FLAG
    assert told.value == 1


def test_partitions_turned_against_each_other_are_transformed_in_three_dimensions() -> None:
    subject = volume(radial(40, 80, golden=True), nz=8)
    blocks = []
    for block in subject.readouts():
        angle = 0.02 * int(block.head["k2"][0])  # what is told: a turn that grows with the partition
        c, s = np.cos(angle), np.sin(angle)
        blocks.append(replace(block, traj=block.traj @ np.array([[c, s], [-s, c]], np.float32)))
    gather = Gather()
    gather.open(subject.scan)
    (frame,) = (f for b in blocks for f in gather.feed(b))
    assert frame.traj.shape == (40 * 8, 80, 3)
    assert set(np.unique(frame.traj[..., 2])) == set(range(-4, 4))


def test_a_partition_outside_the_matrix_is_refused() -> None:
    subject = volume(radial(8, 80), nz=8)
    blocks = list(subject.readouts())
    blocks[0].head["k2"] = 30
    gather = Gather()
    gather.open(subject.scan)
    with pytest.raises(DataError, match="k2"):
        [f for b in blocks for f in gather.feed(b)]
