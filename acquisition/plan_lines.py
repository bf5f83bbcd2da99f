"""Where the slices of a plan cut an image: what is drawn on a localizer."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from acquisition.geometry import Grid
from acquisition.slice_plan import SlicePlan

Floats = NDArray[np.float64]
_PARALLEL = 0.05  # sine of the angle below which a slice and an image are alike: there is no line to draw


class Line(NamedTuple):
    """One planned slice within an image."""

    slice: int
    """Number of the slice, from 0."""
    start: tuple[float, float]
    """(x, y) [pixels]; 0, 0 is the centre of the first pixel."""
    stop: tuple[float, float]
    """The other end (x, y) [pixels]."""


def plan_lines(plan: SlicePlan, image: Grid) -> list[Line]:
    """Return where the planned slices cut an image of one slice; empty where they are parallel or pass beside it.

    Parameters
    ----------
    plan
        The plan.
    image
        Grid of the localizer's image, in the same frame of reference.
    """
    normal = np.cross(image.x_dir, image.y_dir)
    if np.linalg.norm(np.cross(plan.normal, normal)) < _PARALLEL:
        return []
    lines = []
    for number, corners in enumerate(_rectangles(plan)):
        ends = list(_crossings(corners, normal, np.asarray(image.origin_mm)))
        if len(ends) == 2:
            inside = _clipped(_pixel(ends[0], image), _pixel(ends[1], image), image)
            if inside is not None:
                lines.append(Line(number, *inside))
    return lines


def _rectangles(plan: SlicePlan) -> Iterator[Floats]:
    """Yield the four corners of each slice (4, 3) [mm]."""
    x = np.asarray(plan.in_plane) * plan.fov_mm[1] / 2
    y = np.asarray(plan.y_dir) * plan.fov_mm[0] / 2
    for number in range(plan.n_slices):
        offset = (number - (plan.n_slices - 1) / 2) * plan.slice_distance_mm
        middle = np.asarray(plan.centre_mm) + offset * np.asarray(plan.normal)
        yield np.stack([middle - x - y, middle + x - y, middle + x + y, middle - x + y])


def _crossings(corners: Floats, normal: Floats, origin: Floats) -> Iterator[Floats]:
    """Yield where the sides of a rectangle go through a plane."""
    heights = (corners - origin) @ normal
    closed = [*range(len(corners)), 0]
    for i, k in pairwise(closed):
        if (heights[i] < 0) != (heights[k] < 0):
            yield corners[i] + heights[i] / (heights[i] - heights[k]) * (corners[k] - corners[i])


def _pixel(place: Floats, image: Grid) -> Floats:
    way = place - np.asarray(image.origin_mm)
    return np.array([way @ image.x_dir / image.spacing_mm[2], way @ image.y_dir / image.spacing_mm[1]])


def _clipped(start: Floats, stop: Floats, image: Grid) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Return the part of a line within the image, None if there is none.

    Liang and Barsky, ACM Trans Graph 1984;3:1, DOI 10.1145/357332.357333.
    """
    way, first, last = stop - start, 0.0, 1.0
    for axis, n in ((0, image.shape[2]), (1, image.shape[1])):
        for step, room in ((-way[axis], start[axis] + 0.5), (way[axis], n - 0.5 - start[axis])):
            if abs(step) < 1e-12:
                if room < 0:
                    return None
            elif step < 0:
                first = max(first, room / step)
            else:
                last = min(last, room / step)
    if first >= last:
        return None
    one, other = start + first * way, start + last * way
    return (float(one[0]), float(one[1])), (float(other[0]), float(other[1]))
