"""Exact line integrals through ellipsoids."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.compile import compiled


@compiled
def ellipsoid_lines(
    spots: NDArray[np.float64],
    columns: NDArray[np.float64],
    heights: NDArray[np.float64],
    bodies: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    out: NDArray[np.float32],
) -> None:  # pragma: no cover - compiled
    """Add up what each ellipsoid puts on the ray from a focal spot to a detector element.

    Parameters
    ----------
    spots
        Focal spots (view, 3) [mm].
    columns
        Channels at row height 0 (view, channel, 3) [mm].
    heights
        Heights of the rows (row,) [mm].
    bodies
        Centres (n, 3), inverse matrices (n, 3, 3) into the unit ball, what each adds per mm (n,).
    out
        Line integrals (view, row, channel), overwritten.
    """
    centres, inverse, values = bodies
    for v in range(out.shape[0]):
        for r in range(out.shape[1]):
            for c in range(out.shape[2]):
                dx = columns[v, c, 0] - spots[v, 0]
                dy = columns[v, c, 1] - spots[v, 1]
                dz = columns[v, c, 2] + heights[r] - spots[v, 2]
                length = np.sqrt(dx * dx + dy * dy + dz * dz)
                total = 0.0
                for n in range(len(values)):
                    a, b, q = 0.0, 0.0, -1.0
                    for i in range(3):
                        m = inverse[n, i]
                        d = m[0] * dx + m[1] * dy + m[2] * dz
                        u = (
                            m[0] * (spots[v, 0] - centres[n, 0])
                            + m[1] * (spots[v, 1] - centres[n, 1])
                            + m[2] * (spots[v, 2] - centres[n, 2])
                        )
                        a += d * d
                        b += u * d
                        q += u * u
                    root = b * b - a * q
                    if root > 0:
                        total += values[n] * 2 * np.sqrt(root) / a
                out[v, r, c] = total * length
