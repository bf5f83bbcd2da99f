"""Orthonormal Daubechies wavelets of the last two axes, periodic, as strided convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor

from kernels.wavelet import SCALING


class Wavelet:
    """Decomposition of images (batch, y, x) into details of `levels` scales and one approximation.

    Sizes that are no multiple of ``2 ** levels`` are padded with zeros, which keeps the transform's rows orthonormal:
    ``inverse(forward(x)) = x``.

    Parameters
    ----------
    shape
        (y, x) of the images.
    levels
        Scales; fewer where the image is small.
    """

    def __init__(self, shape: tuple[int, int], levels: int = 3) -> None:
        while levels > 1 and min(shape) >> levels < len(SCALING):
            levels -= 1
        step = 1 << levels
        self.shape, self.levels = shape, levels
        self.padded = tuple(-(-n // step) * step for n in shape)
        low = torch.tensor(SCALING, dtype=torch.float64)
        high = low.flip(0) * torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
        filters = torch.stack([torch.outer(a, b) for a in (low, high) for b in (low, high)]).float()
        self._analysis = filters[:, None]
        # Synthesis as a 2 x 2 convolution of the four bands and a shuffle: a third of a transposed convolution's time.
        parities = filters.reshape(4, 2, 2, 2, 2).permute(2, 4, 0, 1, 3).reshape(4, 4, 2, 2)
        self._synthesis = parities.flip(2, 3).contiguous()

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the approximation (2 * batch, 1, y, x) and the details (2 * batch, 3, y, x), the finest first.

        Real and imaginary parts are batch entries: the first half holds the real parts.
        """
        parts = torch.cat([images.real, images.imag])[:, None]
        grow = [size - n for size, n in zip(self.padded, self.shape, strict=True)]
        rest, details = functional.pad(parts, (0, grow[1], 0, grow[0])), []
        filters, extra = self._analysis.to(rest.device, rest.dtype), len(SCALING) - 2
        for _ in range(self.levels):
            bands = functional.conv2d(functional.pad(rest, (0, extra, 0, extra), mode="circular"), filters, stride=2)
            details.append(bands[:, 1:])
            rest = bands[:, :1]
        return rest, details

    def inverse(self, rest: Tensor, details: list[Tensor]) -> Tensor:
        """Return the images (batch, y, x) of what `forward` gave."""
        filters = self._synthesis.to(rest.device, rest.dtype)
        for bands in reversed(details):
            around = functional.pad(torch.cat([rest, bands], 1), (1, 0, 1, 0), mode="circular")
            rest = functional.pixel_shuffle(functional.conv2d(around, filters), 2)
        real, imag = rest[:, 0, : self.shape[0], : self.shape[1]].chunk(2)
        return torch.complex(real.contiguous(), imag.contiguous())
