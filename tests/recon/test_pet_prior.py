"""The relative difference prior: its gradient and curvature against differences, its value against the formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from acquisition.errors import ConfigError
from acquisition.geometry import Grid
from recon.pet.prior import RelativeDifference

AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
GRID = Grid.from_centre((0, 0, 0), shape=(3, 4, 5), spacing_mm=(3.0, 2.0, 2.5), directions=AXES)


def random(seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(0.5, 4.0, GRID.shape).astype(np.float32))


def formula(prior: RelativeDifference, x: np.ndarray) -> float:
    """As written, over ordered pairs."""
    total, kappa = 0.0, np.ones(x.shape) if prior.kappa is None else prior.kappa.numpy()
    for r in np.ndindex(x.shape):
        for s in np.ndindex(x.shape):
            step = np.subtract(s, r)
            if np.abs(step).max() != 1:
                continue
            w = 2.5 / np.linalg.norm(step * [3.0, 2.0, 2.5])
            d = x[r] - x[s]
            below = x[r] + x[s] + prior.gamma * abs(d) + prior.epsilon
            total += prior.beta * w / 2 * kappa[r] * kappa[s] * d**2 / below
    return total


@pytest.mark.parametrize("kappa", [None, random(5)])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_value_gradient_and_curvature(gamma: float, kappa: torch.Tensor | None) -> None:
    prior = RelativeDifference(GRID, 0.7, kappa=kappa, gamma=gamma, epsilon=0.01)
    x = random(1)
    exact = x.double().numpy()
    assert prior.value(x) == pytest.approx(formula(prior, exact), rel=1e-6)
    slope, bend, h = prior.gradient(x).numpy(), prior.curvature(x).numpy(), 1e-4
    for at in [(0, 0, 0), (1, 2, 3), (2, 3, 4), (1, 0, 4)]:
        values = []
        for step in (-h, 0.0, h):
            moved = exact.copy()
            moved[at] += step
            values.append(formula(prior, moved))
        assert slope[at] == pytest.approx((values[2] - values[0]) / (2 * h), rel=1e-4, abs=1e-5)
        assert bend[at] == pytest.approx((values[2] - 2 * values[1] + values[0]) / h**2, rel=2e-3, abs=1e-3)


def test_flat_images_cost_nothing_and_empty_ones_are_smooth() -> None:
    prior = RelativeDifference(GRID, 1.0)
    assert prior.value(torch.full(GRID.shape, 3.0)) == 0
    assert not prior.gradient(torch.full(GRID.shape, 3.0)).any()
    empty = torch.zeros(GRID.shape)
    assert torch.isfinite(prior.gradient(empty)).all() and torch.isfinite(prior.curvature(empty)).all()


def test_impossible_strengths_are_refused() -> None:
    with pytest.raises(ConfigError, match="epsilon above 0"):
        RelativeDifference(GRID, 1.0, epsilon=0.0)
    with pytest.raises(ConfigError, match="got -1"):
        RelativeDifference(GRID, -1.0)
