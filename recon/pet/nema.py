"""Image quality as NEMA NU 2 measures it: contrast recovery, variability of the background, what is left in the lung.

``Q = (C_sphere / C_background - 1) / (a_sphere / a_background - 1)``, hot or cold; ``N = SD / C_background`` of 12
regions in 5 slices, as large as the sphere; ``L = C_lung / C_background``. Regions are discs in transaxial slices;
pixels that a disc cuts count in part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import DataError
from acquisition.geometry import Vector
from acquisition.items import Image

SLICES_MM = (-20.0, -10.0, 0.0, 10.0, 20.0)
"""Slices of the background, from that of the spheres [mm]."""
_PARTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Sphere:
    """One sphere of the phantom."""

    diameter_mm: float
    """Inner diameter [mm]."""
    centre_mm: Vector
    """Where it is, LPS [mm]."""
    ratio: float
    """Its activity over that of the background; 0: cold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SphereQuality:
    """What an image shows of one sphere."""

    diameter_mm: float
    """Of the sphere [mm]."""
    contrast_percent: float
    """Contrast recovery Q [%]."""
    variability_percent: float
    """Variability of the background in regions of its size N [%]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What an image shows of the phantom."""

    spheres: tuple[SphereQuality, ...]
    """In the order given."""
    lung_percent: float
    """Mean of the lung insert over that of the background [%]."""
    background: float
    """Mean of the largest background regions, in the unit of the image."""


def quality(
    image: Image, spheres: Sequence[Sphere], *, background_mm: Sequence[tuple[float, float]], lung_mm: Vector
) -> Quality:
    """Return contrast recovery, variability and lung residual.

    Parameters
    ----------
    image
        Transaxial volume, x and y along the patient's.
    spheres
        Where they are and what they hold.
    background_mm
        Centres (x, y) of the background's regions, 12 by the standard [mm].
    lung_mm
        Centre of the lung insert.

    Raises
    ------
    DataError
        The volume is not transaxial, or a region lies outside.
    """
    if not np.allclose([image.grid.x_dir, image.grid.y_dir], np.eye(3)[:2]):
        raise DataError("NEMA image quality", expected="x and y along the patient's", got=f"x {image.grid.x_dir}")
    plane = spheres[0].centre_mm[2]
    found, level = [], 0.0
    for sphere in spheres:
        means = np.array(
            [disc_mean(image, (x, y, plane + z), sphere.diameter_mm) for z in SLICES_MM for x, y in background_mm]
        )
        level = float(means.mean())
        seen = disc_mean(image, sphere.centre_mm, sphere.diameter_mm) / level
        contrast = (seen - 1) / (sphere.ratio - 1)
        found.append(
            SphereQuality(
                diameter_mm=sphere.diameter_mm,
                contrast_percent=100 * contrast,
                variability_percent=float(100 * means.std(ddof=1) / level),
            )
        )
    lung = np.mean([disc_mean(image, (lung_mm[0], lung_mm[1], plane + z), 30.0) for z in SLICES_MM])
    return Quality(spheres=tuple(found), lung_percent=float(100 * lung / level), background=level)


def disc_mean(image: Image, centre_mm: Vector, diameter_mm: float) -> float:
    """Return the mean in a transaxial disc, in the slice nearest to its centre.

    Raises
    ------
    DataError
        The disc is not within the image.
    """
    (nz, ny, nx), (dz, dy, dx), origin = image.grid.shape, image.grid.spacing_mm, image.grid.origin_mm
    z = round((centre_mm[2] - origin[2]) / (dz * np.sign(image.grid.z_dir[2])))
    y, x = (centre_mm[1] - origin[1]) / dy, (centre_mm[0] - origin[0]) / dx
    ry, rx = diameter_mm / 2 / dy, diameter_mm / 2 / dx
    if not (0 <= z < nz and ry <= y + 0.5 <= ny - ry and rx <= x + 0.5 <= nx - rx):
        raise DataError("NEMA region", expected="within the image", got=f"centre {centre_mm} mm", action="check places")
    weights = _covered(np.arange(ny) - y, ry)[:, None, :, None] + _covered(np.arange(nx) - x, rx)[None, :, None, :]
    part = (weights <= 1).mean(axis=(2, 3))
    return float((image.data.reshape(image.grid.shape)[z] * part).sum() / part.sum())


def _covered(offset: NDArray[np.floating], radius: float) -> NDArray[np.floating]:
    """Return the squared distance of points within each pixel, in radii (pixel, `_PARTS`)."""
    parts = (np.arange(_PARTS) + 0.5) / _PARTS - 0.5
    return np.asarray(np.square((offset[:, None] + parts) / radius))
