"""A plan drawn into its localizer: one grey page, sagittal, coronal and axial, that any viewer can show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

from acquisition.errors import DataError
from acquisition.geometry import Grid, display_orientation
from acquisition.items import Image, SlicePlan
from recon.reformat import PLANES, enclosing, resampled

Bytes = NDArray[np.uint8]

_SIDE = 384  # pixels of each of the three pictures
_BRIGHTEST = 205  # of the image; the lines are white
_ALIKE = 0.87
_NEAREST_LINES = 3.0  # pixels between lines; else only the first, the middle and the last slice are drawn
_CROSS, _CROSS_MM = 7, 6.0


def page(images: Sequence[Image], plan: SlicePlan) -> Bytes:
    """Return the page (y, x): slices of the plan as lines, AC and PC as crosses where they are near.

    Raises
    ------
    DataError
        There are no images.
    """
    if not images:
        raise DataError("picture of a plan", expected="images of the localizer", got="none")
    return np.concatenate([_picture(*_view(images, name, plan), plan) for name in ("sagittal", "coronal", "axial")], 1)


def _view(images: Sequence[Image], name: str, plan: SlicePlan) -> tuple[NDArray, Grid]:
    """Return the slice (y, x) of one orientation next to the middle of the plan, measured or cut, and its grid."""
    centre, axis = np.asarray(plan.centre_mm), np.asarray(PLANES[name][2])
    native = [i for i in images if abs(np.asarray(i.grid.normal) @ axis) > _ALIKE and i.data.shape[-1] > 1]
    if native:
        image = min(native, key=lambda i: min(_distances(i.grid, centre)))
        z = int(np.argmin(_distances(image.grid, centre)))
        data, grid = np.abs(image.data.reshape(image.grid.shape)[z : z + 1]), image.grid.plane(z)
    else:
        image = max(images, key=lambda i: i.grid.shape[0] * i.grid.spacing_mm[0])
        side = min(image.grid.spacing_mm)
        whole = enclosing(image.grid, PLANES[name], (side, side, side))
        z = int(np.argmin(_distances(whole, centre)))
        grid = whole.plane(z)
        data = resampled(np.abs(image.data).reshape(image.grid.shape), image.grid, grid)
    turned, grid = display_orientation(data, grid)
    return turned[0], grid


def _distances(grid: Grid, place: NDArray) -> list[float]:
    normal = np.asarray(grid.normal)
    return [abs(float((np.asarray(grid.plane(z).centre_mm) - place) @ normal)) for z in range(grid.shape[0])]


def _picture(data: NDArray, grid: Grid, plan: SlicePlan) -> Bytes:
    """Return a square picture of one slice with the plan's lines in it."""
    step = max(n * s for n, s in zip(data.shape, grid.spacing_mm[1:], strict=True)) / _SIDE
    scale = [s / step for s in grid.spacing_mm[1:]]
    window = max(float(np.percentile(data, 99.5)), 1e-6)
    grey = np.clip(zoom(data.astype(np.float32), scale, order=1, grid_mode=True, mode="nearest") / window, 0, 1)
    y, x = np.indices(grey.shape)
    at_y, at_x = (y + 0.5) / scale[0] - 0.5, (x + 0.5) / scale[1] - 0.5
    down = np.asarray(grid.y_dir) * grid.spacing_mm[1]
    right = np.asarray(grid.x_dir) * grid.spacing_mm[2]
    places = np.asarray(grid.origin_mm) + at_y[..., None] * down + at_x[..., None] * right
    out = (grey * _BRIGHTEST).astype(np.uint8)
    out[_lines(places, plan, step, np.asarray(grid.normal))] = 255
    for place in plan.landmarks_mm.values():
        _cross(out, places, np.asarray(place))
    page_ = np.zeros((_SIDE, _SIDE), np.uint8)
    height, width = (min(n, _SIDE) for n in out.shape)
    page_[:height, :width] = out[:height, :width]
    return page_


def _lines(places: NDArray, plan: SlicePlan, step: float, across: NDArray) -> NDArray[np.bool_]:
    """Return which pixels lie on the middle of a slice, within its field of view."""
    normal = np.asarray(plan.normal)
    away = places - np.asarray(plan.centre_mm)
    slope = float(np.sqrt(max(1 - (normal @ across) ** 2, 0.0)))  # change of the height along the picture
    if slope < 0.3:  # the picture lies in the slices
        slope = 1e-9
    number = away @ normal / plan.slice_distance_mm + (plan.n_slices - 1) / 2
    nearest = np.clip(np.round(number), 0, plan.n_slices - 1)
    if plan.slice_distance_mm / step * slope < _NEAREST_LINES:
        ends = np.array([0, (plan.n_slices - 1) // 2, plan.n_slices - 1])
        nearest = ends[np.abs(number[..., None] - ends).argmin(axis=-1)]
    on = np.abs(number - nearest) * plan.slice_distance_mm < 0.501 * step * slope
    for direction, side in ((plan.y_dir, plan.fov_mm[0]), (plan.in_plane, plan.fov_mm[1])):
        on &= np.abs(away @ np.asarray(direction)) < side / 2
    return np.asarray(on)


def _cross(out: Bytes, places: NDArray, place: NDArray) -> None:
    distance = np.linalg.norm(places - place, axis=-1)
    if distance.min() > _CROSS_MM:
        return
    y, x = np.unravel_index(int(distance.argmin()), distance.shape)
    out[max(y - _CROSS, 0) : y + _CROSS + 1, x] = 255
    out[y, max(x - _CROSS, 0) : x + _CROSS + 1] = 255


__all__ = ["page"]
