"""CT in parallel geometry: fan views sorted into parallel ones row by row, and their weighted backprojection."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.compile import compiled

Floats = NDArray[np.float32]


@compiled
def rebin(
    fans: Floats,
    first: int,
    columns: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    heights: Floats,
    out: Floats,
) -> None:  # pragma: no cover - compiled
    """Sort fan views into parallel ones, and take the rays' tilt out of their length.

    Parameters
    ----------
    fans
        Ring of fan views (capacity, row, channel); view v lies at v modulo the capacity.
    first
        Number of the first parallel view; its rays with fan angle 0 are those of the fan view of this number.
    columns
        For each parallel column: how many views later its ray is measured, in which (fractional) channel (less than 0:
        in none), and the focal spot's distance to the detector there [mm].
    heights
        Height of each row at the detector [mm].
    out
        Parallel views (view, row, column), overwritten.
    """
    later, channel, reach = columns
    capacity, n_rows, n_channels = fans.shape
    for j in range(out.shape[2]):
        c = min(int(channel[j]), n_channels - 2)
        at = int(np.floor(later[j]))
        wc, wv = np.float32(channel[j] - c), np.float32(later[j] - at)
        for n in range(out.shape[0]):
            if channel[j] < 0:
                out[n, :, j] = 0
                continue
            a, b = fans[(first + n + at) % capacity], fans[(first + n + at + 1) % capacity]
            for r in range(n_rows):
                tilt = np.float32(reach[j] / np.sqrt(reach[j] * reach[j] + heights[r] * heights[r]))
                early = a[r, c] + wc * (a[r, c + 1] - a[r, c])
                late = b[r, c] + wc * (b[r, c + 1] - b[r, c])
                out[n, r, j] = tilt * (early + wv * (late - early))


@compiled
def backproject(
    views: Floats,
    span: tuple[int, int, int, float, float],
    columns: tuple[float, float, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    rows: tuple[float, float, float, float],
    place: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float],
    out: Floats,
) -> None:  # pragma: no cover - compiled
    """Add up filtered parallel views along their rays.

    Views of one direction are averaged by the detector row that the voxel falls on: weight 1 in the middle, falling
    to 0 at the detector's edge. Where no row is hit, the nearest row is taken.

    Parameters
    ----------
    views
        Ring (capacity, column, row).
    span
        First and last view to use, views per half turn, angle of view 0 and step [rad].
    columns
        Place of column 0, pitch [mm]; per column: lag of the focal spot's z, its distance to axis and detector [mm].
    rows
        z of the focal spot of view 0 and its step [mm], central row, distance of rows at the detector [mm].
    place
        x, y of the pixels, z of the planes [mm] (evenly spaced), part of the detector's half with weight 1.
    out
        Sums (y, x, plane), overwritten.
    """
    start, stop, half, angle0, step = span
    xs, ys, zs, flat = place
    n_planes, steep = len(zs), np.float32(1 / (1 - flat))
    spacing = (zs[n_planes - 1] - zs[0]) / max(n_planes - 1, 1)
    total, weight = np.empty(n_planes, np.float32), np.empty(n_planes, np.float32)
    out[:] = 0
    for t in range(start, min(start + half, stop + 1)):
        cos, sin = np.cos(angle0 + t * step), np.sin(angle0 + t * step)
        for y in range(len(ys)):
            for x in range(len(xs)):
                p, s = ys[y] * cos - xs[x] * sin, xs[x] * cos + ys[y] * sin
                total[:], weight[:], sign = 0, 0, 1.0
                for m in range(t, stop + 1, half):
                    c, wc, row, more = _meets((sign * p, sign * s, zs[0], spacing), m, columns, rows)
                    view = views[m % views.shape[0]]
                    _share(view[c], view[c + 1], (wc, row, more, steep), total, weight)
                    sign = -sign
                for k in range(n_planes):
                    if weight[k] > 0:
                        out[y, x, k] += total[k] / weight[k]
                    else:
                        out[y, x, k] += _nearest(views, (t, stop, half), (p, s, zs[k], 0.0), columns, rows)


@compiled
def _meets(
    point: tuple[float, float, float, float],
    m: int,
    columns: tuple[float, float, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    rows: tuple[float, float, float, float],
) -> tuple[int, np.float32, np.float32, np.float32]:  # pragma: no cover - compiled
    """Return the column of view m that a point falls on, the weight of the next one, the row, and rows per plane."""
    p, s, z, spacing = point
    p0, dp, lag, depth, reach = columns
    z0, dz, row0, pitch = rows
    column = (p - p0) / dp
    c = min(max(int(column), 0), len(lag) - 2)
    wc = min(max(column - c, 0.0), 1.0)
    far = depth[c] + wc * (depth[c + 1] - depth[c]) - s
    scale = (reach[c] + wc * (reach[c + 1] - reach[c])) / (far * pitch)
    spot = z0 + m * dz + lag[c] + wc * (lag[c + 1] - lag[c])
    return c, np.float32(wc), np.float32(row0 + (z - spot) * scale), np.float32(spacing * scale)


@compiled
def _share(
    near: Floats,
    after: Floats,
    ray: tuple[np.float32, np.float32, np.float32, np.float32],
    total: Floats,
    weight: Floats,
) -> None:  # pragma: no cover - compiled
    """Add one view's weighted values to the planes that fall on its rows."""
    wc, row, more, steep = ray
    n_rows, top = len(near), len(near) - 1
    half = np.float32(0.5 * n_rows)
    low, high = 0, len(total)
    if more > np.float32(1e-6):
        low = max(low, int(np.ceil((np.float32(-0.5) - row) / more)))
        high = min(high, int(np.ceil((np.float32(n_rows - 0.5) - row) / more)))
    elif row <= np.float32(-0.5) or row >= np.float32(n_rows - 0.5):
        return
    for k in range(low, high):
        at = row + np.float32(k) * more
        u = min(max((half - abs(at - np.float32(0.5) * np.float32(top))) / half * steep, np.float32(0)), np.float32(1))
        share = u * u * (np.float32(3) - np.float32(2) * u)
        at = min(max(at, np.float32(0)), np.float32(top))
        r = int(at)
        r1 = min(r + 1, top)
        wr = at - np.float32(r)
        first = near[r] + wc * (after[r] - near[r])
        second = near[r1] + wc * (after[r1] - near[r1])
        total[k] += share * (first + wr * (second - first))
        weight[k] += share


@compiled
def _nearest(
    views: Floats,
    turns: tuple[int, int, int],
    point: tuple[float, float, float, float],
    columns: tuple[float, float, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    rows: tuple[float, float, float, float],
) -> np.float32:  # pragma: no cover - compiled
    """Return the value of the edge row in the view of this direction that the point misses least."""
    p, s, z, spacing = point
    start, stop, half = turns
    top = views.shape[2] - 1
    best, value, sign = 1e30, np.float32(0), 1.0
    for m in range(start, stop + 1, half):
        c, wc, row, _ = _meets((sign * p, sign * s, z, spacing), m, columns, rows)
        missed = abs(row - 0.5 * top)
        if missed < best:
            best = missed
            r = 0 if row < 0.5 * top else top
            near, after = views[m % views.shape[0], c, r], views[m % views.shape[0], c + 1, r]
            value = near + wc * (after - near)
        sign = -sign
    return value
