"""The Poisson likelihood of list-mode events, and the algorithms that climb it.

Line and bin e expect ``T m_e (A x)_e + b_e`` counts: T the time, corrected for decay, m efficiency times attenuation, A
projector and resolution, b randoms and scatter. The gradient over the events is ``A' 1 / (A x + b / (m T)) - T A' m``
(Barrett, White, Parra, J Opt Soc Am A 1997;14:2914, DOI 10.1364/JOSAA.14.002914). Every n-th event makes a subset
(Hudson and Larkin, IEEE Trans Med Imaging 1994;13:601, DOI 10.1109/42.363108).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acquisition.geometry import Grid
from acquisition.scan import PetHeader
from recon.linop import LinearOperator
from recon.pet.prior import RelativeDifference
from recon.pet.project import Bins, LineProjector, Pairs

_TINY = 1e-12
_FLOOR = 1e-4  # of the brightest voxel at the start; darker ones step as if they had it
_LEAST = 0.1  # of a voxel that is left after a step
_ANCHOR = 2  # iterations
_SEEN = 1e-3  # of the largest sensitivity; voxels below are left empty


class Likelihood(Protocol):
    """What the algorithms ask of data."""

    @property
    def grid(self) -> Grid:
        """Return the voxels."""

    @property
    def sensitivity(self) -> Tensor:
        """Return the counts expected per unit of each voxel (z, y, x)."""

    @property
    def seen(self) -> Tensor:
        """Return the voxels with enough sensitivity to be reconstructed."""

    def ratio(self, x: Tensor, events: slice) -> Tensor:
        """Return measured over expected counts of some events, projected back."""

    def start(self) -> Tensor:
        """Return a flat image with as many counts as were measured."""


@dataclass(frozen=True, slots=True, eq=False)
class ListMode:
    """The events of a frame, and the scanner that counted them."""

    pet: PetHeader
    """The scanner."""
    grid: Grid
    """The voxels, in the gantry."""
    pairs: Pairs
    """Detectors (event, 2)."""
    tof: Bins | None
    """Time-of-flight bins (event,)."""
    background: NDArray[np.float32] | None
    """Randoms and scatter expected, over factor and time: ``b / (m T)`` (event,); None: none."""
    psf: LinearOperator
    """Resolution."""
    sensitivity: Tensor
    """``T psf' A' m`` (z, y, x): expected counts per unit of each voxel."""
    counts: NDArray[np.float32] | None = None
    """How often each event was counted (event,), for bins of a sinogram; None: once."""

    @property
    def total(self) -> float:
        """Coincidences counted."""
        return float(len(self.pairs) if self.counts is None else self.counts.sum(dtype=np.float64))

    def value(self, x: Tensor) -> float:
        """Return the logarithm of the likelihood of an image, but for what does not depend on it."""
        expected = self._expected(x, slice(None))[1].clamp_min(_TINY).double().log()
        if self.counts is not None:
            expected = expected * torch.from_numpy(self.counts)
        return float(expected.sum()) - float((self.sensitivity.double() * x).sum())

    def ratio(self, x: Tensor, events: slice) -> Tensor:
        """Return ``psf' A' y / (A psf x + b)`` over some events, y how often they were counted."""
        projector, expected = self._expected(x, events)
        ratio = torch.where(expected > _TINY, 1 / expected.clamp_min(_TINY), 0.0)
        if self.counts is not None:
            ratio = ratio * torch.from_numpy(np.ascontiguousarray(self.counts[events]))
        return self.psf.adjoint(projector.adjoint(ratio))

    def _expected(self, x: Tensor, events: slice) -> tuple[LineProjector, Tensor]:
        """Return the projector of some events, and ``A psf x + b``."""
        pairs = np.ascontiguousarray(self.pairs[events])
        tof = None if self.tof is None else np.ascontiguousarray(self.tof[events])
        projector = LineProjector(self.pet, self.grid, pairs, tof)
        expected = projector(self.psf(x))
        if self.background is not None:
            expected = expected + torch.from_numpy(np.ascontiguousarray(self.background[events]))
        return projector, expected

    def half(self, which: Literal[0, 1]) -> ListMode:
        """Return half of what was counted, in half of the time: every other event; of a bin each count by chance."""
        if self.counts is not None:
            whole = np.round(self.counts).astype(np.int64)
            first = np.random.default_rng(len(whole)).binomial(whole, 0.5)
            counts = (first if which == 0 else whole - first).astype(np.float32)
            return replace(self, counts=counts, sensitivity=self.sensitivity / 2)
        tof = None if self.tof is None else self.tof[which::2]
        background = None if self.background is None else self.background[which::2]
        return replace(
            self, pairs=self.pairs[which::2], tof=tof, background=background, sensitivity=self.sensitivity / 2
        )

    @property
    def seen(self) -> Tensor:
        """Voxels with enough sensitivity to be reconstructed."""
        return self.sensitivity > _SEEN * self.sensitivity.max()

    def start(self) -> Tensor:
        """Return a flat image with as many counts as were measured."""
        total = float(self.sensitivity[self.seen].double().sum())
        return torch.where(self.seen, self.total / max(total, _TINY), 0.0).float()


@dataclass(frozen=True, slots=True, eq=False)
class Together:
    """Several measurements of one object, each with lines of its own, as one."""

    parts: tuple[ListMode, ...]
    """The measurements, on one grid."""
    sensitivity: Tensor
    """The sum of their sensitivities (z, y, x)."""

    @classmethod
    def of(cls, parts: Sequence[ListMode]) -> Together:
        """Return measurements as one."""
        return cls(tuple(parts), torch.stack([p.sensitivity for p in parts]).sum(dim=0))

    @property
    def grid(self) -> Grid:
        """Return the voxels."""
        return self.parts[0].grid

    @property
    def seen(self) -> Tensor:
        """Return the voxels with enough sensitivity to be reconstructed."""
        return self.sensitivity > _SEEN * self.sensitivity.max()

    def ratio(self, x: Tensor, events: slice) -> Tensor:
        """Return the sum of the parts' ratios, of such events of each."""
        return torch.stack([p.ratio(x, events) for p in self.parts]).sum(dim=0)

    def start(self) -> Tensor:
        """Return a flat image with as many counts as were measured."""
        total = float(self.sensitivity[self.seen].double().sum())
        counted = sum(len(p.pairs) for p in self.parts)
        return torch.where(self.seen, counted / max(total, _TINY), 0.0).float()


Report = Callable[[int, Tensor], None]


def osem(data: Likelihood, start: Tensor, *, n_iterations: int, n_subsets: int, report: Report) -> Tensor:
    """Return the image after so many iterations of ordered-subset expectation maximisation.

    Parameters
    ----------
    data
        The events.
    start
        Where to begin (z, y, x), positive.
    n_iterations, n_subsets
        How often all events are used, in how many parts.
    report
        Called after each iteration with its number, from 1, and the image.
    """
    x = start.clone()
    scale = torch.where(data.seen, n_subsets / data.sensitivity.clamp_min(_TINY), 0.0)
    for iteration in range(1, n_iterations + 1):
        for subset in range(n_subsets):
            x = x * scale * data.ratio(x, slice(subset, None, n_subsets))
        report(iteration, x)
    return x


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation:
    """How steps grow shorter, so that subsets agree in the end."""

    first: float = 1.0
    """Length of the first step."""
    decay: float = 0.05
    """Step of iteration k: ``first / (1 + decay (k - 1))``."""


def bsrem(
    data: Likelihood, start: Tensor, prior: RelativeDifference, *, n_iterations: int, n_subsets: int, steps: Relaxation
) -> Tensor:
    """Return the maximum of likelihood and prior by relaxed ordered subsets with a preconditioner.

    ``x += step d (n A_s' ... - T A' m - grad R)`` with ``d = 1 / (T A' m / x + h)``, h the prior's curvature: Ahn and
    Fessler, IEEE Trans Med Imaging 2003;22:613, DOI 10.1109/TMI.2003.812251; the harmonic mean with the prior:
    Ehrhardt et al., DOI 10.48550/arXiv.2506.04976.
    """
    x, floor = start.clone(), _FLOOR * float(start.max())
    for iteration in range(n_iterations):
        step = steps.first / (1 + steps.decay * iteration)
        for subset in range(n_subsets):
            slope = n_subsets * data.ratio(x, slice(subset, None, n_subsets)) - data.sensitivity - prior.gradient(x)
            x = _stepped(data, x, step * _size(data, x, prior, floor) * slope)
    return x


def svrg(
    data: Likelihood, start: Tensor, prior: RelativeDifference, *, n_iterations: int, n_subsets: int, steps: Relaxation
) -> Tensor:
    """Return the same maximum by stochastic variance reduced gradients, with the preconditioner of `bsrem`.

    Every other iteration all subsets' gradients are kept at an anchor z; then each step follows
    ``n (A_s' y / (A_s x) - A_s' y / (A_s z)) + A' y / (A z) - T A' m - grad R(x)``: its error vanishes as x and z meet,
    so steps need not grow short. An iteration that sets the anchor uses all events once more. Johnson and Zhang, NIPS
    2013; in PET: Twyman et al., IEEE Trans Med Imaging 2023;42:29, DOI 10.1109/TMI.2022.3203237.
    """
    x, floor = start.clone(), _FLOOR * float(start.max())
    kept, whole = [], torch.zeros_like(x)
    for iteration in range(n_iterations):
        step = steps.first / (1 + steps.decay * iteration)
        if iteration % _ANCHOR == 0:
            kept = [data.ratio(x, slice(subset, None, n_subsets)) for subset in range(n_subsets)]
            whole = torch.stack(kept).sum(dim=0)
        size = _size(data, x, prior, floor)
        for subset in range(n_subsets):
            change = data.ratio(x, slice(subset, None, n_subsets)) - kept[subset]
            slope = n_subsets * change + whole - data.sensitivity - prior.gradient(x)
            x = _stepped(data, x, step * size * slope)
    return x


def _size(data: Likelihood, x: Tensor, prior: RelativeDifference, floor: float) -> Tensor:
    """Return the preconditioner ``1 / (T A' m / x + h)``: large where neither data nor prior bend."""
    bright = x.clamp_min(floor)
    return 1 / (data.sensitivity.clamp_min(_TINY) / bright + prior.curvature(bright))


def _stepped(data: Likelihood, x: Tensor, by: Tensor) -> Tensor:
    """Return the next image; no voxel loses all of itself, for some events it may be the only explanation."""
    return torch.where(data.seen, torch.maximum(x + by, _LEAST * x), 0.0)
