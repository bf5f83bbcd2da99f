"""The forward model of Cartesian parallel imaging: ``y = M F S x``, laid out for loops.

The last axis (or the last two) is encoded; every array lies with its centre at index 0, so that no transform has to
shift, and all memory of a loop is taken once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recon.linop import LinearOperator


class CartesianSense(LinearOperator):
    """Images (set, a, b) to masked k-space (coil, a, b), orthonormal transforms along `axes`.

    Parameters
    ----------
    maps
        (set, coil, a, b), centred at n // 2.
    mask
        Which samples were measured, (a, b) or (1, b); centred at n // 2.
    axes
        Encoded axes: ``(-1,)`` or ``(-2, -1)``.
    """

    def __init__(self, maps: Tensor, mask: Tensor, axes: tuple[int, ...]) -> None:
        n_sets, n_coils, *plane = maps.shape
        super().__init__((n_sets, *plane), (n_coils, *plane))
        self.axes = axes
        self.maps = torch.fft.ifftshift(maps, dim=axes).contiguous()
        self.mask = torch.fft.ifftshift(mask.expand(mask.shape), dim=axes).to(maps.real.dtype)
        self._conjugate = self.maps.conj().resolve_conj()
        self._coils = torch.empty(self.range, dtype=maps.dtype, device=maps.device)

    def centre_first(self, centred: Tensor) -> Tensor:
        """Bring an array with its centre at n // 2 to the layout of this operator."""
        return torch.fft.ifftshift(centred, dim=self.axes)

    def centre_middle(self, array: Tensor) -> Tensor:
        """Undo `centre_first`."""
        return torch.fft.fftshift(array, dim=self.axes)

    def _forward(self, x: Tensor) -> Tensor:
        return torch.fft.fftn(self._to_coils(x), dim=self.axes, norm="ortho") * self.mask

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._combined(torch.fft.ifftn(y * self.mask, dim=self.axes, norm="ortho"))

    def _gram(self, x: Tensor) -> Tensor:
        kspace = torch.fft.fftn(self._to_coils(x), dim=self.axes, norm="ortho").mul_(self.mask)
        return self._combined(torch.fft.ifftn(kspace, dim=self.axes, norm="ortho"))

    def _to_coils(self, x: Tensor) -> Tensor:
        torch.mul(self.maps[0], x[0], out=self._coils)
        for maps, image in zip(self.maps[1:], x[1:], strict=True):
            self._coils.addcmul_(maps, image.expand_as(maps))
        return self._coils

    def _combined(self, images: Tensor) -> Tensor:
        out = self._conjugate[:, 0] * images[0]
        for coil in range(1, len(images)):
            out.addcmul_(self._conjugate[:, coil], images[coil].expand_as(out))
        return out
