"""Weighted least squares with ordered subsets: the views are used in turns, each turn as if it were all of them.

``min_x sum_i w_i (A x - y)_i^2 / 2 + R(x), x >= 0``. Each update minimises parabolas, one per voxel, that lie nowhere
below the objective (Erdogan and Fessler, Phys Med Biol 1999;44:2835, DOI 10.1088/0031-9155/44/11/311), from a point
that momentum has carried on (Kim, Ramani and Fessler, IEEE Trans Med Imaging 2015;34:167,
DOI 10.1109/TMI.2014.2350962).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from recon.ct.project import ConeProjector

Update = Callable[[Tensor, Tensor], Tensor]
"""From where momentum led (z, y, x) and the data's slope there to the next estimate."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subset:
    """Some of the views."""

    projector: ConeProjector
    """Their forward model."""
    lines: Tensor
    """Line integrals (view, row, channel)."""
    weights: Tensor
    """One over their variance, or whatever they count, (view, row, channel)."""


def split(whole: Subset, n: int) -> list[Subset]:
    """Return n subsets of evenly spaced views, neighbours far apart in the order of use."""
    places = [slice(m, None, n) for m in _scattered(n)]
    return [
        Subset(projector=whole.projector.views(at), lines=whole.lines[at], weights=whole.weights[at]) for at in places
    ]


def curvature(subsets: list[Subset]) -> Tensor:
    """Return the curvature of the data's parabolas, ``A^T W A 1``, (z, y, x)."""
    ones = subsets[0].lines.new_ones(subsets[0].projector.domain)
    parts = (s.projector.adjoint(s.weights * s.projector(ones)) for s in subsets)
    return sum(parts, torch.zeros_like(ones))


def ordered_subsets(
    subsets: list[Subset],
    update: Update,
    *,
    start: Tensor,
    n_iterations: int,
    momentum: Iterator[float],
    report: Callable[[int, float, float], None],
) -> Tensor:
    """Minimise, using all subsets in every iteration.

    Parameters
    ----------
    subsets
        From `split`.
    update
        Makes the next estimate.
    start
        First estimate (z, y, x).
    n_iterations
        How often all views are used.
    momentum
        Which part of each step is added to the next.
    report
        Told after each iteration: its number from 1, the sum of weighted squares that were not explained on the way,
        the relative change of the estimate.
    """
    x = ahead = start
    n = len(subsets)
    for iteration in range(1, n_iterations + 1):
        before, misfit = x, 0.0
        for s in subsets:
            residual = s.projector(ahead).sub_(s.lines)
            weighted = s.weights * residual
            misfit += float(torch.dot(weighted.ravel(), residual.ravel()))
            new = update(ahead, s.projector.adjoint(weighted).mul_(n))
            ahead = torch.add(new, new - x, alpha=next(momentum))
            x = new
        change = float((x - before).norm() / x.norm().clamp_min(1e-30))
        report(iteration, misfit, change)
    return x


def nesterov() -> Iterator[float]:
    """Yield the momentum of Nesterov's method."""
    t = 1.0
    while True:
        t_next = (1 + math.sqrt(1 + 4 * t * t)) / 2
        yield (t - 1) / t_next
        t = t_next


def _scattered(n: int) -> list[int]:
    """Return 0 ... n - 1 so that what was used lately is far away: by bit-reversed numbers."""
    bits = max(n - 1, 1).bit_length()
    return [m for k in range(1 << bits) if (m := int(f"{k:0{bits}b}"[::-1], 2)) < n]
