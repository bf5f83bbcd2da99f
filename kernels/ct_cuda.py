"""CT on a GPU: the kernels of `ct_cuda.cu`, compiled by CuPy for the GPU at hand when they are first asked for.

They compute what `kernels.ct_project`, `kernels.ct_cone` and `kernels.smoothness` do, from the same arrays. Threads add
to the voxels of a transpose in no fixed order, so its last bits differ from call to call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.ct_project import Place
from kernels.ct_tile import BLOCK
from kernels.registry import ENVIRONMENT, device

Floats = NDArray[np.float64]
Sizes = tuple[int, int, int]
Kernel = Callable[[Sizes, Sizes, tuple[Tensor, ...]], None]
"""Blocks and threads per block along x, y, z, and the arguments, all of them tensors."""

_C_NAME = {torch.float32: "float", torch.float64: "double"}
_THREADS, _WARP = 128, 32
_PLANES = 16  # of a thread, PLANES in ct_cuda.cu


class Rays:
    """Line integrals along the rays of some views through voxels, and their transpose, on the device.

    Parameters
    ----------
    shape
        Voxels (z, y, x).
    place
        Where they are.
    spots, columns, heights
        As in `kernels.ct_project.project`.

    Raises
    ------
    LookupError
        CuPy is not installed.
    """

    def __init__(self, shape: Sizes, place: Place, *, spots: Floats, columns: Floats, heights: Floats) -> None:
        nz, ny, nx = shape
        (n_views, n_channels), n_rows = columns.shape[:2], len(heights)
        self._voxels, self._lines = (ny, nx, nz), (n_views, n_rows, n_channels)
        self._rays = tuple(_sent(a) for a in (np.array(place), spots, columns, heights))
        self._sizes = _sent(np.array([ny, nx, nz, n_views, n_rows, n_channels], np.int32))
        rows = min(_WARP, 1 << (n_rows - 1).bit_length())
        self._block = (rows, _THREADS // rows, 1)
        self._grid = (n_views * -(-n_rows // rows) * -(-n_channels // self._block[1]), 1, 1)
        compiled("project", torch.float32)

    def forward(self, volume: Tensor) -> Tensor:
        """Return the integrals (view, row, channel) of a volume (z, y, x), on the volume's device."""
        voxels = volume.to(device()).permute(1, 2, 0).contiguous()
        lines = voxels.new_empty(self._lines)
        self._run("project", voxels, lines)
        return lines.to(volume.device)

    def adjoint(self, lines: Tensor) -> Tensor:
        """Return the transpose's volume (z, y, x) of lines (view, row, channel), on the lines' device."""
        values = lines.to(device()).contiguous()
        voxels = values.new_zeros(self._voxels)
        self._run("smear", values, voxels)
        return voxels.permute(2, 0, 1).contiguous().to(lines.device)

    def _run(self, name: str, source: Tensor, out: Tensor) -> None:
        if self._grid[0]:
            compiled(name, source.dtype)(self._grid, self._block, (source, *self._rays, out, self._sizes))


class ConeBackprojection:
    """The backprojection of filtered cone-beam views, on the device.

    Rows are interpolated for every voxel; `kernels.ct_cone` does so per column and step of depth, and is off by at most
    `kernels.ct_tile.MISS` rows.

    Raises
    ------
    LookupError
        CuPy is not installed.
    """

    def __init__(self) -> None:
        compiled("backproject_flat", torch.float32)

    def __call__(
        self, views: Tensor, angles: Floats, detector: tuple[float, ...], place: tuple[Floats, Floats, Floats]
    ) -> Tensor:
        """Return the sums (z, y, x), on the views' device.

        Parameters
        ----------
        views, angles, detector
            As in `kernels.ct_cone.backproject_cone`; the padding at the end of the channels is zero.
        place
            x, y of the pixels and z of the planes above the focal spot [mm], each evenly spaced.
        """
        sent = views.to(device()).contiguous()
        n_views, n_rows, n_stored = sent.shape
        nx, ny, nz = (len(axis) for axis in place)
        n_channels = n_stored - BLOCK
        sizes = np.array([nz, ny, nx, n_views, n_rows, n_channels, n_stored], np.int32)
        turns = np.stack([np.cos(angles), np.sin(angles)], -1)
        raster = [(axis[0], axis[1] - axis[0] if len(axis) > 1 else 0.0) for axis in place]
        tables = (_sent(np.asarray(a, np.float32)) for a in (turns, detector[:6], np.ravel(raster)))
        out = sent.new_zeros((nz, ny, nx))
        name = "backproject_cylinder" if detector[6] > 0 else "backproject_flat"
        block = (_WARP, _THREADS // _WARP, 1)
        grid = (-(-nx // block[0]), -(-ny // block[1]), -(-nz // _PLANES))
        compiled(name, torch.float32)(grid, block, (sent, *tables, out, _sent(sizes)))
        return out.to(views.device)


def hyperbola(
    volume: Tensor, neighbours: tuple[NDArray[np.int64], NDArray, NDArray], slope: Tensor, bend: Tensor
) -> None:
    """Add slope and curvature of the prior of `kernels.smoothness.hyperbola` for all voxels; tensors on the device."""
    steps, weights, edges = neighbours
    nz, ny, nx = volume.shape
    block = (_WARP, _THREADS // _WARP, 1)
    grid = (-(-nx // block[0]), -(-ny // block[1]), nz)
    tables = (_sent(steps.astype(np.int32)), *(_sent(a).to(volume.dtype) for a in (weights, edges)))
    sizes = _sent(np.array([nz, ny, nx, len(steps)], np.int32))
    compiled("hyperbola", volume.dtype)(grid, block, (volume.contiguous(), *tables, slope, bend, sizes))


@cache
def compiled(name: str, dtype: torch.dtype) -> Kernel:
    """Return a kernel of `ct_cuda.cu` for numbers of a type; it runs on torch's current stream.

    Raises
    ------
    LookupError
        CuPy is not installed.
    """
    cupy, kernel = _cupy(), _module(_C_NAME[dtype]).get_function(name)

    def run(grid: Sizes, block: Sizes, arguments: tuple[Tensor, ...]) -> None:
        at = arguments[0].device
        with cupy.cuda.Device(at.index), cupy.cuda.Stream.from_external(_Stream(at)):
            kernel(grid, block, tuple(np.uint64(a.data_ptr()) for a in arguments))

    return run


class _Stream:
    """Torch's current stream in the form of CUDA's stream protocol, which torch itself speaks only lately."""

    def __init__(self, at: torch.device) -> None:
        self._handle = torch.cuda.current_stream(at).cuda_stream

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._handle


@cache
def _module(real: str) -> Any:
    source = Path(__file__).with_suffix(".cu").read_text()
    return _cupy().RawModule(code=source, options=(f"-DREAL={real}",))


def _cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        text = f"{ENVIRONMENT}=cuda: CT needs CuPy, which is not installed. Try: pip install 'isocenter[gpu]'"
        raise LookupError(text) from error
    return cupy


def _sent(array: NDArray) -> Tensor:
    """Return an array on the device."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(device())
