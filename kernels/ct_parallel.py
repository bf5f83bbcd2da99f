"""CT in parallel geometry: fan views sorted into parallel ones row by row, and their weighted backprojection."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.compile import compiled
from kernels.ct_tile import BLOCK, LANES, MISS, TOGETHER, crossing, gather

Floats = NDArray[np.float32]
_FINE = 8  # steps from column to column between which a single plane need not interpolate


@compiled
def rebin(
    fans: Floats,
    first: int,
    rays: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.intp]],
    reach: NDArray[np.float64],
    heights: NDArray[np.float64],
    out: Floats,
) -> None:  # pragma: no cover - compiled
    """Sort fan views into parallel ones, and take the rays' tilt out of their length.

    Parameters
    ----------
    fans
        Ring of fan views (capacity, row, channel); view v lies at v modulo the capacity.
    first
        Number of the first parallel view; view n is about the fan view n times the number of focal spots.
    rays
        Where each focal spot sees a parallel column: how many fan views later (spot, column), in which channel
        (spot, column; less than 0: in none), in which row (spot, row, column); and which spot serves (row, column).
    reach
        Focal spot to the detector per column [mm].
    heights
        Height of each parallel row at the detector [mm].
    out
        Parallel views (view, row, column or more), overwritten as far as there are columns.
    """
    later, channel, source, spot = rays
    n_spots, (capacity, n_rows, n_channels) = len(later), fans.shape
    below, part = np.empty(len(heights), np.int64), np.empty((2, len(heights)), np.float32)
    for j in range(len(reach)):
        for f in range(n_spots):
            for i in range(len(heights)):
                r = min(max(int(source[f, i, j]), 0), max(n_rows - 2, 0))
                below[i], part[0, i] = r if spot[i, j] == f else -1, min(max(source[f, i, j] - r, 0.0), 1.0)
                part[1, i] = reach[j] / np.sqrt(reach[j] * reach[j] + heights[i] * heights[i])
            if channel[f, j] < 0:
                _blank(below, j, out)
                continue
            c = min(int(channel[f, j]), n_channels - 2)
            at = f + n_spots * int(np.floor((later[f, j] - f) / n_spots))
            mix = (np.float32(channel[f, j] - c), np.float32((later[f, j] - at) / n_spots))
            for n in range(out.shape[0]):
                view = (first + n) * n_spots + at
                near, far = fans[view % capacity, :, c : c + 2], fans[(view + n_spots) % capacity, :, c : c + 2]
                _column((near, far), mix, below, part, out[n, :, j])


@compiled
def _blank(below: NDArray[np.int64], j: int, out: Floats) -> None:  # pragma: no cover - compiled
    """Clear what no channel measured."""
    for i in range(len(below)):
        if below[i] >= 0:
            out[:, i, j] = 0


@compiled
def _column(
    views: tuple[Floats, Floats],
    mix: tuple[np.float32, np.float32],
    below: NDArray[np.int64],
    part: Floats,
    out: Floats,
) -> None:  # pragma: no cover - compiled
    """Interpolate a column of one parallel view from two channels (row, 2) of two fan views; take out the tilt."""
    a, b = views
    wc, wv = mix
    for i in range(len(below)):
        if below[i] >= 0:
            r = np.uint64(below[i])
            early, late = a[r, 0] + wc * (a[r, 1] - a[r, 0]), b[r, 0] + wc * (b[r, 1] - b[r, 0])
            value = early + wv * (late - early)
            if part[0, i] > np.float32(1e-3):
                r += np.uint64(1)
                early, late = a[r, 0] + wc * (a[r, 1] - a[r, 0]), b[r, 0] + wc * (b[r, 1] - b[r, 0])
                value += part[0, i] * (early + wv * (late - early) - value)
            out[i] = part[1, i] * value


@compiled
def backproject(
    views: Floats,
    span: tuple[int, int, int, float, float],
    columns: tuple[float, float, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    rows: tuple[float, float, float, float],
    place: tuple[NDArray[np.float64], NDArray[np.float64], float, float, float],
    out: Floats,
) -> None:  # pragma: no cover - compiled
    """Add up filtered parallel views along their rays in a tile of the image, `LANES` planes together.

    Views of one direction are averaged by the detector row that the voxel falls on: weight 1 in the middle, 0 at the
    edge; where no row is hit, the nearest is taken. The average is made once per column and step of depth; pixels
    then interpolate between columns, all planes side by side in memory.

    Parameters
    ----------
    views
        Ring (capacity, row, column), `BLOCK` columns of padding; those of odd half turns are mirrored.
    span
        First and last view to use, views per half turn, angle of view 0 and step [rad].
    columns
        Place of column 0, pitch [mm]; per column: lag of the focal spot's z, its distance to axis and detector [mm].
        Columns lie symmetric to the axis.
    rows
        z of the focal spot of view 0 and its step [mm], central row, distance of rows at the detector [mm].
    place
        x, y of the pixels, z of the first plane and distance of planes [mm], part of the detector's half with weight 1.
    out
        Sums (y, x, `LANES`), added to.
    """
    start, stop, half, angle0, step = span
    xs, ys, z, spacing, flat = place
    dp, xc, yc = columns[1], 0.5 * (xs[0] + xs[-1]), 0.5 * (ys[0] + ys[-1])
    tile = (xc, yc, 0.5 * (xs[-1] - xs[0]), 0.5 * (ys[-1] - ys[0]))
    size = 2 * np.hypot(tile[2], tile[3])
    ds = _depth_step(columns, views.shape[1], np.hypot(xc, yc) + size / 2)
    n_columns, n_depths = int(size / dp) + 4 + BLOCK, int(size / ds) + 4
    table = np.zeros((TOGETHER, n_columns, n_depths, LANES), np.float32)
    base, part = np.zeros((TOGETHER, len(xs)), np.uint32), np.zeros((TOGETHER, 2, len(xs)), np.float32)
    frame, end = np.zeros((TOGETHER, 4)), min(start + half, stop + 1)
    for t in range(start, end, TOGETHER):
        for q in range(TOGETHER):
            if t + q >= end:
                table[q:] = 0
                break
            lane, aim = (t + q, stop, half, z, spacing, flat), (angle0 + (t + q) % half * step, ds, tile)
            frame[q] = _fill(views, lane, aim, columns, rows, table[q])
        for y in range(len(ys)):
            _aim((xs, ys[y]), frame, (dp, ds, n_columns, n_depths), base, part)
            gather(table.ravel(), n_depths * LANES, base, part, out[y])


@compiled
def _fill(
    views: Floats,
    lane: tuple[int, int, int, float, float, float],
    place: tuple[float, float, tuple[float, float, float, float]],
    columns: tuple[float, float, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    rows: tuple[float, float, float, float],
    out: Floats,
) -> tuple[float, float, float, float]:  # pragma: no cover - compiled
    """Fill one direction's table of columns and depths; return its cosine, sine, first column and depth [mm]."""
    angle, ds, (xc, yc, hx, hy) = place
    p0, dp, _, depth, _ = columns
    cos, sin = np.cos(angle), np.sin(angle)
    ep, es = hy * abs(cos) + hx * abs(sin), hx * abs(cos) + hy * abs(sin)
    first = min(max(int((yc * cos - xc * sin - ep - p0) / dp), 0), len(depth) - 2)
    last = min(max(int((yc * cos - xc * sin + ep - p0) / dp) + 1, 1), len(depth) - 1)
    s0 = xc * cos + yc * sin - es
    for j in range(first, last + 1, BLOCK):
        p, margin = p0 + (j + 0.5 * BLOCK) * dp, (0.5 * BLOCK + 1) * dp
        low, high = crossing((-p * sin, cos, p * cos, sin), (xc, yc, hx + margin, hy + margin))
        low, high = max(int((low - s0) / ds + 0.5), 0), min(int((high - s0) / ds + 0.5), out.shape[1] - 1)
        _spread(views, lane, (low, high, s0, ds, j), columns, rows, out[j - first :])
    return cos, sin, p0 + first * dp, s0


@compiled
def _aim(
    line: tuple[NDArray[np.float64], float],
    frame: NDArray[np.float64],
    table: tuple[float, float, int, int],
    base: NDArray[np.uint32],
    part: Floats,
) -> None:  # pragma: no cover - compiled
    """Find each pixel's place in the tables: the index of the column before it, its weight and that of the next one."""
    xs, y = line
    dp, ds, n_columns, n_depths = table
    dx, half, zero = xs[1] - xs[0], np.float32(0.5), np.float32(0)
    widest, deepest = np.float32(n_columns - 1.001), np.float32(n_depths - 1)
    for q in range(TOGETHER):
        cos, sin, p, s = frame[q]
        column0, column1 = np.float32((y * cos - xs[0] * sin - p) / dp), np.float32(-dx * sin / dp)
        depth0, depth1 = np.float32((xs[0] * cos + y * sin - s) / ds) + half, np.float32(dx * cos / ds)
        for x in range(len(xs)):
            column = min(max(column0 + np.float32(x) * column1, zero), widest)
            b = np.uint32(np.int32(min(max(depth0 + np.float32(x) * depth1, zero), deepest)))
            c = np.uint32(np.int32(column))
            after = column - np.float32(np.int32(column))
            part[q, 0, x], part[q, 1, x] = np.float32(1) - after, after
            base[q, x] = ((np.uint32(q * n_columns) + c) * np.uint32(n_depths) + b) * np.uint32(LANES)


@compiled
def _depth_step(
    columns: tuple[float, float, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    n_rows: int,
    radius: float,
) -> float:  # pragma: no cover - compiled
    """Return the step along the rays at which a plane's row moves by less than `MISS` [mm]."""
    _, dp, _, depth, _ = columns
    near = max(depth.max() - radius, 0.1 * depth.max())
    return min(max(4 * MISS * near / n_rows, dp), 16 * dp)


@compiled
def _spread(
    views: Floats,
    lane: tuple[int, int, int, float, float, float],
    depths: tuple[int, int, float, float, int],
    columns: tuple[float, float, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    rows: tuple[float, float, float, float],
    out: Floats,
) -> None:  # pragma: no cover - compiled
    """Average the views of one direction over `BLOCK` columns at each depth, in each plane."""
    t, stop, half, z, spacing, flat = lane
    low, high, s0, ds, j = depths
    top, capacity = views.shape[1] - 1, views.shape[0]
    total, weight = np.empty((LANES, BLOCK), np.float32), np.empty(LANES, np.float32)
    aim = np.empty((4, LANES), np.float32)
    for b in range(low, high + 1):
        total[:], weight[:] = 0, 0
        for m in range(t, stop + 1, half):
            row, more = _row(m, j, s0 + b * ds, (z, spacing, half), columns, rows)
            row1, more1 = _row(m, j + BLOCK - 1, s0 + b * ds, (z, spacing, half), columns, rows)
            ends = (row, row + (LANES - 1) * more, row1, row1 + (LANES - 1) * more1)
            if min(ends) >= top + 0.5 or max(ends) <= -0.5:
                continue
            _weigh((0.5 * (row + row1), 0.5 * (more + more1), row1 - row, more1 - more), top, flat, aim)
            for k in range(LANES):
                weight[k] += aim[0, k]
                if aim[0, k] > 0:
                    r = np.uint64(np.int32(aim[3, k]))
                    near = views[m % capacity, r]
                    after = views[m % capacity, min(r + np.uint64(1), np.uint64(top))]
                    _add(near, after, np.uint64(j), (aim[0, k], aim[1, k], aim[2, k]), total[k])
        for k in range(LANES):
            if weight[k] <= 0:
                m, edge = _nearest((t, stop, half, top), (j + BLOCK // 2, s0 + b * ds, z + k * spacing), columns, rows)
                total[k], weight[k] = views[m % capacity, edge, j : j + BLOCK], 1
            weight[k] = 1 / weight[k]
        for c in range(BLOCK):
            for k in range(LANES):
                out[c, b, k] = total[k, c] * weight[k]


@compiled
def _row(
    m: int,
    j: int,
    s: float,
    plane: tuple[float, float, int],
    columns: tuple[float, float, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    rows: tuple[float, float, float, float],
) -> tuple[float, float]:  # pragma: no cover - compiled
    """Return the row of view m that the first plane falls on in a column at a depth, and the rows from plane to plane.

    Views of odd half turns are stored mirrored: their column j is where that direction's column j meets them.
    """
    z, spacing, half = plane
    _, _, lag, depth, reach = columns
    z0, dz, row0, pitch = rows
    n = len(lag)
    j = min(j, n - 1)
    if m // half % 2:
        j, s = n - 1 - j, -s
    scale = reach[j] / ((depth[j] - s) * pitch)
    return row0 + (z - z0 - m * dz - lag[j]) * scale, spacing * scale


@compiled
def _weigh(ray: tuple[float, float, float, float], last: int, flat: float, out: Floats) -> None:  # pragma: no cover
    """Find for each plane its weight, the weight of the next row in the middle column, its slope, and the row."""
    row, more = np.float32(ray[0]), np.float32(ray[1])
    wider, more_wider = np.float32(ray[2] / (BLOCK - 1)), np.float32(ray[3] / (BLOCK - 1))
    top, steep = np.float32(last), np.float32(1 / (1 - flat))
    middle, scale = np.float32(0.5) * top, np.float32(2) / (top + np.float32(1))
    for k in range(LANES):
        at = row + np.float32(k) * more
        u = min(max((np.float32(1) - abs(at - middle) * scale) * steep, np.float32(0)), np.float32(1))
        at = min(max(at, np.float32(0)), top)
        r = np.float32(np.int32(min(at, max(top - np.float32(1), np.float32(0)))))
        out[0, k] = u * u * (np.float32(3) - np.float32(2) * u)
        out[1, k] = at - r
        out[2, k] = wider + np.float32(k) * more_wider
        out[3, k] = r


@compiled
def _add(
    near: Floats, after: Floats, first: np.uint64, ray: tuple[np.float32, np.float32, np.float32], out: Floats
) -> None:  # pragma: no cover - compiled
    """Add a weighted mixture of two rows."""
    share, part, slope = ray
    part -= slope * np.float32(0.5 * (BLOCK - 1))
    for c in range(BLOCK):
        here = near[first + np.uint64(c)]
        out[c] += share * (here + (part + slope * np.float32(c)) * (after[first + np.uint64(c)] - here))


@compiled
def _nearest(
    turns: tuple[int, int, int, int],
    point: tuple[int, float, float],
    columns: tuple[float, float, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    rows: tuple[float, float, float, float],
) -> tuple[int, int]:  # pragma: no cover - compiled
    """Return the view of this direction that the point misses least, and its row."""
    start, stop, half, top = turns
    j, s, z = point
    best, view, nearest = 1e30, start, 0
    for m in range(start, stop + 1, half):
        row, _ = _row(m, j, s, (z, 0.0, half), columns, rows)
        if abs(row - 0.5 * top) < best:
            best, view, nearest = abs(row - 0.5 * top), m, 0 if row < 0.5 * top else top
    return view, nearest


@compiled
def backproject_plane(
    directions: Floats,
    columns: tuple[float, float],
    angles: tuple[float, float],
    place: tuple[NDArray[np.float64], NDArray[np.float64]],
    out: Floats,
) -> None:  # pragma: no cover - compiled
    """Add up filtered parallel views of a single row along their rays.

    Parameters
    ----------
    directions
        Filtered rows (direction, column), evenly spaced directions.
    columns
        Place of column 0 and distance of columns [mm].
    angles
        Angle of direction 0 and step [rad].
    place
        x and y of the pixels [mm].
    out
        Sums (y, x), added to.
    """
    xs, ys = place
    n, dx = directions.shape[1], xs[1] - xs[0]
    row = np.empty(_FINE * (n - 1) + 1, np.float32)
    for t in range(directions.shape[0]):
        for c in range(n - 1):
            for k in range(_FINE):
                part = np.float32(k) / np.float32(_FINE)
                row[c * _FINE + k] = directions[t, c] + part * (directions[t, c + 1] - directions[t, c])
        row[len(row) - 1] = directions[t, n - 1]
        cos, sin = np.cos(angles[0] + t * angles[1]), np.sin(angles[0] + t * angles[1])
        step = -dx * sin / columns[1] * _FINE
        for y in range(len(ys)):
            start = (ys[y] * cos - xs[0] * sin - columns[0]) / columns[1] * _FINE + 0.5
            low, high = 0.0, float(len(xs))
            if abs(step) > 1e-9:
                ends = (-start / step, (len(row) - 1e-3 - start) / step)
                low, high = max(low, np.ceil(min(ends))), min(high, np.floor(max(ends)))
            elif not 0 <= start < len(row):
                continue
            first, count = int(low), int(high) - int(low)
            begin, hop = np.float32(start + first * step), np.float32(step)
            line = out[y, first : first + max(count, 0)]
            for x in range(len(line)):
                line[x] += row[np.uint32(np.int32(begin + np.float32(x) * hop))]
