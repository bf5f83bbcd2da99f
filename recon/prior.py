"""What images are expected to look like, as proximal maps: ``prox(v, t) = argmin_x t R(x) + |x - v|^2 / 2``.

Images are complex (batch, y, x); each map is made once per shape and called in a solver's loop.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from kernels.wavelet import shrink_image
from recon.wavelet import Wavelet

_PARITIES = ((0, 0), (1, 1), (0, 1), (1, 0))


class WaveletSparsity:
    """``R(x) = weight |W x|_1`` over the details of an orthonormal wavelet transform.

    Real and imaginary part of a coefficient shrink together. Each call shifts the image by another amount
    (cycle spinning; Figueiredo and Nowak, IEEE Trans Image Process 2003;12:906, DOI 10.1109/TIP.2003.814255), which
    takes the grid out of the result.

    Parameters
    ----------
    shape
        (y, x).
    weight
        In units of the image.
    levels
        Scales of the transform.
    spin
        Whether the image is shifted.
    """

    def __init__(self, shape: tuple[int, int], weight: float, *, levels: int = 3, spin: bool = True) -> None:
        self.weight, self._wavelet, self._spin, self._calls = weight, Wavelet(shape, levels), spin, 0
        self._work = np.empty((2, 2, *self._wavelet.padded), np.float32)

    def __call__(self, images: Tensor, step: float) -> Tensor:
        """Return the proximal map of ``step * R``."""
        if images.device.type == "cpu" and images.dtype == torch.complex64:
            return self._compiled(images, self.weight * step)
        return self.convolved(images, step)

    def convolved(self, images: Tensor, step: float) -> Tensor:
        """Return the same by strided convolutions, for any device and precision."""
        shift = self._next_shift()
        turned = torch.roll(images, shift, (-2, -1)) if any(shift) else images
        rest, details = self._wavelet.forward(turned)
        made = self._wavelet.inverse(rest, [shrink_pairs(d, self.weight * step) for d in details])
        return torch.roll(made, (-shift[0], -shift[1]), (-2, -1)) if any(shift) else made

    def _compiled(self, images: Tensor, threshold: float) -> Tensor:
        setting = (self._wavelet.levels, *self._next_shift(), threshold)
        out = torch.empty(images.shape, dtype=images.dtype)
        pairs = zip(torch.view_as_real(images.contiguous()).numpy(), torch.view_as_real(out).numpy(), strict=True)
        for image, into in pairs:
            shrink_image(image, into, self._work, setting)
        return out

    def _next_shift(self) -> tuple[int, int]:
        self._calls += 1
        return spread(self._calls, self._wavelet.levels) if self._spin else (0, 0)


def spread(call: int, bits: int) -> tuple[int, int]:
    """Return the shift of a call: all parities of every scale in turn, the finest first, the same again each time.

    Four calls see each parity of the finest scale once. With random shifts the error after 18 calls varies by 3 %.
    """
    y = x = 0
    for scale in range(bits):
        odd_y, odd_x = _PARITIES[(call >> (2 * scale)) & 3]
        y, x = y | odd_y << scale, x | odd_x << scale
    return y, x


def shrink_pairs(parts: Tensor, threshold: float) -> Tensor:
    """Shrink complex numbers towards zero by `threshold`; real and imaginary parts are the halves of the first axis."""
    real, imag = parts.chunk(2)
    size = torch.hypot(real, imag).clamp_min_(1e-30)
    keep = (size - threshold).clamp_min_(0).div_(size)
    return parts * torch.cat([keep, keep])


class TotalVariation:
    """``R(x) = weight sum |grad x|_2``, isotropic, complex, by Nesterov's method on the dual problem.

    Beck and Teboulle, IEEE Trans Image Process 2009;18:2419, DOI 10.1109/TIP.2009.2028250. The dual variable of the
    last call starts the next one, so few inner steps are enough in a solver's loop.

    Parameters
    ----------
    weight
        In units of the image.
    n_inner
        Steps on the dual problem per call.
    axes
        Along which differences are taken; ``(0,)`` is temporal variation of a series.
    """

    def __init__(self, weight: float, *, n_inner: int = 6, axes: tuple[int, ...] = (-2, -1)) -> None:
        self.weight, self.n_inner, self.axes = weight, n_inner, axes
        self._dual: Tensor | None = None

    def __call__(self, images: Tensor, step: float) -> Tensor:
        """Return the proximal map of ``step * R``."""
        limit = self.weight * step
        if limit <= 0:
            return images
        shape = (len(self.axes), *images.shape)
        p = images.new_zeros(shape) if self._dual is None or self._dual.shape != shape else self._dual
        q, t, rate = p, 1.0, 1.0 / (4 * len(self.axes))
        for _ in range(self.n_inner):
            gradient = self._gradient(images - self._divergence(q))
            new = q + rate * gradient
            new = new / (new.abs().square().sum(0).sqrt() / limit).clamp_min(1.0)
            t_next = (1 + math.sqrt(1 + 4 * t * t)) / 2
            q, p, t = new + ((t - 1) / t_next) * (new - p), new, t_next
        self._dual = p
        return images - self._divergence(p)

    def _gradient(self, images: Tensor) -> Tensor:
        """Forward differences, periodic."""
        return torch.stack([torch.roll(images, -1, axis) - images for axis in self.axes])

    def _divergence(self, p: Tensor) -> Tensor:
        """The adjoint of `_gradient`."""
        return sum((torch.roll(q, 1, axis) - q for q, axis in zip(p, self.axes, strict=True)), torch.zeros_like(p[0]))


class TemporalVariation(TotalVariation):
    """``R(x) = weight sum |x_(t+1) - x_t|`` of a series (frame, ...): it changes seldom; the last frame has no next.

    Parameters
    ----------
    weight
        In units of the image.
    n_inner
        Steps on the dual problem per call.
    """

    def __init__(self, weight: float, *, n_inner: int = 8) -> None:
        super().__init__(weight, n_inner=n_inner, axes=(0,))

    def _gradient(self, images: Tensor) -> Tensor:
        out = torch.zeros_like(images)
        torch.sub(images[1:], images[:-1], out=out[:-1])
        return out[None]

    def _divergence(self, p: Tensor) -> Tensor:
        out = torch.zeros_like(p[0])
        out[:-1] -= p[0, :-1]
        out[1:] += p[0, :-1]
        return out


class TemporalFourierSparsity:
    """``R(x) = weight |F_t x|_1``: a series (frame, ...) is sparse along the frequency of time.

    Parameters
    ----------
    weight
        In units of the image.
    free
        Frequencies that cost nothing, from the lowest on: 1 leaves the mean alone.
    """

    def __init__(self, weight: float, *, free: int = 1) -> None:
        self.weight, self.free = weight, free

    def __call__(self, images: Tensor, step: float) -> Tensor:
        """Return the proximal map of ``step * R``."""
        spectrum = torch.fft.fft(images, dim=0, norm="ortho")
        size = spectrum.abs().clamp_min(1e-30)
        keep = (size - self.weight * step).clamp_min(0) / size
        keep[: self.free] = 1
        return torch.fft.ifft(spectrum * keep, dim=0, norm="ortho")


class LocallyLowRank:
    """``R(x) = weight sum_blocks |X_b - mean|_*``: the frames of each small block lie in few dimensions.

    Trzasko and Manduca, ISMRM 2011, 4371; blocks do not overlap and move from call to call. The mean over time is free:
    shrinking it, as plain singular value thresholding does, dims what was seldom measured.

    Parameters
    ----------
    weight
        In units of the image.
    block
        Side of a block [pixels].
    """

    def __init__(self, weight: float, *, block: int = 8) -> None:
        self.weight, self.block, self._calls = weight, block, 0

    def __call__(self, images: Tensor, step: float) -> Tensor:
        """Return the proximal map of ``step * R`` of a series (frame, y, x)."""
        self._calls += 1
        shift = spread(self._calls, self.block.bit_length() - 1)
        n, height, width = images.shape
        mean = images.mean(0)
        tall, wide = (-(-s // self.block) * self.block for s in (height, width))
        padded = images.new_zeros(n, tall, wide)
        padded[:, :height, :width] = images - mean
        padded = torch.roll(padded, shift, (1, 2))
        blocks = padded.reshape(n, tall // self.block, self.block, wide // self.block, self.block)
        matrices = blocks.permute(1, 3, 2, 4, 0).reshape(-1, self.block**2, n)
        matrices = shrink_singular_values(matrices, self.weight * step)
        blocks = matrices.reshape(tall // self.block, wide // self.block, self.block, self.block, n)
        made = blocks.permute(4, 0, 2, 1, 3).reshape(n, tall, wide)
        return torch.roll(made, tuple(-s for s in shift), (1, 2))[:, :height, :width] + mean


class LowRank:
    """``R(x) = weight |X - mean|_*``: the frames of a series (frame, ...) lie in few dimensions; their mean is free.

    Parameters
    ----------
    weight
        In units of the image times the root of the number of pixels.
    """

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, images: Tensor, step: float) -> Tensor:
        """Return the proximal map of ``step * R``."""
        mean = images.mean(0)
        matrix = (images - mean).flatten(1).mT[None]
        return shrink_singular_values(matrix, self.weight * step)[0].mT.reshape(images.shape) + mean


def shrink_singular_values(matrices: Tensor, threshold: float) -> Tensor:
    """Shrink the singular values of (batch, rows, columns) by `threshold`, through the smaller Gram matrix."""
    power, vectors = torch.linalg.eigh(matrices.mH @ matrices)
    values = power.clamp_min(0).sqrt()
    keep = (values - threshold).clamp_min(0) / values.clamp_min(np.finfo(np.float32).tiny)
    return matrices @ ((vectors * keep[:, None, :].to(vectors.dtype)) @ vectors.mH)
