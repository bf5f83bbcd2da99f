"""Line integrals through a volume of voxels, and their exact transpose, for rays between any spots and columns.

Joseph's method (IEEE Trans Med Imaging 1982;1:192, DOI 10.1109/TMI.1982.4307572): a ray is sampled where it meets the
planes of voxel centres along the axis, x or y, that it runs along more; there the volume is interpolated linearly.
All rows of a channel meet the same columns of voxels, so these are mixed once and only z differs from row to row.
Below its first plane and above its last one the volume goes on unchanged; beside its edges there is nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.compile import compiled

Reals = NDArray[np.floating]
Floats = NDArray[np.float64]
Place = tuple[float, float, float, float, float, float]
"""Centre of the first voxel and distance of voxels [mm]: x, dx, y, dy, z, dz."""


@compiled
def project(
    volume: Reals, place: Place, spots: Floats, columns: Floats, heights: Floats, out: Reals
) -> None:  # pragma: no cover - compiled
    """Integrate a volume along rays.

    Parameters
    ----------
    volume
        Voxels (y, x, z), contiguous.
    place
        Where they are.
    spots
        Focal spots (view, 3) [mm].
    columns
        Channels at row height 0 (view, channel, 3) [mm].
    heights
        Heights of the rows (row,), growing [mm].
    out
        Integrals (view, row, channel) in units of the volume times mm, overwritten.
    """
    ny, nx, nz = volume.shape
    flat = volume.reshape(ny * nx, nz)
    real = flat.dtype.type
    rows, top = (heights / place[5]).astype(flat.dtype), real(nz - 1)
    mixed, total = np.zeros(nz + 1, flat.dtype), np.zeros(len(rows), flat.dtype)
    for v in range(out.shape[0]):
        for c in range(out.shape[2]):
            first, last, t0, dt, f0, df, steps = _walk(spots[v], columns[v, c], place, (0, ny, ny, nx))
            e0, e1 = (spots[v, 2] - place[4]) / place[5], (columns[v, c, 2] - spots[v, 2]) / place[5]
            total[:] = _along(flat[:, 0], (first, last, f0, df), steps) if nz == 1 else real(0)
            for i in range(first, last if nz > 1 else first):
                near, after, w0, w1 = _taps(f0 + i * df, i, steps)
                u0, u1, t = real(w0), real(w1), real(t0 + i * dt)
                e = real(e0 + (t0 + i * dt) * e1)
                low, high = int(min(max(e + t * rows[0], real(0)), top)), int(min(max(e + t * rows[-1], real(0)), top))
                for k in range(low, min(high + 2, nz)):
                    mixed[k] = u0 * flat[near, k] + u1 * flat[after, k]
                for r in range(len(rows)):
                    g = min(max(e + t * rows[r], real(0)), top)
                    k = int(g)
                    total[r] += mixed[k] + (g - real(k)) * (mixed[k + 1] - mixed[k])
            for r in range(len(rows)):
                out[v, r, c] = total[r] * real(_step_mm(spots[v], columns[v, c], heights[r], place))


@compiled
def smear(
    lines: Reals, place: Place, spots: Floats, columns: Floats, heights: Floats, slab: tuple[int, Reals]
) -> None:  # pragma: no cover - compiled
    """Add rays' values to the voxels that they run through: the transpose of `project`, for some rows of voxels.

    Parameters
    ----------
    lines
        Values (view, row, channel).
    place, spots, columns, heights
        As in `project`; the place of the whole volume.
    slab
        Index along y of the first row of voxels, and the voxels (y, x, z), contiguous, added to.
    """
    start, volume = slab
    ny, nx, nz = volume.shape
    flat = volume.reshape(ny * nx, nz)
    real = flat.dtype.type
    rows, top = (heights / place[5]).astype(flat.dtype), real(nz - 1)
    mixed, value = np.zeros(nz + 1, flat.dtype), np.zeros(len(rows), flat.dtype)
    for v in range(lines.shape[0]):
        for c in range(lines.shape[2]):
            first, last, t0, dt, f0, df, steps = _walk(spots[v], columns[v, c], place, (start, start + ny, ny, nx))
            if first >= last:
                continue
            e0, e1 = (spots[v, 2] - place[4]) / place[5], (columns[v, c, 2] - spots[v, 2]) / place[5]
            for r in range(len(rows)):
                value[r] = lines[v, r, c] * real(_step_mm(spots[v], columns[v, c], heights[r], place))
            if nz == 1:
                _spread(flat[:, 0], value.sum(), (first, last, f0, df), steps)
                continue
            for i in range(first, last):
                near, after, w0, w1 = _taps(f0 + i * df, i, steps)
                u0, u1, t = real(w0), real(w1), real(t0 + i * dt)
                e = real(e0 + (t0 + i * dt) * e1)
                low, high = int(min(max(e + t * rows[0], real(0)), top)), int(min(max(e + t * rows[-1], real(0)), top))
                mixed[low : high + 2] = 0
                for r in range(len(rows)):
                    g = min(max(e + t * rows[r], real(0)), top)
                    k = int(g)
                    share = (g - real(k)) * value[r]
                    mixed[k] += value[r] - share
                    mixed[k + 1] += share
                for k in range(low, min(high + 2, nz)):
                    flat[near, k] += u0 * mixed[k]
                    flat[after, k] += u1 * mixed[k]


@compiled
def _along(
    plane: Reals, way: tuple[int, int, float, float], steps: tuple[int, int, int, int, int]
) -> np.floating:  # pragma: no cover - compiled
    """Return the sum of a single plane's voxels along a ray."""
    first, last, f0, df = way
    real = plane.dtype.type
    total = real(0)
    for i in range(first, last):
        near, after, w0, w1 = _taps(f0 + i * df, i, steps)
        total += real(w0) * plane[near] + real(w1) * plane[after]
    return total


@compiled
def _spread(
    plane: Reals, value: np.floating, way: tuple[int, int, float, float], steps: tuple[int, int, int, int, int]
) -> None:  # pragma: no cover - compiled
    """Add a value to a single plane's voxels along a ray."""
    first, last, f0, df = way
    real = plane.dtype.type
    for i in range(first, last):
        near, after, w0, w1 = _taps(f0 + i * df, i, steps)
        plane[near] += real(w0) * value
        plane[after] += real(w1) * value


@compiled
def _walk(
    spot: Floats, end: Floats, place: Place, slab: tuple[int, int, int, int]
) -> tuple[int, int, float, float, float, float, tuple[int, int, int, int, int]]:  # pragma: no cover - compiled
    """Return where a ray meets the voxels of the slab (first and last row, rows, columns of voxels).

    First plane and the one after the last; t of plane 0 and its step, where t runs from 0 at the spot to 1; index
    across of plane 0 and its step; and for `_taps`: strides along and across, offset, first and last index across.
    """
    x0, px, y0, py, _, _ = place
    start, stop, _, nx = slab
    dx, dy = end[0] - spot[0], end[1] - spot[1]
    if abs(dx) >= abs(dy):
        t0, dt = (x0 - spot[0]) / dx, px / dx
        f0, df = (spot[1] + t0 * dy - y0) / py, dt * dy / py
        first, last = _between(f0, df, start - 1.0, float(stop), 0, nx)
        steps = (1, nx, -start * nx, start, stop)
    else:
        t0, dt = (y0 - spot[1]) / dy, py / dy
        f0, df = (spot[0] + t0 * dx - x0) / px, dt * dx / px
        first, last = _between(f0, df, -1.0, float(nx), start, stop)
        steps = (nx, 1, -start * nx, 0, nx)
    first, last = _between(t0, dt, 0.0, 1.0, first, last)
    return first, last, t0, dt, f0, df, steps


@compiled
def _between(
    start: float, step: float, low: float, high: float, first: int, last: int
) -> tuple[int, int]:  # pragma: no cover - compiled
    """Return the part of first ... last - 1 in which ``low < start + i step < high``."""
    if abs(step) < 1e-12:
        return (first, last) if low < start < high else (first, first)
    a, b = (low - start) / step, (high - start) / step
    a, b = max(min(a, b), first - 1.0), min(max(a, b), float(last))
    return max(first, int(np.floor(a)) + 1), min(last, int(np.ceil(b)))


@compiled
def _taps(
    f: float, i: int, steps: tuple[int, int, int, int, int]
) -> tuple[int, int, float, float]:  # pragma: no cover - compiled
    """Return the two columns of voxels that plane i is interpolated from, and their weights: 0 beside the slab."""
    along, across, offset, low, high = steps
    j = int(np.floor(f))
    w = f - j
    w0 = 1 - w if low <= j < high else 0.0
    w1 = w if low <= j + 1 < high else 0.0
    base = offset + i * along
    return base + min(max(j, low), high - 1) * across, base + min(max(j + 1, low), high - 1) * across, w0, w1


@compiled
def _step_mm(spot: Floats, end: Floats, height: float, place: Place) -> float:  # pragma: no cover - compiled
    """Return the way along a ray from plane to plane [mm]."""
    dx, dy, dz = end[0] - spot[0], end[1] - spot[1], end[2] + height - spot[2]
    per_plane = place[1] / abs(dx) if abs(dx) >= abs(dy) else place[3] / abs(dy)
    return per_plane * np.sqrt(dx * dx + dy * dy + dz * dz)
