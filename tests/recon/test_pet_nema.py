"""NEMA measures against images of which they are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from acquisition.errors import DataError
from acquisition.geometry import Grid
from acquisition.items import Image
from recon.pet.nema import Sphere, disc_mean, quality

AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
GRID = Grid.from_centre((0, 0, 0), shape=(31, 101, 131), spacing_mm=(2.0, 2.0, 2.0), directions=AXES)
SPHERES = tuple(
    Sphere(diameter_mm=d, centre_mm=(57.2 * np.cos(a), 57.2 * np.sin(a), 0.0), ratio=r)
    for d, a, r in [(13.0, 0.0, 4.0), (22.0, 2.0, 4.0), (28.0, 4.0, 0.0)]
)
REGIONS = [(95 * np.cos(a), 84 * np.sin(a)) for a in 0.3 + np.arange(12) * np.pi / 6]
LUNG = (0.0, 0.0, 0.0)


def phantom(blur_mm: float = 0.0, noise: float = 0.0, lung: float = 0.0) -> Image:
    z, y, x = (GRID.origin_mm[2 - a] + np.arange(GRID.shape[a]) * 2.0 for a in range(3))
    data = np.full(GRID.shape, 500.0)
    data[:, np.hypot(x[None, :], y[:, None]) < 25] = 500 * lung
    for s in SPHERES:
        away = [c - at for c, at in zip((x, y, z), s.centre_mm, strict=True)]
        r = np.sqrt(away[2][:, None, None] ** 2 + away[1][None, :, None] ** 2 + away[0][None, None] ** 2)
        data[r < s.diameter_mm / 2 + 1.5] = 500 * s.ratio
    if blur_mm:
        data = gaussian_filter(data, blur_mm / 2.3548 / 2.0)
    return Image(data=data + noise * np.random.default_rng(1).standard_normal(data.shape), grid=GRID, unit="Bq/mL")


def test_a_perfect_image_recovers_all() -> None:
    found = quality(phantom(lung=0.1), SPHERES, background_mm=REGIONS, lung_mm=LUNG)
    assert [s.contrast_percent for s in found.spheres] == pytest.approx([100, 100, 100], abs=1e-9)
    assert [s.variability_percent for s in found.spheres] == pytest.approx([0, 0, 0], abs=1e-9)
    assert found.lung_percent == pytest.approx(10) and found.background == pytest.approx(500)


def test_blur_costs_small_spheres_most_and_noise_shows_as_variability() -> None:
    found = quality(phantom(blur_mm=8.0, noise=50.0), SPHERES, background_mm=REGIONS, lung_mm=LUNG)
    small, middle, cold = (s.contrast_percent for s in found.spheres)
    assert 30 < small < middle < 100 and 60 < cold < 100
    first, _, last = (s.variability_percent for s in found.spheres)
    pixels = np.pi * 6.5**2 / 4
    assert first == pytest.approx(10 / np.sqrt(pixels), rel=0.35) and last < first


def test_discs_cut_pixels() -> None:
    x = GRID.origin_mm[0] + 2.0 * np.arange(131)
    slope = Image(data=np.broadcast_to(x, GRID.shape), grid=GRID)
    assert disc_mean(slope, (3.3, 1.1, 0.0), 17.0) == pytest.approx(3.3, abs=0.02)
    upside = replace(slope, grid=GRID.flipped(0))
    assert disc_mean(upside, (3.3, 1.1, 10.0), 17.0) == pytest.approx(3.3, abs=0.02)


def test_what_lies_outside_is_refused() -> None:
    with pytest.raises(DataError, match="NEMA region: expected within the image"):
        disc_mean(phantom(), (128.0, 0.0, 0.0), 20.0)
    with pytest.raises(DataError, match="expected x and y along the patient's"):
        quality(replace(phantom(), grid=GRID.flipped(2)), SPHERES, background_mm=REGIONS, lung_mm=LUNG)
