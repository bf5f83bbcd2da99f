"""Bins of a sinogram and the detectors they belong to: both ways, and where the lines run."""

from __future__ import annotations

import numpy as np
import pytest

from acquisition.pet_sinogram import crystal_pairs, ring_pairs, sinogram_bin


@pytest.mark.parametrize(("n_crystals", "n_bins"), [(504, 344), (36, 17), (64, 35), (8, 5)])
def test_each_bin_has_its_own_line_and_is_found_again(n_crystals: int, n_bins: int) -> None:
    n_views = n_crystals // 2
    pairs = crystal_pairs(n_crystals, n_views, n_bins).reshape(-1, 2)
    assert len({frozenset(p) for p in pairs.tolist()}) == n_views * n_bins
    view, bin_, swapped = sinogram_bin(pairs, n_crystals, n_bins)
    np.testing.assert_array_equal(view * n_bins + bin_, np.arange(n_views * n_bins))
    assert not swapped.any()
    view, bin_, swapped = sinogram_bin(pairs[:, ::-1], n_crystals, n_bins)
    np.testing.assert_array_equal(view * n_bins + bin_, np.arange(n_views * n_bins))
    assert swapped.all()


def test_bins_of_a_view_are_parallel_and_equally_far() -> None:
    n, radius = 504, 334.7
    angle = 2 * np.pi * np.arange(n) / n - np.pi / 2
    place = radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    first, second = np.moveaxis(place[crystal_pairs(n, 252, 344)], 2, 0)
    along = second - first
    direction = np.arctan2(along[..., 1], along[..., 0])
    assert np.ptp(np.unwrap(direction, axis=1), axis=1).max() < 1.01 * np.pi / n  # interleaved by half a view
    assert direction[0, 172] == pytest.approx(np.pi / 2)  # view 0 looks from the top to the table
    away = (first[..., 0] * along[..., 1] - first[..., 1] * along[..., 0]) / np.linalg.norm(along, axis=-1)
    np.testing.assert_allclose(away, radius * np.sin((np.arange(344) - 172) * np.pi / n) * np.ones((252, 1)), atol=1e-9)


def test_summed_views_stand_for_their_first() -> None:
    np.testing.assert_array_equal(crystal_pairs(36, 9, 7), crystal_pairs(36, 18, 7)[::2])


def test_planes_follow_the_segments() -> None:
    pairs = ring_pairs(64, 60)
    assert len(pairs) == 4084
    assert pairs.min() == 0 and pairs.max() == 63
    np.testing.assert_array_equal(pairs[:64, 0], pairs[:64, 1])
    np.testing.assert_array_equal(np.diff(pairs[64:127])[:, 0], -1)
    np.testing.assert_array_equal(np.diff(pairs[127:190])[:, 0], 1)
    assert len({tuple(p) for p in pairs.tolist()}) == 4084
