"""An image while the scanner still counts: every event is used once, when it comes, and never again.

Each batch of events is shared out among the voxels by the image so far, ``b = x A' (1 / A x)``, and that is added to
what earlier batches gave, ``S = f S + b``; the new image is ``S / (T A' m)``, with T the time in which S was counted,
faded likewise. So time and memory per event stay what they are however long the scan is, and noise falls with all
counts. ``f = (n / n')^p``, n and n' the counts before and after the batch: an event weighs as the p-th power of the
counts at its time, so what the first, blurred images shared out is forgotten. Against equal weights the noise's
variance grows by ``(p + 1)^2 / (2 p + 1)``: 1.8 for p = 2.

References
----------
A. J. Reader et al., "One-pass list-mode EM algorithm for high-resolution 3-D PET image reconstruction into large
arrays", IEEE Trans Nucl Sci 49 (2002) 693, DOI 10.1109/TNS.2002.1039550. O. Cappe, E. Moulines, "On-line
expectation-maximization algorithm for latent data models", J R Stat Soc B 71 (2009) 593, DOI
10.1111/j.1467-9868.2009.00698.x.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from acquisition.geometry import Grid
from acquisition.scan import PetHeader
from kernels.pet_project import renew
from recon.pet.project import Bins, LineProjector, Pairs

_SEEN = 1e-3  # of the largest sensitivity; voxels below are left empty
_LEAST = 0.01  # of the mean voxel's counts; a voxel that is empty once would else be so for ever
_WITHIN = (slice(1, -1),) * 3


class OnePass:
    """The image of all events so far.

    Parameters
    ----------
    pet
        The scanner.
    grid
        The voxels, in the gantry.
    power
        How much more later events weigh: p above.
    """

    def __init__(self, pet: PetHeader, grid: Grid, *, power: float) -> None:
        nz, ny, nx = grid.shape
        self.pet, self.grid, self._power = pet, grid, power
        self._x, self._sums, self._per_s = (np.zeros((ny + 2, nx + 2, nz + 2), np.float32) for _ in range(3))
        self._parts = np.zeros((0, *self._x.shape), np.float32)
        self._n_seen = 0
        self._counts = self._remembered = self._seconds = 0.0

    def sees(self, sensitivity: Tensor) -> None:
        """Take ``A' m`` (z, y, x): how many counts per second a unit of each voxel gives; 0: leave it empty."""
        seen = sensitivity > _SEEN * sensitivity.max()
        self._n_seen = int(seen.sum())
        inverse = torch.where(seen, 1 / sensitivity.clamp_min(1e-30), 0.0)
        self._per_s[_WITHIN] = inverse.numpy().transpose(1, 2, 0)
        self._x[_WITHIN] = seen.numpy().transpose(1, 2, 0)
        if self._counts:
            self._renew(1.0)

    def add(self, pairs: Pairs, tof: Bins | None, seconds: float) -> None:
        """Use a batch of events.

        Parameters
        ----------
        pairs, tof
            Detectors (event, 2) and time-of-flight bins (event,).
        seconds
            How long the activity of the scan's start would have to be measured for these counts [s].
        """
        if len(self._parts) != (threads := torch.get_num_threads()):
            self._parts = np.zeros((threads, *self._x.shape), np.float32)
        LineProjector(self.pet, self.grid, pairs, tof).share(self._x, list(self._parts))
        counts = self._counts + len(pairs)
        left = (self._counts / counts) ** self._power if counts else 1.0
        self._counts, self._seconds = counts, left * self._seconds + seconds
        self._remembered = left * self._remembered + len(pairs)
        if counts:
            self._renew(left)

    @property
    def image(self) -> Tensor:
        """The image so far (z, y, x), activity at the start of the scan; 1 where it sees anything, before any event."""
        return torch.from_numpy(np.ascontiguousarray(self._x[_WITHIN].transpose(2, 0, 1)))

    def _renew(self, left: float) -> None:
        parts = self._parts.reshape(len(self._parts), -1)
        least = _LEAST * self._remembered / max(1, self._n_seen)
        renew(self._x.ravel(), self._sums.ravel(), parts, self._per_s.ravel(), (left, self._seconds, least))
