"""Loops over pairs of PET detectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.compile import compiled


@compiled
def pair_efficiency(
    pairs: NDArray[np.int32],
    places: NDArray[np.float32],
    crystals: NDArray[np.float32],
    limits: tuple[int, int, float, float],
    out: NDArray[np.float32],
) -> None:  # pragma: no cover - compiled
    """Multiply the efficiencies of both crystals with the solid angle of their pair.

    Parameters
    ----------
    pairs
        Detectors (line, 2).
    places, crystals
        Where the detectors are (n, 3) [mm], and their efficiencies (n,).
    limits
        Crystals per ring, greatest ring difference, radius [mm], distance from the axis up to which lines count [mm].
    out
        Efficiency (line,), overwritten.
    """
    n_crystals, most, radius, fov = limits
    for i in range(len(pairs)):
        a, b = pairs[i, 0], pairs[i, 1]
        ax, ay, bx, by = places[a, 0], places[a, 1], places[b, 0], places[b, 1]
        dx, dy, dz = bx - ax, by - ay, places[b, 2] - places[a, 2]
        across = dx * dx + dy * dy
        away = abs(ax * by - ay * bx) / np.sqrt(across) if across > 0 else np.inf
        if away > fov or abs(a // n_crystals - b // n_crystals) > most:
            out[i] = 0
            continue
        square = across + dz * dz
        one = -(ax * dx + ay * dy) / np.sqrt((ax * ax + ay * ay) * square)
        other = (bx * dx + by * dy) / np.sqrt((bx * bx + by * by) * square)
        out[i] = max(crystals[a] * crystals[b] * one * other * 4 * radius * radius / square, 0.0)
