"""Receive coils as an operator: one image in, what each coil sees of it out."""

from __future__ import annotations

from torch import Tensor

from recon.linop import LinearOperator


class Coils(LinearOperator):
    """Multiply an image (z, y, x) by the coil maps: ``y_c = s_c x``.

    Parameters
    ----------
    maps
        Coil maps (coil, z, y, x).
    """

    def __init__(self, maps: Tensor) -> None:
        super().__init__(tuple(maps.shape[1:]), tuple(maps.shape))
        self.maps = maps
        self._power = (maps.conj() * maps).real.sum(0)

    def _forward(self, x: Tensor) -> Tensor:
        return self.maps * x

    def _adjoint(self, y: Tensor) -> Tensor:
        return (self.maps.conj() * y).sum(0)

    def _gram(self, x: Tensor) -> Tensor:
        return self._power * x
