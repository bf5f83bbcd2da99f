"""Cut a plane through a labelled head: for each cell, what its tissues add up to.

Between voxels the eight labels around a point share it by their distance, sharpened by a power: surfaces are then
smooth, not stairs, and as sharp as the power says. A slice is several such planes side by side.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.compile import compiled


@compiled
def draw_planes(
    tissue: NDArray[np.uint8],
    values: NDArray[np.float32],
    place: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float32], float],
    lesions: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]],
    out: NDArray[np.float32],
) -> None:  # pragma: no cover - compiled
    """Average the values of the tissues over a slice.

    Parameters
    ----------
    tissue
        Tissue of each voxel (z, y, x).
    values
        What each tissue is worth in each channel (tissue, channel); the last channel says how much of it may be lesion.
    place
        Corner, step along rows and step along columns [voxels] (3, 3); planes of the slice as shift [voxels] and weight
        (plane, 4); displacement of each cell [voxels] (3, y, x); power of the sharpening, 1 for none.
    lesions
        Middles (n, 3), inverse matrices into the unit ball (n, 3, 3), waves on the surface (n, wave, 5) (vector, phase,
        height), tissue (n,); later ones lie in earlier ones.
    out
        (channel, y, x), overwritten.
    """
    frame, planes, warp, power = place
    n_channels = values.shape[1]
    scratch = np.empty(8, np.int64), np.empty(8, np.float64)
    total, here = np.empty(n_channels, np.float64), np.empty(n_channels, np.float64)
    for iy in range(out.shape[1]):
        for ix in range(out.shape[2]):
            total[:] = 0
            for s in range(len(planes)):
                z = frame[0, 0] + iy * frame[1, 0] + ix * frame[2, 0] + planes[s, 0] + warp[0, iy, ix]
                y = frame[0, 1] + iy * frame[1, 1] + ix * frame[2, 1] + planes[s, 1] + warp[1, iy, ix]
                x = frame[0, 2] + iy * frame[1, 2] + ix * frame[2, 2] + planes[s, 2] + warp[2, iy, ix]
                if not _at_point(tissue, values, (z, y, x, power), scratch, here):
                    continue
                if len(lesions[3]) and here[n_channels - 1] > 0:
                    _with_lesions(values, (z, y, x), lesions, here)
                for c in range(n_channels):
                    total[c] += planes[s, 3] * here[c]
            for c in range(n_channels):
                out[c, iy, ix] = total[c]


@compiled
def _at_point(
    tissue: NDArray[np.uint8],
    values: NDArray[np.float32],
    at: tuple[float, float, float, float],
    scratch: tuple[NDArray[np.int64], NDArray[np.float64]],
    here: NDArray[np.float64],
) -> bool:  # pragma: no cover - compiled
    """Fill `here` with what a point is worth; False in the air."""
    z, y, x, power = at
    n_z, n_y, n_x = tissue.shape
    z = max(z, 0.0)  # below the last slice of the map the neck goes on
    z0, y0, x0 = int(np.floor(z)), int(np.floor(y)), int(np.floor(x))
    if y0 < 0 or x0 < 0 or z0 >= n_z - 1 or y0 >= n_y - 1 or x0 >= n_x - 1:
        return False
    first = tissue[z0, y0, x0]
    if (
        first == tissue[z0, y0, x0 + 1]
        and first == tissue[z0, y0 + 1, x0]
        and first == tissue[z0, y0 + 1, x0 + 1]
        and first == tissue[z0 + 1, y0, x0]
        and first == tissue[z0 + 1, y0, x0 + 1]
        and first == tissue[z0 + 1, y0 + 1, x0]
        and first == tissue[z0 + 1, y0 + 1, x0 + 1]
    ):
        for c in range(len(here)):
            here[c] = values[first, c]
        return first != 0
    _mixed(tissue, values, (z0, y0, x0, z - z0, y - y0, x - x0, power), scratch, here)
    return True


@compiled
def _mixed(
    tissue: NDArray[np.uint8],
    values: NDArray[np.float32],
    at: tuple[int, int, int, float, float, float, float],
    scratch: tuple[NDArray[np.int64], NDArray[np.float64]],
    here: NDArray[np.float64],
) -> None:  # pragma: no cover - compiled
    """Fill `here` with what a point between eight voxels of different tissue is worth."""
    found, share = scratch
    z0, y0, x0, fz, fy, fx, power = at
    n = 0
    for corner in range(8):
        dz, dy, dx = corner >> 2, (corner >> 1) & 1, corner & 1
        weight = (fz if dz else 1 - fz) * (fy if dy else 1 - fy) * (fx if dx else 1 - fx)
        label = tissue[z0 + dz, y0 + dy, x0 + dx]
        for k in range(n):
            if found[k] == label:
                share[k] += weight
                break
        else:
            found[n], share[n] = label, weight
            n += 1
    total = 0.0
    for k in range(n):
        share[k] = share[k] ** power
        total += share[k]
    here[:] = 0
    for k in range(n):
        for c in range(len(here)):
            here[c] += share[k] / total * values[found[k], c]


@compiled
def _with_lesions(
    values: NDArray[np.float32],
    at: tuple[float, float, float],
    lesions: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]],
    here: NDArray[np.float64],
) -> None:  # pragma: no cover - compiled
    """Replace what lies in a lesion by its tissue; edges are half a voxel or more wide, surfaces wavy."""
    middles, inverse, waves, what = lesions
    last = len(here) - 1
    host = here[last]
    for n in range(len(what)):
        dz, dy, dx = at[0] - middles[n, 0], at[1] - middles[n, 1], at[2] - middles[n, 2]
        m = inverse[n]
        uz = m[0, 0] * dz + m[0, 1] * dy + m[0, 2] * dx
        uy = m[1, 0] * dz + m[1, 1] * dy + m[1, 2] * dx
        ux = m[2, 0] * dz + m[2, 1] * dy + m[2, 2] * dx
        radius = np.sqrt(uz * uz + uy * uy + ux * ux)
        if radius > 1.8:
            continue
        for w in range(waves.shape[1]):
            v = waves[n, w]
            radius += v[4] * np.sin(v[0] * uz + v[1] * uy + v[2] * ux + v[3])
        steep = 1.0 / max(np.abs(m).max(), 1e-6)  # smallest semi-axis, about [voxels]
        part = host * min(max((1 - radius) * steep + 0.5, 0.0), 1.0)
        for c in range(last):
            here[c] += part * (values[what[n], c] - here[c])
