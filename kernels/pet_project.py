"""Line integrals of a volume along the lines between PET detectors, with and without time of flight, and transposes.

Joseph's method (IEEE Trans Med Imaging 1982;1:192, DOI 10.1109/TMI.1982.4307572): a line is sampled where it meets the
planes of voxel centres along its main axis; there the volume is interpolated linearly and ends in zeros. Places are
``start + i step``, never a running sum, in double precision. With time of flight each sample is weighted by what the
event's bin sees of it: a Gaussian cut off at three standard deviations and renormalised, integrated over the bin. So
the weights of all bins add up to 1 at every sample, and the bins to the whole line.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from kernels.compile import compiled

Reals = NDArray[np.floating]
Floats = NDArray[np.float32]
Pairs = NDArray[np.int32]
Bins = NDArray[np.int16]
Place = tuple[float, float, float, float, float, float]
"""Centre of the first voxel and distance of voxels [mm]: x, dx, y, dy, z, dz."""
Timing = tuple[float, float, float]
"""Place of bin 0 and width of a bin along the line, from its middle [mm]; entries of the table per mm."""
N_SIGMA = 3.0
"""Where the resolution in time is cut off [standard deviations]."""
_TABLE = 4096
_NOTHING = 1e-30
_INSIDE = 1e-9  # of a voxel: keeps rounding from reaching beyond the padding


@cache
def bin_weights(bin_mm: float, fwhm_mm: float) -> tuple[NDArray[np.float32], float]:
    """Return what a bin sees of a point by their distance (not to be written to), and its entries per mm.

    Parameters
    ----------
    bin_mm
        Width of a bin [mm].
    fwhm_mm
        Resolution along the line [mm].
    """
    sigma = fwhm_mm / math.sqrt(8 * math.log(2))
    per_mm = _TABLE / (N_SIGMA * sigma + bin_mm / 2)
    scale = math.sqrt(0.5) / sigma
    whole = math.erf(N_SIGMA * math.sqrt(0.5))

    def below(x: float) -> float:
        return 0.5 + 0.5 * math.erf(min(max(x * scale, -N_SIGMA * math.sqrt(0.5)), N_SIGMA * math.sqrt(0.5))) / whole

    place = np.arange(_TABLE + 2) / per_mm
    values = [below(x + bin_mm / 2) - below(x - bin_mm / 2) for x in place]
    table = np.array(values, np.float32)
    table.flags.writeable = False
    return table, per_mm


@compiled
def project(
    padded: Reals, place: Place, detectors: Floats, pairs: Pairs, out: Reals
) -> None:  # pragma: no cover - compiled
    """Integrate a volume along lines.

    Parameters
    ----------
    padded
        Voxels (y, x, z), contiguous, with one voxel of zeros on every side.
    place
        Where the voxels are, without those zeros.
    detectors
        Where they are (detector, 3), x y z [mm].
    pairs
        Indices of both detectors (event, 2).
    out
        Integrals (event,) in units of the volume times mm, overwritten.
    """
    flat, real = padded.ravel(), padded.dtype.type
    for e in range(len(pairs)):
        first, last, mm, _, _, way = _walk(detectors[pairs[e, 0]], detectors[pairs[e, 1]], place, padded.shape)
        total = real(0)
        for i in range(first, last):
            total += _sample(flat, i, way)
        out[e] = total * real(mm)


@compiled
def smear(
    values: Reals, place: Place, detectors: Floats, pairs: Pairs, padded: Reals
) -> None:  # pragma: no cover - compiled
    """Add the values (event,) of lines to the voxels that they run through: the transpose of `project`."""
    flat, real = padded.ravel(), padded.dtype.type
    for e in range(len(pairs)):
        if values[e] == 0:
            continue
        first, last, mm, _, _, way = _walk(detectors[pairs[e, 0]], detectors[pairs[e, 1]], place, padded.shape)
        value = values[e] * real(mm)
        for i in range(first, last):
            _spread(flat, i, way, value)


@compiled
def project_tof(
    padded: Reals,
    place: Place,
    detectors: Floats,
    events: tuple[Pairs, Bins],
    timing: tuple[Floats, Timing],
    out: Reals,
) -> None:  # pragma: no cover - compiled
    """Integrate a volume along the part of lines that a time-of-flight bin sees.

    Parameters
    ----------
    padded, place, detectors, out
        As in `project`.
    events
        Indices of both detectors (event, 2) and bins (event,).
    timing
        The table of `bin_weights`, and where the bins are.
    """
    pairs, bins = events
    table, (start, width, per_mm) = timing
    flat, real, reach = padded.ravel(), padded.dtype.type, (len(table) - 2) / per_mm
    for e in range(len(pairs)):
        first, last, mm, d0, dd, way = _walk(detectors[pairs[e, 0]], detectors[pairs[e, 1]], place, padded.shape)
        d0 -= start + bins[e] * width
        first, last = _between(d0, dd, -reach, reach, first, last)
        total = real(0)
        for i in range(first, last):
            t = abs(d0 + i * dd) * per_mm
            k = int(t)
            w = table[k] + np.float32(t - k) * (table[k + 1] - table[k])
            total += real(w) * _sample(flat, i, way)
        out[e] = total * real(mm)


@compiled
def smear_tof(
    values: Reals,
    place: Place,
    detectors: Floats,
    events: tuple[Pairs, Bins],
    timing: tuple[Floats, Timing],
    padded: Reals,
) -> None:  # pragma: no cover - compiled
    """Add the values (event,) to the voxels that their bins see: the transpose of `project_tof`."""
    pairs, bins = events
    table, (start, width, per_mm) = timing
    flat, real, reach = padded.ravel(), padded.dtype.type, (len(table) - 2) / per_mm
    for e in range(len(pairs)):
        if values[e] == 0:
            continue
        first, last, mm, d0, dd, way = _walk(detectors[pairs[e, 0]], detectors[pairs[e, 1]], place, padded.shape)
        d0 -= start + bins[e] * width
        first, last = _between(d0, dd, -reach, reach, first, last)
        value = values[e] * real(mm)
        for i in range(first, last):
            t = abs(d0 + i * dd) * per_mm
            k = int(t)
            w = table[k] + np.float32(t - k) * (table[k + 1] - table[k])
            _spread(flat, i, way, real(w) * value)


@compiled
def share(
    padded: Reals, place: Place, detectors: Floats, pairs: Pairs, sums: Reals
) -> None:  # pragma: no cover - compiled
    """Add ``A' (1 / A x)`` of lines: `project`, one over it, and `smear` in one walk.

    Parameters
    ----------
    padded, place, detectors, pairs
        As in `project`.
    sums
        Like `padded`, added to; lines on which the volume is 0 add nothing.
    """
    flat, out, real = padded.ravel(), sums.ravel(), padded.dtype.type
    most = max(padded.shape[0], max(padded.shape[1], padded.shape[2]))
    corner, apart = np.empty(most, np.uint64), np.empty((most, 2), padded.dtype)
    for e in range(len(pairs)):
        first, last, _, _, _, way = _walk(detectors[pairs[e, 0]], detectors[pairs[e, 1]], place, padded.shape)
        total = real(0)
        for i in range(first, last):
            p, u, v = _corner(i, way)
            corner[i - first], apart[i - first, 0], apart[i - first, 1] = p, u, v
            total += _between_four(flat, p, (real(u), real(v)), way)
        if total <= real(_NOTHING):
            continue
        value = real(1) / total
        for n in range(last - first):
            _to_four(out, corner[n], (apart[n, 0], apart[n, 1]), way, value)


@compiled
def share_tof(
    padded: Reals,
    place: Place,
    detectors: Floats,
    events: tuple[Pairs, Bins],
    timing: tuple[Floats, Timing],
    sums: Reals,
) -> None:  # pragma: no cover - compiled
    """Add ``A' (1 / A x)`` of the part of lines that a time-of-flight bin sees; see `share` and `project_tof`."""
    pairs, bins = events
    table, (start, width, per_mm) = timing
    flat, out, real, reach = padded.ravel(), sums.ravel(), padded.dtype.type, (len(table) - 2) / per_mm
    most = max(padded.shape[0], max(padded.shape[1], padded.shape[2]))
    corner, apart = np.empty(most, np.uint64), np.empty((most, 3), padded.dtype)
    for e in range(len(pairs)):
        first, last, _, d0, dd, way = _walk(detectors[pairs[e, 0]], detectors[pairs[e, 1]], place, padded.shape)
        d0 -= start + bins[e] * width
        first, last = _between(d0, dd, -reach, reach, first, last)
        total = real(0)
        for i in range(first, last):
            t = abs(d0 + i * dd) * per_mm
            k = int(t)
            w = real(table[k] + np.float32(t - k) * (table[k + 1] - table[k]))
            p, u, v = _corner(i, way)
            n = i - first
            corner[n], apart[n, 0], apart[n, 1], apart[n, 2] = p, u, v, w
            total += w * _between_four(flat, p, (real(u), real(v)), way)
        if total <= real(_NOTHING):
            continue
        value = real(1) / total
        for n in range(last - first):
            _to_four(out, corner[n], (apart[n, 0], apart[n, 1]), way, apart[n, 2] * value)


@compiled
def renew(
    volume: Reals, sums: Reals, parts: Reals, per_s: Reals, weights: tuple[float, float, float]
) -> None:  # pragma: no cover - compiled
    """Make of a volume x and what `share` gave for it the next volume, in one walk through memory.

    ``sums = left * sums + x * parts``, ``x = max(sums, least) * per_s / seconds``; parts are emptied.

    Parameters
    ----------
    volume, sums
        x and what has been shared out so far, flat (voxel,), overwritten.
    parts
        Sums of `share` (thread, voxel), set to 0.
    per_s
        One over how many counts per second a unit of each voxel gives (voxel,); 0: leave it empty.
    weights
        What is left of earlier sums, the seconds in which all were counted, and the least sum of a voxel.
    """
    real = volume.dtype.type
    left, per, least = real(weights[0]), real(1 / weights[1]), real(weights[2])
    for i in range(len(volume)):
        total = real(0)
        for n in range(len(parts)):
            total += parts[n, i]
            parts[n, i] = 0
        total = left * sums[i] + volume[i] * total
        sums[i] = total
        volume[i] = max(total, least) * per_s[i] * per


Way = tuple[float, float, float, float, int, int, int]
"""Indices of the padding's plane 0 across the main axis and their steps: f, df, g, dg; strides along, f, g."""


@compiled
def _walk(
    a: Floats, b: Floats, place: Place, shape: tuple[int, int, int]
) -> tuple[int, int, float, float, float, Way]:  # pragma: no cover - compiled
    """Return where the line from a to b meets the voxels of a padded volume.

    First plane and the one after the last; way from plane to plane [mm]; distance of plane 0 from the middle towards
    b and its step [mm]; and for `_sample` how to walk.
    """
    x0, px, y0, py, z0, pz = place
    ny, nx, nz = shape[0] - 2, shape[1] - 2, shape[2] - 2
    ax, ay, az = float(a[0]), float(a[1]), float(a[2])
    dx, dy, dz = b[0] - ax, b[1] - ay, b[2] - az
    length = math.sqrt(dx * dx + dy * dy + dz * dz)
    sy, sx, sz = shape[1] * shape[2], shape[2], 1
    if length == 0:
        return 1, 1, 0.0, 0.0, 0.0, (0.0, 0.0, 0.0, 0.0, 0, 0, 0)
    if abs(dx) >= abs(dy) and abs(dx) >= abs(dz):
        t0, dt, n, along = (x0 - ax) / dx, px / dx, nx, sx
        f, df, nf, sf = (ay + t0 * dy - y0) / py, dt * dy / py, ny, sy
        g, dg, ng, sg = (az + t0 * dz - z0) / pz, dt * dz / pz, nz, sz
    elif abs(dy) >= abs(dz):
        t0, dt, n, along = (y0 - ay) / dy, py / dy, ny, sy
        f, df, nf, sf = (ax + t0 * dx - x0) / px, dt * dx / px, nx, sx
        g, dg, ng, sg = (az + t0 * dz - z0) / pz, dt * dz / pz, nz, sz
    else:
        t0, dt, n, along = (z0 - az) / dz, pz / dz, nz, sz
        f, df, nf, sf = (ay + t0 * dy - y0) / py, dt * dy / py, ny, sy
        g, dg, ng, sg = (ax + t0 * dx - x0) / px, dt * dx / px, nx, sx
    first, last = _between(t0, dt, 0.0, 1.0, 0, n)
    first, last = _between(f, df, -1 + _INSIDE, nf - _INSIDE, first, last)
    first, last = _between(g, dg, -1 + _INSIDE, ng - _INSIDE, first, last)
    way = (f + 1 - df, df, g + 1 - dg, dg, along, sf, sg)
    distance = (t0 - 0.5) * length
    return first + 1, last + 1, abs(dt) * length, distance - dt * length, dt * length, way


@compiled
def _between(
    start: float, step: float, low: float, high: float, first: int, last: int
) -> tuple[int, int]:  # pragma: no cover - compiled
    """Return the part of first ... last - 1 in which ``low < start + i step < high``."""
    if abs(step) < 1e-12:
        return (first, last) if low < start < high else (first, first)
    a, b = (low - start) / step, (high - start) / step
    a, b = min(max(min(a, b), first - 1.0), float(last)), max(min(max(a, b), float(last)), first - 1.0)
    return max(first, math.floor(a) + 1), min(last, math.ceil(b))


@compiled
def _sample(flat: Reals, i: int, way: Way) -> np.floating:  # pragma: no cover - compiled
    """Return the volume where a line meets plane i."""
    p, u, v = _corner(i, way)
    real = flat.dtype.type
    return _between_four(flat, p, (real(u), real(v)), way)


@compiled
def _spread(flat: Reals, i: int, way: Way, value: np.floating) -> None:  # pragma: no cover - compiled
    """Add a value to the four voxels around where a line meets plane i."""
    p, u, v = _corner(i, way)
    real = flat.dtype.type
    _to_four(flat, p, (real(u), real(v)), way, value)


@compiled
def _corner(i: int, way: Way) -> tuple[np.uint64, float, float]:  # pragma: no cover - compiled
    """Return the first of the four voxels around where a line meets plane i, and how far it is from it along f, g."""
    f0, df, g0, dg, along, sf, sg = way
    f, g = f0 + i * df, g0 + i * dg
    j, k = int(f), int(g)
    return np.uint64(i * along + j * sf + k * sg), f - j, g - k


@compiled
def _between_four(
    flat: Reals, p: np.uint64, apart: tuple[np.floating, np.floating], way: Way
) -> np.floating:  # pragma: no cover - compiled
    """Return the volume between four voxels."""
    u, v = apart
    q, side = p + np.uint64(way[5]), np.uint64(way[6])
    near = flat[p] + v * (flat[p + side] - flat[p])
    far = flat[q] + v * (flat[q + side] - flat[q])
    return near + u * (far - near)


@compiled
def _to_four(
    flat: Reals, p: np.uint64, apart: tuple[np.floating, np.floating], way: Way, value: np.floating
) -> None:  # pragma: no cover - compiled
    """Add a value to four voxels: the transpose of `_between_four`."""
    u, v = apart
    q, side = p + np.uint64(way[5]), np.uint64(way[6])
    far = u * value
    near = value - far
    flat[p] += near - v * near
    flat[p + side] += v * near
    flat[q] += far - v * far
    flat[q + side] += v * far
