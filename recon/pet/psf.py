"""The scanner's resolution, as a Gaussian in image space."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from acquisition.errors import ConfigError
from acquisition.geometry import Grid
from recon.linop import LinearOperator

_SIGMA = 1 / np.sqrt(8 * np.log(2))


class GaussianPsf(LinearOperator):
    """Blurs a volume (z, y, x) by a Gaussian that ends in zeros outside; it is its own transpose.

    Parameters
    ----------
    grid
        The voxels.
    fwhm_mm
        Full width at half maximum [mm]; 0: no blur.

    Raises
    ------
    ConfigError
        The width is negative.
    """

    def __init__(self, grid: Grid, fwhm_mm: float) -> None:
        if fwhm_mm < 0:
            raise ConfigError("PSF", expected="a width from 0 mm up", got=f"{fwhm_mm} mm")
        super().__init__(grid.shape, grid.shape)
        self._sigma = [fwhm_mm * _SIGMA / step for step in grid.spacing_mm]

    def _forward(self, x: Tensor) -> Tensor:
        if not any(self._sigma):
            return x
        if x.is_complex():
            return torch.complex(self._forward(x.real), self._forward(x.imag))
        return torch.from_numpy(gaussian_filter(x.contiguous().numpy(), self._sigma, mode="constant", truncate=3.0))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._forward(y)
