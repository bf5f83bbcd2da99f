"""What is not an image is an error; what looks clipped is held."""

from __future__ import annotations

import numpy as np
import pytest

from acquisition.errors import ConfigError, ReconError
from acquisition.geometry import Grid
from acquisition.items import Image
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from recon.checks import CheckImage


def image(data: np.ndarray) -> Image:
    grid = Grid.from_centre((0, 0, 0), shape=data.shape, spacing_mm=(1, 1, 1), directions=np.eye(3))
    return Image(data=data, grid=grid)


def check(data: np.ndarray) -> Verdict:
    step = CheckImage()
    step.open(Scan(uid="s1", modality="MR"))
    (out,) = step.feed(image(data))
    assert not list(step.close())
    return out.verdicts[-1]


def normal() -> np.ndarray:
    return np.abs(np.random.default_rng(0).standard_normal((1, 64, 64))).astype(np.float32)


def test_an_image_passes() -> None:
    assert check(normal()).level is Level.PASS
    assert check(normal() * 1j).level is Level.PASS


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (np.zeros((1, 8, 8)), "scan s1: image conventional, slice 0: expected an image, got only zeros"),
        (np.zeros((1, 0, 8)), "only zeros"),
        (np.full((1, 8, 8), np.nan), "expected finite pixels, got 64 NaN or infinite"),
        (np.where(normal() > 3, np.inf, normal()), "NaN or infinite"),
        (np.full((1, 2, 2), np.nan + 1j), "4 NaN or infinite"),
    ],
)
def test_no_image_is_an_error(data: np.ndarray, match: str) -> None:
    with pytest.raises(ReconError, match=match):
        check(data)


def test_a_clipped_image_is_held() -> None:
    verdict = check(np.minimum(normal(), 1.5))
    assert verdict.level is Level.HOLD
    assert verdict.value is not None
    assert verdict.value > 5


def test_a_tiny_image_may_share_its_largest_value() -> None:
    assert check(np.ones((1, 4, 4))).level is Level.PASS


def test_other_items_pass() -> None:
    step = CheckImage()
    verdict = Verdict(check="x", level=Level.PASS, advice="y")
    assert list(step.feed(verdict)) == [verdict]


def test_wrong_parameters_are_refused() -> None:
    with pytest.raises(ConfigError, match="saturated_above"):
        CheckImage(saturated_above=0)
