"""Images have the right values, noise, place and words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from acquisition.errors import ConfigError, DataError
from acquisition.geometry import Grid
from acquisition.items import Image, Kind
from acquisition.mri import Prewhiten
from recon.calibrate import coil_maps
from recon.mri import Combine, CombineRss
from tests.recon.helpers import Exam, coils, levels, nrmse, run


def image_of(exam: Exam, **changed) -> Image:
    (image,), _ = run(exam.scan, exam.readouts(), **changed)
    return image


@pytest.mark.parametrize("combine", [Combine(), CombineRss()], ids=["adaptive", "rss"])
@pytest.mark.parametrize("matrix", [(1, 64, 64), (1, 63, 65), (1, 48, 97), (5, 32, 31)])
def test_the_object_comes_back_with_its_values(matrix: tuple[int, int, int], combine) -> None:
    exam = Exam(matrix=matrix)
    image = image_of(exam, combine=combine)
    truth = exam.object()
    assert image.data.shape == matrix
    assert image.data.dtype == np.float32
    assert nrmse(image.data, truth) < 0.015
    inside = truth > 0.5 * truth.max()
    assert np.median(image.data[inside] / truth[inside]) == pytest.approx(1, abs=0.01), "not scaled by any fit"


def test_adaptive_beats_root_sum_of_squares_in_noise() -> None:
    """Outside the object the sum of squares adds up the noise of all coils; one combined image has less."""
    exam = Exam(noise=0.05, n_coils=16)
    adaptive, rss = image_of(exam).data[0], image_of(exam, combine=CombineRss()).data[0]
    corner = (slice(0, 8), slice(0, 8))
    assert adaptive[corner].mean() < 0.5 * rss[corner].mean()


@pytest.mark.parametrize("skip", [4, 16])
def test_partial_fourier_only_blurs(skip: int) -> None:
    exam = Exam(skip_k1=skip)
    assert nrmse(image_of(exam).data, exam.object()) < 0.12


def test_an_asymmetric_echo_only_blurs() -> None:
    exam = Exam(skip_k0=20)
    assert nrmse(image_of(exam).data, exam.object()) < 0.12


@pytest.mark.parametrize("size", [(1, 128, 128), (1, 96, 80), (1, 32, 32)])
def test_the_image_matrix_does_not_change_the_values(size: tuple[int, int, int]) -> None:
    exam = Exam(recon_matrix=size)
    image = image_of(exam)
    assert image.data.shape == size
    assert image.grid.shape == size
    assert image.grid.spacing_mm == pytest.approx((5, 200 / size[1], 220 / size[2]))
    assert np.percentile(image.data, 95) == pytest.approx(np.percentile(image_of(Exam()).data, 95), rel=0.05)


def test_phase_oversampling_is_cut_off_in_all_directions() -> None:
    whole = Exam(matrix=(6, 64, 48), fov_mm=(60, 200, 150))
    part = replace(whole, recon_matrix=(4, 48, 40), recon_fov_mm=(40, 150, 125))
    full, cut = image_of(whole), image_of(part)
    np.testing.assert_allclose(cut.data, full.data[1:5, 8:56, 4:44], atol=2e-3 * full.data.max())
    assert cut.grid.spacing_mm == pytest.approx(full.grid.spacing_mm)


def test_the_voxel_size_is_what_was_transformed_not_what_was_wished() -> None:
    """100 voxels of 220 mm out of 300 mm encoded: 136 samples are transformed, not 136.36."""
    exam = Exam(recon_matrix=(1, 100, 64), recon_fov_mm=(5, 220, 220), fov_mm=(5, 300, 220))
    assert image_of(exam).grid.spacing_mm[1] == 300 / 136


@pytest.mark.parametrize(
    ("exam", "n"), [(Exam(slices=3), 3), (Exam(repetitions=2, slices=2), 4), (Exam(contrasts=2), 2)]
)
def test_every_frame_is_an_image(exam: Exam, n: int) -> None:
    images, _ = run(exam.scan, exam.readouts())
    assert len(images) == n
    for image in images:
        truth = exam.object(image.position.slice) * (1 + image.position.contrast)
        assert nrmse(image.data, truth) < 0.01
        assert np.percentile(image.data, 95) == pytest.approx(np.percentile(truth, 95), rel=0.02)


def test_averages_lower_the_noise_not_the_signal() -> None:
    one, four = Exam(noise=0.2), Exam(noise=0.2, averages=4)
    assert nrmse(image_of(four).data, four.object()) < 0.65 * nrmse(image_of(one).data, one.object())
    assert np.percentile(image_of(four).data, 95) == pytest.approx(np.percentile(image_of(one).data, 95), rel=0.1)


CORRELATED = np.diag(np.linspace(0.5, 4, 8)) + 0.3


@pytest.mark.parametrize(
    "exam",
    [
        Exam(),
        Exam(averages=3),
        Exam(skip_k1=16),
        Exam(skip_k0=32),
        Exam(recon_matrix=(1, 128, 96)),
        Exam(matrix=(1, 61, 63)),
        Exam(matrix=(4, 32, 32)),
    ],
    ids=["plain", "averages", "partial Fourier", "partial echo", "interpolated", "odd", "3D"],
)
def test_pixels_are_in_units_of_their_noise(exam: Exam) -> None:
    """Two scans that differ in their noise only: half the variance of the difference is that of one."""
    exam = replace(exam, noise=0.02, noise_cov=CORRELATED)
    images = []
    for seed in (1, 2):
        chain = {"prewhiten": Prewhiten(receiver_noise_bandwidth=1.0), "combine": Combine(kind="complex")}
        made, _ = run(exam.scan, [exam.noise_scan(20000), *replace(exam, seed=seed).readouts()], **chain)
        images += made
    assert {image.unit for image in images} == {"1"}
    assert images[0].provenance.notes["noise"] == "noise scan, 8 coils, 20000 samples"
    strong = np.abs(images[0].data) > 0.4 * np.abs(images[0].data).max()
    noise = (images[0].data - images[1].data).real[strong] / np.sqrt(2)
    assert np.std(noise) == pytest.approx(1, abs=0.08)


def test_accelerated_pixels_are_in_units_of_noise_times_g() -> None:
    exam = Exam(matrix=(1, 96, 96), acceleration=2, noise=0.05, n_coils=12)
    scan_noise = exam.noise_scan(20000)
    first, second = (
        run(
            exam.scan,
            [scan_noise, *replace(exam, seed=s).readouts()],
            prewhiten=Prewhiten(receiver_noise_bandwidth=1.0),
        )
        for s in (1, 2)
    )
    difference = (first[0][0].data - second[0][0].data) / np.sqrt(2)
    inside = exam.object() > 0.3 * exam.object().max()
    assert 0.8 < np.std(difference[inside]) < 1.6
    assert "g-factor" in first[0][0].provenance.notes["snr_unit"]


def test_without_noise_scan_the_unit_is_arbitrary() -> None:
    image = image_of(Exam())
    assert image.unit == "a.u."
    assert image.provenance.notes["noise"] == "not whitened"
    assert image.provenance.notes["combination"] == "adaptive"


def test_kinds() -> None:
    exam = Exam()
    magnitude, complex_, phase = (image_of(exam, combine=Combine(kind=k)) for k in ("magnitude", "complex", "phase"))
    assert (complex_.kind, complex_.data.dtype, complex_.unit) == (Kind.COMPLEX, np.complex64, "a.u.")
    assert (phase.kind, phase.data.dtype, phase.unit) == (Kind.PHASE, np.float32, "rad")
    np.testing.assert_allclose(np.abs(complex_.data), magnitude.data, rtol=1e-5)
    np.testing.assert_allclose(np.angle(complex_.data), phase.data, atol=1e-5)


def test_the_phase_is_smooth_and_differs_between_contrasts_only_by_the_object() -> None:
    exam = Exam(contrasts=2)
    images, _ = run(exam.scan, exam.readouts(), combine=Combine(kind="phase"))
    inside = exam.object() > 0.3 * exam.object().max()
    turned = np.angle(np.exp(1j * (images[0].data - images[1].data)))
    assert np.abs(turned[inside]).max() < 0.02
    step = np.angle(np.exp(1j * np.diff(images[0].data, axis=2)))
    assert np.abs(step[inside[:, :, 1:] & inside[:, :, :-1]]).max() < 0.5


@pytest.mark.parametrize("exam", [Exam(), Exam(n_coils=1), Exam(matrix=(4, 32, 32))], ids=["slice", "one coil", "3D"])
def test_both_kinds_of_maps_show_the_same_image(exam: Exam) -> None:
    walsh, inati = (run(exam.scan, exam.readouts(), combine=Combine(maps=m))[0][0].data for m in ("walsh", "inati"))
    assert nrmse(inati, walsh) < 0.01


def test_wrong_maps_are_refused() -> None:
    with pytest.raises(ConfigError, match="walsh, inati"):
        Combine(maps="guess")


def test_a_wrong_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="kind: expected magnitude, complex, phase, got 'real'"):
        Combine(kind="real")


def rotation(seed: int) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    return q


ORIENTATIONS = {
    "axial": np.eye(3),
    "sagittal": np.array([[0, 1, 0], [0, 0, -1], [1, 0, 0]]),
    "coronal": np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]),
    "double oblique": rotation(4),
}


@pytest.mark.parametrize("directions", ORIENTATIONS.values(), ids=ORIENTATIONS)
@pytest.mark.parametrize("matrix", [(1, 64, 64), (1, 49, 51), (6, 33, 32)])
def test_a_bright_point_lies_where_it_was_measured(directions: np.ndarray, matrix: tuple[int, int, int]) -> None:
    """A point so many voxels from the k-space origin is found that far along the readout, phase and slice vectors."""
    exam = Exam(matrix=matrix, n_coils=2, directions=tuple(directions), fov_mm=(60, 200, 220))
    offset = np.array([1 if matrix[0] > 1 else 0, -9, 5])
    for axis, (n, k) in enumerate(zip(matrix, offset, strict=True)):
        assert abs(k) < max(n // 2, 1), axis
    point = np.zeros((2, *matrix), complex)
    point[(slice(None), *(n // 2 + k for n, k in zip(matrix, offset, strict=True)))] = [1.0, 0.5j]
    fine = np.zeros((2, *exam.encoded), complex)
    start = exam.encoded[2] // 2 - matrix[2] // 2
    fine[..., start : start + matrix[2]] = point
    exam._cache["k", 0] = np.fft.fftshift(
        np.fft.fftn(np.fft.ifftshift(fine, (1, 2, 3)), axes=(1, 2, 3), norm="ortho"), (1, 2, 3)
    )
    image = image_of(exam)
    found = np.unravel_index(np.argmax(image.data), image.data.shape)
    spacing = np.array(image.grid.spacing_mm)
    half = np.array([n // 2 - (n - 1) / 2 for n in matrix])
    along_z, along_y, along_x = (offset + half) * spacing
    read, phase, slice_ = np.asarray(directions, float)
    expected = np.array(exam.position) + along_x * read + along_y * phase + along_z * slice_
    np.testing.assert_allclose(image.grid.world(found), expected, atol=1e-3)
    assert image.grid.centre_mm == pytest.approx(exam.position, abs=1e-4)


def test_slice_thickness_and_volume_spacing() -> None:
    assert image_of(Exam(fov_mm=(5, 200, 220))).grid.thickness_mm == 5
    volume = image_of(Exam(matrix=(4, 32, 32), fov_mm=(12, 200, 220))).grid
    assert volume.spacing_mm[0] == volume.thickness_mm == 3


def test_unknown_orientation_is_axial_and_flagged() -> None:
    image = image_of(Exam(directions=((0, 0, 0),) * 3))
    assert (image.grid.x_dir, image.grid.y_dir, image.grid.z_dir) == ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    assert image.grid.centre_mm == pytest.approx((10, -20, 30))
    assert levels(image, "mri.geometry") == ["FLAG"]
    assert any("patient position HFS" in v.evidence for v in image.verdicts)
    assert not levels(image_of(Exam()), "mri.geometry")


@pytest.mark.parametrize(
    ("directions", "match"),
    [
        (((1, 0, 0), (1, 0, 0), (0, 0, 1)), "perpendicular"),
        (((1, 0, 0), (0, 1, 0), (0, 0, 0)), "unit vector"),
        (((1, 0, 0), (0, float("nan"), 0), (0, 0, 1)), "unit vector"),
    ],
)
def test_impossible_directions_are_errors(directions: tuple, match: str) -> None:
    with pytest.raises(DataError, match=match):
        image_of(Exam(directions=directions))


def test_the_image_carries_its_times_and_the_table() -> None:
    exam = Exam()
    blocks = list(exam.readouts())
    for i, block in enumerate(blocks):
        block.head["time_stamp"], block.head["table_position"] = 1000 + i, (1, 2, 3)
    blocks[-1] = replace(blocks[-1], received_s=77.0)
    (image,), _ = run(exam.scan, blocks)
    assert (image.time_stamp, image.last_readout_s, image.table_position_mm) == (1000, 77.0, (1, 2, 3))


def test_a_second_scan_of_other_size_starts_anew() -> None:
    chain = {"combine": Combine()}
    small, large = Exam(matrix=(1, 32, 32), n_coils=4), Exam(matrix=(1, 48, 40))
    for exam in (large, small, large):
        (image,), _ = run(exam.scan, exam.readouts(), **chain)
        assert nrmse(image.data, exam.object()) < 0.01


def test_one_coil_is_its_own_combination() -> None:
    exam = Exam(n_coils=1)
    assert nrmse(image_of(exam).data, exam.object()) < 1e-4


def test_a_dead_coil_changes_nothing_much() -> None:
    exam = Exam(noise=0.01)
    blocks = list(exam.readouts())
    for block in blocks:
        block.data[:, 3] = 0
    (image,), _ = run(exam.scan, blocks)
    assert np.isfinite(image.data).all()
    assert nrmse(image.data, exam.object()) < 0.3


@pytest.mark.parametrize("method", ["walsh", "inati"])
@pytest.mark.parametrize("matrix", [(1, 64, 64), (8, 40, 41)])
def test_maps_from_the_middle_are_the_coils(matrix: tuple[int, int, int], method: str) -> None:
    exam = Exam(matrix=matrix, oversampling=1)
    z, y = (slice(max(0, n // 2 - 12), n // 2 + 12) for n in matrix[:2])
    hybrid = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(exam.kspace(), 3), axis=3, norm="ortho"), 3)
    region = torch.from_numpy(hybrid[:, z, y].astype(np.complex64))
    maps = coil_maps(region, first=(z.start, y.start), matrix=matrix, method=method).numpy()
    truth = coils(exam.n_coils, maps.shape[1:])
    truth = truth / np.linalg.norm(truth, axis=0)
    agreement = np.abs((truth.conj() * maps).sum(0))
    middle = tuple(slice(n // 4, n - n // 4) if n > 1 else slice(None) for n in agreement.shape)
    assert agreement[middle].min() > 0.98


def test_maps_of_many_coils_take_bounded_memory() -> None:
    region = torch.randn(64, 16, 24, 32, dtype=torch.complex64)
    maps = coil_maps(region, first=(8, 52), matrix=(32, 128, 32))
    assert maps[0].numel() * 64**2 <= 1 << 23


def test_grid_and_data_agree() -> None:
    image = image_of(Exam(recon_matrix=(1, 80, 48)))
    assert isinstance(image.grid, Grid)
    assert image.grid.shape == image.data.shape
