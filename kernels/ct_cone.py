"""CT in cone geometry: the weighted backprojection of filtered views around a circle."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.compile import compiled
from kernels.ct_tile import BLOCK, LANES, MISS, TOGETHER, crossing, gather

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Detector = tuple[float, float, float, float, float, float, float]


@compiled
def backproject_cone(
    views: Floats,
    angles: Doubles,
    detector: Detector,
    place: tuple[Doubles, Doubles, float, float],
    out: Floats,
) -> None:  # pragma: no cover - compiled
    """Add up filtered cone-beam views in a tile of the image, `LANES` planes together.

    Each view is multiplied by ``(R / d)^2`` with the voxel's distance d from the focal spot: along the central ray for
    a flat detector, along its own ray's projection for a cylindrical one (Feldkamp et al., J Opt Soc Am A 1984;1:612,
    DOI 10.1364/JOSAA.1.000612). Rows are interpolated once per column and distance; pixels then interpolate between
    columns. Voxels above or below the cone take the edge row; beyond the detector's channels a view adds nothing.

    Parameters
    ----------
    views
        Filtered views (view, row, channel), `BLOCK` channels of padding at the end.
    angles
        Angle of each view [rad].
    detector
        Distances of the focal spot to axis and detector [mm]; channel and row of the central ray; distance of
        channels and rows [mm]; 1 for a cylindrical detector, 0 for a flat one.
    place
        x, y of the pixels, z of the first plane above the focal spot, distance of planes [mm].
    out
        Sums (y, x, `LANES`), added to.
    """
    xs, ys, z, spacing = place
    xc, yc = 0.5 * (xs[0] + xs[-1]), 0.5 * (ys[0] + ys[-1])
    tile = (xc, yc, 0.5 * (xs[-1] - xs[0]), 0.5 * (ys[-1] - ys[0]))
    radius = np.hypot(tile[2], tile[3])
    near = max(detector[0] - np.hypot(xc, yc) - radius, 0.05 * detector[0])
    ds = min(max(4 * MISS * near / views.shape[1], 0.5 * (xs[1] - xs[0])), radius + 1)
    n_columns = min(int(2 * radius * detector[1] / (near * detector[4])), views.shape[2]) + 4 + 2 * BLOCK
    n_depths = int(2.2 * radius / ds) + 6
    table = np.zeros((TOGETHER, n_columns, n_depths, LANES), np.float32)
    base, part = np.zeros((TOGETHER, len(xs)), np.uint32), np.zeros((TOGETHER, 2, len(xs)), np.float32)
    frame = np.zeros((TOGETHER, 4))
    for v in range(0, len(angles), TOGETHER):
        for q in range(TOGETHER):
            if v + q >= len(angles):
                table[q:] = 0
                break
            frame[q] = _fill(views[v + q], (angles[v + q], ds, tile), (z, spacing), detector, table[q])
        for y in range(len(ys)):
            _aim((xs, ys[y]), frame, (ds, views.shape[2] - BLOCK, n_columns, n_depths), detector, base, part)
            gather(table.ravel(), n_depths * LANES, base, part, out[y])


@compiled
def _sees(x: float, y: float, cos: float, sin: float, detector: Detector) -> tuple[float, float]:  # pragma: no cover
    """Return the channel in which a point is seen, and its distance."""
    away, across = detector[0] - x * cos - y * sin, y * cos - x * sin
    if detector[6] > 0:
        return detector[2] + np.arctan2(across, away) * detector[1] / detector[4], np.hypot(away, across)
    return detector[2] + across / away * detector[1] / detector[4], away


@compiled
def _fill(
    view: Floats,
    place: tuple[float, float, tuple[float, float, float, float]],
    planes: tuple[float, float],
    detector: Detector,
    out: Floats,
) -> tuple[float, float, float, float]:  # pragma: no cover - compiled
    """Fill one view's table of columns and distances; return its cosine, sine, first column and distance [mm]."""
    angle, ds, tile = place
    xc, yc, hx, hy = tile
    cos, sin, n = np.cos(angle), np.sin(angle), view.shape[1] - BLOCK
    c, d = _sees(xc - hx, yc - hy, cos, sin, detector)
    low_c, high_c, low_d = c, c, d
    for x, y in ((xc + hx, yc - hy), (xc - hx, yc + hy), (xc + hx, yc + hy)):
        c, d = _sees(x, y, cos, sin, detector)
        low_c, high_c, low_d = min(low_c, c), max(high_c, c), min(low_d, d)
    if detector[6] > 0:
        low_d -= 0.5 * (hx * hx + hy * hy) / low_d
    first, last = min(max(int(low_c), 0), n - 1), min(max(int(high_c) + 1, 0), n - 1)
    margin = BLOCK * detector[4] * (low_d + 3 * (hx + hy)) / detector[1] + ds
    for j in range(first, last + 1, BLOCK):
        turn = (j + 0.5 * BLOCK - detector[2]) * detector[4] / detector[1]
        across, along = (np.sin(turn), np.cos(turn)) if detector[6] > 0 else (turn, 1.0)
        ray = (detector[0] * cos, -along * cos - across * sin, detector[0] * sin, across * cos - along * sin)
        low, high = crossing(ray, (xc, yc, hx + margin, hy + margin))
        ends = (max(int((low - low_d) / ds), 0), min(int((high - low_d) / ds + 1), out.shape[1] - 1))
        _stretch(view, (j, low_d, ds), ends, planes, detector, out[j - first :])
    return cos, sin, float(first), low_d


@compiled
def _stretch(
    view: Floats,
    start: tuple[int, float, float],
    ends: tuple[int, int],
    planes: tuple[float, float],
    detector: Detector,
    out: Floats,
) -> None:  # pragma: no cover - compiled
    """Interpolate `BLOCK` columns of a view to the planes at each distance."""
    j, low_d, ds = start
    z, spacing = planes
    top, first = view.shape[0] - 1, np.uint64(j)
    values = np.empty((LANES, BLOCK), np.float32)
    for b in range(ends[0], ends[1] + 1):
        scale = detector[1] / ((low_d + b * ds) * detector[5])
        for k in range(LANES):
            row = min(max(detector[3] + (z + k * spacing) * scale, 0.0), float(top))
            r = min(int(row), max(top - 1, 0))
            w, near, after = np.float32(row - r), view[np.uint64(r)], view[np.uint64(min(r + 1, top))]
            for c in range(BLOCK):
                i = first + np.uint64(c)
                values[k, c] = near[i] + w * (after[i] - near[i])
        for c in range(BLOCK):
            for k in range(LANES):
                out[c, b, k] = values[k, c]


@compiled
def _aim(
    line: tuple[Doubles, float],
    frame: Doubles,
    table: tuple[float, int, int, int],
    detector: Detector,
    base: NDArray[np.uint32],
    part: Floats,
) -> None:  # pragma: no cover - compiled
    """Find each pixel's place in the tables, and the weights of the columns before and after it."""
    xs, y = line
    ds, n, n_columns, n_depths = table
    seen = np.empty((2, len(xs)), np.float32)
    for q in range(TOGETHER):
        cos, sin, first, low_d = frame[q]
        _look((xs[0], xs[1] - xs[0], y), (cos, sin), detector, seen)
        most, last = np.float32(n_columns - 2.001 + first), np.float32(n - 1)
        start, near, step = np.float32(first), np.float32(low_d), np.float32(1 / ds)
        far, deepest = np.float32(detector[0]), np.float32(n_depths - 1)
        for x in range(len(xs)):
            column, distance = seen[0, x], seen[1, x]
            weight = far / distance
            weight *= weight
            weight = weight if abs(column - np.float32(0.5) * last) <= np.float32(0.5) * last + np.float32(0.5) else 0
            column = max(min(column, last, most) - start, np.float32(0))
            c = np.uint32(np.int32(column))
            b = np.uint32(np.int32(min(max((distance - near) * step + np.float32(0.5), np.float32(0)), deepest)))
            after = weight * (column - np.float32(np.int32(column)))
            part[q, 0, x], part[q, 1, x] = weight - after, after
            base[q, x] = ((np.uint32(q * n_columns) + c) * np.uint32(n_depths) + b) * np.uint32(LANES)


@compiled
def _look(
    line: tuple[float, float, float], turn: tuple[float, float], detector: Detector, seen: Floats
) -> None:  # pragma: no cover - compiled
    """Find the channel in which each pixel of a line is seen, and its distance."""
    x0, dx, y = line
    cos, sin = turn
    if detector[6] > 0:
        for x in range(seen.shape[1]):
            column, distance = _sees(x0 + x * dx, y, cos, sin, detector)
            seen[0, x], seen[1, x] = column, distance
        return
    away, nearer = np.float32(detector[0] - x0 * cos - y * sin), np.float32(-dx * cos)
    across, aside = np.float32(y * cos - x0 * sin), np.float32(-dx * sin)
    centre, scale = np.float32(detector[2]), np.float32(detector[1] / detector[4])
    for x in range(seen.shape[1]):
        seen[1, x] = away + np.float32(x) * nearer
        seen[0, x] = centre + (across + np.float32(x) * aside) / seen[1, x] * scale
