"""Solvers: the exact answer where there is one, optimality where there is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from acquisition.errors import ReconError
from recon.solve import admm, cg, fista, largest_eigenvalue
from tests.properties import normal

A = normal((12, 6), torch.complex128)
Y = normal((12,), torch.complex128, 1)
GRAM = A.mH @ A
RHS = A.mH @ Y


def gram(x: Tensor) -> Tensor:
    return GRAM @ x


def test_cg_is_exact_after_as_many_steps_as_unknowns() -> None:
    found = cg(gram, RHS, n_iterations=6)
    assert torch.allclose(found.x, torch.linalg.solve(GRAM, RHS), atol=1e-9)
    assert found.residual < 1e-8


def test_cg_with_damping_solves_the_damped_equations() -> None:
    expected = torch.linalg.solve(GRAM + 0.7 * torch.eye(6), RHS)
    assert torch.allclose(cg(gram, RHS, n_iterations=6, damping=0.7).x, expected, atol=1e-9)


def test_cg_goes_on_from_its_start() -> None:
    half = cg(gram, RHS, n_iterations=3, damping=0.7).x
    kept = half.clone()
    found = cg(gram, RHS, n_iterations=6, damping=0.7, start=half)
    assert torch.allclose(found.x, torch.linalg.solve(GRAM + 0.7 * torch.eye(6), RHS), atol=1e-9)
    assert torch.equal(half, kept)
    assert cg(gram, RHS, n_iterations=3, start=torch.linalg.solve(GRAM, RHS), tolerance=1e-6).n_iterations == 0


def test_cg_ends_at_the_tolerance_and_at_zero() -> None:
    assert cg(gram, RHS, n_iterations=100, tolerance=1e-3).n_iterations <= 7
    nothing = cg(gram, torch.zeros_like(RHS), n_iterations=5)
    assert nothing.n_iterations == 0
    assert not nothing.x.any()


def test_an_operator_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ReconError, match="a positive operator, got curvature"):
        cg(lambda x: -gram(x), RHS, n_iterations=3)
    with pytest.raises(ReconError, match="finite numbers"):
        cg(gram, RHS * float("nan"), n_iterations=3)


def test_fista_reaches_the_optimum_of_l1() -> None:
    weight, step = 2.0, 1 / largest_eigenvalue(gram, RHS)

    def prox(v: Tensor, t: float) -> Tensor:
        return v * (1 - weight * t / v.abs().clamp_min(1e-30)).clamp_min(0)

    x = fista(gram, RHS, prox, step=step, n_iterations=3000).x
    slope = gram(x) - RHS
    zero = x.abs() < 1e-9
    assert zero.any()
    assert (~zero).any()
    assert (slope[zero].abs() <= weight + 1e-6).all()
    assert torch.allclose(slope[~zero], -weight * x[~zero] / x[~zero].abs(), atol=1e-5)


def shrink(v: Tensor, t: float) -> Tensor:
    """The proximal map of 2 |x|_1."""
    return v * (1 - 2 * t / v.abs().clamp_min(1e-30)).clamp_min(0)


@pytest.mark.parametrize("penalty", [1.0, 5.0, 20.0])
def test_admm_and_fista_agree(penalty: float) -> None:
    found = admm(gram, RHS, shrink, penalty=penalty, n_iterations=400, n_inner=6)
    slow = fista(gram, RHS, shrink, step=1 / largest_eigenvalue(gram, RHS), n_iterations=3000).x
    assert torch.allclose(found.x, slow, atol=1e-6)
    assert found.residual < 1e-6


def test_momentum_is_dropped_where_it_points_uphill() -> None:
    """A badly conditioned problem: without restart the error swings for thousands of steps."""
    scale = torch.logspace(0, -3, 20, dtype=torch.float64)
    found = fista(lambda x: scale * x, scale, lambda v, t: v, step=1.0, n_iterations=700)
    assert (found.x - 1).abs().max() < 1e-4


def test_a_good_start_is_kept() -> None:
    solution = torch.linalg.solve(GRAM, RHS)
    found = fista(gram, RHS, lambda v, t: v, step=1 / largest_eigenvalue(gram, RHS), n_iterations=3, start=solution)
    assert torch.allclose(found.x, solution, atol=1e-9)


def test_the_largest_eigenvalue() -> None:
    assert largest_eigenvalue(gram, RHS, n_iterations=200) == pytest.approx(float(torch.linalg.eigvalsh(GRAM)[-1]))
