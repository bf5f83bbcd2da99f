"""Shots that moved are found from coils alone, with their shift and turn; a head at rest passes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from acquisition.errors import ConfigError
from acquisition.items import READOUT_HEAD, Flag, Item, Readouts
from acquisition.scan import Scan
from acquisition.stream import Chain
from acquisition.verdict import Level, Verdict
from recon.mri import ReadoutTransform
from recon.mri.motion import CheckMotion, shots_of
from recon.mri.shot_model import LatticeModel
from recon.mri.shot_poses import derivatives, shot_poses
from tests.recon.helpers import Exam, coils

N, FOV_MM = 64, 192.0
SPACING = FOV_MM / N
TRAIN, SNR = 8, 60.0


def head(y_mm: float = 0.0, x_mm: float = 0.0, turn_deg: float = 0.0) -> np.ndarray:
    """A lopsided head with an inside, smooth edges, shifted and turned."""
    y, x = np.meshgrid(*[(np.arange(N) - N // 2) * SPACING] * 2, indexing="ij")
    c, s = np.cos(np.deg2rad(turn_deg)), np.sin(np.deg2rad(turn_deg))
    y, x = y - y_mm, x - x_mm
    y, x = c * y + s * x, c * x - s * y
    out = np.zeros((N, N))
    for cy, cx, ry, rx, value in (
        (0, 0, 70, 55, 1.0),
        (0, 4, 62, 46, -0.4),
        (20, -15, 12, 20, 0.5),
        (-25, 14, 20, 9, -0.3),
        (-5, -20, 8, 8, 0.4),
        (30, 18, 6, 10, 0.6),
    ):
        out += value / (1 + np.exp((np.hypot((y - cy) / ry, (x - cx) / rx) - 1) * 0.35 * min(ry, rx)))
    return out


def maps(n_coils: int = 8) -> np.ndarray:
    found = coils(n_coils, (1, N, N))[:, 0]
    return found / np.sqrt((np.abs(found) ** 2).sum(0))


def kspace(pose: tuple[float, float, float], n_coils: int = 8) -> np.ndarray:
    image = np.fft.ifftshift(head(*pose) * maps(n_coils), (1, 2))
    return np.fft.fftshift(np.fft.fft2(image, norm="ortho"), (1, 2))


def moving(poses: dict[int, tuple[float, float, float]], *, snr: float = SNR, seed: int = 0) -> np.ndarray:
    """K-space (coil, k1, k0) in white noise; line k1 belongs to shot ``k1 % TRAIN``."""
    out = kspace((0, 0, 0))
    for shot, pose in poses.items():
        out[:, shot::TRAIN] = kspace(pose)[:, shot::TRAIN]
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((*out.shape, 2)).view(complex)[..., 0] * np.sqrt(0.5)
    return (out * snr * np.sqrt(0.5) / 0.6 + noise).astype(np.complex64)


def stream(lines: np.ndarray, r: int = 1, acs: int = 24) -> tuple[Scan, Iterator[Readouts]]:
    exam = Exam(
        matrix=(1, N, N),
        fov_mm=(5, FOV_MM, FOV_MM),
        oversampling=1,
        acceleration=r,
        n_coils=len(lines),
        mode="separate",
    )
    scan = exam.scan
    encoding = replace(scan.require_mr().encodings[0], echo_train_length=N // TRAIN)
    mr = replace(scan.require_mr(), encodings=(encoding,))

    def readouts() -> Iterator[Readouts]:
        still = moving({}, snr=SNR, seed=9)[: len(lines)]
        for k1 in range(N // 2 - acs // 2, N // 2 + acs // 2):
            yield readout(still, k1, flags=int(Flag.CALIBRATION))
        order = [k1 for shot in range(TRAIN) for k1 in range(shot, N, TRAIN) if k1 % r == 0]
        for i, k1 in enumerate(order):
            yield readout(lines, k1, time_stamp=10 * i + 1000 * (k1 % TRAIN))

    return replace(scan, mr=mr), readouts()


def readout(lines: np.ndarray, k1: int, **values: int) -> Readouts:
    made = np.zeros(1, READOUT_HEAD)
    for name, value in {"k1": k1, "center_sample": N // 2, **values}.items():
        made[name] = value
    return Readouts(head=made, data=lines[None, :, k1])


def verdicts(scan: Scan, blocks: Any, **given: Any) -> list[Verdict]:
    chain = Chain([ReadoutTransform(), CheckMotion(**given)])
    chain.open(scan)
    out: list[Item] = [made for block in blocks for made in chain.feed(block)] + list(chain.close())
    return [item for item in out if isinstance(item, Verdict)]


@pytest.mark.parametrize(
    "pose", [(2.5, 0.0, 0.0), (-2.5, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, 0.0, 2.5), (0.0, 0.0, -2.5), (1.5, -1.5, 1.5)]
)
def test_shift_and_turn_of_a_shot_are_measured(pose: tuple[float, float, float]) -> None:
    (verdict,) = verdicts(*stream(moving({3: pose})))
    assert verdict.level is Level.FLAG
    assert "moved in 1 of 8 shots" in verdict.advice
    said = verdict.evidence.split("shot 4: ")[1]
    numbers = [float(part.split()[0]) for part in said.split(" (")[0].split(", ")]
    assert numbers[:2] == pytest.approx(pose[:2], abs=0.8)
    assert numbers[2] == pytest.approx(pose[2], abs=1.2)  # of a head so round little tells turns: found too small
    assert abs(numbers[2]) > 0.4 * abs(pose[2])


def test_two_shots_are_told_apart() -> None:
    (verdict,) = verdicts(*stream(moving({1: (3.0, 0, 0), 6: (0, 0, -3.0)})))
    assert "shot 2:" in verdict.evidence
    assert "shot 7:" in verdict.evidence
    assert "2 of 8" in verdict.advice


def test_much_movement_asks_for_a_person() -> None:
    (verdict,) = verdicts(*stream(moving({1: (3.0, 0, 0), 4: (0, 3.0, 0), 6: (0, 0, -3.0)})), hold_above=0.2)
    assert verdict.level is Level.HOLD


@pytest.mark.parametrize("snr", [15, 60, 300])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_head_at_rest_passes(snr: float, seed: int) -> None:
    (verdict,) = verdicts(*stream(moving({}, snr=snr, seed=seed)))
    assert verdict.level is Level.PASS
    assert verdict.value is not None
    assert verdict.value < 0.6


def test_undersampled_shots_are_judged_with_calibration_lines() -> None:
    """Every second line: four shots are left."""
    (still,) = verdicts(*stream(moving({}), r=2))
    (moved,) = verdicts(*stream(moving({4: (0, 2.5, 0)}), r=2))
    assert still.level is Level.PASS
    assert moved.level is Level.FLAG
    assert "shot 3:" in moved.evidence


def test_lines_pass_as_they_came_and_before_they_are_judged() -> None:
    scan, blocks = stream(moving({}))
    step, transform = CheckMotion(), ReadoutTransform()
    transform.open(scan)
    step.open(scan)
    for block in blocks:
        (lines,) = transform.feed(block)
        assert next(iter(step.feed(lines))) is lines
    assert list(step.feed("x")) == ["x"]


def test_volumes_scans_without_trains_and_few_coils_are_not_judged() -> None:
    for exam in (Exam(matrix=(8, 16, 16)), Exam()):
        assert verdicts(exam.scan, exam.readouts()) == []
    assert verdicts(*stream(moving({})[:2])) == []


def test_shots_are_trains_pauses_or_runs() -> None:
    stamps = np.array([0, 1, 2, 50, 51, 52, 53, 100, 101])
    assert shots_of(stamps, 4).tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert shots_of(np.zeros(9, int), 4).tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2]


@pytest.mark.parametrize("folding", [1, 2])
def test_the_model_is_adjoint_and_solves_its_own_lines(folding: int) -> None:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal((*shape, 2)).view(complex)[..., 0])

    c = normal(6, folding * 10, 4)
    model = LatticeModel(c / c.abs().square().sum(0).sqrt(), 10)
    x, y = normal(folding * 10, 4), normal(6, 10, 4)
    one = torch.vdot(model.forward(x).flatten(), y.flatten())
    other = torch.vdot(x.flatten(), model.adjoint(y).flatten())
    assert abs(one - other) < 1e-10
    assert (model.solved(model.forward(x)) - x).norm() < 0.1 * x.norm()


def test_derivatives_are_those_of_movement() -> None:
    still = torch.from_numpy(head().astype(np.complex64))
    found = derivatives(still, (SPACING, SPACING))
    for column, pose in enumerate(((0.1, 0, 0), (0, 0.1, 0), (0, 0, 0.1))):
        change = torch.from_numpy((head(*pose) - head(*(-p for p in pose))) / 0.2)
        assert (found[column] - change).norm() < 0.05 * change.norm()


def test_poses_of_all_shots_alike_are_none() -> None:
    lines = torch.from_numpy(np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(moving({}), 2), norm="ortho"), 2))
    model = LatticeModel(torch.from_numpy(maps().astype(np.complex64)), N)
    shots = [np.arange(N) % TRAIN == s for s in range(TRAIN)]
    found = shot_poses(lines, shots, model=model, voxel_mm=(SPACING, SPACING))
    assert found.way_mm.max() < 0.3
    assert found.factor == pytest.approx(np.ones(TRAIN), abs=0.02)


@pytest.mark.parametrize(("name", "value"), [("slices", 0), ("moved_above", 0.0), ("hold_above", 2.0)])
def test_limits_that_make_no_sense_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        CheckMotion(**{name: value})  # type: ignore[arg-type]
