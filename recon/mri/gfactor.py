"""How much noise unfolding adds: the g-factor, exactly, from the weights that were used."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from acquisition.items import Image
from kernels.registry import kernel
from recon.mri.geometry import grid_of
from recon.mri.items import Frame
from recon.mri.space import Space


def gfactor_map(weights: Tensor, maps: Tensor, *, acceleration: int, padded: int) -> Tensor:
    """Return the g-factor (y, x) of GRAPPA and coil combination.

    In image space GRAPPA multiplies the aliased coil images by ``W(y, x)``; with the combination ``p = conj(maps)``
    the noise of white coils becomes ``|p W|``, and ``g = |p W| / R``: 1 where unfolding costs no more than the root
    of the lines that were left out.

    Parameters
    ----------
    weights
        Hybrid weights (x, tap * coil, offset * coil) of `kernels.tensor.grappa_hybrid`.
    maps
        Coil maps of unit norm (coil, y, x) on the image's voxels.
    acceleration
        R.
    padded
        Voxels of the field of view along y that the k-space lines span.

    References
    ----------
    Breuer et al., Magn Reson Med 2009;62:739, DOI 10.1002/mrm.22066.
    """
    n_coils, n_y, n_x = maps.shape
    taps, n_offsets = weights.shape[1] // n_coils, weights.shape[2] // n_coils
    place = (torch.arange(n_y, device=maps.device) - n_y // 2) / padded
    combine = maps.conj().permute(2, 1, 0)  # x, y, coil
    offset = _phase(torch.arange(1, n_offsets + 1, device=maps.device), place, maps)  # offset, y
    tap = _phase((taps // 2 - 1 - torch.arange(taps, device=maps.device)) * acceleration, place, maps)  # tap, y
    # x, offset * coil, y: what each made coil image counts in the combined one
    wanted = (offset[None, :, None, :] * combine.permute(0, 2, 1)[:, None]).reshape(n_x, n_offsets * n_coils, n_y)
    made = torch.bmm(weights, wanted).view(n_x, taps, n_coils, n_y)
    total = combine.permute(0, 2, 1) + (made * tap[None, :, None, :]).sum(1)  # x, coil, y
    return total.abs().square().sum(1).sqrt().T / acceleration


def gfactor_image(frame: Frame, values: Tensor, space: Space, patient_position: str | None) -> Image:
    """Return a map (x, y), y over the encoded field of view on any number of voxels, as the slice's image."""
    grid, _ = grid_of(frame.head, space, patient_position)
    fine = kernel("upsample")(values.T, (space.y.padded, values.shape[0]))
    data = kernel("resize")(fine, space.y.recon, 0)[None].cpu().numpy().astype(np.float32)
    return Image(data=data, grid=grid, unit="1", output="gfactor", position=frame.key.position)


def _phase(shift: Tensor, place: Tensor, like: Tensor) -> Tensor:
    """Return ``exp(2 pi i shift y)`` (shift, y): a step in k-space is a phase in the image."""
    angle = 2 * math.pi * torch.outer(shift.to(place.dtype), place)
    return torch.polar(torch.ones_like(angle), angle).to(like.dtype)
