"""Measures of image quality, of single slices and without a reference: the ones that MRIQC made common, and artefacts.

Esteban et al., PLOS ONE 2017;12:e0184661, DOI 10.1371/journal.pone.0184661. Foreground is what is brighter than the
gap in the histogram, in one piece, holes filled; air is what lies farther than a few pixels from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import (
    binary_closing,
    binary_dilation,
    binary_fill_holes,
    binary_opening,
    find_objects,
    gaussian_filter,
    label,
    maximum_filter1d,
    median_filter,
    minimum_filter1d,
    uniform_filter1d,
)

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

_BINS = 128
_MARGIN = 4  # pixels around the object that are neither it nor air
_BRIDGE = 4  # pixels that may lie dark between two parts of the object, as bone does
_THIN = 3  # pixels; what is not twice as wide is a line and no part of the object
_CORE = 0.55  # of the object's upper quartile; ghosts are darker
_TILE = 16  # pixels; side of a piece in which noise is measured
_LAG = 3  # pixels; noise of interpolated images is alike over less
_QUARTILE = 0.3186393639643752  # lower quartile of |x| of a normal x of standard deviation 1
_RAYLEIGH = 1.1774100225154747  # median of the magnitude of complex noise of standard deviation 1
_BOTH = 2.5  # times what the darker side shows: ghosts lie on both sides, dim tissue on one
_FOLLOWS = 1.5  # times the usual difference of neighbouring lines
_TINY = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What is where in one slice."""

    inside: Mask
    """The object (y, x)."""
    air: Mask
    """Air, well away from it (y, x)."""
    threshold: float
    """Value above which a pixel is object."""
    level: float
    """Median of the object."""

    @property
    def part(self) -> float:
        """Return the part of the slice that is object."""
        return float(self.inside.mean())


def parts(image: Floats) -> Parts | None:
    """Tell object from air in one slice (y, x) of magnitudes; None where there is nothing, or only noise."""
    smooth = np.sqrt(np.maximum(gaussian_filter(image, 1.0), 0))
    top = float(np.percentile(smooth, 99.5))
    if not top > 0:
        return None
    cut = _gap(smooth / top) * top
    inside = _whole(smooth > cut)
    if inside is None:
        return None
    level, rest = float(np.median(image[inside])), image[~inside]
    if rest.size and level < 1.5 * float(np.median(rest)):
        return None  # nothing stands out: noise alone
    air = ~binary_dilation(inside, iterations=_MARGIN)
    return Parts(inside=inside, air=air, threshold=cut**2, level=level)


def _whole(bright: Mask) -> Mask | None:
    """Return the largest piece of what is bright, what lies dark within it, and no thin lines; None: there is none."""
    padded = np.pad(bright, _BRIDGE)
    bridged = binary_closing(padded, iterations=_BRIDGE)[_BRIDGE:-_BRIDGE, _BRIDGE:-_BRIDGE]
    pieces, n = label(binary_opening(binary_fill_holes(bridged), iterations=_THIN))
    return np.asarray(pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()) if n else None


def _gap(values: Floats) -> float:
    """Return Otsu's threshold of values of 0 ... 1 (IEEE Trans SMC 1979;9:62, DOI 10.1109/TSMC.1979.4310076)."""
    counts, edges = np.histogram(values, _BINS, (0.0, 1.0))
    weight = counts / max(counts.sum(), 1)
    below, sums = np.cumsum(weight), np.cumsum(weight * (edges[:-1] + edges[1:]) / 2)
    between = (sums[-1] * below - sums) ** 2 / np.maximum(below * (1 - below), _TINY)
    return float(edges[1:][between[:-1].argmax()])


def noise_level(image: Floats, where: Mask) -> float:
    """Return the standard deviation of the noise in the object, 0 if there is too little of it.

    Third differences over a few pixels are blind to what changes smoothly. Their lower quartile in a tile is the noise
    where the tile holds no edge; the quietest quarter of the tiles counts.
    """
    estimates = []
    for axis in (0, 1):
        a, m = (image, where) if axis == 0 else (image.T, where.T)
        n = a.shape[0] - 3 * _LAG
        if n < _TILE:
            continue
        rows = [a[k * _LAG : k * _LAG + n] for k in range(4)]
        bend = np.abs(rows[0] - 3 * rows[1] + 3 * rows[2] - rows[3]) / np.float32(np.sqrt(20.0))
        inside = m[:n] & m[_LAG : _LAG + n] & m[2 * _LAG : 2 * _LAG + n] & m[3 * _LAG :][:n]
        estimates += _tiles(bend, inside)
    return float(np.percentile(estimates, 25)) if estimates else 0.0


def _tiles(bend: Floats, inside: Mask) -> list[float]:
    found = []
    for y in range(0, bend.shape[0] - _TILE // 2, _TILE):
        for x in range(0, bend.shape[1] - _TILE // 2, _TILE):
            within = inside[y : y + _TILE, x : x + _TILE]
            if within.sum() >= _TILE * _TILE // 2:
                found.append(float(np.percentile(bend[y : y + _TILE, x : x + _TILE][within], 25)) / _QUARTILE)
    return found


def air_noise(image: Floats, where: Parts) -> float:
    """Return the standard deviation of complex noise by the median of the air's magnitude; 0 without air, or masked."""
    return float(np.median(image[where.air])) / _RAYLEIGH if where.air.sum() > _TILE * _TILE else 0.0


def contrast(image: Floats, where: Parts) -> float:
    """Return the distance of the object's two main levels, in the unit of the image (two means of the object)."""
    values = image[where.inside]
    low, high = np.percentile(values, (2, 98))
    values = values[(values >= low) & (values <= high)]
    cut = float(values.mean())
    for _ in range(10):
        one, other = values[values < cut], values[values >= cut]
        if not one.size or not other.size:
            return 0.0
        cut = (float(one.mean()) + float(other.mean())) / 2
    return float(other.mean() - one.mean())


def entropy_focus(image: Floats) -> float:
    """Return the entropy focus criterion: 0 all in one pixel ... 1 alike everywhere; ghosts and blur raise it.

    Atkinson et al., IEEE Trans Med Imaging 1997;16:903, DOI 10.1109/42.650886.
    """
    values = np.abs(image.ravel().astype(np.float64))
    total = float(np.sqrt((values**2).sum()))
    if total <= 0:
        return 0.0
    share = values / total
    root = np.sqrt(values.size)
    return float((share * np.log(share + 1e-16)).sum() / (root * np.log(1 / root)))


def energy_ratio(image: Floats, where: Parts) -> float:
    """Return the median energy of the object over that of the air (FBER); infinite where the air was masked."""
    air = image[where.air]
    behind = float(np.median(air)) ** 2 if air.size else 0.0
    return where.level**2 / behind if behind > 0 else float("inf")


def edge_width(image: Floats, where: Parts) -> float:
    """Return how wide the sharpest edges are [pixels]: the step over the steepest slope; 2 is as sharp as it gets.

    Along each axis the steepest hundredth of the pixels is taken; of both axes the wider counts, as motion blurs along
    one.
    """
    widths = []
    for axis in (0, 1):
        slope = np.abs(np.gradient(image, axis=axis))
        limit = np.percentile(slope[where.inside], 98)
        steep = (slope >= max(float(limit), _TINY)) & where.inside
        step = maximum_filter1d(image, 9, axis=axis) - minimum_filter1d(image, 9, axis=axis)
        if steep.any():
            widths.append(float(np.median(step[steep] / slope[steep])))
    return max(widths, default=0.0)


def ghosts(image: Floats, where: Parts) -> tuple[float, str] | None:
    """Return how much brighter the air is along one axis of the object than along the other, and which: y or x.

    As the ACR's ghosting ratio, a part of the object's mean. None where there is too little air on either side. An
    object that reaches both borders may do so by its own ghost: then only its bright core counts as object.
    """
    inside, air = _without_ghost(image, where)
    (rows, columns), *_ = find_objects(inside.astype(np.int8))
    middle = (rows.start + rows.stop) // 2, (columns.start + columns.stop) // 2
    down = (slice(None, middle[0]), columns), (slice(middle[0], None), columns)
    across = (rows, slice(None, middle[1])), (rows, slice(middle[1], None))
    (y, dark_y), (x, dark_x) = _sides(image, air, down), _sides(image, air, across)
    if not np.isfinite((y, x)).all():
        return None
    level = float(image[inside].mean())
    value = min(abs(y - x), _BOTH * max(dark_y - dark_x, 0.0) if y > x else _BOTH * max(dark_x - dark_y, 0.0))
    return value / level, "y" if y > x else "x"


def _sides(image: Floats, air: Mask, sides: Sequence[tuple[slice, slice]]) -> tuple[float, float]:
    """Return the mean of the air on two sides of the object, and that on the darker one; NaN where there is no air."""
    found = [image[side][air[side]] for side in sides if air[side].sum() > 0.005 * image.size]
    if not found:
        return float("nan"), float("nan")
    return float(np.concatenate(found).mean()), min(float(values.mean()) for values in found)


def _without_ghost(image: Floats, where: Parts) -> tuple[Mask, Mask]:
    """Return object and air."""
    inside = where.inside
    if not (inside[0].any() and inside[-1].any()) and not (inside[:, 0].any() and inside[:, -1].any()):
        return where.inside, where.air
    core = _whole(gaussian_filter(image, 1.0) > _CORE * np.percentile(image[where.inside], 75))
    if core is None:
        return where.inside, where.air
    return core, ~binary_dilation(core, iterations=_MARGIN)


def wrapped(image: Floats, where: Parts) -> tuple[float, str]:
    """Return over which part of the border the slice goes on at the opposite border, and along which axis.

    What lies outside the field of view comes in at the other side: in a wrapped image the first line follows the last
    as any line follows the one before it. An object that is merely cut off on both sides does not.
    """
    worst, axis_name = 0.0, "y"
    for axis, name in ((0, "y"), (1, "x")):
        lines = uniform_filter1d(np.moveaxis(image, axis, 0), 5, axis=1)
        first, second, before, last = lines[0], lines[1], lines[-2], lines[-1]
        both = (first > where.threshold) & (last > where.threshold)
        share = float(both.mean())
        if share > worst and both.sum() > _TILE // 2:
            usual = float(np.abs(first - second)[both].mean() + np.abs(last - before)[both].mean()) / 2
            if float(np.abs(first - last)[both].mean()) < _FOLLOWS * usual + 0.02 * where.level:
                worst, axis_name = share, name
    return worst, axis_name


def zipper(image: Floats, where: Parts) -> tuple[float, str, int]:
    """Return how far the brightest line through the air stands out, along which axis it runs, and where it is.

    In robust standard deviations of all lines. A line of radio interference is bright along all of its way, so the
    darker half of it counts, and only as far as it is above a hundredth of the object's level.
    """
    found = (0.0, "y", 0)
    for axis, name in ((0, "y"), (1, "x")):
        lines, air = (image, where.air) if axis == 0 else (image.T, where.air.T)
        half = lines.shape[0] // 2
        excess = np.minimum(_standing_out(lines[:half], air[:half]), _standing_out(lines[half:], air[half:]))
        known = np.isfinite(excess)
        if known.sum() < 2 * _TILE:
            continue
        spread = 1.4826 * float(np.median(np.abs(excess[known]))) + 1e-3 * where.level
        at = int(np.where(known, excess, -np.inf).argmax())
        if excess[at] > 0.01 * where.level and excess[at] / spread > found[0]:
            found = float(excess[at] / spread), name, at
    return found


def _standing_out(lines: Floats, air: Mask) -> NDArray[np.float64]:
    """Return how far the mean of each column's air is above its neighbours'; NaN where there is little air."""
    counts = air.sum(axis=0)
    enough = counts > 0.25 * len(lines)
    if not enough.any():
        return np.full(lines.shape[1], np.nan)
    means = np.where(air, lines, 0).sum(axis=0) / np.maximum(counts, 1)
    around = median_filter(np.where(enough, means, np.median(means[enough])), 11, mode="nearest")
    return np.where(enough, means - around, np.nan)
