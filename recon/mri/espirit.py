"""ESPIRiT: coil maps as eigenvectors of the local k-space kernels' row space.

The calibration region is cut into small blocks; their row space, seen in image space, is at each voxel a Hermitian
matrix G(r) over the coils whose eigenvectors of eigenvalue 1 are the coil maps (Uecker et al., Magn Reson Med
2014;71:990, DOI 10.1002/mrm.24751). G is a trigonometric polynomial of the kernel's degree, and its eigenvectors are
smooth: they are found on a coarse grid, turned to one phase, interpolated, and corrected by power iterations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from acquisition.errors import ReconError

_COARSE = 6.0  # coarse voxels per lag of the kernel's correlation; with 4 the maps at edges of the object are 1 % off
_MIN_COARSE = 32


@dataclass(frozen=True, slots=True)
class Maps:
    """Coil maps of one slice or volume."""

    maps: Tensor
    """(set, coil, *shape) complex64, unit norm over the coils where the eigenvalue is above `crop`, 0 elsewhere."""
    eigenvalues: Tensor
    """(set, *shape) float32, 1 where the coils explain the calibration."""


def espirit_maps(
    calibration: Tensor,
    shape: tuple[int, ...],
    *,
    kernel: int = 6,
    n_sets: int = 1,
    threshold: float = 0.02,
    crop: float = 0.8,
) -> Maps:
    """Estimate coil maps from fully sampled k-space around the centre.

    Parameters
    ----------
    calibration
        k-space (coil, y, x) or (coil, z, y, x); the centre at n // 2.
    shape
        Voxels of the maps (y, x) or (z, y, x) over the same field of view.
    kernel
        Samples of a block along each axis; at most half the region, so that there are blocks enough.
    n_sets
        Sets of maps; two where the object is larger than the field of view.
    threshold
        Singular values of the calibration matrix that count, relative to the largest.
    crop
        Maps are set to zero where the eigenvalue is below this part of the largest; 0 keeps them everywhere.

    Raises
    ------
    ReconError
        The region is smaller than the kernel, or all zero.
    """
    size = _block(calibration, shape, kernel)
    row_space = _row_space(calibration, size, threshold)
    lags = _correlation(row_space, calibration.shape[0], size)
    coarse = tuple(min(n, _coarse(k)) if n > 1 else 1 for n, k in zip(shape, size, strict=True))
    values, vectors = torch.linalg.eigh(_image_space(lags, coarse, size))
    values, vectors = values[..., -n_sets:].flip(-1), vectors[..., -n_sets:].flip(-1)
    vectors = _one_phase(vectors, calibration)
    maps, eigenvalues = _interpolated(vectors, coarse, shape), _interpolated(values[..., None, :], coarse, shape)
    maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)
    eigenvalues = eigenvalues[:, 0].real.clamp(0, 1)
    if crop > 0:
        maps = maps * (eigenvalues > crop * eigenvalues.max())[:, None]
    return Maps(maps.contiguous(), eigenvalues.contiguous())


def _block(calibration: Tensor, shape: tuple[int, ...], kernel: int) -> list[int]:
    """Return the sides of a block, once the region is known to hold several."""
    axes = calibration.ndim - 1
    if axes != len(shape) or axes not in (2, 3):
        raise ReconError("ESPIRiT", expected="2 or 3 axes for region and maps", got=f"{axes} and {len(shape)}")
    too_small = any(n < min(kernel, m) for n, m in zip(calibration.shape[1:], shape, strict=True))
    if too_small or max(calibration.shape[1:]) < kernel + 1:
        raise ReconError(
            "ESPIRiT",
            expected=f"a calibration region larger than the kernel of {kernel}",
            got=f"{tuple(calibration.shape[1:])} samples",
            action="measure more calibration lines",
        )
    return [max(1, min(kernel, (n + 1) // 2)) for n in calibration.shape[1:]]


def _coarse(kernel: int) -> int:
    return max(_MIN_COARSE, 2 * math.ceil(_COARSE * (2 * kernel - 1) / 2))


def _row_space(calibration: Tensor, size: list[int], threshold: float) -> Tensor:
    """Return the dominant right singular vectors (coil * block, rank) of all blocks of the region."""
    blocks = calibration
    for axis, n in enumerate(size):
        blocks = blocks.unfold(axis + 1, n, 1)
    axes = len(size)
    order = (*range(1, axes + 1), 0, *range(axes + 1, 2 * axes + 1))
    matrix = blocks.permute(order).reshape(math.prod(blocks.shape[1 : axes + 1]), -1)
    wide = matrix.shape[0] < matrix.shape[1]
    gram = matrix @ matrix.mH if wide else matrix.mH @ matrix
    power, vectors = torch.linalg.eigh(gram)
    largest = float(power[-1])
    if not largest > 0 or not math.isfinite(largest):
        raise ReconError("ESPIRiT", expected="a calibration region with signal", got="zeros or NaN")
    keep = power > threshold**2 * largest
    vectors = vectors[:, keep]
    if wide:
        vectors = (matrix.mH @ vectors) / power[keep].sqrt()
    return vectors


def _correlation(row_space: Tensor, n_coils: int, size: list[int]) -> Tensor:
    """Return the kernels' summed correlation (lags..., coil, coil), each axis from -(n - 1) to n - 1."""
    padded = [2 * n - 1 for n in size]
    kernels = row_space.T.reshape(-1, n_coils, *size)
    axes = tuple(range(2, 2 + len(size)))
    spectra = torch.fft.fftn(kernels, s=padded, dim=axes).flatten(2)  # rank, coil, frequency
    spectra = spectra.permute(2, 1, 0)  # frequency, coil, rank
    product = spectra.conj() @ spectra.mT  # frequency, coil, coil
    # Blocks lie in the span of the conjugate vectors, so the lags run backwards: fft, not ifft.
    lags = torch.fft.fftn(product.reshape(*padded, n_coils, n_coils), dim=tuple(range(len(size))))
    return torch.fft.fftshift(lags, dim=tuple(range(len(size)))) / (math.prod(size) * math.prod(padded))


def _image_space(lags: Tensor, grid: tuple[int, ...], size: list[int]) -> Tensor:
    """Evaluate the trigonometric polynomial on a grid: (*grid, coil, coil)."""
    out = lags
    for axis, (n, k) in enumerate(zip(grid, size, strict=True)):
        position = (torch.arange(n, device=lags.device) - n // 2) / n
        lag = torch.arange(-(k - 1), k, device=lags.device)
        phase = torch.exp(2j * math.pi * position[:, None] * lag).to(lags.dtype)
        out = torch.tensordot(phase, out.movedim(axis, 0), dims=1).movedim(0, axis)
    return out


def _one_phase(vectors: Tensor, calibration: Tensor) -> Tensor:
    """Turn each voxel's vectors (..., coil, set) so that the strongest virtual coil is real: phase becomes smooth."""
    flat = calibration.flatten(1)
    _, principal = torch.linalg.eigh(flat @ flat.mH)
    reference = torch.einsum("c,...cs->...s", principal[:, -1].conj(), vectors)
    phase = torch.where(reference.abs() > 0, reference / reference.abs().clamp_min(1e-20), torch.ones_like(reference))
    return vectors * phase.conj()[..., None, :]


def _interpolated(values: Tensor, coarse: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """Bring (*coarse, coil, set) to (set, coil, *shape) by cubic convolution, axis by axis as matrix products."""
    out = values.movedim(-1, 0).movedim(-1, 1)
    for axis, (n, m) in enumerate(zip(coarse, shape, strict=True)):
        if n != m:
            weights = _cubic(n, m).to(out.device, out.dtype)
            out = torch.tensordot(weights, out.movedim(axis + 2, 0), dims=1).movedim(0, axis + 2)
    return out


def _cubic(n: int, m: int) -> Tensor:
    """Return (m, n) weights of Keys' cubic convolution; positions are those of the same field of view, periodic."""
    position = (torch.arange(m, dtype=torch.float64) - m // 2) * n / m + n // 2
    base = position.floor().long()
    fraction = position - base
    weights = torch.zeros(m, n, dtype=torch.float64)
    for offset in range(-1, 3):
        distance = (fraction - offset).abs()
        near = 1.5 * distance**3 - 2.5 * distance**2 + 1
        far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
        value = torch.where(distance <= 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))
        weights.scatter_add_(1, ((base + offset) % n)[:, None], value[:, None])
    return weights.float()
