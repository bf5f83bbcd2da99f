"""The forward model of PET: from activity on a grid to what lines of response see of it, and its exact transpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acquisition.errors import DataError, ReconError
from acquisition.geometry import Grid
from acquisition.pet_geometry import checked, detectors_mm
from acquisition.scan import PetHeader
from kernels.pet_project import Place, Timing, bin_weights, project, project_tof, share, share_tof, smear, smear_tof
from recon.linop import LinearOperator

Pairs = NDArray[np.int32]
Bins = NDArray[np.int16]
_AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


class LineProjector(LinearOperator):
    """Integrals [unit mm] of a volume (z, y, x) along lines of response (event,), with or without time of flight.

    Parameters
    ----------
    pet
        The scanner.
    grid
        The voxels in the gantry, along its x, y and z.
    pairs
        Indices of both detectors (event, 2).
    tof
        Time-of-flight bins (event,); None: whole lines.

    Raises
    ------
    ReconError
        The grid is tilted.
    DataError
        A detector does not exist, or bins are told of a scanner that has none.
    """

    def __init__(self, pet: PetHeader, grid: Grid, pairs: Pairs, tof: Bins | None = None) -> None:
        if (grid.x_dir, grid.y_dir, grid.z_dir) != _AXES:
            where, expected = "LineProjector grid", "x, y, z along the gantry's axes"
            raise ReconError(where, expected=expected, got=f"{grid.x_dir}, {grid.y_dir}, {grid.z_dir}")
        super().__init__(grid.shape, (len(pairs),))
        self.pet, self.grid, self.pairs, self.tof = checked(pet, "LineProjector"), grid, pairs, tof
        self._detectors = np.ascontiguousarray(detectors_mm(pet), np.float32)
        check_pairs(pairs, len(self._detectors))
        (x, y, z), (dz, dy, dx) = grid.origin_mm, grid.spacing_mm
        self._place: Place = (x, dx, y, dy, z, dz)
        self._timing = None if tof is None else _timing(pet)

    def share(self, padded: NDArray, sums: Sequence[NDArray]) -> None:
        """Add ``A' (1 / A x)``, which is what an update of expectation maximisation needs, in one walk along each line.

        Parameters
        ----------
        padded
            The volume x (y, x, z) with one voxel of zeros on every side.
        sums
            Like `padded`, one for each thread; the result is their sum.
        """
        free = list(sums)

        def part(at: slice) -> None:
            if self._timing is None or self.tof is None:
                share(padded, self._place, self._detectors, self.pairs[at], free.pop())
            else:
                events = (self.pairs[at], self.tof[at])
                share_tof(padded, self._place, self._detectors, events, self._timing, free.pop())

        shared(part, len(self.pairs))

    def _forward(self, x: Tensor) -> Tensor:
        if x.is_complex():
            return torch.complex(self._forward(x.real), self._forward(x.imag))
        nz, ny, nx = self.domain
        padded = np.zeros((ny + 2, nx + 2, nz + 2), x.numpy().dtype)
        padded[1:-1, 1:-1, 1:-1] = x.numpy().transpose(1, 2, 0)
        out = np.empty(self.range, padded.dtype)

        def part(at: slice) -> None:
            if self._timing is None or self.tof is None:
                project(padded, self._place, self._detectors, self.pairs[at], out[at])
            else:
                events = (self.pairs[at], self.tof[at])
                project_tof(padded, self._place, self._detectors, events, self._timing, out[at])

        shared(part, len(out))
        return torch.from_numpy(out)

    def _adjoint(self, y: Tensor) -> Tensor:
        if y.is_complex():
            return torch.complex(self._adjoint(y.real), self._adjoint(y.imag))
        nz, ny, nx = self.domain
        values = y.contiguous().numpy()
        sums: dict[int, NDArray] = {}

        def part(at: slice) -> None:
            padded = np.zeros((ny + 2, nx + 2, nz + 2), values.dtype)
            if self._timing is None or self.tof is None:
                smear(values[at], self._place, self._detectors, self.pairs[at], padded)
            else:
                events = (self.pairs[at], self.tof[at])
                smear_tof(values[at], self._place, self._detectors, events, self._timing, padded)
            sums[at.start] = padded

        shared(part, len(values))
        total = np.zeros((ny, nx, nz), values.dtype)
        for start in sorted(sums):
            total += sums[start][1:-1, 1:-1, 1:-1]
        return torch.from_numpy(np.ascontiguousarray(total.transpose(2, 0, 1)))


def check_pairs(pairs: Pairs, n_detectors: int) -> None:
    """Raise DataError where a pair (event, 2) names a detector that does not exist."""
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype != np.int32:
        raise DataError("PET events", expected="int32 pairs (event, 2)", got=f"{pairs.dtype} {pairs.shape}")
    if len(pairs) and (pairs.min() < 0 or pairs.max() >= n_detectors):
        raise DataError(
            "PET events",
            expected=f"detectors 0 to {n_detectors - 1}",
            got=f"{pairs.min()} to {pairs.max()}",
            action="check whether data and header belong together",
        )


def shared(part: Callable[[slice], None], n: int) -> None:
    """Do n things in as many parts as there are threads."""
    n_parts = max(1, min(torch.get_num_threads(), n))
    edges = [n * k // n_parts for k in range(n_parts + 1)]
    if n_parts == 1:
        part(slice(0, n))
        return
    with ThreadPoolExecutor(n_parts) as pool:
        list(pool.map(part, (slice(a, b) for a, b in pairwise(edges))))


def _timing(pet: PetHeader) -> tuple[NDArray[np.float32], Timing]:
    if pet.n_tof < 2:
        raise DataError(
            "PET events", expected="no time-of-flight bins, as the header says", got="bins", action="check the header"
        )
    table, per_mm = bin_weights(pet.tof_bin_mm, pet.tof_fwhm_mm)
    return table, (-(pet.n_tof - 1) / 2 * pet.tof_bin_mm, pet.tof_bin_mm, per_mm)
