"""Time segments against the exact sum, a spiral in a bad field, and what a field map cannot be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from acquisition.errors import DataError, HeaderError
from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.head import head
from acquisition.sources.phantom.noncartesian import NonCartesianExam, NonCartesianSimulation, field_hz
from acquisition.sources.phantom.trajectories import spiral
from acquisition.verdict import Level
from integration.protocol import Library
from integration.router import choose
from recon.mri.field_map import FieldMap
from recon.mri.offresonance import OffResonance, segments
from recon.nufft import Nufft
from tests.properties import normal
from tests.recon.test_mri_noncartesian import error, images

LIBRARY = Library()


def test_segments_follow_the_exact_sum() -> None:
    rng = np.random.default_rng(1)
    shape, n = (9, 8), 60
    k = rng.uniform(-4, 4, (n, 2)).astype(np.float32)
    field, time_s = rng.uniform(-80, 120, shape), np.linspace(0, 0.02, n)
    x = normal((1, *shape), torch.complex64)
    operator = OffResonance(Nufft(k, shape), field.astype(np.float32), time_s)
    y, xx = np.indices(shape)
    places = np.stack([(xx - shape[1] // 2) / shape[1], (y - shape[0] // 2) / shape[0]], -1).reshape(-1, 2)
    phase = -2j * np.pi * (k @ places.T) + 2j * np.pi * time_s[:, None] * field.ravel()
    exact = np.exp(phase) @ x.numpy().ravel() / np.sqrt(np.prod(shape))
    np.testing.assert_allclose(operator(x)[0].numpy(), exact, atol=1e-2 * np.abs(exact).max())
    assert operator.n_segments < 12


def test_no_field_needs_one_segment() -> None:
    places, weights = segments(np.zeros((4, 4), np.float32), np.linspace(0, 0.01, 20), error=1e-3)
    assert len(places) == 1
    np.testing.assert_allclose(weights, 1, atol=1e-9)


def spiral_scan(te_s: tuple[float, ...] = (0.004, 0.0045)) -> NonCartesianSimulation:
    base = MriExam(matrix=(1, 64, 64), n_coils=6, snr=float("inf"), n_noise=0, te_s=te_s, tr_s=0.05, dwell_us=20.0)
    exam = NonCartesianExam(base=base, traj=spiral(6, 1000, turns=8), kind="spiral", field_acts=True)
    person = replace(head(base.seed), field_bump=((-20.0, 15.0, 25.0), 45.0, 70.0))
    return NonCartesianSimulation(exam, (person,))


def test_a_spiral_in_a_field_is_sharper_with_its_map() -> None:
    subject = spiral_scan()
    assert choose(LIBRARY, subject.scan).name == "mri_spiral"
    blocks = list(subject.readouts())
    corrected = images(subject.scan, blocks, "mri_spiral")
    blurred = images(subject.scan, blocks, "mri_noncartesian")
    assert [i.position.contrast for i in corrected] == [0, 1]
    assert error(corrected[0], subject) < 0.6 * error(blurred[0], subject)
    assert any(v.check == "mri.field_map" and v.level is Level.PASS for v in corrected[0].verdicts)


def test_the_map_is_the_phantoms_field() -> None:
    subject = spiral_scan()
    step = FieldMap()
    step.open(subject.scan)
    chain = LIBRARY["mri_spiral"].build()
    gather = chain[1]
    gather.open(subject.scan)
    frames = [f for b in subject.readouts() for f in gather.feed(b)] + list(gather.close())
    made = [out for f in frames for out in step.feed(f)]
    truth, inside = field_hz(subject._base.phantom, subject.exam.base), subject.truth() > 0.2
    difference = made[0].field_hz[inside] - truth[inside]
    assert np.sqrt((difference**2).mean()) < 0.25 * np.sqrt((truth[inside] ** 2).mean())


def test_a_missing_second_echo_is_told_and_the_frame_goes_on() -> None:
    subject = spiral_scan()
    first = [b for b in subject.readouts() if int(b.head["contrast"][0]) == 0]
    (image,) = images(subject.scan, first, "mri_spiral")
    assert any(v.check == "mri.field_map" and v.level is Level.FLAG for v in image.verdicts)


def test_what_cannot_be_corrected_is_refused() -> None:
    plain = Nufft(np.zeros((5, 2), np.float32), (4, 4))
    with pytest.raises(DataError, match="voxels"):
        OffResonance(plain, np.zeros((3, 4), np.float32), np.zeros(5))
    with pytest.raises(DataError, match="finite"):
        OffResonance(plain, np.full((4, 4), np.nan, np.float32), np.zeros(5))
    with pytest.raises(DataError, match="segments"):
        segments(np.array([-9000.0, 9000.0], np.float32), np.linspace(0, 0.05, 50), error=1e-3)
    one_echo = spiral_scan((0.004,)).scan
    with pytest.raises(HeaderError, match="echo times"):
        FieldMap().open(replace(one_echo))
