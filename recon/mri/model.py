"""The forward model of Cartesian parallel imaging: ``y = M F S x``, laid out for loops.

The last axis (or the last two) is encoded; every array lies with its centre at index 0, so that no transform has to
shift, and all memory of a loop is taken once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recon.linop import LinearOperator
from recon.solve import cg


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
        self._within = self._inner()

    def centre_first(self, centred: Tensor) -> Tensor:
        """Bring an array with its centre at n // 2 to the layout of this operator."""
        return torch.fft.ifftshift(centred, dim=self.axes)

    def centre_middle(self, array: Tensor) -> Tensor:
        """Undo `centre_first`."""
        return torch.fft.fftshift(array, dim=self.axes)

    def _forward(self, x: Tensor) -> Tensor:
        return self.spectrum(x) * self.mask

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.image(y * self.mask)

    def _gram(self, x: Tensor) -> Tensor:
        if self._within is None:
            return self.image(self.spectrum(x).mul_(self.mask))
        rows, inner = self._within
        out = torch.zeros_like(x)
        out[:, rows] = inner._gram(x[:, rows])
        return out

    def _inner(self) -> tuple[slice, CartesianSense] | None:
        """Return the rows in which some coil sees something, and the operator on them alone; None where all do.

        Rows are independent where only the last axis is encoded: nothing is spent on those beside the object.
        """
        seen = self.maps.abs().amax(dim=(0, 1, 3)).nonzero()[:, 0]
        if self.axes not in ((-1,), (2,)) or self.mask.shape[-2] != 1 or len(seen) in (0, self.maps.shape[2]):
            return None
        rows = slice(int(seen[0]), int(seen[-1]) + 1)
        if rows.stop - rows.start == self.maps.shape[2]:
            return None
        maps, mask = (torch.fft.fftshift(a, dim=self.axes) for a in (self.maps[:, :, rows], self.mask))
        return rows, CartesianSense(maps, mask, self.axes)

    def spectrum(self, x: Tensor) -> Tensor:
        """Return all of k-space (coil, a, b), measured or not."""
        return torch.fft.fftn(self._to_coils(x), dim=self.axes, norm="ortho")

    def image(self, kspace: Tensor) -> Tensor:
        """Return what each set of maps sees of k-space: the adjoint of `spectrum`."""
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


class CartesianSeries(LinearOperator):
    """A series (frame, a, b) seen by the same coils to k-space (frame, coil, a, b), each frame with its own samples.

    One frame after the other, so that what is worked on stays in the cache.

    Parameters
    ----------
    maps
        (coil, a, b), centred at n // 2.
    masks
        Which samples were measured, (frame, a, b) or (frame, 1, b); centred at n // 2.
    axes
        Encoded axes: ``(-1,)`` or ``(-2, -1)``.
    """

    def __init__(self, maps: Tensor, masks: Tensor, axes: tuple[int, ...]) -> None:
        n_coils, *plane = maps.shape
        super().__init__((len(masks), *plane), (len(masks), n_coils, *plane))
        self.masks = torch.fft.ifftshift(masks, dim=axes).to(maps.real.dtype)
        self._frame = CartesianSense(maps[None], masks[0], axes)
        self.centre_first, self.centre_middle = self._frame.centre_first, self._frame.centre_middle

    def _forward(self, x: Tensor) -> Tensor:
        return torch.stack([self._frame.spectrum(one[None]) * mask for one, mask in zip(x, self.masks, strict=True)])

    def _adjoint(self, y: Tensor) -> Tensor:
        return torch.cat([self._frame.image(one * mask) for one, mask in zip(y, self.masks, strict=True)])

    def _gram(self, x: Tensor) -> Tensor:
        spectrum, image = self._frame.spectrum, self._frame.image
        return torch.cat([image(spectrum(one[None]).mul_(mask)) for one, mask in zip(x, self.masks, strict=True)])

    def still(self, y_image: Tensor, *, n_iterations: int = 10, damping: float = 0.01) -> Tensor:
        """Return the series of one image repeated that fits best: where iterations may start.

        Parameters
        ----------
        y_image
            ``A^H y`` (frame, a, b).
        n_iterations, damping
            Of the conjugate gradients.
        """
        share = self.masks.mean(0)

        def gram(x: Tensor) -> Tensor:
            return self._frame.image(self._frame.spectrum(x).mul_(share))

        rhs = y_image.mean(0, keepdim=True)
        return cg(gram, rhs, n_iterations=n_iterations, damping=damping).x.expand(y_image.shape)
