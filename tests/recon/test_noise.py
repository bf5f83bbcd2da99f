"""Noise read from images, and taken away by non-local means: the level is found, edges stay, noise falls."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from acquisition.errors import ConfigError
from acquisition.geometry import Grid
from acquisition.items import Image, Kind
from acquisition.scan import Scan
from recon.nlm import NonLocalMeans, non_local_means
from recon.noise import NoiseMap, local_noise
from recon.pet.noise import halves_noise

SCAN = Scan(uid="s", modality="CT")


def object_(n: int = 128) -> np.ndarray:
    """Discs on a gentle slope [HU]."""
    y, x = np.mgrid[:n, :n] / n
    image = 30 * x + 200 * (np.hypot(y - 0.5, x - 0.5) < 0.3) + 100 * (np.hypot(y - 0.4, x - 0.6) < 0.1)
    return image.astype(np.float32)


def white(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_the_level_of_white_noise_is_found_beside_edges() -> None:
    found = local_noise(object_() + 12 * white(128, 128))
    assert found.shape == (128, 128)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, 12, rtol=0.35)
    assert np.median(found) == pytest.approx(12, rel=0.12)


def test_twice_the_noise_is_twice_the_map_and_nothing_is_nothing() -> None:
    image = object_() + 12 * white(128, 128)
    np.testing.assert_allclose(local_noise(2 * image), 2 * local_noise(image), rtol=1e-4)
    assert not local_noise(np.zeros((2, 40, 40))).any()
    assert local_noise(np.zeros((9, 9))).shape == (9, 9)


def test_what_lies_outside_of_the_reconstructed_circle_says_nothing() -> None:
    y, x = np.mgrid[:128, :128] - 63.5
    seen = np.hypot(y, x) < 50  # half of the image is the same number
    found = local_noise(np.where(seen, 12 * white(128, 128), -1000.0).astype(np.float32))
    assert np.median(found[np.hypot(y, x) < 40]) == pytest.approx(11, rel=0.2)


def test_noise_that_grows_across_the_image_is_followed() -> None:
    across = np.linspace(10, 20, 128, dtype=np.float32)
    found = local_noise(across * white(128, 128))
    assert found[:, :20].mean() == pytest.approx(across[:20].mean(), rel=0.2)
    assert found[:, -20:].mean() == pytest.approx(across[-20:].mean(), rel=0.2)


def test_correlated_noise_is_not_taken_for_less_than_half() -> None:
    noise = gaussian_filter(white(128, 128), 0.8)
    assert 0.6 < np.median(local_noise(noise / noise.std())) < 1.2


def test_complex_images_and_odd_shapes() -> None:
    image = (white(3, 51, 37) + 1j * white(3, 51, 37, seed=1)).astype(np.complex64)
    found = local_noise(image)
    assert found.shape == image.shape
    assert np.median(found) == pytest.approx(1, rel=0.2)


def volume(data: np.ndarray) -> Image:
    grid = Grid.from_centre((0, 0, 0), shape=data.shape, spacing_mm=(1, 1, 1), directions=np.eye(3))
    return Image(data=data, grid=grid, unit="HU")


@pytest.mark.parametrize(("step", "output"), [(NoiseMap(), "noise"), (NonLocalMeans(), "nlm")])
def test_the_conventional_image_goes_first_and_untouched(step, output: str) -> None:
    step.open(SCAN)
    one = volume((object_(48) + 12 * white(48, 48))[None])
    before = one.data.copy()
    first, second = step.feed(one)
    assert first is one
    np.testing.assert_array_equal(one.data, before)
    assert (second.output, second.unit, second.kind) == (output, "HU", Kind.MAGNITUDE)
    assert second.data.shape == one.data.shape
    assert list(step.feed(second)) == [second]
    assert not list(step.close())


@pytest.mark.parametrize("depth", [1, 4])
def test_non_local_means_take_noise_and_keep_edges(depth: int) -> None:
    truth = np.broadcast_to(object_(72), (depth, 72, 72))
    noisy = truth + 12 * white(depth, 72, 72)
    made = non_local_means(noisy, np.full_like(noisy, 12.0), reach=(2, 5))
    flat = truth == truth[..., ::-1, :]
    assert (made - truth)[flat].std() < 0.5 * (noisy - truth)[flat].std()
    steps = np.diff(truth, axis=-1)
    edge = np.abs(steps) > 80
    assert np.mean(np.diff(made, axis=-1)[edge] / steps[edge]) > 0.85


def test_more_slices_take_more_noise() -> None:
    noisy = white(5, 40, 40)
    ones = np.ones_like(noisy)
    as_volume, alone = (non_local_means(noisy, ones, reach=(r, 4)) for r in (2, 0))
    assert as_volume[2].std() < 0.8 * alone[2].std()


def test_no_noise_no_change_and_any_unit_is_the_same() -> None:
    truth = object_(40)[None]
    np.testing.assert_allclose(non_local_means(truth, np.zeros_like(truth), reach=(0, 3)), truth, rtol=1e-5, atol=1e-3)
    noisy = truth + 12 * white(1, 40, 40)
    sigma = np.full_like(noisy, 12.0)
    twice = non_local_means(2 * noisy, 2 * sigma, reach=(0, 3))
    np.testing.assert_allclose(twice, 2 * non_local_means(noisy, sigma, reach=(0, 3)), rtol=1e-4, atol=1e-3)


def test_non_local_means_are_the_sum_that_the_paper_writes() -> None:
    data = white(2, 7, 6) * 2
    made = non_local_means(data, np.ones_like(data), strength=0.8, patch=0, reach=(1, 2))
    for z, y, x in ((0, 3, 3), (1, 0, 0), (1, 6, 5)):
        near = [
            data[k, j, i]
            for k in range(2)
            for j in range(max(0, y - 2), min(7, y + 3))
            for i in range(max(0, x - 2), min(6, x + 3))
            if (k, j, i) != (z, y, x)
        ]
        weights = np.exp(-np.maximum((data[z, y, x] - np.array(near)) ** 2 - 2, 0) / 1.6)
        most = weights.max()
        expected = (weights @ near + most * data[z, y, x]) / (weights.sum() + most)
        assert made[z, y, x] == pytest.approx(expected, rel=1e-4)


def test_what_is_out_of_range_is_named() -> None:
    with pytest.raises(ConfigError, match=r"image\.noise lag_px"):
        NoiseMap(lag_px=0)
    with pytest.raises(ConfigError, match=r"image\.noise window_px"):
        NoiseMap(window_px=3)
    with pytest.raises(ConfigError, match=r"image\.nlm"):
        NonLocalMeans(strength=0.0)


def test_halves_that_differ_by_noise_tell_it() -> None:
    truth = 100 * (1 + object_(64) / 100)
    relative = 0.2
    one, other = (truth * (1 + relative * np.sqrt(2) * white(64, 64, seed=s)) for s in (1, 2))
    found = halves_noise((one + other) / 2, one, other, fwhm_px=0)
    assert np.median(found / truth) == pytest.approx(relative, rel=0.1)
    assert not halves_noise(0 * one, 0 * one, 0 * one, fwhm_px=2).any()
