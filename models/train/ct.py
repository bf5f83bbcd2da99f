"""CT slices with known truth: labelled heads with HU, and procedural chests; noise of full and of part of the dose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from acquisition.geometry import Grid
from acquisition.sources.phantom.ct_people import person
from models.train.anatomy import draw, random_lesions, random_plane
from models.train.ct_noise import (
    Exposure,
    backprojected_noise,
    inserted_variance,
    kernel_filtered,
    slice_noise,
    variance,
)
from models.train.fields import smooth_field, texture, vessel_parts
from models.train.labels import Head
from models.train.tissue import HU, NUMBER

F32 = NDArray[np.float32]

_KERNELS = ("soft", "standard", "standard", "bone")
_ROUGH_HU = 2.5  # how much soft tissue varies in itself


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CtSample:
    """One slice at two doses; all (y, x) [HU]."""

    low: F32
    """At part of the dose."""
    sigma: F32
    """Standard deviation of the noise in `low`."""
    full: F32
    """At full dose; the noise of `low` contains this one's."""
    target: F32
    """Without noise, as sharp as the kernel."""


def head_slice(head: Head, shape: tuple[int, int], rng: np.random.Generator, *, pixel_mm: float) -> F32:
    """Return a slice of a head (y, x) [HU]: grey and white matter, skull with marrow, lesions, calcifications."""
    plane = random_plane(
        head, shape, pixel_mm, rng=rng, thickness_mm=float(rng.choice([1.0, 2.0, 4.0])), orientation="axial"
    )
    values = HU * rng.normal(1, 0.03, len(HU)) + rng.normal(0, 1.5, len(HU)) * (np.abs(HU) < 200)
    values[NUMBER["air"]] = -1000.0
    bone = rng.uniform(0.75, 1.25)
    values[NUMBER["cortical_bone"]] *= bone
    values[NUMBER["marrow"]] *= bone
    columns = np.stack([values + 1000, np.abs(HU) < 200, (values > 150) * 1.0], axis=1)
    drawn = draw(head, plane, columns, lesions=random_lesions(head, plane, rng, mean=2.0))
    grain = texture(shape, pixel_mm, rng)
    return (drawn[0] - 1000 + _ROUGH_HU * grain * drawn[1] + 60 * grain * drawn[2]).astype(np.float32)


def chest_slice(shape: tuple[int, int], rng: np.random.Generator, *, pixel_mm: float) -> F32:
    """Return a slice of a procedural chest (y, x) [HU]: a layer of fat, ribs, vessels of all sizes, texture."""
    grid = Grid.from_centre(
        (0.0, 0.0, float(rng.uniform(-70, 70))),
        shape=(1, *shape),
        spacing_mm=(float(rng.choice([1.0, 3.0])), pixel_mm, pixel_mm),
        directions=((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    )
    someone = person("chest", int(rng.integers(1 << 31)), iodine_mg_per_ml=float(rng.choice([0.0, rng.uniform(3, 12)])))
    hu = 1000 * someone.render(grid, subsamples=(2, 2))[0] - 1000
    grain = texture(shape, pixel_mm, rng)
    hu = _with_wall(hu, pixel_mm, grain, rng)
    lung, soft = _soft_step((-550 - hu) / 150) * (hu > -960), _soft_step((hu + 250) / 150)
    for scale in (2.6, 1.5, 0.8):  # large vessels are few, small ones many
        part = vessel_parts(shape, pixel_mm / scale, rng)
        hu = hu + lung * part * (40 - hu)
    hu = hu + lung * (22 * grain + 30 * smooth_field(shape, 60 / pixel_mm, rng)) + soft * 5 * grain
    return hu.astype(np.float32)


def _with_wall(hu: NDArray, pixel_mm: float, grain: F32, rng: np.random.Generator) -> NDArray:
    """Return a chest with fat below the skin and between the muscles, and with ribs around the lungs."""
    shape = hu.shape
    inside = ndimage.binary_fill_holes(hu > -400)
    depth = pixel_mm * ndimage.distance_transform_edt(inside)
    lung = ndimage.binary_opening(inside & (hu < -500), iterations=2)
    muscle = _soft_step((hu + 60) / 60) * (hu < 35)
    uneven = smooth_field(shape, 30 / pixel_mm, rng)
    layer = _soft_step((rng.uniform(5, 24) * (1 + 0.25 * uneven) - depth) / pixel_mm) * (depth > 1.8)
    between = _soft_step((smooth_field(shape, 9 / pixel_mm, rng) + 0.3 * grain - 0.9) / 0.2)
    hu = hu - muscle * np.maximum(layer, between) * (hu + 100 + 6 * grain)
    if not lung.any():
        return hu
    away = pixel_mm * ndimage.distance_transform_edt(~lung)
    y, x = np.indices(shape) - np.asarray(ndimage.center_of_mass(lung))[:, None, None]
    angle = np.arctan2(y, x / 1.4)
    where = np.cos(rng.integers(9, 15) * angle + rng.uniform(0, 6) + 0.4 * uneven)
    rib = (
        _soft_step((4.5 - np.abs(away - 6.5)) / pixel_mm) * _soft_step((where - 0.25) * 6) * (np.abs(x) > 18 / pixel_mm)
    )
    core = _soft_step((2.5 - np.abs(away - 6.5)) / pixel_mm) * _soft_step((where - 0.45) * 6)
    bone, marrow = rng.uniform(550, 1000), rng.uniform(120, 350)
    return hu + rib * ((depth > 4) & (depth < 42)) * (bone - core * (bone - marrow) - hu)


def _soft_step(x: NDArray) -> NDArray:
    return np.clip(x + 0.5, 0, 1)


def ct_sample(truth: F32, rng: np.random.Generator, *, pixel_mm: float, dose: float | None = None) -> CtSample:
    """Return a slice with the noise of full dose, and with that of part of it.

    Parameters
    ----------
    truth
        The slice without noise (y, x), square [HU].
    rng
        Draws exposure, kernel and noise.
    pixel_mm
        Side of a pixel [mm].
    dose
        Part of the full dose; a quarter, or from 0.05 to 0.5, when None.
    """
    dose = float(rng.choice([0.25, rng.uniform(0.05, 0.5)])) if dose is None else dose
    exposure = Exposure(
        photons=float(np.exp(rng.uniform(np.log(1.5e5), np.log(2.5e6)))), kernel=str(rng.choice(_KERNELS))
    )
    target = kernel_filtered(truth, exposure.kernel)
    lines, photons = slice_noise(truth, pixel_mm, exposure)
    first = variance(lines, photons, electronic=exposure.electronic)
    second = inserted_variance(lines, photons, dose, electronic=exposure.electronic)
    full, full_sd = backprojected_noise(np.sqrt(first), pixel_mm, exposure, rng=rng)
    more, more_sd = backprojected_noise(np.sqrt(second), pixel_mm, exposure, rng=rng)
    return CtSample(
        low=target + full + more, sigma=np.hypot(full_sd, more_sd).astype(np.float32), full=target + full, target=target
    )
