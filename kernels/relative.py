"""The relative difference prior's slope and curvature, voxel by voxel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.compile import compiled

Floats = NDArray[np.float32]


@compiled
def relative_difference(
    x: Floats,
    kappa: Floats,
    weights: NDArray[np.float64],
    shape: tuple[float, float],
    part: tuple[int, int],
    out: tuple[Floats, Floats],
) -> float:  # pragma: no cover - compiled
    """Return the penalty of some planes; give its gradient and the diagonal of its Hessian.

    Parameters
    ----------
    x, kappa
        Image and local strength (z, y, x).
    weights
        Of the 27 neighbours (3, 3, 3); that of the voxel itself 0.
    shape
        Gamma and epsilon of the prior.
    part
        First plane and the one after the last.
    out
        Gradient and diagonal of the Hessian (z, y, x), overwritten in these planes.
    """
    gamma, epsilon = shape
    slope, bend = out
    nz, ny, nx = x.shape
    total = 0.0
    for z in range(part[0], part[1]):
        for j in range(ny):
            for i in range(nx):
                a, s, h = float(x[z, j, i]), 0.0, 0.0
                for dz in range(-1 if z else 0, 2 if z < nz - 1 else 1):
                    for dj in range(-1 if j else 0, 2 if j < ny - 1 else 1):
                        for di in range(-1 if i else 0, 2 if i < nx - 1 else 1):
                            w = weights[dz + 1, dj + 1, di + 1] * kappa[z + dz, j + dj, i + di]
                            b = float(x[z + dz, j + dj, i + di])
                            d = a - b
                            below = a + b + gamma * abs(d) + epsilon
                            total += 0.5 * kappa[z, j, i] * w * d * d / below
                            s += w * d * (gamma * abs(d) + a + 3 * b + 2 * epsilon) / (below * below)
                            h += 2 * w * (2 * b + epsilon) ** 2 / (below * below * below)
                slope[z, j, i] = kappa[z, j, i] * s
                bend[z, j, i] = kappa[z, j, i] * h
    return total
