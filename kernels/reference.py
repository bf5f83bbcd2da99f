"""Every operation once more, slowly, in float64 and written like its equation: the judge of the fast ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Complex = NDArray[np.complexfloating]


def centred_fft(data: Complex, axes: tuple[int, ...]) -> Complex:
    """Orthonormal DFT with both origins at index n // 2: ``F[k,n] = exp(-2 pi i (k-c)(n-c)/N) / sqrt(N)``."""
    return _transform(data, axes, -1.0)


def centred_ifft(data: Complex, axes: tuple[int, ...]) -> Complex:
    """Inverse (and adjoint) of `centred_fft`."""
    return _transform(data, axes, +1.0)


def resize(data: NDArray, size: int, axis: int) -> NDArray:
    """Crop or zero-pad one axis so that index n // 2 becomes index size // 2."""
    n = data.shape[axis]
    index = np.arange(size) - size // 2 + n // 2
    inside = (index >= 0) & (index < n)
    shape = list(data.shape)
    shape[axis] = size
    out = np.zeros(shape, data.dtype)
    np.moveaxis(out, axis, 0)[inside] = np.moveaxis(data, axis, 0)[index[inside]]
    return out


def whiten(matrix: Complex, block: Complex) -> Complex:
    """Mix the coils of every readout: ``out[n,c,s] = sum_d matrix[c,d] block[n,d,s]``."""
    return np.einsum("cd,nds->ncs", matrix.astype(np.complex128), block.astype(np.complex128))


def grappa_calibrate(
    acs: Complex, acceleration: int, *, kernel: tuple[int, int], regularisation: float
) -> tuple[Complex, float]:
    """Fit the kernel by ``min_w |A w - b|^2 + lambda |w|^2``, one target after the other.

    Same parameters and result as `kernels.tensor.grappa_calibrate`.
    """
    taps, width = kernel
    n_coils, n_k2, n_k1, n_k0 = acs.shape
    rows, targets = [], []
    for k2 in range(n_k2):
        for first in range(n_k1 - (taps - 1) * acceleration):
            for k0 in range(n_k0 - width + 1):
                lines = first + acceleration * np.arange(taps)
                patch = acs[:, k2, lines, k0 : k0 + width]  # coil, tap, k0
                rows.append(np.transpose(patch, (1, 2, 0)).ravel())
                between = first + acceleration * (taps // 2 - 1) + np.arange(1, acceleration)
                targets.append(acs[:, k2, between, k0 + width // 2].T.ravel())
    a, b = np.array(rows, np.complex128), np.array(targets, np.complex128)
    gram: Complex = a.conj().T @ a
    scale = regularisation * np.trace(gram).real / len(gram)
    weights: Complex = np.linalg.solve(gram + scale * np.eye(len(gram)), a.conj().T @ b)
    error = float(np.linalg.norm(a @ weights - b) / np.linalg.norm(b))
    return weights.reshape(taps, width, n_coils, acceleration - 1, n_coils), error


def grappa_hybrid(weights: Complex, n_x: int) -> Complex:
    """Transform the kernel along the readout: ``W_x[t] = sum_d w[t,d] exp(-2 pi i d (x - c) / N)``."""
    taps, width, n_coils, n_offsets, _ = weights.shape
    d = np.arange(width) - width // 2
    x = np.arange(n_x) - n_x // 2
    phase = np.exp(-2j * np.pi * np.outer(x, d) / n_x)
    out = np.einsum("xd,tdcof->xtcof", phase, weights.astype(np.complex128))
    return out.reshape(n_x, taps * n_coils, n_offsets * n_coils)


def grappa_apply(lines: Complex, weights: Complex) -> Complex:
    """Synthesise the lines between measured ones: block b is made of the lines b ... b + taps - 1."""
    n_x, n_lines, n_coils = lines.shape
    taps, n_offsets = weights.shape[1] // n_coils, weights.shape[2] // n_coils
    n_blocks = max(n_lines - taps + 1, 0)
    out = np.zeros((n_x, n_blocks, n_offsets, n_coils), np.complex128)
    for block in range(n_blocks):
        sources = lines[:, block : block + taps].reshape(n_x, taps * n_coils)
        out[:, block] = np.einsum("xs,xst->xt", sources, weights).reshape(n_x, n_offsets, n_coils)
    return out


def walsh(images: Complex, patch: tuple[int, int, int]) -> Complex:
    """Coil maps: dominant eigenvector of the coil covariance in a patch around each voxel.

    Same parameters and result as `kernels.tensor.walsh`.
    """
    n_coils, *shape = images.shape
    pixels = images.reshape(n_coils, -1)
    reference = np.linalg.eigh(pixels @ pixels.conj().T)[1][:, -1]
    maps = np.empty(images.shape, np.complex128)
    for voxel in np.ndindex(*shape):
        area = tuple(slice(max(i - p // 2, 0), i + p // 2 + 1) for i, p in zip(voxel, patch, strict=True))
        local = images[(slice(None), *area)].reshape(n_coils, -1)
        vector = np.linalg.eigh(local @ local.conj().T)[1][:, -1]
        phase = np.vdot(reference, vector)
        maps[(slice(None), *voxel)] = vector * (np.conj(phase) / abs(phase) if abs(phase) > 0 else 1.0)
    return maps


def upsample(data: NDArray, sizes: tuple[int, ...]) -> NDArray:
    """Interpolate linearly to a finer grid of the same field of view; index n // 2 stays the centre."""
    first = data.ndim - len(sizes)
    for axis, size in enumerate(sizes, start=first):
        n = data.shape[axis]
        place = np.clip((np.arange(size) - size // 2) * n / size + n // 2, 0, n - 1)
        low = np.minimum(np.floor(place).astype(int), max(n - 2, 0))
        part = (place - low).reshape([-1 if a == axis else 1 for a in range(data.ndim)])
        data = np.take(data, low, axis) * (1 - part) + np.take(data, np.minimum(low + 1, n - 1), axis) * part
    return data


def unit_norm(maps: Complex) -> Complex:
    """Scale maps (coil, ...) to unit norm over the coils; where all are zero they stay zero."""
    norm = np.sqrt((np.abs(maps) ** 2).sum(0, keepdims=True))
    return np.divide(maps, norm, out=np.zeros(maps.shape, np.complex128), where=norm > 0)


def coil_combine(images: Complex, maps: Complex) -> Complex:
    """Project coil images on maps of unit norm: ``sum_c conj(s_c) m_c``."""
    return (np.conj(maps).astype(np.complex128) * images).sum(0)


def rss(images: Complex) -> NDArray[np.float64]:
    """Root of the sum of squares over the coils."""
    return np.sqrt((np.abs(images) ** 2).sum(0))


def _transform(data: Complex, axes: tuple[int, ...], sign: float) -> Complex:
    out = np.asarray(data, np.complex128)
    for axis in axes:
        n = out.shape[axis]
        index = np.arange(n) - n // 2
        matrix = np.exp(sign * 2j * np.pi * np.outer(index, index) / max(n, 1)) / np.sqrt(max(n, 1))
        out = np.moveaxis(np.tensordot(matrix, out, axes=(1, axis)), 0, axis)
    return out
