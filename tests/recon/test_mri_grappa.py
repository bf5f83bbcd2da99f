"""GRAPPA undoes what it promises, keeps what was measured, and says so where it cannot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from acquisition.errors import ConfigError, HeaderError
from acquisition.items import Item
from acquisition.scan import MrHeader, Scan
from acquisition.verdict import Level, Verdict
from recon.mri import Assemble, Grappa, ReadoutTransform
from recon.mri.items import Calibration, Frame
from tests.recon.helpers import Exam, levels, nrmse, run


def frames(exam: Exam, scan: Scan | None = None, grappa: Grappa | None = None) -> list[Frame]:
    """What GRAPPA gives, in the order in which it comes; k-space copied."""
    chain: list = [ReadoutTransform(), Assemble(), grappa or Grappa()]
    for step in chain:
        step.open(scan or exam.scan)
    out: list[Frame] = []
    for block in exam.readouts():
        items: list[Item] = [block]
        for step in chain:
            items = [made for item in items for made in step.feed(item)]
        out += [replace(item, kspace=item.kspace.clone()) for item in items if isinstance(item, Frame)]
    return out


def full(exam: Exam) -> torch.Tensor:
    return frames(replace(exam, acceleration=1, declared=None, mode=None, noise=0.0))[0].kspace


@pytest.mark.parametrize(("r", "part"), [(2, 0.05), (3, 0.15), (4, 0.5)])
@pytest.mark.parametrize("matrix", [(1, 96, 64), (1, 97, 63)])
def test_lines_that_were_left_out_are_made(r: int, part: float, matrix: tuple[int, int, int]) -> None:
    exam = Exam(matrix=matrix, acceleration=r, n_coils=12)
    (frame,) = frames(exam)
    truth = full(exam)
    made = frame.counts[0] == 0
    assert made.any()
    error = torch.linalg.vector_norm(frame.kspace[:, :, made] - truth[:, :, made])
    assert error < part * torch.linalg.vector_norm(truth[:, :, made])
    assert torch.equal(frame.kspace[:, :, ~made], truth[:, :, ~made]), "measured lines are never changed"
    assert frame.acceleration == r
    assert [v.level for v in frame.verdicts] == [Level.PASS]


@pytest.mark.parametrize(("r", "limit", "gain"), [(2, 0.001, 20), (3, 0.003, 10), (4, 0.02, 2)])
def test_the_image_is_unaliased(r: int, limit: float, gain: float) -> None:
    exam = Exam(matrix=(1, 96, 96), acceleration=r, n_coils=12)
    (image,), _ = run(exam.scan, exam.readouts())
    (aliased,), _ = run(exam.scan, exam.readouts(), grappa=None)
    assert nrmse(image.data, exam.object()) < limit
    assert nrmse(aliased.data, exam.object()) > gain * nrmse(image.data, exam.object())
    assert levels(aliased, "mri.aliasing") == ["HOLD"]
    assert not levels(image, "mri.aliasing")
    assert image.provenance.notes["acceleration"] == str(r)
    assert f"kernel {2 if r == 4 else 4}x5" in image.provenance.notes["grappa"]  # 13 of 24 lines were too many


def test_full_data_pass_untouched() -> None:
    exam = Exam(declared=2)
    (frame,) = frames(exam)
    assert torch.equal(frame.kspace, full(exam))
    assert frame.acceleration == 1
    assert not frame.verdicts


@pytest.mark.parametrize("skip", [8, 11])
def test_partial_fourier_stays_zero(skip: int) -> None:
    exam = Exam(matrix=(1, 64, 64), acceleration=2, n_coils=12, skip_k1=skip)
    (frame,) = frames(exam)
    assert not frame.kspace[:, :, :skip].any()
    assert frame.kspace[:, :, skip:].abs().amax(dim=(0, 1, 3)).min() > 0
    truth = full(exam)
    inner = slice(skip + 4, 60)
    error = torch.linalg.vector_norm((frame.kspace - truth)[:, :, inner]) / torch.linalg.vector_norm(truth)
    assert error < 0.01


def test_separate_calibration_of_another_contrast_serves_as_well() -> None:
    exam = Exam(matrix=(1, 96, 96), acceleration=3, n_coils=12, mode="separate")
    (image,), verdicts = run(exam.scan, exam.readouts())
    assert nrmse(image.data, exam.object()) < 0.008
    assert levels(image, "mri.grappa") == ["PASS"]
    assert [v.check for v in verdicts] == ["mri.noise"]


def test_weights_serve_the_repetitions_and_contrasts_of_their_slice() -> None:
    exam = Exam(matrix=(1, 64, 64), acceleration=2, n_coils=12, mode="separate", slices=2, repetitions=3, contrasts=2)
    fitted = []
    grappa = Grappa()
    original = grappa._fit
    grappa._fit = lambda *arguments: fitted.append(1) or original(*arguments)  # type: ignore[method-assign]
    images, _ = run(exam.scan, exam.readouts(), grappa=grappa)
    assert len(images) == 12
    assert len(fitted) == 2, "one fit per slice"
    for image in images:
        assert nrmse(image.data, exam.object(image.position.slice)) < 0.01
        source = next(v.evidence for v in image.verdicts if v.check == "mri.grappa")
        assert f"calibration (0, {image.position.slice}, 0, 0, 0, 0)" in source


def test_a_repetition_with_its_own_calibration_uses_it() -> None:
    exam = Exam(acceleration=2, repetitions=3)
    grappa = Grappa()
    images, _ = run(exam.scan, exam.readouts(), grappa=grappa)
    for image in images:
        evidence = next(v.evidence for v in image.verdicts if v.check == "mri.grappa")
        assert f"calibration (0, 0, 0, 0, {image.position.repetition}, 0)" in evidence
    assert len(grappa._calibrations) == len(grappa._weights) == 1, "memory does not grow with repetitions"


def test_the_lines_are_believed_over_the_header_and_it_is_said() -> None:
    exam = Exam(matrix=(1, 96, 96), acceleration=3, declared=1, n_coils=12)
    (image,), _ = run(exam.scan, exam.readouts())
    assert nrmse(image.data, exam.object()) < 0.008
    assert levels(image, "mri.grappa") == ["PASS", "FLAG"]
    assert any("header says acceleration 1, the lines say 3" in v.advice for v in image.verdicts)


def test_volumes_share_one_kernel() -> None:
    exam = Exam(matrix=(6, 64, 48), acceleration=2, n_coils=12, fov_mm=(60, 200, 150))
    (image,), _ = run(exam.scan, exam.readouts())
    assert image.data.shape == (6, 64, 48)
    assert nrmse(image.data, exam.object()) < 0.01


@pytest.mark.parametrize("kernel", [(2, 1), (2, 3), (4, 3), (6, 5)])
def test_other_kernels(kernel: tuple[int, int]) -> None:
    exam = Exam(matrix=(1, 96, 96), acceleration=2, n_coils=12)
    (image,), _ = run(exam.scan, exam.readouts(), grappa=Grappa(kernel=kernel))
    assert nrmse(image.data, exam.object()) < 0.02
    assert f"kernel {kernel[0]}x{kernel[1]}" in image.provenance.notes["grappa"]


def held(exam: Exam, scan: Scan | None = None) -> str:
    """The advice of the HOLD verdict of an image that could not be unaliased."""
    (image,), _ = run(scan or exam.scan, exam.readouts())
    assert np.isfinite(image.data).all()
    assert image.data.any(), "the zero-filled image still goes out"
    (verdict,) = [v for v in image.verdicts if v.check == "mri.grappa"]
    assert verdict.level is Level.HOLD
    assert image.provenance.notes["grappa"].startswith("not done: ")
    return verdict.advice


def test_no_calibration_lines_is_said() -> None:
    assert "Cannot unalias: R=2: no calibration lines were measured" in held(Exam(acceleration=2, acs=0))


def test_too_few_calibration_lines_are_said() -> None:
    assert "R=4: 4 calibration lines, at least 5 needed" in held(Exam(acceleration=4, acs=4))


def test_one_coil_is_said() -> None:
    assert "one coil cannot tell aliased places apart" in held(Exam(acceleration=2, n_coils=1))


def test_an_irregular_pattern_is_said() -> None:
    exam = Exam(acceleration=1)
    chosen = np.random.default_rng(0).random(64) > 0.6
    exam.lines = lambda: [(int(k), False) for k in np.flatnonzero(chosen)]  # type: ignore[method-assign]
    assert "the measured lines follow no regular pattern" in held(exam)


def test_a_calibration_of_other_coils_is_said() -> None:
    exam = Exam(acceleration=2, mode="separate")
    other = Exam(acceleration=2, mode="separate", n_coils=6)
    chain: list = [ReadoutTransform(), Assemble(), grappa := Grappa()]
    for step in chain:
        step.open(replace(exam.scan, equipment=replace(exam.scan.equipment, n_coils=None)))
    out: list[Item] = []
    for block in (
        *other.reference(np.random.default_rng(0)),
        *(b for b in exam.readouts() if not b.has(1 << 19).any()),
    ):
        out += [made for x in chain[0].feed(block) for y in chain[1].feed(x) for made in grappa.feed(y)]
    (frame,) = [item for item in out if isinstance(item, Frame)]
    assert "measured with other coils" in frame.verdicts[-1].advice


def test_calibration_that_does_not_predict_itself_is_flagged() -> None:
    exam = Exam(acceleration=2, noise=5.0)
    (image,), _ = run(exam.scan, exam.readouts())
    assert levels(image, "mri.grappa") == ["FLAG"]
    assert any("hardly predict each other" in v.advice for v in image.verdicts)


def with_acceleration(k2: float, k1: float) -> Scan:
    scan = Exam().scan
    return replace(scan, mr=MrHeader(encodings=(replace(scan.mr.encodings[0], acceleration=(k2, k1)),)))


@pytest.mark.parametrize(
    ("k2", "k1", "got"), [(2, 1, "2 along k2 and 1"), (1, 5, "5 along k1"), (1, 2.3, "1 along k2 and 2.3 along k1")]
)
def test_undersampling_that_it_cannot_undo_is_refused_before_the_scan(k2: float, k1: float, got: str) -> None:
    with pytest.raises(HeaderError, match=f"got .*{got}.*choose a protocol that undoes this undersampling"):
        Grappa().open(with_acceleration(k2, k1))


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"kernel": (3, 5)}, "kernel: expected an even number of lines and an odd number of samples"),
        ({"kernel": (4, 4)}, "kernel"),
        ({"kernel": (4,)}, "kernel"),
        ({"kernel": (0, 5)}, "kernel"),
        ({"regularisation": -1.0}, "regularisation: expected a number >= 0"),
        ({"regularisation": float("nan")}, "regularisation"),
        ({"flag_above": 0.0}, "flag_above"),
    ],
)
def test_wrong_parameters_are_refused(values: dict, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Grappa(**values)


def test_a_kernel_from_a_protocol_file_is_a_list() -> None:
    assert Grappa(kernel=[2, 3]).kernel == (2, 3)  # type: ignore[arg-type]


def test_calibrations_and_foreign_items_go_on() -> None:
    exam = Exam(acceleration=2)
    grappa = Grappa()
    grappa.open(exam.scan)
    verdict = Verdict(check="x", level=Level.PASS, advice="y")
    assert list(grappa.feed(verdict)) == [verdict]
    calibration = Calibration(
        kspace=torch.randn(8, 1, 24, 64, dtype=torch.complex64),
        first=(0, 20),
        matrix=(1, 64),
        key=frames(Exam())[0].key,
    )
    assert list(grappa.feed(calibration)) == [calibration]
    assert len(grappa._weights) == 1, "fitted when the calibration arrives, not when the frame does"
    assert not list(grappa.close())
