from __future__ import annotations

import numpy as np
import pytest

from acquisition.errors import ConfigError
from models.train import masks


@pytest.mark.parametrize("n", [48, 61, 192])
@pytest.mark.parametrize("r", [1, 2, 3, 4])
def test_regular_masks_hold_every_rth_line_and_the_centre(n: int, r: int) -> None:
    mask = masks.regular(n, r, n_acs=12)
    assert mask[n // 2]
    assert mask[n // 2 - 6 : n // 2 + 6].all()
    outside = np.flatnonzero(mask[: n // 2 - 6])
    assert (np.diff(outside) == r).all()
    assert masks.acceleration(masks.regular(n, r, n_acs=0)) == pytest.approx(r, rel=0.05)


def test_random_lines_have_the_acceleration_that_was_asked_for() -> None:
    rng = np.random.default_rng(0)
    for r in (2.0, 3.5, 5.0):
        mask = masks.random_lines(192, r, rng, n_acs=16)
        assert masks.acceleration(mask) == pytest.approx(r, rel=0.02)
        assert mask[88:104].all()
    many = np.mean([masks.random_lines(192, 4, np.random.default_rng(s)) for s in range(200)], axis=0)
    assert many[70:85].mean() > 2 * many[:20].mean()


def test_random_lines_differ_by_seed_alone() -> None:
    one, again, other = (masks.random_lines(96, 3, np.random.default_rng(s)) for s in (1, 1, 2))
    assert (one == again).all()
    assert (one != other).any()


@pytest.mark.parametrize("r", [3.0, 6.0])
def test_poisson_discs_keep_their_distance(r: float) -> None:
    mask = masks.poisson_disc((96, 80), r, seed=1, n_acs=12)
    assert masks.acceleration(mask) == pytest.approx(r, rel=0.03)
    assert mask[42:54, 34:46].all()
    y, x = np.argwhere(mask[:, 60:]).T  # far from the centre no two samples are neighbours
    distance = np.hypot(y[:, None] - y, x[:, None] - x) + 99 * np.eye(len(y))
    assert distance.min() > 1.0 if r < 4 else distance.min() >= 2**0.5
    assert (masks.poisson_disc((96, 80), r, seed=2, n_acs=12) != mask).any()


def test_partial_fourier_leaves_out_the_first_lines() -> None:
    mask = masks.partial_fourier(64, 0.75)
    assert mask.sum() == 48
    assert not mask[:16].any()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: masks.regular(64, 0), "r >= 1"),
        (lambda: masks.random_lines(64, 8, np.random.default_rng(0), n_acs=16), "at least the 16 lines"),
        (lambda: masks.poisson_disc((8, 8), 0.5, seed=0), "r >= 1"),
        (lambda: masks.partial_fourier(64, 0.5), "above 0.5"),
    ],
)
def test_impossible_masks_are_refused(call, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        call()
