"""What coils say of lines that were measured in shots: an image explains them all, or they do not belong together.

Lines on a lattice of every R-th one, hybrid space (transformed along the readout). With maps C, ``y = A m`` is
``FFT_k1(fold(C m))``: voxels R apart fall onto each other. ``A^H A`` falls apart into one R x R matrix per voxel, so
the image that explains the lines best, and what it leaves unexplained, cost one transform each.

Pruessmann et al., DOI 10.1002/(SICI)1522-2594(199911)42:5<952::AID-MRM16>3.0.CO;2-S.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_DAMPING = 1e-2  # of the R x R matrices: voxels that the coils cannot tell apart stay unexplained


@dataclass(frozen=True)
class LatticeModel:
    """``A`` of lines on a lattice."""

    maps: Tensor
    """Unit norm over the coils (coil, R * line, x)."""
    n_lines: int
    """Lines, even."""

    @property
    def folding(self) -> int:
        """R."""
        return int(self.maps.shape[1]) // self.n_lines

    def forward(self, images: Tensor) -> Tensor:
        """Return lines (..., coil, line, x) of images (..., R * line, x)."""
        coil_images = torch.fft.ifftshift(self.maps * images[..., None, :, :], dim=-2)
        folded = coil_images.unflatten(-2, (self.folding, self.n_lines)).sum(-3)
        return torch.fft.fftshift(torch.fft.fft(folded, dim=-2, norm="ortho"), dim=-2)

    def adjoint(self, lines: Tensor) -> Tensor:
        """Return ``A^H`` of lines, (..., R * line, x)."""
        aliased = torch.fft.ifft(torch.fft.ifftshift(lines, dim=-2), dim=-2, norm="ortho")
        tiled = torch.fft.fftshift(aliased.repeat(*(1,) * (lines.ndim - 2), self.folding, 1), dim=-2)
        return (self.maps.conj() * tiled).sum(-3)

    def solved(self, lines: Tensor) -> Tensor:
        """Return the image that explains `lines` best."""
        return self._divided(self.adjoint(lines))

    def _divided(self, images: Tensor) -> Tensor:
        if self.folding == 1:
            return images
        parts = torch.fft.ifftshift(images, dim=-2).unflatten(-2, (self.folding, self.n_lines))
        parts = torch.einsum("yxrq,...qyx->...ryx", self._inverse, parts)
        return torch.fft.fftshift(parts.flatten(-3, -2), dim=-2)

    @cached_property
    def _inverse(self) -> Tensor:
        """``(A^H A)^-1`` (line, x, R, R)."""
        parts = torch.fft.ifftshift(self.maps, dim=-2).unflatten(-2, (self.folding, self.n_lines))
        gram = torch.einsum("cryx,cqyx->yxrq", parts.conj(), parts)
        return torch.linalg.inv(gram + _DAMPING * torch.eye(self.folding, dtype=gram.dtype))
