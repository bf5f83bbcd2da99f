from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.errors import ConfigError
from models.train.encode import (
    cropped_kspace,
    filtered,
    filtered_level,
    image_of,
    kspace_of,
    random_coils,
    random_window,
    receiver_noise,
    unfolded_noise,
    unfolding,
    whitened,
)
from tests.models.train.simulated import axial_plane


def blob(shape: tuple[int, int], place: tuple[float, float], width: float) -> np.ndarray:
    """A Gaussian at a place in parts of the field of view from its origin, on any number of cells."""
    y, x = ((np.arange(n) - n // 2) / n for n in shape)
    return np.exp(-((y[:, None] - place[0]) ** 2 + (x - place[1]) ** 2) / (2 * width**2))


@pytest.mark.parametrize("matrix", [(48, 48), (32, 48), (36, 60)])
def test_cropping_gives_the_same_object_at_lower_resolution(matrix: tuple[int, int]) -> None:
    fine = blob((96, 120), (0.13, -0.2), 0.05) * np.exp(1j)
    assert image_of(cropped_kspace(fine, matrix)) == pytest.approx(
        blob(matrix, (0.13, -0.2), 0.05) * np.exp(1j), abs=2e-3
    )


def test_cropping_keeps_the_low_frequencies_as_they_are() -> None:
    rng = np.random.default_rng(0)
    fine = rng.standard_normal((2, 60, 40)) + 1j * rng.standard_normal((2, 60, 40))
    scale = np.sqrt(32 * 24 / (60 * 40))
    expected = kspace_of(fine)[:, 30 - 16 : 30 + 16, 20 - 12 : 20 + 12] * scale
    assert cropped_kspace(fine, (32, 24)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("matrix", [(62, 40), (32, 42), (31, 24)])
def test_kspace_is_never_padded(matrix: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="never padded"):
        cropped_kspace(np.ones((60, 40)), matrix)


def test_noise_is_white_in_snr_units_behind_the_whitening() -> None:
    rng = np.random.default_rng(5)
    coils = random_coils(axial_plane(), 16, rng)
    raw = receiver_noise((16, 200, 200), coils, rng)
    assert np.cov(raw.reshape(16, -1)) == pytest.approx(coils.covariance, abs=0.05)
    assert np.abs(coils.covariance - np.diag(np.diag(coils.covariance))).max() > 0.1  # there was something to undo
    white = whitened(raw, coils)
    assert np.cov(white.reshape(16, -1)) == pytest.approx(np.eye(16), abs=0.02)
    assert np.mean(np.abs(white) ** 2) == pytest.approx(1, abs=0.01)
    assert np.mean(np.abs(image_of(white)) ** 2) == pytest.approx(1, abs=0.01)  # orthonormal transforms keep it


def test_maps_have_unit_norm_and_are_the_same_on_any_grid() -> None:
    coils = random_coils(axial_plane(cells=72), 8, np.random.default_rng(1))
    assert np.linalg.norm(coils.maps, axis=0) == pytest.approx(1, abs=1e-5)
    on_voxels = coils.on_voxels((48, 48))
    assert np.linalg.norm(on_voxels, axis=0) == pytest.approx(1, abs=1e-5)
    # the origin of both grids is the voxel n // 2, and every third cell is every second voxel
    assert on_voxels[:, ::2, ::2] == pytest.approx(coils.maps[:, ::3, ::3], abs=1e-4)
    assert np.abs(np.diff(coils.maps, axis=1)).max() < 0.1


def test_each_coil_sees_another_place() -> None:
    coils = random_coils(axial_plane(fov_mm=220.0), 6, np.random.default_rng(2))
    strongest = {tuple(np.argwhere(np.abs(m) == np.abs(m).max())[0] // 24) for m in coils.maps}
    assert len(strongest) >= 4
    assert coils.profile.mean() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("r", [1, 2, 3])
def test_the_g_factor_is_the_noise_that_unfolding_leaves(r: int) -> None:
    """Noise of the coils, every r-th line kept, unfolded voxel by voxel: its level is sqrt(r) times the g-factor."""
    rng = np.random.default_rng(3)
    maps = random_coils(axial_plane(fov_mm=200.0), 6, rng).on_voxels((36, 24))
    g, covariance = unfolding(maps, r)
    n = 300
    white = (rng.standard_normal((n, 6, 36, 24)) + 1j * rng.standard_normal((n, 6, 36, 24))) / np.sqrt(2)
    lines = np.arange(36) % r == 0
    folded = image_of(white * lines[:, None])[:, :, : 36 // r]
    sets = maps.reshape(6, r, 36 // r, 24)
    out = np.empty((n, r, 36 // r, 24), complex)
    for y in range(36 // r):
        for x in range(24):
            c = sets[:, :, y, x]
            out[:, :, y, x] = r * (folded[:, :, y, x] @ np.linalg.pinv(c).T)
    measured = np.sqrt((np.abs(out.reshape(n, 36, 24)) ** 2).mean(0) / r)
    assert np.median(measured / g) == pytest.approx(1, abs=0.02)
    assert np.std(measured / g) < 0.06
    drawn = unfolded_noise(covariance, rng, n=400)
    assert np.median(drawn.real.std(0) / g) == pytest.approx(1, abs=0.02)
    if r == 1:
        assert g == pytest.approx(1, abs=1e-3)
    else:
        assert g.max() > 1.02


def test_unfolded_noise_is_shared_by_voxels_that_fell_onto_each_other() -> None:
    rng = np.random.default_rng(4)
    maps = random_coils(axial_plane(fov_mm=120.0), 4, rng).on_voxels((24, 24))
    _, covariance = unfolding(maps, 2)
    noise = unfolded_noise(covariance, rng, n=2000)
    a, b = noise[:, 3, 5], noise[:, 15, 5]
    expected = covariance[3, 5, 0, 1] / np.sqrt(covariance[3, 5, 0, 0] * covariance[3, 5, 1, 1]).real
    assert np.mean(a * b.conj()) / np.sqrt(np.mean(np.abs(a) ** 2) * np.mean(np.abs(b) ** 2)) == pytest.approx(
        expected, abs=0.06
    )
    assert abs(expected) > 0.1


def test_the_noise_level_behind_a_filter_is_what_it_says() -> None:
    rng = np.random.default_rng(6)
    level = 1 + blob((48, 48), (0.1, 0.2), 0.2)
    windows = (random_window((48, 48), np.random.default_rng(seed)) for seed in range(40))
    window = min(windows, key=lambda w: float((w**2).sum()))  # the strongest of some
    white = (rng.standard_normal((500, 48, 48)) + 1j * rng.standard_normal((500, 48, 48))) * level
    assert window.min() < 0.9
    measured = filtered(white, window).real.std(0)
    assert np.median(measured / filtered_level(level, window)) == pytest.approx(1, abs=0.02)


def test_windows_differ() -> None:
    means = {round(float(random_window((32, 32), np.random.default_rng(s)).mean()), 3) for s in range(30)}
    assert len(means) > 10


def test_lines_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match="a divisor of 48 lines"):
        unfolding(np.ones((2, 48, 8)), 5)


def test_planes_share_the_coils_place() -> None:
    """Coils stay in the room: the same array seen by the plane turned by 90 degrees is turned too."""
    plane = axial_plane(fov_mm=200.0)
    turned = replace(plane, directions=plane.directions[[0, 2, 1]])
    one, other = (random_coils(p, 4, np.random.default_rng(8)) for p in (plane, turned))
    assert np.abs(other.maps) == pytest.approx(np.abs(one.maps).swapaxes(1, 2), abs=1e-3)
