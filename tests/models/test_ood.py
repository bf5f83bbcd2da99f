"""The distance to the training images: known for what is alike, large for what is not, and what it rests on."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from acquisition.errors import DataError
from models.ood import FEATURES, REGIONS, features, fitted
from tests.models.samples import ellipses, statistics

HELD_OUT = [ellipses(seed) for seed in range(500, 540)]


def scores(images: list[np.ndarray]) -> np.ndarray:
    return np.array([statistics().score(features(i, 1.0)) for i in images])


def test_images_of_the_same_kind_score_about_one() -> None:
    found = scores(HELD_OUT)
    assert 0.6 < np.median(found) < 1.5
    assert np.quantile(found, 0.95) < 2.5


def _foreign(name: str) -> list[np.ndarray]:
    chance = np.random.default_rng(0)
    if name == "noise alone":
        return [chance.standard_normal((48, 48)) for _ in range(5)]
    if name == "smoothed before":
        return [gaussian_filter(i, 1.5) for i in HELD_OUT[:5]]
    if name == "noise twice as strong as said":
        return [i + np.sqrt(3) * chance.standard_normal(i.shape) for i in HELD_OUT[:5]]
    return [60 * chance.random((48, 48)) for _ in range(5)]


@pytest.mark.parametrize("name", ["noise alone", "smoothed before", "noise twice as strong as said", "texture"])
def test_images_of_another_kind_score_more_than_all_held_out_ones(name: str) -> None:
    assert scores(_foreign(name)).min() > np.quantile(scores(HELD_OUT), 0.95)


def test_the_unit_does_not_matter() -> None:
    for factor in (1e-4, 1e5):
        np.testing.assert_allclose(
            features(factor * HELD_OUT[0].astype(float), factor), features(HELD_OUT[0], 1.0), atol=1e-3
        )


def test_hounsfield_units_may_begin_anywhere() -> None:
    np.testing.assert_allclose(
        features(HELD_OUT[0].astype(float) - 1000, 1.0), features(HELD_OUT[0].astype(float), 1.0), atol=1e-6
    )


def test_complex_images_and_volumes_have_figures() -> None:
    turned = features(HELD_OUT[0] * np.exp(1j), 1.0)
    assert turned == pytest.approx(features(HELD_OUT[0] * np.exp(2j), 1.0), abs=1e-5)
    assert features(np.stack(HELD_OUT[:3]), 1.0).shape == (len(FEATURES),)
    assert features(HELD_OUT[0], 1.0).dtype == np.float64


def test_the_score_is_the_mahalanobis_distance() -> None:
    chance = np.random.default_rng(0)
    mixed = chance.standard_normal((400, len(FEATURES))) @ chance.standard_normal((len(FEATURES),) * 2) + 3
    found = fitted(mixed)
    assert found.score(found.mean) == 0
    squares = [found.score(row) ** 2 for row in mixed]
    assert np.mean(squares) == pytest.approx(1, abs=0.25)  # the ridge takes a little away


def test_too_little_is_refused() -> None:
    with pytest.raises(DataError, match="more than 14 images"):
        fitted(np.zeros((13, len(FEATURES))))
    with pytest.raises(DataError, match="16 x 16 pixels"):
        features(np.zeros((8, 40)), 1.0)


def test_an_object_has_the_figures_of_its_box_however_large_the_field_of_view() -> None:
    rng = np.random.default_rng(0)
    y, x = np.indices((40, 40)) - 19.5
    body = np.where(np.hypot(y, x) < 19, 5 + rng.standard_normal((40, 40)), 0.0)
    wide = np.zeros((6, 130, 120))
    wide[2:4, 50:90, 30:70] = body
    box = REGIONS["object"](wide)
    assert box.shape[0] == 2
    assert all(38 <= n <= 44 for n in box.shape[1:])
    assert REGIONS["image"](wide) is wide
    near = wide[2:4, 44:100, 20:80]
    np.testing.assert_allclose(features(box, 1.0), features(REGIONS["object"](near), 1.0), atol=0.01)
    assert np.abs(features(wide, 1.0) - features(near, 1.0)).max() > 5


def test_what_is_too_small_for_figures_and_what_is_empty_stay_whole() -> None:
    dot = np.zeros((64, 64))
    dot[30:33, 30:33] = 1.0
    assert REGIONS["object"](dot) is dot
    nothing = np.zeros((64, 64))
    assert REGIONS["object"](nothing).shape == nothing.shape
