"""Coil maps from the fully sampled middle of k-space.

The middle is windowed, transformed on a coarse grid, its dominant coil vector found around each voxel
(Walsh et al., DOI 10.1002/(SICI)1522-2594(200005)43:5<682::AID-MRM10>3.0.CO;2-G) and interpolated: coils are
smooth, so this costs little and is done before the last line is measured.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from kernels.registry import kernel

_FINE = 4  # coarse voxels per k-space line of the window: twice as fine as it resolves
_PATCH = 1.25  # side of the patch in k-space lines' inverse: five voxels of the coarse grid
_MAX_ENTRIES = 1 << 23  # voxels times coils squared, 64 MiB of covariances
_TURNS = 10  # of maps and image
_MAX_HALF = 16  # k-space lines on each side of the centre: more is anatomy, not coil


def coil_maps(region: Tensor, *, first: tuple[int, int], matrix: tuple[int, int, int], method: str = "walsh") -> Tensor:
    """Estimate coil maps on a coarse grid over the encoded field of view.

    Parameters
    ----------
    region
        Hybrid k-space (coil, k2, k1, x), fully sampled.
    first
        Matrix index (k2, k1) of its first line.
    matrix
        Matrix (k2, k1, x) it belongs to.
    method
        One of `METHODS`.

    Returns
    -------
    Tensor
        (coil, z, y, x), unit norm over the coils; `kernels.tensor.upsample` brings it to any grid of the same
        field of view.
    """
    n_coils = region.shape[0]
    data = kernel("centred_fft")(region, (3,))
    start = (*first, 0)
    halves = [_half(start[a], data.shape[a + 1], matrix[a]) for a in range(3)]
    halves[2] = min(halves[2], max(halves[1], 4))
    while np.prod([_size(h, n) for h, n in zip(halves, matrix, strict=True)]) * n_coils**2 > _MAX_ENTRIES:
        widest = int(np.argmax(halves))
        if halves[widest] <= 2:
            break
        halves[widest] -= 1
    whole = region.shape[1] == matrix[0] and halves[0] == matrix[0] // 2  # few partitions, all there: nothing to taper
    for axis in range(1 if whole else 0, 3):
        size = _size(halves[axis], matrix[axis])
        data = _windowed(data, start[axis] - matrix[axis] // 2, half=halves[axis], size=size, axis=axis + 1)
    patch = [_odd(_PATCH * data.shape[a + 1] / max(halves[a], 1)) for a in range(3)]
    if whole:
        patch[0] = 1
    return METHODS[method](kernel("centred_ifft")(data, (1, 2, 3)), (patch[0], patch[1], patch[2]))


def inati(images: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Estimate coil maps and their combined image in turns, both smooth in phase.

    Maps are the local averages of the coil images, turned by the combined image's phase and weighted by its magnitude;
    the image is the combination by those maps. No covariance is kept, so many coils cost little.

    Parameters
    ----------
    images
        Low-resolution coil images (coil, z, y, x).
    patch
        Sides of the box that is averaged over [voxel], odd.

    Returns
    -------
    Tensor
        Maps of the shape of `images`, unit norm over the coils.

    References
    ----------
    Inati et al., Proc ISMRM 2014:4407.
    """
    direction = images.flatten(1).sum(1)
    direction = direction / direction.norm().clamp_min(1e-30)
    combined = torch.einsum("c,czyx->zyx", direction.conj(), images)
    maps = images
    for _ in range(_TURNS):
        maps = kernel("unit_norm")(_averaged(images * combined.conj(), patch))
        combined = (maps.conj() * images).sum(0)
        common = torch.einsum("c,czyx->zyx", direction.conj(), maps)  # one phase for all coils is free: take it off
        phase = torch.where(common.abs() > 0, common / common.abs().clamp_min(1e-30), torch.ones_like(common))
        maps, combined = maps * phase.conj(), combined * phase
    return maps


def _averaged(data: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Return the mean over a box around each voxel of (coil, z, y, x), cut off at the border."""
    padding = tuple(side // 2 for side in patch)
    parts = torch.view_as_real(data).movedim(-1, 1).flatten(0, 1)[:, None]
    mean = torch.nn.functional.avg_pool3d(parts, patch, 1, padding, count_include_pad=False)
    return torch.view_as_complex(mean[:, 0].unflatten(0, (-1, 2)).movedim(1, -1).contiguous())


METHODS: dict[str, Callable[[Tensor, tuple[int, int, int]], Tensor]] = {
    "walsh": lambda images, patch: kernel("walsh")(images, patch),
    "inati": inati,
}
"""How coil maps are found."""


def _half(first: int, n: int, matrix: int) -> int:
    """Return how far the region reaches to the farther side of the centre, at most `_MAX_HALF`."""
    centre = matrix // 2
    return min(max(centre - first, first + n - 1 - centre, 0), _MAX_HALF)


def _size(half: int, matrix: int) -> int:
    """Return the length of the coarse grid."""
    return min(matrix, max(_FINE * half, 1))


def _odd(side: float) -> int:
    """Return the largest odd number of voxels that is not above `side`; 1 at least."""
    return max(1, 2 * int((side - 1) // 2) + 1)


def _windowed(data: Tensor, first: int, *, half: int, size: int, axis: int) -> Tensor:
    """Place an axis that starts at frequency `first` on a centred grid of `size`, tapered by a raised cosine."""
    k = torch.arange(data.shape[axis], device=data.device) + first
    keep = (k.abs() <= half) & (k >= -(size // 2)) & (k < size - size // 2)
    window = torch.cos(k[keep] * (torch.pi / 2 / (half + 1))).square()
    shape = list(data.shape)
    shape[axis] = size
    out = data.new_zeros(shape)
    broadcast = [-1 if a == axis else 1 for a in range(data.ndim)]
    out.index_copy_(axis, k[keep] + size // 2, data.index_select(axis, keep.nonzero()[:, 0]) * window.view(broadcast))
    return out
