"""The relative difference prior: neighbours should be alike, in proportion to how bright they are.

``R = beta sum_r sum_s w_rs / 2 k_r k_s (x_r - x_s)^2 / (x_r + x_s + gamma |x_r - x_s| + epsilon)`` over the 26
neighbours s of each voxel r, w the distance along x over that of their centres; pairs across the edge are left out.
Nuyts et al., IEEE Trans Nucl Sci 2002;49:56, DOI 10.1109/TNS.2002.998681. Sums are made in double precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acquisition.errors import ConfigError
from acquisition.geometry import Grid
from kernels.relative import relative_difference
from recon.pet.project import shared


@dataclass(frozen=True, slots=True, eq=False)
class RelativeDifference:
    """The prior for images (z, y, x) of 0 and more on one grid."""

    grid: Grid
    """The voxels."""
    beta: float
    """Strength."""
    kappa: Tensor | None = None
    """Local strength (z, y, x); None: 1 everywhere."""
    gamma: float = 2.0
    """How much edges are kept."""
    epsilon: float = 1e-6
    """Makes it smooth at 0, in units of the image."""

    def __post_init__(self) -> None:
        if self.beta < 0 or self.gamma < 0 or self.epsilon <= 0:
            raise ConfigError(
                "relative difference prior",
                expected="beta and gamma from 0, epsilon above 0",
                got=f"{self.beta}, {self.gamma}, {self.epsilon}",
            )

    def value(self, x: Tensor) -> float:
        """Return the penalty of an image."""
        return self._at(x)[0]

    def gradient(self, x: Tensor) -> Tensor:
        """Return the penalty's gradient."""
        return self._at(x)[1]

    def curvature(self, x: Tensor) -> Tensor:
        """Return the diagonal of the penalty's Hessian."""
        return self._at(x)[2]

    def _at(self, x: Tensor) -> tuple[float, Tensor, Tensor]:
        image = np.ascontiguousarray(x.numpy(), np.float32)
        kappa = np.ones_like(image) if self.kappa is None else np.ascontiguousarray(self.kappa.numpy(), np.float32)
        out = (np.empty_like(image), np.empty_like(image))
        values: dict[int, float] = {}

        def part(at: slice) -> None:
            span = (at.start, at.stop)
            shape = (float(self.gamma), float(self.epsilon))
            values[at.start] = relative_difference(image, kappa, self._weights(), shape, span, out)

        shared(part, len(image))
        slope, bend = (torch.from_numpy(a * np.float32(self.beta)) for a in out)
        return self.beta * sum(values.values()), slope, bend

    def _weights(self) -> NDArray[np.float64]:
        steps = np.stack(np.meshgrid(*3 * ([-1, 0, 1],), indexing="ij"), -1) * np.array(self.grid.spacing_mm)
        distance = np.linalg.norm(steps, axis=-1)
        return np.divide(self.grid.spacing_mm[2], distance, out=np.zeros_like(distance), where=distance > 0)
