"""The NEMA body phantom is found however it lies, and its background regions are clear of everything else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from acquisition.errors import DataError
from acquisition.geometry import Grid
from acquisition.items import Image
from acquisition.sources.phantom.pet_objects import nema_body
from recon.pet.iec import DIAMETERS_MM, Pose, background_mm, located, upright
from recon.pet.nema import quality

GRID = Grid.from_centre((0, 0, 0), shape=(31, 81, 95), spacing_mm=(4, 4, 4), directions=np.eye(3))
HOT = (4.0,) * 6
COLD_LARGE = (4.0, 4.0, 4.0, 4.0, 0.0, 0.0)
LIES = {
    "as built": (0.0, (0.0, 0.0, 0.0), 1, HOT),
    "shifted and turned": (37.0, (12.0, -9.0, 11.0), 1, HOT),
    "turned over, two cold": (200.0, (5.0, 8.0, -13.0), -1, COLD_LARGE),
}


def phantom(name: str, noise: float = 0.1) -> tuple[Image, dict]:
    turned, shift, side, ratios = LIES[name]
    c, s = np.cos(np.deg2rad(turned)), np.sin(np.deg2rad(turned))
    matrix = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag([1, side, 1])
    body = nema_body(cold=tuple(n for n, r in enumerate(ratios) if r == 0)).transformed(matrix, shift)
    data = gaussian_filter(body.activity.render(GRID, subsamples=(2, 2)), 1.2)
    data += noise * 5300 * np.random.default_rng(1).standard_normal(data.shape)
    return Image(data=data.astype(np.float32), grid=GRID, unit="Bq/mL"), dict(body.landmarks_mm)


@pytest.mark.parametrize("name", LIES)
def test_spheres_are_found_where_they_lie(name: str) -> None:
    image, places = phantom(name)
    ratios = LIES[name][3]
    pose = located(image, ratios)
    assert pose.turn == LIES[name][2]
    for number, diameter in enumerate(DIAMETERS_MM):
        assert np.linalg.norm(np.subtract(pose.sphere(number), places[f"sphere_{diameter:.0f}"])) < 1.5
    found = quality(image, pose.spheres(ratios), background_mm=background_mm(image, pose), lung_mm=pose.centre_mm)
    contrast = [s.contrast_percent for s in found.spheres]
    assert found.background == pytest.approx(5300, rel=0.01) and found.lung_percent < 6
    assert 50 < contrast[5] < 90 and contrast[0] < 25 and contrast[0] < contrast[2] < contrast[5]


@pytest.mark.parametrize("name", LIES)
def test_background_is_clear_of_spheres_lung_and_wall(name: str) -> None:
    image, _ = phantom(name)
    pose = located(image, LIES[name][3])
    regions = np.array(background_mm(image, pose))
    assert regions.shape == (12, 2) and len(np.unique(regions, axis=0)) == 12
    for middle, radius in ((pose.centre_mm, 25.0), *((pose.sphere(n), d / 2) for n, d in enumerate(DIAMETERS_MM))):
        assert np.hypot(*(regions - middle[:2]).T).min() >= radius + 18.5 + 4
    turned, shift, *_ = LIES[name]
    c, s = np.cos(np.deg2rad(turned)), np.sin(np.deg2rad(turned))
    x, y = ((regions - shift[:2]) @ np.array([[c, -s], [s, c]])).T
    assert ((x / (147 - 18.5)) ** 2 + (y / (115 - 18.5)) ** 2).max() <= 1


@pytest.mark.parametrize("axes", [(1,), (2,), (1, 2)])
def test_images_of_other_positions_are_set_upright(axes: tuple[int, ...]) -> None:
    image, _ = phantom("shifted and turned")
    other = image
    for axis in axes:
        other = replace(other, data=np.flip(other.data, axis), grid=other.grid.flipped(axis))
    assert other.grid != image.grid
    back = upright(other)
    np.testing.assert_array_equal(back.data, image.data)
    np.testing.assert_allclose(back.grid.affine, image.grid.affine, atol=1e-9)


def test_what_is_no_phantom_is_refused() -> None:
    image, _ = phantom("as built")
    uniform = gaussian_filter(nema_body(ratio=1.0).activity.render(GRID, subsamples=(2, 2)), 1.2)
    with pytest.raises(DataError, match=r"expected the IEC body phantom .* got a contrast of"):
        located(replace(image, data=uniform))
    with pytest.raises(DataError, match="got nothing in it"):
        located(replace(image, data=np.zeros(GRID.shape)))
    coronal = Grid.from_centre((0, 0, 0), shape=GRID.shape, spacing_mm=(4, 4, 4), directions=np.eye(3)[[0, 2, 1]])
    with pytest.raises(DataError, match="expected transaxial slices"):
        upright(replace(image, grid=coronal))
    far = Pose(centre_mm=(0.0, 0.0, 50.0), angle_rad=0.0, turn=1)
    with pytest.raises(DataError, match=r"slices from 2[0-9] to 3[0-9] of 31"):
        background_mm(image, far)
