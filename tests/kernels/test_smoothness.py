"""The edge-keeping prior: its slope is a derivative, its parabola lies nowhere below it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.smoothness import hyperbola

STEPS = np.array([(0, 0, 1), (0, 0, -1), (0, 1, -1), (0, -1, 1), (1, 0, 0), (-1, 0, 0)])
WEIGHTS = np.array([1.0, 1.0, 0.4, 0.4, 0.7, 0.7])
EDGES = np.array([0.5, 0.5, 0.8, 0.8, 0.3, 0.3])


def value(x: NDArray) -> float:
    """The sum over pairs, each counted once."""
    total = 0.0
    for step, w, e in zip(STEPS[::2], WEIGHTS[::2], EDGES[::2], strict=True):
        here = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(step, x.shape, strict=True))
        there = tuple(slice(max(0, s), n + min(0, s)) for s, n in zip(step, x.shape, strict=True))
        total += float((w * e * e * (np.sqrt(1 + ((x[here] - x[there]) / e) ** 2) - 1)).sum())
    return total


def slope_and_bend(x: NDArray) -> tuple[NDArray, NDArray]:
    slope, bend = np.zeros_like(x), np.zeros_like(x)
    for rows in ((0, 1), (1, x.shape[1])):
        hyperbola(x, (STEPS, WEIGHTS.astype(x.dtype), EDGES.astype(x.dtype)), rows, slope, bend)
    return slope, bend


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 4, 1), (2, 1, 3)])
def test_the_slope_is_the_derivative(shape: tuple[int, int, int]) -> None:
    x = np.random.default_rng(3).normal(size=shape)
    slope, _ = slope_and_bend(x)
    for at in np.ndindex(shape):
        step = np.zeros(shape)
        step[at] = 1e-6
        assert slope[at] == pytest.approx((value(x + step) - value(x - step)) / 2e-6, abs=1e-7)
    single, _ = slope_and_bend(x.astype(np.float32))
    np.testing.assert_allclose(single, slope, atol=1e-5)


def test_the_parabolas_lie_nowhere_below() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(3, 4, 5))
    slope, bend = slope_and_bend(x)
    touched = []
    for size in (0.01, 0.3, 3.0):
        for _ in range(50):
            d = rng.normal(0, size, x.shape)
            above = value(x) + (slope * d).sum() + (bend * d * d).sum() / 2
            assert above >= value(x + d)
            touched.append((above - value(x + d)) / (bend * d * d).sum())
    assert min(touched) < 0.5  # not merely because the curvature is huge
