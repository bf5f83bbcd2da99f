"""Pictures of a localizer for a plan: of each orientation the slice next to its middle, measured or cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import DataError
from acquisition.geometry import Grid, display_orientation
from acquisition.items import Image, SlicePlan
from acquisition.plan_lines import Line, plan_lines
from recon.reformat import PLANES, enclosing, resampled

_ALIKE = 0.87


def views(images: Sequence[Image], plan: SlicePlan) -> list[tuple[NDArray[np.float64], Grid, list[Line]]]:
    """Return a sagittal, a coronal and an axial picture (y, x) with their grids and the plan's lines.

    Raises
    ------
    DataError
        There are no images.
    """
    if not images:
        raise DataError("picture of a plan", expected="images of the localizer", got="none")
    shown = (_view(images, name, plan) for name in ("sagittal", "coronal", "axial"))
    return [(pixels, grid, plan_lines(plan, grid)) for pixels, grid in shown]


def _view(images: Sequence[Image], name: str, plan: SlicePlan) -> tuple[NDArray, Grid]:
    """Return the picture of one orientation, and its grid."""
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
    return np.asarray(turned[0], np.float64), grid


def _distances(grid: Grid, place: NDArray) -> list[float]:
    normal = np.asarray(grid.normal)
    return [abs(float((np.asarray(grid.plane(z).centre_mm) - place) @ normal)) for z in range(grid.shape[0])]


__all__ = ["views"]
