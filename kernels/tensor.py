"""The operations in torch: complex64 on the CPU or a GPU, whichever the tensors live on.

All Fourier transforms are orthonormal (1/sqrt(N) both ways), so white noise of unit variance stays white noise
of unit variance, and centred: both origins lie at index n // 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

_POWER_STEPS = 12  # 8 leave 1e-3 in the coil maps of a head, 12 leave 1e-4
_SINGLE_FROM = 2e-4  # regularisation far above the rounding of complex64 products


def centred_fft(data: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return the orthonormal, centred discrete Fourier transform along `axes`."""
    if data.numel() == 0 or not axes:
        return data.clone()
    shifted = torch.fft.ifftshift(data, dim=axes)
    return torch.fft.fftshift(torch.fft.fftn(shifted, dim=axes, norm="ortho"), dim=axes)


def centred_ifft(data: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return the inverse (and adjoint) of `centred_fft` along `axes`."""
    if data.numel() == 0 or not axes:
        return data.clone()
    shifted = torch.fft.ifftshift(data, dim=axes)
    return torch.fft.fftshift(torch.fft.ifftn(shifted, dim=axes, norm="ortho"), dim=axes)


def resize(data: Tensor, size: int, axis: int) -> Tensor:
    """Crop (a view) or zero-pad (a copy) one axis so that index n // 2 becomes index size // 2."""
    n = data.shape[axis]
    first = n // 2 - size // 2
    if size <= n:
        return data.narrow(axis, first, size)
    shape = list(data.shape)
    shape[axis] = size
    out = data.new_zeros(shape)
    out.narrow(axis, -first, n).copy_(data)
    return out


def whiten(matrix: Tensor, block: Tensor, out: Tensor | None = None) -> Tensor:
    """Mix the coils of every readout.

    Parameters
    ----------
    matrix
        (coil, coil).
    block
        (n, coil, sample).
    out
        Where to write, of `block`'s shape; new memory when absent.
    """
    return torch.bmm(matrix.expand(len(block), -1, -1), block, out=out)


def grappa_calibrate(
    acs: Tensor, acceleration: int, *, kernel: tuple[int, int], regularisation: float
) -> tuple[Tensor, float]:
    """Fit GRAPPA weights on fully sampled lines.

    Each target sample is a weighted sum of the samples of all coils on the nearest `taps` measured lines and
    `width` neighbours along the readout; the weights minimise ``|A w - b|^2 + lambda |w|^2`` over every place
    the kernel fits, ``lambda = regularisation * trace(A^H A) / n``. The Gram matrix is summed plane by plane and
    solved by Cholesky in complex128. Products are complex64 only where the regularisation is far above their rounding,
    which for smooth coils alone would make the matrix indefinite.

    Parameters
    ----------
    acs
        Calibration k-space (coil, k2, k1, k0), every line measured.
    acceleration
        Undersampling factor along k1, >= 2.
    kernel
        (taps, width): lines along k1 (even) and samples along k0 (odd).
    regularisation
        Tikhonov weight relative to the mean diagonal of the Gram matrix.

    Returns
    -------
    tuple
        Weights (tap, k0, coil, offset, target coil), and the relative error of the fit, |A w - b| / |b|.

    References
    ----------
    Griswold et al., Magn Reson Med 2002;47:1202, DOI 10.1002/mrm.10171.
    """
    taps, width = kernel
    n_coils = acs.shape[0]
    n, m = taps * width * n_coils, (acceleration - 1) * n_coils
    gram = acs.new_zeros((n, n), dtype=torch.complex128)
    cross = acs.new_zeros((n, m), dtype=torch.complex128)
    energy = 0.0
    exact = torch.complex128 if regularisation < _SINGLE_FROM else acs.dtype
    for plane in acs.unbind(1):
        a, b = _calibration_equations(plane.to(exact), acceleration, taps=taps, width=width)
        gram += a.mH @ a
        cross += a.mH @ b
        energy += float(b.abs().square().sum())
    scale = regularisation * float(gram.diagonal().real.mean())
    regular = gram + max(scale, torch.finfo(torch.float64).tiny) * torch.eye(n, dtype=gram.dtype, device=gram.device)
    weights = torch.cholesky_solve(cross, torch.linalg.cholesky(regular))
    rest = energy + float((weights.conj() * (gram @ weights - 2 * cross)).sum().real)
    error = (max(rest, 0.0) / energy) ** 0.5 if energy > 0 else 0.0
    return weights.to(acs.dtype).reshape(taps, width, n_coils, acceleration - 1, n_coils), error


def grappa_hybrid(weights: Tensor, n_x: int) -> Tensor:
    """Transform the kernel along the readout, so that it acts on each x alone.

    Parameters
    ----------
    weights
        (tap, k0, coil, offset, target coil) of `grappa_calibrate`.
    n_x
        Voxels along the readout.

    Returns
    -------
    Tensor
        (x, tap * coil, offset * target coil).
    """
    taps, width, n_coils, n_offsets, _ = weights.shape
    d = torch.arange(width, device=weights.device) - width // 2
    x = torch.arange(n_x, device=weights.device) - n_x // 2
    angle = (-2 * torch.pi / n_x) * torch.outer(x, d).to(weights.real.dtype)
    phase = torch.polar(torch.ones_like(angle), angle)
    flat = weights.transpose(0, 1).reshape(width, -1)
    return (phase @ flat).reshape(n_x, taps * n_coils, n_offsets * n_coils)


def grappa_apply(lines: Tensor, weights: Tensor) -> Tensor:
    """Synthesise the lines between measured ones, all x at once.

    Parameters
    ----------
    lines
        The measured lines in their order, (x, line, coil); zeros where one is missing.
    weights
        (x, tap * coil, offset * coil) of `grappa_hybrid`.

    Returns
    -------
    Tensor
        (x, line - taps + 1, offset, coil): block b is made of the lines b ... b + taps - 1 and lies between the
        two middle ones.
    """
    n_x, n_lines, n_coils = lines.shape
    taps, n_offsets = weights.shape[1] // n_coils, weights.shape[2] // n_coils
    n_blocks = max(n_lines - taps + 1, 0)
    out = lines.new_zeros((n_x, n_blocks, n_offsets * n_coils))
    for tap in range(taps):
        out.baddbmm_(lines[:, tap : tap + n_blocks], weights[:, tap * n_coils : (tap + 1) * n_coils])
    return out.view(n_x, n_blocks, n_offsets, n_coils)


def walsh(images: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Estimate coil maps as the dominant eigenvector of the local coil covariance, by power iteration.

    The phase is fixed against one virtual coil (the dominant eigenvector of the whole image's covariance), which
    varies slowly where the coils do.

    Parameters
    ----------
    images
        Low-resolution coil images (coil, z, y, x).
    patch
        Sides (z, y, x) of the box over which the covariance is summed [voxel], odd; cut off at the border.

    Returns
    -------
    Tensor
        Maps of the shape of `images`, unit norm over the coils.

    References
    ----------
    Walsh et al., Magn Reson Med 2000;43:682, DOI 10.1002/(SICI)1522-2594(200005)43:5<682::AID-MRM10>3.0.CO;2-G.
    """
    n_coils = images.shape[0]
    if images.numel() == 0:
        return images.clone()
    voxels = images.reshape(n_coils, -1).T  # voxel, coil
    covariance = voxels[:, :, None] * voxels[:, None, :].conj()
    covariance = _box_sum(covariance.view(*images.shape[1:], -1), patch).view(-1, n_coils, n_coils)
    reference = torch.linalg.eigh(covariance.sum(0).to(torch.complex128).cpu())[1][:, -1].to(images)
    vector = covariance @ reference[:, None]
    for _ in range(_POWER_STEPS):
        vector = covariance @ _unit(vector)
    vector = _unit(vector)[..., 0]
    phase = (vector @ reference.conj()).conj()
    phase = torch.where(phase.abs() > 0, phase / phase.abs().clamp_min(1e-30), torch.ones_like(phase))
    return (vector * phase[:, None]).T.reshape(images.shape)


def upsample(data: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Interpolate the last axes linearly to a finer grid of the same field of view.

    Index n // 2 stays the centre, so a map fits the image that `centred_ifft` gives; beyond the border the last
    value is kept.

    Parameters
    ----------
    data
        (..., z, y, x) as many trailing axes as `sizes` has entries.
    sizes
        New lengths of these axes.
    """
    first = data.ndim - len(sizes)
    for axis, size in enumerate(sizes, start=first):
        n = data.shape[axis]
        if n != size:
            matrix = _interpolation(n, size, data.device).to(data.dtype)
            data = torch.tensordot(data, matrix, dims=([axis], [1])).movedim(-1, axis)
    return data.contiguous()


def unit_norm(maps: Tensor) -> Tensor:
    """Scale maps (coil, ...) to unit norm over the coils; where all are zero they stay zero."""
    return maps / _squares(maps).sqrt().clamp_min(1e-30)


def coil_combine(images: Tensor, maps: Tensor) -> Tensor:
    """Project coil images on maps of unit norm: ``sum_c conj(s_c) m_c``.

    Parameters
    ----------
    images, maps
        (coil, z, y, x).

    Returns
    -------
    Tensor
        (z, y, x), complex. White noise of unit variance per coil keeps unit variance.
    """
    out = images.new_zeros(images.shape[1:])
    for coil_map, image in zip(maps, images, strict=True):  # coil by coil stays in the cache: a third of the time
        out.addcmul_(coil_map.conj(), image)
    return out


def rss(images: Tensor) -> Tensor:
    """Return the root of the sum of squares over the coils, (coil, z, y, x) -> (z, y, x)."""
    return _squares(images).sqrt()


def _calibration_equations(plane: Tensor, acceleration: int, *, taps: int, width: int) -> tuple[Tensor, Tensor]:
    """Return A (place, tap * k0 * coil) and b (place, offset * coil) of one plane (coil, k1, k0)."""
    n_coils, n_k1, n_k0 = plane.shape
    n_places = n_k1 - (taps - 1) * acceleration
    patches = plane.unfold(-1, width, 1)  # coil, k1, place, k0
    lines = [patches[:, t * acceleration : t * acceleration + n_places] for t in range(taps)]
    a = torch.stack(lines).permute(2, 3, 0, 4, 1)  # k1, k0 place, tap, k0, coil
    first = (taps // 2 - 1) * acceleration
    middle = plane[:, :, width // 2 : width // 2 + n_k0 - width + 1]
    b = torch.stack([middle[:, first + r : first + r + n_places] for r in range(1, acceleration)])
    n_targets = (acceleration - 1) * n_coils
    return a.reshape(-1, taps * width * n_coils), b.permute(2, 3, 0, 1).reshape(-1, n_targets)


def _box_sum(data: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Sum over a box around each place of the first three axes, by differences of running sums."""
    for axis, side in enumerate(patch):
        n, half = data.shape[axis], side // 2
        if n > 1 and half > 0:
            running = torch.cat([torch.zeros_like(data.narrow(axis, 0, 1)), data], axis).cumsum(axis)
            place = torch.arange(n, device=data.device)
            upper = running.index_select(axis, (place + half + 1).clamp_max(n))
            data = upper - running.index_select(axis, (place - half).clamp_min(0))
    return data


def _squares(data: Tensor) -> Tensor:
    """Return sum over the first axis of |data|^2; torch's complex norm takes twenty times as long."""
    return torch.view_as_real(data).square().sum(dim=(0, -1)) if data.is_complex() else data.square().sum(0)


def _unit(vector: Tensor) -> Tensor:
    return vector / torch.linalg.vector_norm(vector, dim=1, keepdim=True).clamp_min(1e-30)


def _interpolation(n: int, size: int, device: torch.device) -> Tensor:
    """Return the (size, n) matrix of linear interpolation between two centred grids of one field of view."""
    place = (torch.arange(size, device=device) - size // 2).double() * n / size + n // 2
    place = place.clamp(0, n - 1)
    distance = (place[:, None] - torch.arange(n, device=device)[None, :]).abs()
    return (1 - distance).clamp_min(0)
