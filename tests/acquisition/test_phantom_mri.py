"""The virtual scanner's data: right signal, right place, right noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from acquisition.errors import ConfigError
from acquisition.geometry import Grid, display_orientation
from acquisition.items import Flag
from acquisition.sources.phantom.encode import encode
from acquisition.sources.phantom.exam import ORIENTATIONS, Orientation, demo_exam
from acquisition.sources.phantom.head import FAT, LESION, WHITE, head
from acquisition.sources.phantom.mri import Simulation, simulate
from tests.phantoms import assemble, coil_images, nrmse, rss, small_exam, small_simulation

ODD = (3, 63, 65)


def reconstruct(simulation: Simulation, frame=(1, 0, 0)) -> np.ndarray:
    return rss(coil_images(assemble(simulation.scan, simulation.readouts())[frame]))


def bright_spot(volume: np.ndarray, grid: Grid) -> np.ndarray:
    """LPS centre of the largest piece that is brighter than halfway between fat and lesion."""
    te_s = small_exam().te_s[0]
    pieces, n = ndimage.label(volume > 0.5 * (LESION.signal(te_s) + FAT.signal(te_s)))
    assert n > 0
    zyx = np.argwhere(pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:]))
    assert len(zyx) > 20
    return np.array(grid.world(zyx.mean(0)))


# --- signal -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("matrix", [(3, 96, 96), ODD])
def test_plain_transform_and_rss_give_the_truth(orientation: str, matrix: tuple[int, int, int]) -> None:
    """Full, noise-free data need no cleverness: NRMSE 0.3 to 1.1 %, what the coils' phase across a pixel makes."""
    simulation = small_simulation(matrix=matrix, orientation=orientation)
    assert nrmse(reconstruct(simulation), simulation.truth(1).data[0]) < 0.012


def test_the_same_holds_in_3d() -> None:
    simulation = small_simulation(kind="3D", matrix=(9, 48, 50), thickness_mm=8.0)
    volume = reconstruct(simulation, (0, 0, 0))
    assert volume.shape == simulation.truth().data.shape == (9, 48, 50)
    assert nrmse(volume, simulation.truth().data) < 0.015


def test_k_space_is_the_analytic_fourier_transform() -> None:
    """One uniform coil, a slab that holds the whole head: every sample against the closed form."""
    exam = small_exam(
        kind="3D", matrix=(25, 24, 24), thickness_mm=10.0, fov_mm=(250.0, 260.0), position_mm=(3.0, -4.0, 5.0)
    )
    phantom = replace(head(0), field_bump=((0.0, 0.0, 0.0), 30.0, 0.0))
    measured = encode(exam, phantom, coils=None, slice_index=0, te_s=0.003)[0]
    counts = [np.arange(n) - n // 2 for n in measured.shape]
    lengths = (250.0, 250.0, 520.0)
    read, phase, along = exam.directions
    kz, ky, kx = np.meshgrid(*(c / length for c, length in zip(counts, lengths, strict=True)), indexing="ij")
    k = kz[..., None] * along + ky[..., None] * phase + kx[..., None] * read
    origin = exam.grid.world([n // 2 for n in exam.matrix])
    voxel = np.prod(exam.grid.spacing_mm)
    expected = phantom.spectrum(k, 0.003) * np.exp(2j * np.pi * k @ origin) / voxel
    assert nrmse(measured, expected) < 2e-3


def test_the_truth_is_the_object_but_for_resolution() -> None:
    simulation = small_simulation(matrix=(1, 192, 192))
    truth = simulation.truth()
    voxels = simulation.phantom.render(truth.grid, simulation.exam.te_s[0], subsamples=(5, 4))
    assert nrmse(truth.data, voxels) < 0.1
    white = voxels == WHITE.signal(simulation.exam.te_s[0])
    assert np.median(truth.data[white]) == pytest.approx(WHITE.signal(simulation.exam.te_s[0]), rel=0.01)


def test_what_lies_outside_the_field_of_view_folds_along_phase_only() -> None:
    whole, tight = small_simulation(fov_mm=(240.0, 240.0)), small_simulation(fov_mm=(120.0, 120.0))
    image, reference = tight.truth(1).data[0], whole.truth(1).data[0]
    folded = reference.reshape(64, 64)[16:48, 16:48].copy()
    assert image[:, 0].max() > 0.05  # the head goes on where the readout's filter cuts it off
    assert image.sum() / 4 > folded.sum() * 1.1  # and its front and back have come in along y


def test_the_second_echo_decays_and_precesses() -> None:
    simulation = small_simulation(te_s=(0.003, 0.02), tr_s=0.003)
    early, late = (simulation.truth(1, contrast).data for contrast in (0, 1))
    assert 0.5 < late.sum() / early.sum() < 0.9
    frames = assemble(simulation.scan, simulation.readouts())
    assert nrmse(rss(coil_images(frames[1, 1, 0])), late[0]) < 0.02
    turned = np.angle(np.vdot(coil_images(frames[1, 0, 0]), coil_images(frames[1, 1, 0])))
    assert abs(turned) > 0.05


# --- place --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_lesion_is_found_where_it_is(orientation: str) -> None:
    """Off-centre, anisotropic, odd and even sizes: the grid's world position of the bright spot is the lesion's."""
    lesion = np.array(head(0).landmarks_mm["lesion"])
    centre = lesion + np.array([9.0, -14.0, 3.0])
    simulation = small_simulation(
        orientation=orientation,
        matrix=(13, 127, 96),
        fov_mm=(260.0, 230.0),
        thickness_mm=3.0,
        gap_mm=0.5,
        position_mm=tuple(centre),
    )
    frames = assemble(simulation.scan, simulation.readouts(block=64))
    volume = np.concatenate([rss(coil_images(frames[s, 0, 0])) for s in range(13)])
    assert np.linalg.norm(bright_spot(volume, simulation.exam.grid) - lesion) < 1.5


def test_the_lesion_is_found_in_3d() -> None:
    lesion = head(0).landmarks_mm["lesion"]
    simulation = small_simulation(kind="3D", matrix=(14, 96, 95), thickness_mm=4.0, position_mm=(2.0, 5.0, lesion[2]))
    volume = reconstruct(simulation, (0, 0, 0))
    assert np.linalg.norm(bright_spot(volume, simulation.exam.grid) - lesion) < 1.5


@pytest.mark.parametrize("orientation", ["axial", "coronal", "sagittal"])
def test_the_displayed_anatomy_is_the_right_way_up(orientation: str) -> None:
    """Axial: nose up, lesion right and below. Coronal: lesion right and above. Sagittal: lesion right and above."""
    phantom = head(0)
    lesion = np.array(phantom.landmarks_mm["lesion"])
    exam = small_exam(matrix=(1, 96, 96), orientation=orientation, position_mm=tuple(lesion * _THROUGH[orientation]))
    truth = Simulation(exam).truth()
    turned, grid = display_orientation(truth.data, truth.grid)
    _, row, column = np.linalg.inv(grid.affine)[:3] @ [*bright_spot(turned, grid), 1] @ np.eye(3)[::-1]
    below = orientation == "axial"
    assert column > 50
    assert (row > 50) == below
    assert (row < 46) == (not below)


_THROUGH = {"axial": np.array([0, 0, 1.0]), "coronal": np.array([0, 1.0, 0]), "sagittal": np.array([1.0, 0, 0])}


def test_explicit_directions_are_taken_and_may_be_left_handed() -> None:
    flipped = Orientation(read=(-2.0, 0.0, 0.0), phase=(0.0, 1.0, 0.0), slice=(0.0, 0.0, 1.0))
    plain, mirrored = small_simulation(matrix=(1, 65, 65)), small_simulation(matrix=(1, 65, 65), orientation=flipped)
    np.testing.assert_allclose(mirrored.truth().data[..., ::-1], plain.truth().data, atol=0.02)
    assert mirrored.exam.grid.x_dir == (-1.0, 0.0, 0.0)


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_named_orientations_are_right_handed_frames(name: str) -> None:
    frame = np.stack(small_exam(orientation=name).directions)
    np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-7)
    assert np.linalg.det(frame) == pytest.approx(1, abs=1e-6)


def test_the_grid_of_a_slice_fits_its_readouts() -> None:
    simulation = small_simulation(matrix=(4, 32, 32), orientation="double-oblique", gap_mm=2.0)
    for block in simulation.readouts(block=32):
        s = int(block.head["slice"][0])
        np.testing.assert_allclose(block.head["position"][0], simulation.truth(s).grid.centre_mm, atol=1e-4)
    assert np.linalg.norm(np.subtract(simulation.exam.grid.world((1, 0, 0)), simulation.exam.grid.origin_mm)) == (
        pytest.approx(7.0)
    )


# --- noise --------------------------------------------------------------------------------------------------


def test_the_noise_scan_has_the_stated_covariance() -> None:
    simulation = small_simulation(n_coils=6, snr=20.0, n_noise=256)
    noise = next(simulation.readouts(block=256))
    assert noise.has(Flag.NOISE).all()
    samples = noise.data.transpose(1, 0, 2).reshape(6, -1)
    estimated = samples @ samples.conj().T / samples.shape[1]
    assert nrmse(estimated, simulation.noise_covariance) < 0.02
    assert np.abs(samples @ samples.T).max() / samples.shape[1] < 0.02 * np.abs(estimated).max()  # circular


def test_the_noise_of_the_image_is_the_one_of_the_noise_scan() -> None:
    noisy, clean = small_simulation(snr=20.0), small_simulation()
    pairs = zip(noisy.readouts(block=64), clean.readouts(block=64), strict=True)
    samples = np.concatenate([a.data - b.data for a, b in pairs]).transpose(1, 0, 2).reshape(4, -1)
    assert nrmse(samples @ samples.conj().T / samples.shape[1], noisy.noise_covariance) < 0.03


@pytest.mark.parametrize("changes", [{}, {"kind": "3D", "matrix": (6, 32, 32)}, {"averages": 4}])
def test_snr_is_white_matter_over_noise_in_the_combined_image(changes: dict) -> None:
    noisy, clean = small_simulation(snr=20.0, **changes), small_simulation(**changes)
    key = (0, 0, 0)
    noise = coil_images(assemble(noisy.scan, noisy.readouts(block=64))[key]) - coil_images(clean.kspace())
    sigma = np.sqrt(np.mean(np.abs(noise) ** 2))
    expected = WHITE.signal(noisy.exam.te_s[0]) / 20 / np.sqrt(noisy.exam.averages)
    assert sigma == pytest.approx(expected, rel=0.03)


def test_noise_falls_with_the_dwell_time() -> None:
    simulation = small_simulation(snr=20.0, n_noise=256, dwell_us=5.0, noise_dwell_us=20.0)
    noise = next(simulation.readouts(block=256))
    power = np.mean(np.abs(noise.data) ** 2)
    expected = np.trace(simulation.noise_covariance).real / 4 / 4
    assert power == pytest.approx(expected, rel=0.03)
    assert set(simulation.head["dwell_us"]) == {np.float32(5), np.float32(20)}


# --- the same again -----------------------------------------------------------------------------------------


def test_the_same_exam_gives_the_same_readouts_whatever_the_block_size() -> None:
    exam = small_exam(snr=20.0, acceleration=2, calibration="separate", n_acs=8, repetitions=2, n_noise=5)
    one = list(Simulation(exam).readouts(block=1))
    many = list(Simulation(exam).readouts(block=17))
    np.testing.assert_array_equal(np.concatenate([b.data for b in one]), np.concatenate([b.data for b in many]))
    np.testing.assert_array_equal(np.concatenate([b.head for b in one]), np.concatenate([b.head for b in many]))
    assert {len(b) for b in one} == {1}


def test_repetitions_and_averages_differ_in_noise_only() -> None:
    simulation = small_simulation(snr=20.0, repetitions=2, averages=2, matrix=(1, 32, 32))
    first, second, third, _ = (b.data for b in simulation.readouts(block=32))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, third)
    assert nrmse(first, third) < 1


def test_another_seed_is_another_head_and_another_scan() -> None:
    a, b = small_simulation(), small_simulation(seed=1)
    assert nrmse(a.truth(1).data, b.truth(1).data) > 0.1
    assert a.scan.uid != b.scan.uid
    assert a.scan.study.instance_uid == b.scan.study.instance_uid


def test_the_first_readout_comes_before_anything_else_is_made() -> None:
    simulation = small_simulation(n_noise=1, matrix=(6, 32, 32))
    readouts = simulation.readouts()
    next(readouts)
    assert len(simulation._kspace) == 0
    next(readouts)
    assert len(simulation._kspace) == 1


def test_simulate_gives_header_and_readouts() -> None:
    scan, readouts = simulate(small_exam())
    assert scan.modality == "MR"
    assert sum(len(block) for block in readouts) == 3 * 64


def test_any_object_can_be_scanned() -> None:
    phantom = head(0).transformed(np.eye(3), (10.0, 0.0, 0.0))
    simulation = Simulation(small_exam(), phantom)
    assert simulation.phantom is phantom
    assert nrmse(reconstruct(simulation), simulation.truth(1).data[0]) < 0.015


def test_a_block_holds_at_least_one_readout() -> None:
    with pytest.raises(ConfigError, match="readouts block: expected at least 1, got 0"):
        next(small_simulation().readouts(block=0))


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("matrix", (0, 64, 64), "at least 1 slice"),
        ("fov_mm", (0.0, 1.0), "positive lengths"),
        ("kind", "4D", "2D or 3D"),
        ("thickness_mm", 0.0, "a positive length"),
        ("gap_mm", -1.0, "0 or more"),
        ("orientation", "diagonal", "axial, coronal, sagittal, double-oblique, got diagonal"),
        ("acceleration", 5, "1, 2, 3 or 4"),
        ("n_acs", -1, "0 to the number of lines"),
        ("calibration", "none", "embedded or separate"),
        ("partial_fourier", 0.5, "more than 0.5"),
        ("averages", 0, "at least 1"),
        ("repetitions", 0, "at least 1"),
        ("te_s", (0.02, 0.01), "growing times"),
        ("slice_order", "random", "interleaved or ascending"),
        ("n_coils", 0, "1 to 1024"),
        ("snr", 0.0, "a positive number"),
        ("n_noise", -1, "0 or more"),
        ("tr_s", 0.0001, "room for 1 readouts of 0.00064 s"),
    ],
)
def test_an_impossible_exam_is_refused(field: str, value: object, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"exam {field}: expected .*{expected}"):
        small_exam(**{field: value})


def test_more_calibration_lines_than_lines_are_refused_where_they_count() -> None:
    assert small_exam(n_acs=65).n_acs == 65
    with pytest.raises(ConfigError, match="exam n_acs: expected 0 to the number of lines, got 65"):
        small_exam(n_acs=65, acceleration=2)


def test_the_demonstration_takes_twenty_seconds() -> None:
    exam = demo_exam()
    simulation = Simulation(exam)
    assert exam.matrix == (20, 256, 256)
    assert exam.n_coils == 16
    assert 18 < len(simulation.head) * exam.readout_time_s < 22
    assert next(simulation.readouts()).data.shape == (1, 16, 512)
