"""What CT computes on the processor or on a GPU, chosen in one place by the device of `kernels.registry`.

Both sides take and give torch tensors, and leave them on the device they came from.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels import ct_cuda, smoothness
from kernels.ct_cone import Detector, backproject_cone
from kernels.ct_project import Place, project, smear
from kernels.ct_tile import LANES
from kernels.registry import device

_TILE = 128  # pixels along x and y that are backprojected together

Floats = NDArray[np.float64]
Axes = tuple[Floats, Floats, Floats]
Neighbours = tuple[NDArray[np.int64], NDArray, NDArray]


class Rays(Protocol):
    """Line integrals (view, row, channel) of a volume (z, y, x), and the transpose; real numbers."""

    def forward(self, volume: Tensor) -> Tensor:
        """Return the line integrals."""

    def adjoint(self, lines: Tensor) -> Tensor:
        """Return the transpose's volume."""


class MakeRays(Protocol):
    """Makes the rays of some views through voxels (z, y, x) at a place."""

    def __call__(
        self, shape: tuple[int, int, int], place: Place, *, spots: Floats, columns: Floats, heights: Floats
    ) -> Rays:
        """Return the rays; arrays as in `kernels.ct_project.project`."""


@dataclass(frozen=True, slots=True)
class Backend:
    """The implementations on one device."""

    rays: MakeRays
    """Makes the pair of projection and transpose."""
    cone: Callable[[], Callable[[Tensor, Floats, Detector, Axes], Tensor]]
    """Makes the cone-beam backprojection: filtered views, angles [rad], detector, x, y, z [mm] to sums (z, y, x)."""
    hyperbola: Callable[[Tensor, Neighbours, Tensor, Tensor], None]
    """Adds slope and curvature of the prior that keeps edges."""


def backend() -> Backend:
    """Return the implementations of this process's device."""
    return BACKENDS[device().type]


class HostRays:
    """Line integrals along rays on the processor, by threads: views of a projection, rows of voxels of its transpose.

    Parameters
    ----------
    shape
        Voxels (z, y, x).
    place
        Where they are.
    spots, columns, heights
        As in `kernels.ct_project.project`.
    """

    def __init__(
        self, shape: tuple[int, int, int], place: Place, *, spots: Floats, columns: Floats, heights: Floats
    ) -> None:
        self._shape, self._place = shape, place
        self._spots, self._columns, self._heights = spots, columns, heights

    def forward(self, volume: Tensor) -> Tensor:
        """Return the line integrals."""
        voxels = volume.permute(1, 2, 0).contiguous().numpy()
        n_views, n_channels = self._columns.shape[:2]
        out = np.empty((n_views, len(self._heights), n_channels), voxels.dtype)

        def part(at: slice) -> None:
            project(voxels, self._place, self._spots[at], self._columns[at], self._heights, out[at])

        shared(part, n_views)
        return torch.from_numpy(out)

    def adjoint(self, lines: Tensor) -> Tensor:
        """Return the transpose's volume."""
        values = lines.contiguous().numpy()
        nz, ny, nx = self._shape
        voxels = np.zeros((ny, nx, nz), values.dtype)

        def part(at: slice) -> None:
            smear(values, self._place, self._spots, self._columns, self._heights, (at.start, voxels[at]))

        shared(part, ny)
        return torch.from_numpy(voxels).permute(2, 0, 1).contiguous()


def host_cone() -> Callable[[Tensor, Floats, Detector, Axes], Tensor]:
    """Return the cone-beam backprojection on the processor, by threads that take tiles."""

    def backprojected(views: Tensor, angles: Floats, detector: Detector, axes: Axes) -> Tensor:
        xs, ys, zs = axes
        spacing = float(zs[1] - zs[0]) if len(zs) > 1 else detector[5]
        filtered, turns = views.numpy(), np.ascontiguousarray(angles, np.float64)
        out = np.empty((len(zs), len(ys), len(xs)), np.float32)

        def part(corner: tuple[int, int, int]) -> None:
            k, y, x = corner
            here = (slice(y, y + _TILE), slice(x, x + _TILE))
            tile = np.zeros((len(ys[here[0]]), len(xs[here[1]]), LANES), np.float32)
            place = (xs[here[1]], ys[here[0]], float(zs[k]), spacing)
            backproject_cone(filtered, turns, detector, place, tile)
            out[k : k + LANES, *here] = tile.transpose(2, 0, 1)[: len(zs) - k]

        corners = product(*(range(0, len(a), n) for a, n in ((zs, LANES), (ys, _TILE), (xs, _TILE))))
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(part, corners))
        return torch.from_numpy(out)

    return backprojected


def host_hyperbola(volume: Tensor, neighbours: Neighbours, slope: Tensor, bend: Tensor) -> None:
    """Add slope and curvature of the prior on the processor, rows shared by threads."""

    def part(at: slice) -> None:
        smoothness.hyperbola(volume.numpy(), neighbours, (at.start, at.stop), slope.numpy(), bend.numpy())

    shared(part, volume.shape[1])


def shared(part: Callable[[slice], None], n: int) -> None:
    """Do n things in as many parts as there are threads."""
    n_parts = max(1, min(torch.get_num_threads(), n))
    edges = [n * k // n_parts for k in range(n_parts + 1)]
    with ThreadPoolExecutor(n_parts) as pool:
        list(pool.map(part, (slice(a, b) for a, b in pairwise(edges))))


HOST = Backend(rays=HostRays, cone=host_cone, hyperbola=host_hyperbola)
GPU = Backend(rays=ct_cuda.Rays, cone=ct_cuda.ConeBackprojection, hyperbola=ct_cuda.hyperbola)
BACKENDS = {"cpu": HOST, "cuda": GPU}
"""Implementations by device."""
