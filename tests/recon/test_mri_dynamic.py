"""Series solved together, against a movie whose every frame is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from acquisition.errors import ConfigError, DataError, ReconError
from acquisition.items import READOUT_HEAD, Image, Readouts
from acquisition.scan import Limits, Scan
from acquisition.verdict import Level, Verdict
from integration.protocol import Library
from integration.runner import Run
from recon.mri.dynamic import KtLowRank, KtSparse, KtVariation, LowRankSparse
from recon.mri.items import Calibration, Frame, FrameKey
from recon.mri.iterative import CgSense
from tests.recon.helpers import Exam, centred, coils, phantom

STEPS = (KtVariation, KtSparse, KtLowRank, LowRankSparse)
N, NY, NX = 12, 48, 44


def movie(n: int = N, ny: int = NY, nx: int = NX, nz: int = 1) -> NDArray:
    """A disc beats in the object, a spot takes up contrast: (frame, z, y, x)."""
    base = phantom((nz, ny, nx))
    axes = [(np.arange(m) - m // 2) / m for m in (ny, nx)]
    y, x = np.meshgrid(*axes, indexing="ij")
    frames = []
    for t in range(n):
        radius = 0.10 + 0.035 * np.cos(2 * np.pi * t / n)
        beat = 0.8 / (1 + np.exp((np.hypot(y - 0.05, x + 0.02) - radius) * 120))
        uptake = 0.4 / (1 + np.exp(-(t - n / 3) * 1.5)) / (1 + np.exp((np.hypot(y + 0.2, x - 0.05) - 0.05) * 120))
        frames.append(base + beat + uptake)
    return np.array(frames)


def sampled(shape: tuple[int, int], r: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """1 / r of the lines (k2, k1), more of them in the middle."""
    k2, k1 = (np.arange(n) - n // 2 for n in shape)
    density = np.exp(-((k1 / (shape[1] / 4)) ** 2) - ((k2 / max(shape[0] / 4, 1)) ** 2)[:, None]) + 0.15
    chosen = rng.choice(density.size, density.size // r, replace=False, p=(density / density.sum()).ravel())
    mask = np.zeros(density.size, bool)
    mask[chosen] = True
    return mask.reshape(shape)


def measured(truth: NDArray, *, r: int = 4, n_coils: int = 6, noise: float = 0.01, n_acs: int = 0) -> list[Frame]:
    """The frames of a movie, each with lines of its own."""
    rng = np.random.default_rng(0)
    maps = coils(n_coils, truth.shape[1:])
    maps = maps / np.sqrt((np.abs(maps) ** 2).sum(0))
    frames = []
    for t, image in enumerate(truth):
        kspace = centred(maps * image, (1, 2))
        mask = sampled(truth.shape[1:3], r, rng)
        middle = truth.shape[2] // 2
        mask[:, middle - n_acs // 2 : middle + n_acs // 2] |= n_acs > 0
        kspace = kspace + noise * (rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape))
        kspace = torch.from_numpy((kspace * mask[..., None]).astype(np.complex64))
        key, head = FrameKey(0, 0, 0, t, 0, 0), np.zeros((), READOUT_HEAD)
        frames.append(Frame(kspace=kspace, counts=mask.astype(np.uint16), key=key, head=head))
    return frames


def scan(n: int = N, matrix: tuple[int, int, int] = (1, NY, NX)) -> Scan:
    plain = Exam(matrix=matrix).scan
    encoding = plain.require_mr().encodings[0]
    limits = {**encoding.limits, "phase": Limits(0, n - 1, 0)}
    return replace(plain, mr=replace(plain.require_mr(), encodings=(replace(encoding, limits=limits),)))


def solved(step: Any, frames: list[Frame], header: Scan | None = None) -> list[Frame]:
    step.open(header or scan(len(frames)))
    return [out for frame in frames for out in step.feed(frame)] + list(step.close())


def images(frames: list[Frame]) -> NDArray:
    kspace = torch.stack([frame.kspace[0] for frame in frames]).numpy()
    axes = (1, 2)
    return np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(kspace, axes), axes=axes, norm="ortho"), axes)


def error(frames: list[Frame], truth: NDArray) -> float:
    size = np.abs(images(frames))
    return float(np.linalg.norm(size * (size * truth).sum() / (size**2).sum() - truth) / np.linalg.norm(truth))


@pytest.mark.parametrize("make", STEPS)
def test_a_series_is_better_than_its_frames_alone(make: Any) -> None:
    truth = movie()
    alone = error(solved(CgSense(), measured(truth, r=5, n_acs=10)), truth)
    together = solved(make(), measured(truth, r=5, n_acs=10))
    assert error(together, truth) < 0.75 * alone
    assert error(together, truth) < 0.04
    assert [f.key.phase for f in together] == list(range(N))
    assert all(f.combined and f.counts.all() for f in together)
    assert [v.level for f in together for v in f.verdicts] == [Level.PASS] * N


@pytest.mark.parametrize("make", STEPS)
def test_the_movement_stays(make: Any) -> None:
    truth = movie()
    found = np.abs(images(solved(make(), measured(truth))))
    beat = np.s_[:, 0, 25:29, 15:19]  # at the border of the disc
    moved, expected = np.ptp(found[beat].mean((1, 2))), np.ptp(truth[beat].mean((1, 2)))
    assert 0.75 < moved / expected < 1.1


@pytest.mark.parametrize("make", STEPS)
def test_nothing_changes_where_everything_was_measured(make: Any) -> None:
    truth = movie(5, 31, 24)
    found = solved(make(energy=1.0, crop=0.0, n_iterations=30), measured(truth, r=1, noise=0.0), scan(5, (1, 31, 24)))
    assert error(found, truth) < 0.02


def test_volumes_are_solved_along_their_readout() -> None:
    truth = movie(4, 24, 6, nz=16)
    found = solved(KtSparse(), measured(truth, r=2), scan(4, (16, 24, 6)))
    assert found[0].kspace.shape == (1, 16, 24, 6)
    assert error(found, truth) < 0.12


def test_an_awkward_matrix_is_solved_on_a_finer_grid() -> None:
    truth = movie(6, 46, 20)
    found = solved(KtSparse(), measured(truth, r=3), scan(6, (1, 46, 20)))
    assert found[0].kspace.shape == (1, 1, 46, 20)
    assert error(found, truth) < 0.06


def test_an_incomplete_series_is_marked() -> None:
    found = solved(KtSparse(), measured(movie(6), n_acs=12), scan(N))
    assert len(found) == 6
    assert {v.level for f in found for v in f.verdicts} == {Level.FLAG}
    assert "Only 6 of 12 frames" in found[0].verdicts[0].advice


def test_one_coil_and_one_frame() -> None:
    truth = movie(1)
    found = solved(KtVariation(crop=0.0), measured(truth, r=1, n_coils=1), scan(1))
    assert error(found, truth) < 0.03


def test_without_a_middle_the_frames_are_held() -> None:
    frames = measured(movie(3))
    for frame in frames:
        frame.kspace[:, :, NY // 2 - 3 : NY // 2 + 3] = 0
        frame.counts[:, NY // 2 - 3 : NY // 2 + 3] = 0
    kept = [frame.kspace.clone() for frame in frames]
    found = solved(KtSparse(), frames)
    assert {v.level for f in found for v in f.verdicts} == {Level.HOLD}
    assert all(torch.equal(f.kspace, k) for f, k in zip(found, kept, strict=True))


def test_a_separate_calibration_is_used() -> None:
    truth, step = movie(3), KtSparse()
    step.open(scan(3))
    full = measured(truth[:1], r=1)[0]
    region = full.kspace[:, :, NY // 2 - 10 : NY // 2 + 10].clone()
    calibration = Calibration(
        kspace=region, first=(0, NY // 2 - 10), matrix=(1, NY), key=FrameKey(0, 0, 0, 0, 0, 0), separate=True
    )
    assert list(step.feed(calibration)) == []
    found = [out for frame in measured(truth, r=3) for out in step.feed(frame)]
    assert error(found, truth) < 0.08


def test_other_items_pass() -> None:
    step, verdict = KtSparse(), Verdict(check="x", level=Level.PASS, advice="")
    step.open(scan())
    assert list(step.feed(verdict)) == [verdict]


def test_frames_of_two_sizes_are_refused() -> None:
    step, frames = KtSparse(), measured(movie(2))
    step.open(scan(2))
    assert list(step.feed(frames[0])) == []
    with pytest.raises(DataError, match=r"k-space of shape \(6, 1, 48, 44\)"):
        list(step.feed(replace(frames[1], kspace=frames[1].kspace[..., 1:])))


def test_too_many_frames_for_the_memory_are_refused() -> None:
    step = KtSparse(max_gib=1e-4)
    step.open(scan())
    with pytest.raises(ReconError, match="raise max_gib"):
        [out for frame in measured(movie(4)) for out in step.feed(frame)]


def test_zeros_stay_zeros() -> None:
    frames = [replace(f, kspace=torch.zeros_like(f.kspace)) for f in measured(movie(3))]
    found = solved(KtLowRank(), frames)
    assert not any(f.kspace.any() for f in found)
    assert {v.level for f in found for v in f.verdicts} == {Level.HOLD}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KtVariation(n_sets=2), r"mri\.kt_tv n_sets: expected 1"),
        (lambda: KtSparse(weight=-1), r"mri\.kt_sparse weight"),
        (lambda: KtLowRank(block=1), r"mri\.kt_low_rank block"),
        (lambda: LowRankSparse(low_rank=-1), r"mri\.low_rank_sparse low_rank"),
        (lambda: KtSparse(max_gib=0), "max_gib"),
        (lambda: KtSparse(n_iterations=0), "n_iterations"),
    ],
)
def test_wrong_parameters_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("name", ["mri_cine_kt", "mri_dce_kt"])
def test_the_protocols_make_an_image_of_each_repetition(name: str) -> None:
    exam = Exam(matrix=(1, 40, 36), n_coils=5, repetitions=4, oversampling=2, noise=0.01)
    blocks = [b for b in exam.readouts() if _is_kept(b)]
    run = Run(exam.scan, Library()[name])
    run.open()
    found = [image for block in blocks for image in run.feed(block)] + list(run.close())
    assert [image.position.repetition for image in found] == [0, 1, 2, 3]
    truth = exam.object()
    for image in found:
        assert isinstance(image, Image)
        size = image.data / np.linalg.norm(image.data) * np.linalg.norm(truth)
        assert np.linalg.norm(size - truth) < 0.1 * np.linalg.norm(truth)


def _is_kept(block: Readouts) -> bool:
    """Every second line and the last one, another half in every other repetition."""
    k1, repetition, flags = (int(block.head[name][0]) for name in ("k1", "repetition", "flags"))
    return (k1 + repetition) % 2 == 0 or flags > 0
