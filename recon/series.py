"""Images of one series gathered: all contrasts of a slice, or all slices of a volume."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from acquisition.errors import DataError
from acquisition.geometry import Grid
from acquisition.items import Image, Position


def stacked(images: Iterable[Image]) -> Image:
    """Return the slices of one frame as a volume, ordered along their normal.

    Raises
    ------
    DataError
        They differ in size or direction, or their distances are uneven by more than 1 %.
    """
    found = list(images)
    if len(found) == 1:
        return found[0]
    first = found[0].grid
    normal = np.asarray(first.z_dir)
    found.sort(key=lambda i: float(np.asarray(i.grid.origin_mm) @ normal))
    grids = [i.grid for i in found]
    places = np.array([np.asarray(g.origin_mm) @ normal for g in grids])
    steps = np.diff(places)
    same = all(_alike(g, first) for g in grids)
    if not same or steps.min() <= 0 or np.ptp(steps) > 0.01 * steps.mean():
        raise DataError(
            "stack of slices",
            expected="slices of one size and direction, evenly spaced",
            got=f"{len(found)} slices, distances {steps.min():.3f} to {steps.max():.3f} mm",
            action="reconstruct the slices alone",
        )
    spacing = (float(steps.mean()), *first.spacing_mm[1:])
    grid = replace(grids[0], shape=(len(found), *first.shape[1:]), spacing_mm=spacing)
    data = np.concatenate([i.data for i in found], axis=-3)
    return replace(
        found[0],
        data=data,
        grid=grid,
        position=replace(found[0].position, slice=0),
        verdicts=tuple(dict.fromkeys(v for i in found for v in i.verdicts)),
        last_readout_s=max(i.last_readout_s for i in found),
    )


def frame_of(position: Position) -> Position:
    """Return the counters without the slice."""
    return replace(position, slice=0)


def _alike(one: Grid, other: Grid) -> bool:
    directions = np.allclose([one.x_dir, one.y_dir], [other.x_dir, other.y_dir], atol=1e-4)
    return directions and one.shape == other.shape and np.allclose(one.spacing_mm, other.spacing_mm, rtol=1e-4)
