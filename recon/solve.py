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
) -> Solution:
    """Solve ``(A^H A + damping) x = A^H y`` by conjugate gradients from zero.

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

    Raises
    ------
    ReconError
        The operator is not positive, or the numbers are not finite.

    References
    ----------
    Hestenes and Stiefel, J Res NBS 1952;49:409, DOI 10.6028/jres.049.044.
    """
    x = torch.zeros_like(rhs)
    r, p = rhs.clone(), rhs.clone()
    first = power = _power(r)
    for done in range(1, n_iterations + 1):
        if power <= tolerance**2 * first or power == 0:
            return Solution(x, done - 1, math.sqrt(power / first) if first > 0 else 0.0)
        q = gram(p)
        if damping:
            q = q + damping * p
        curvature = _inner(p, q)
        if not curvature > 0:
            got = f"curvature {curvature:g}"
            raise ReconError("conjugate gradients", expected="a positive operator", got=got, action=_CHECK)
        step = power / curvature
        x.add_(p, alpha=step)
        r.sub_(q, alpha=step)
        power, before = _power(r), power
        p.mul_(power / before).add_(r)
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
    """Minimise ``|A x - y|^2 / 2 + R(x)`` by accelerated proximal gradients.

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
    Beck and Teboulle, SIAM J Imaging Sci 2009;2:183, DOI 10.1137/080716542.
    """
    x = torch.zeros_like(rhs) if start is None else start
    z, t, moved = x, 1.0, x
    for _ in range(n_iterations):
        down = gram(z).sub_(rhs)
        new = prox(torch.add(z, down, alpha=-step), step)
        t_next = (1 + math.sqrt(1 + 4 * t * t)) / 2
        moved = new - x
        z = torch.add(new, moved, alpha=(t - 1) / t_next)
        t, x = t_next, new
    return Solution(x, n_iterations, float(moved.norm() / x.norm().clamp_min(1e-30)))


def largest_eigenvalue(gram: Gram, like: Tensor, *, n_iterations: int = 20) -> float:
    """Estimate the normal operator's largest eigenvalue by power iterations from a fixed random start."""
    generator = torch.Generator(device="cpu").manual_seed(0)
    x = torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)
    value = 0.0
    for _ in range(n_iterations):
        x = gram(x / x.norm().clamp_min(1e-30))
        value = float(x.norm())
    return value


_CHECK = "check the operator's adjoint"


def _inner(a: Tensor, b: Tensor) -> float:
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    return float(torch.dot(a.reshape(-1), b.reshape(-1)))


def _power(a: Tensor) -> float:
    value = _inner(a.contiguous(), a.contiguous())
    if not math.isfinite(value):
        raise ReconError("conjugate gradients", expected="finite numbers", got=f"{value}", action="check the raw data")
    return value
