"""The Fourier transform and the choice of samples, as operators."""

from __future__ import annotations

from torch import Tensor

from kernels.registry import kernel
from recon.linop import LinearOperator, Shape


class Fourier(LinearOperator):
    """Orthonormal, centred DFT along some axes: ``A^H A = 1``.

    Parameters
    ----------
    shape
        Shape of image and k-space.
    axes
        Axes that are transformed.
    """

    def __init__(self, shape: Shape, axes: tuple[int, ...]) -> None:
        super().__init__(shape, shape)
        self.axes = axes

    def _forward(self, x: Tensor) -> Tensor:
        return kernel("centred_fft")(x, self.axes)

    def _adjoint(self, y: Tensor) -> Tensor:
        return kernel("centred_ifft")(y, self.axes)

    def _gram(self, x: Tensor) -> Tensor:
        return x


class Sampling(LinearOperator):
    """Keep the samples that were measured: multiply by a mask of zeros and ones, which is its own normal operator.

    Parameters
    ----------
    mask
        Boolean, broadcast against `shape`.
    shape
        Shape of k-space.
    """

    def __init__(self, mask: Tensor, shape: Shape) -> None:
        super().__init__(shape, shape)
        self.mask = mask

    def _forward(self, x: Tensor) -> Tensor:
        return x * self.mask

    def _adjoint(self, y: Tensor) -> Tensor:
        return y * self.mask

    def _gram(self, x: Tensor) -> Tensor:
        return x * self.mask
