"""Where the uniform disc of a test object lies in a slice, and where its noise is looked at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, binary_opening, label

from acquisition.errors import DataError
from recon.ct.quality import Slice

_AIR_HU = -500.0
_THIN_MM = 5.0  # what is thinner is a couch or a holder
_ROUND = 0.04  # part of the object that may lie outside the circle of the same area


@dataclass(frozen=True, slots=True, kw_only=True)
class Disc:
    """A circle in a slice."""

    centre_mm: tuple[float, float]
    """(x, y) [mm]."""
    radius_mm: float
    """Radius [mm]."""


def round_object(image: Slice) -> Disc:
    """Return the largest thing in a slice that is no air, as a disc; thin things, such as a couch, are left out.

    Raises
    ------
    DataError
        There is nothing, or it is not round.
    """
    solid: NDArray[np.bool_] = binary_fill_holes(image.hu > _AIR_HU)
    reach = max(1, round(_THIN_MM / image.pixel_mm))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    solid = binary_opening(np.pad(solid, reach), x**2 + y**2 <= reach**2)[reach:-reach, reach:-reach]
    names, n = label(solid)
    if not n:
        raise DataError("test object", expected="something in the air", got=f"nothing above {_AIR_HU:g} HU")
    largest = names == 1 + int(np.argmax(np.bincount(names.ravel())[1:]))
    rows, columns = np.nonzero(largest)
    centre = float(image.xs_mm[columns].mean()), float(image.ys_mm[rows].mean())
    radius = float(np.sqrt(len(rows) / np.pi)) * image.pixel_mm
    outside = float((image.distance_mm(centre)[largest] > radius).mean())
    if outside > _ROUND:
        raise DataError(
            "test object",
            expected="a round one",
            got=f"{100 * outside:.0f} % of it beside the circle of its area",
            action="say where the uniform region is",
        )
    return Disc(centre_mm=centre, radius_mm=radius)


def squares_in(disc: Disc, side_mm: float) -> list[tuple[float, float]]:
    """Return the centres (x, y) [mm] of squares that fill a disc, each overlapping half of the next.

    Raises
    ------
    DataError
        Not one fits in.
    """
    n = int(2 * disc.radius_mm / side_mm)
    steps = np.arange(-n, n + 1) * (side_mm / 2)
    inside = [
        (float(disc.centre_mm[0] + x), float(disc.centre_mm[1] + y))
        for y in steps
        for x in steps
        if np.hypot(abs(x) + side_mm / 2, abs(y) + side_mm / 2) <= disc.radius_mm
    ]
    if not inside:
        raise DataError("NPS", expected=f"a disc that holds squares of {side_mm:g} mm", got=f"{disc.radius_mm:g} mm")
    return inside
