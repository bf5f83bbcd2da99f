"""Intervals: mirror images there and back, the promised part inside, wider where less is known."""

from __future__ import annotations

import numpy as np
import pytest

from acquisition.errors import DataError
from models.card import Uncertainty
from models.uncertainty import FLIPS, factor, half_width, scale, united

CHANCE = np.random.default_rng(8)


@pytest.mark.parametrize("members", sorted(FLIPS))
def test_mirror_images_come_back(members: int) -> None:
    data = CHANCE.standard_normal((2, 6, 9))
    mean, spread = united([np.flip(data, axes) for axes in FLIPS[members]], members)
    np.testing.assert_allclose(mean, data)
    assert spread.max() < 1e-12
    assert spread.shape == (6, 9)


def test_the_spread_is_the_standard_deviation_of_the_members() -> None:
    stack = CHANCE.standard_normal((4, 1, 5, 5))
    back = np.stack([np.flip(s, axes) for s, axes in zip(stack, FLIPS[4], strict=True)])
    mean, spread = united(list(stack), 4)
    np.testing.assert_allclose(mean, back.mean(axis=0))
    middle = back.var(axis=0, ddof=1)[0].mean()  # of the 5 x 5 pixels around the middle one: all
    assert spread[2, 2] == pytest.approx(np.sqrt(middle), rel=1e-6)


def test_the_spread_stays_in_its_place_and_its_slice() -> None:
    stack = np.zeros((2, 1, 3, 20, 20))
    stack[0, 0, 1, 8:11, 8:11] = 1
    stack[1] = 0
    _, spread = united(list(stack), 2)
    assert spread[1, 9, 9] > 0
    assert not spread[[0, 2]].any()
    assert not spread[1, :5].any()


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_the_promised_part_of_new_pixels_lies_inside(coverage: float) -> None:
    def ratios(n: int) -> list[np.ndarray]:
        return [np.abs(CHANCE.standard_t(4, (40, 40))) for _ in range(n)]

    found = factor(ratios(30), coverage)
    inside = np.mean(np.concatenate(ratios(30)) <= found)
    assert coverage - 0.01 < inside < coverage + 0.05


def test_few_images_make_it_wider() -> None:
    ratios = [np.abs(CHANCE.standard_normal((60, 60))) for _ in range(30)]
    assert factor(ratios[:3], 0.9) > factor(ratios, 0.9)
    with pytest.raises(DataError, match="2 images or more"):
        factor(ratios[:1], 0.9)


CARD = Uncertainty(members=4, coverage=0.9, factor=3.0, floor=0.1, items=9)


def test_half_width_goes_from_the_noise_to_the_network() -> None:
    noise, spread = np.full((3, 3), 2.0, np.float32), np.full((3, 3), 0.5, np.float32)
    conventional = half_width(spread, noise, card=CARD, strength=0.0)
    np.testing.assert_allclose(conventional, 1.6449 * 2, rtol=1e-4)
    network = half_width(spread, noise, card=CARD, strength=1.0)
    np.testing.assert_allclose(network, 3 * np.hypot(0.5, 0.2), rtol=1e-5)
    assert (
        half_width(2 * spread, noise, card=CARD, strength=0.5)[0, 0]
        > half_width(spread, noise, card=CARD, strength=0.5)[0, 0]
    )


def test_where_all_members_agree_the_floor_remains() -> None:
    assert scale(np.zeros((2, 2), np.float32), np.full((2, 2), 5, np.float32), 0.1) == pytest.approx(0.5)
