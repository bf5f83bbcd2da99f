"""The Poisson likelihood of list-mode events, and the algorithms that climb it.

Line and bin e expect ``T m_e (A x)_e + b_e`` counts: T the time, corrected for decay, m efficiency times attenuation, A
projector and resolution, b randoms and scatter. The gradient over the events is ``A' 1 / (A x + b / (m T)) - T A' m``
(Barrett, White, Parra, J Opt Soc Am A 1997;14:2914, DOI 10.1364/JOSAA.14.002914). Every n-th event makes a subset
(Hudson and Larkin, IEEE Trans Med Imaging 1994;13:601, DOI 10.1109/42.363108).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

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
_SEEN = 1e-3  # of the largest sensitivity; voxels below are left empty


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

    def ratio(self, x: Tensor, events: slice) -> Tensor:
        """Return ``psf' A' 1 / (A psf x + b)`` over some events."""
        pairs = np.ascontiguousarray(self.pairs[events])
        tof = None if self.tof is None else np.ascontiguousarray(self.tof[events])
        projector = LineProjector(self.pet, self.grid, pairs, tof)
        expected = projector(self.psf(x))
        if self.background is not None:
            expected = expected + torch.from_numpy(np.ascontiguousarray(self.background[events]))
        return self.psf.adjoint(projector.adjoint(torch.where(expected > _TINY, 1 / expected.clamp_min(_TINY), 0.0)))

    def half(self, which: Literal[0, 1]) -> ListMode:
        """Return every other event, with half of the time."""
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
        return torch.where(self.seen, len(self.pairs) / max(total, _TINY), 0.0).float()


Report = Callable[[int, Tensor], None]


def osem(data: ListMode, start: Tensor, *, n_iterations: int, n_subsets: int, report: Report) -> Tensor:
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
    data: ListMode, start: Tensor, prior: RelativeDifference, *, n_iterations: int, n_subsets: int, steps: Relaxation
) -> Tensor:
    """Return the maximum of likelihood and prior by relaxed ordered subsets with a preconditioner.

    ``x += step d (n A_s' ... - T A' m - grad R)`` with ``d = 1 / (T A' m / x + h)``, h the prior's curvature: Ahn and
    Fessler, IEEE Trans Med Imaging 2003;22:613, DOI 10.1109/TMI.2003.812251; the harmonic mean with the prior:
    Ehrhardt et al., DOI 10.48550/arXiv.2506.04976.
    """
    x, sens = start.clone(), data.sensitivity.clamp_min(_TINY)
    floor = 1e-4 * float(start.max())
    for iteration in range(n_iterations):
        step = steps.first / (1 + steps.decay * iteration)
        for subset in range(n_subsets):
            slope = n_subsets * data.ratio(x, slice(subset, None, n_subsets)) - data.sensitivity - prior.gradient(x)
            size = 1 / (sens / x.clamp_min(floor) + prior.curvature(x.clamp_min(floor)))
            x = torch.where(data.seen, (x + step * size * slope).clamp_min(0), 0.0)
    return x
