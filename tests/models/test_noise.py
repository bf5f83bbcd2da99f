"""How strong noise is, and whether a change looks like noise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from models.consistency import BLOCK, residual
from models.noise import estimate, noise_maps, noise_of, snr
from tests.models.samples import ellipses, image

CHANCE = np.random.default_rng(4)
ONE = np.ones((96, 96), np.float32)


@pytest.mark.parametrize("level", [0.02, 1.0, 300.0])
@pytest.mark.parametrize("shape", [(96, 96), (3, 65, 71)])
def test_white_noise_is_found_under_a_smooth_object(level: float, shape: tuple[int, ...]) -> None:
    object_ = 50 * level * gaussian_filter(CHANCE.random(shape), 12)
    assert estimate(object_ + level * CHANCE.standard_normal(shape)) == pytest.approx(level, rel=0.06)


def test_complex_noise_is_that_of_each_part() -> None:
    parts = CHANCE.standard_normal((2, 128, 128))
    assert estimate(parts[0] + 1j * parts[1]) == pytest.approx(1, rel=0.05)


def test_what_was_never_measured_does_not_count() -> None:
    data = CHANCE.standard_normal((96, 96))
    data[:, 20:] = 0
    assert estimate(data) == pytest.approx(1, rel=0.1)
    assert estimate(np.zeros((8, 8))) == 0
    assert estimate(np.full((8, 8), np.nan)) == 0


def test_a_whitened_image_says_its_noise_itself() -> None:
    assert noise_of(image()) == (1.0, "the image is in units of its noise")
    level, source = noise_of(image(5 * CHANCE.standard_normal((48, 48)), unit="HU"))
    assert level == pytest.approx(5, rel=0.1)
    assert "finest details" in source


def test_snr_is_the_bright_part_over_the_noise() -> None:
    data = np.zeros((10, 10))
    data[:2] = -40.0
    assert snr(data, 2.0) == 20


def test_a_gfactor_map_scales_the_noise_and_never_vanishes() -> None:
    gfactor = np.full((1, 48, 48), 2.0, np.float32)
    gfactor[0, :5] = 0
    maps = noise_maps(image(), 3.0, gfactor)
    assert maps.shape == (1, 48, 48)
    assert maps[0, 40, 40] == pytest.approx(6)
    assert maps[0, 0, 0] == pytest.approx(0.6)
    assert (noise_maps(image(), 3.0, 0 * gfactor) == 3).all()
    assert (noise_maps(image(), 3.0, None) == 3).all()


def test_taking_all_noise_away_is_one_standard_deviation_and_no_structure() -> None:
    truth = gaussian_filter(100 * CHANCE.random((96, 96)), 8)
    found = residual(truth + CHANCE.standard_normal(truth.shape), truth, ONE)
    assert found.rms == pytest.approx(1, abs=0.03)
    assert found.peak < 5


def test_of_several_slices_the_worst_counts() -> None:
    change = CHANCE.standard_normal((3, 64, 64)) * np.array([1, 3, 2])[:, None, None]
    found = residual(change, 0 * change, np.ones((3, 64, 64)))
    alone = residual(change[1], 0 * change[1], np.ones((64, 64)))
    assert found == alone


def test_no_change_is_nothing() -> None:
    data = ellipses(0, 96)
    assert (residual(data, data, ONE).rms, residual(data, data, ONE).peak) == (0, 0)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("at", [(0, 0), (43, 51), (88, 88)])
def test_a_lesion_added_or_taken_away_is_seen_though_the_whole_changes_little(sign: int, at: tuple[int, int]) -> None:
    truth = np.zeros((96, 96))
    noisy = truth + CHANCE.standard_normal(truth.shape)
    made = truth.copy()
    made[at[0] : at[0] + BLOCK, at[1] : at[1] + BLOCK] += 4 * sign
    found = residual(noisy, made, ONE)
    assert found.rms < 1.1
    assert found.peak > 10


def test_the_change_is_held_against_the_noise_of_its_place() -> None:
    change = np.zeros((96, 96))
    change[40:48, 40:48] = 2
    loud = ONE.copy()
    loud[32:56, 32:56] = 4
    assert residual(change, 0 * change, loud).peak == pytest.approx(residual(change, 0 * change, ONE).peak / 4)


def test_an_image_smaller_than_a_block_has_one() -> None:
    assert residual(np.full((4, 5), 2.0), np.zeros((4, 5)), np.ones((4, 5))).peak == pytest.approx(2 * np.sqrt(20))
