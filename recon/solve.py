"""Solvers: they take the normal operator and the right-hand side, and know no modality.

``gram`` is ``A^H A`` as a function of a tensor (a `LinearOperator.gram` is one); ``rhs`` is ``A^H y``. Complex and
real tensors of any shape; inner products are the real part of ``<a, b>``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from acquisition.errors import ReconError

Gram = Callable[[Tensor], Tensor]
Prox = Callable[[Tensor, float], Tensor]
"""``prox(v, t) = argmin_x t R(x) + |x - v|^2 / 2``."""


@dataclass(frozen=True, slots=True)
class Solution:
    """What a solver found."""

    x: Tensor
    """The estimate."""
    n_iterations: int
    """Iterations done."""
    residual: float
    """Size of the last step or of the normal equations' residual, relative to the right-hand side."""


def cg(
    gram: Gram,
    rhs: Tensor,
    *,
    n_iterations: int,
    tolerance: float = 0.0,
    damping: float = 0.0,
    start: Tensor | None = None,
) -> Solution:
    """Solve ``(A^H A + damping) x = A^H y`` by conjugate gradients.

    Parameters
    ----------
    gram, rhs
        The normal equations.
    n_iterations
        At most so many.
    tolerance
        Ends when the residual falls below this part of the right-hand side.
    damping
        Tikhonov weight, in units of the normal operator.
    start
        First estimate; zero when None.

    Raises
    ------
    ReconError
        The operator is not positive, or the numbers are not finite.

    References
    ----------
    Hestenes and Stiefel, J Res NBS 1952;49:409, DOI 10.6028/jres.049.044.
    """
    x = torch.zeros_like(rhs) if start is None else start.clone()
    r = rhs.clone() if start is None else rhs - gram(x) - damping * x
    p, first, power = r.clone(), _power(rhs), _power(r)
    for done in range(1, n_iterations + 1):
        if power <= tolerance**2 * first or power == 0:
            return Solution(x, done - 1, math.sqrt(power / first) if first > 0 else 0.0)
        q = torch.add(gram(p), p, alpha=damping) if damping else gram(p)
        curvature = inner(p, q)
        if not curvature > 0:
            raise _not_positive(curvature)
        step = power / curvature
        x.add_(p, alpha=step)
        r.sub_(q, alpha=step)
        power, before = _power(r), power
        torch.add(r, p, alpha=power / before, out=p)
    return Solution(x, n_iterations, math.sqrt(power / first) if first > 0 else 0.0)


def fista(
    gram: Gram,
    rhs: Tensor,
    prox: Prox,
    *,
    step: float,
    n_iterations: int,
    start: Tensor | None = None,
) -> Solution:
    """Minimise ``|A x - y|^2 / 2 + R(x)`` by accelerated proximal gradients; momentum that points uphill is dropped.

    Parameters
    ----------
    gram, rhs
        The data term.
    prox
        Proximal map of R; called with `step`.
    step
        At most 1 over the largest eigenvalue of the normal operator.
    n_iterations
        Exactly so many.
    start
        First estimate; zero when None. A few steps of `cg` save many here.

    References
    ----------
    Beck and Teboulle, SIAM J Imaging Sci 2009;2:183, DOI 10.1137/080716542; restart: O'Donoghue and Candes, Found
    Comput Math 2015;15:715, DOI 10.1007/s10208-013-9150-3.
    """
    x = torch.zeros_like(rhs) if start is None else start
    z, t, moved = x, 1.0, x
    for _ in range(n_iterations):
        down = gram(z) - rhs
        new = prox(torch.add(z, down, alpha=-step, out=down), step)
        moved = new - x
        if inner(z, moved) > inner(new, moved):
            t = 1.0
        t_next = (1 + math.sqrt(1 + 4 * t * t)) / 2
        z = torch.add(new, moved, alpha=(t - 1) / t_next)
        t, x = t_next, new
    return Solution(x, n_iterations, _relative(moved, x))


def admm(
    gram: Gram,
    rhs: Tensor,
    prox: Prox,
    *,
    penalty: float,
    n_iterations: int,
    n_inner: int = 5,
) -> Solution:
    """Minimise ``|A x - y|^2 / 2 + R(x)`` by alternating directions: least squares, proximal map, multiplier.

    Fewer proximal maps than `fista` where they cost more than the normal operator, and no step to choose.

    Parameters
    ----------
    gram, rhs
        The data term.
    prox
        Proximal map of R; called with 1 / `penalty`.
    penalty
        Weight of ``|x - z|^2 / 2``, in units of the normal operator; changes the speed, not the answer.
    n_iterations
        Exactly so many.
    n_inner
        Steps of conjugate gradients in each, from the estimate before.

    References
    ----------
    Boyd et al., Found Trends Mach Learn 2011;3:1, DOI 10.1561/2200000016.
    """
    x, z, u = (torch.zeros_like(rhs) for _ in range(3))
    gap = 0.0
    for _ in range(n_iterations):
        target = torch.add(rhs, z - u, alpha=penalty)
        x = cg(gram, target, n_iterations=n_inner, damping=penalty, start=x).x
        z = prox(x + u, 1 / penalty)
        u.add_(x - z)
        gap = _relative(x - z, z)
    return Solution(z, n_iterations, gap)


def largest_eigenvalue(gram: Gram, like: Tensor, *, n_iterations: int = 20) -> float:
    """Estimate the normal operator's largest eigenvalue by power iterations from a fixed random start."""
    generator = torch.Generator(device="cpu").manual_seed(0)
    x = torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)
    value = 0.0
    for _ in range(n_iterations):
        x = gram(x / x.norm().clamp_min(1e-30))
        value = float(x.norm())
    return value


def inner(a: Tensor, b: Tensor) -> float:
    """Return the real part of ``<a, b>``."""
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    return float(torch.dot(a.reshape(-1), b.reshape(-1)))


def _not_positive(curvature: float) -> ReconError:
    where, expected = "conjugate gradients", "a positive operator"
    return ReconError(where, expected=expected, got=f"curvature {curvature:g}", action="check the operator's adjoint")


def _relative(a: Tensor, b: Tensor) -> float:
    """Return |a| / |b|; torch's norm of complex numbers takes ten times as long as an inner product."""
    return math.sqrt(inner(a, a) / max(inner(b, b), 1e-60))


def _power(a: Tensor) -> float:
    value = inner(a, a)
    if not math.isfinite(value):
        raise ReconError("conjugate gradients", expected="finite numbers", got=f"{value}", action="check the raw data")
    return value
