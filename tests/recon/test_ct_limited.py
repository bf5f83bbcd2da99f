"""Discs with holes over a limited angle, cut in two by Otsu's threshold: how well they agree with the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.ct_limited import made, matthews, real, simulated, solid

METHODS = ("FBP", "PWLS", "TV")


@pytest.mark.parametrize(("degrees", "least"), [(70, 0.8), (30, 0.5)])
def test_iterative_methods_see_more_of_a_limited_angle(degrees: int, least: float) -> None:
    """MCC of FBP, PWLS, TV: 0.63, 0.83, 0.84 at 70 degrees; 0.40, 0.63, 0.63 at 30."""
    scan, block, truth = simulated()
    assert 0.3 < truth.mean() < 0.6
    fbp, pwls, tv = (matthews(solid(made(method, scan, block, degrees)), truth) for method in METHODS)
    assert min(pwls, tv) > fbp + 0.12 and tv > least


@pytest.mark.data
def test_a_real_disc_over_70_degrees_is_that_of_90(data_dir: Path) -> None:
    folder = data_dir / "ct" / "htc2022"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    scan, block = real(folder)
    whole = solid(made("TV", scan, block, 90))
    fbp, pwls = (matthews(solid(made(method, scan, block, 70)), whole) for method in METHODS[:2])
    assert pwls > fbp + 0.06 and pwls > 0.75


def test_the_measure_is_1_for_agreement_and_0_for_chance() -> None:
    rng = np.random.default_rng(4)
    truth = rng.uniform(size=(100, 100)) < 0.3
    noisy = np.where(truth, 0.0, -1000.0) + rng.normal(0, 120, truth.shape)
    assert matthews(solid(noisy.astype(np.float32)), truth) > 0.99
    assert matthews(~truth, truth) == pytest.approx(-1)
    assert abs(matthews(rng.uniform(size=truth.shape) < 0.5, truth)) < 0.05
    tp, tn, fp, fn = 5, 80, 10, 5
    found = np.repeat([True, False, True, False], [tp, tn, fp, fn])
    expected = (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert matthews(found, np.repeat([True, False, False, True], [tp, tn, fp, fn])) == pytest.approx(expected)
