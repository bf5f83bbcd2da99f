"""Cylinders and boxes: the same solid in space, along a ray, on a grid and in k-space."""

from __future__ import annotations

import numpy as np
import pytest

from acquisition.geometry import Grid
from acquisition.sources.phantom.objects import Ellipsoid, Phantom, Tissue
from acquisition.sources.phantom.solids import Box, Cylinder
from kernels.ct_lines import solid_lines

SOLIDS = (Ellipsoid, Cylinder, Box)
VOLUME = {Ellipsoid: 4 / 3 * np.pi, Cylinder: 2 * np.pi, Box: 8.0}
AXIAL = ((1, 0, 0), (0, 1, 0), (0, 0, 1))


def tilted(kind: type[Ellipsoid]) -> Ellipsoid:
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    return kind(np.array([4.0, -3.0, 2.0]), turn @ np.diag([9.0, 6.0, 12.0]), Tissue(2.0, np.inf))


@pytest.mark.parametrize("kind", SOLIDS)
def test_rays_count_what_points_say_lies_inside(kind: type[Ellipsoid]) -> None:
    solid = tilted(kind)
    rng = np.random.default_rng(1)
    spots, ends = rng.uniform(-60, -30, (200, 3)), rng.uniform(30, 60, (200, 1, 3))
    bodies = (
        solid.centre[None],
        np.linalg.inv(solid.matrix)[None],
        np.array([kind.shape]),
        np.array([[1.0], [0.5]]),
    )
    out = np.empty((2, 200, 1, 1), np.float32)
    solid_lines(spots, ends, np.zeros(1), bodies, out)
    steps = (np.arange(4000) + 0.5)[:, None, None] / 4000
    length = np.linalg.norm(ends[:, 0] - spots, axis=-1)
    summed = solid.contains(spots + steps * (ends[:, 0] - spots)).mean(axis=0) * length
    np.testing.assert_allclose(out[0, :, 0, 0], summed, atol=0.15)
    np.testing.assert_allclose(out[1], out[0] / 2, rtol=1e-6)
    assert (out[0] > 5).sum() > 5


@pytest.mark.parametrize("kind", SOLIDS)
def test_rays_along_an_axis_of_the_solid_are_exact(kind: type[Ellipsoid]) -> None:
    bodies = (np.zeros((1, 3)), np.eye(3)[None] / 10, np.array([kind.shape]), np.ones((1, 1)))
    spots = np.array([[0.0, 0.0, -50.0], [-50.0, 0.0, 0.0], [0.0, 15.0, -50.0], [-50.0, 0.0, 15.0]])
    out = np.empty((1, 4, 1, 1), np.float32)
    solid_lines(spots, (spots * [-1, 1, -1])[:, None] + [[0, 0, 0]], np.zeros(1), bodies, out)
    assert out[0, 0, 0, 0] == pytest.approx(20) and out[0, 1, 0, 0] == pytest.approx(20)
    assert out[0, 2, 0, 0] == 0
    parallel = np.array([[-50.0, 0.0, 15.0]])
    solid_lines(parallel, np.array([[[50.0, 0.0, 15.0]]]), np.zeros(1), bodies, out[:, :1])
    assert out[0, 0, 0, 0] == 0


@pytest.mark.parametrize("kind", SOLIDS)
def test_extent_volume_and_grid_agree(kind: type[Ellipsoid]) -> None:
    solid = tilted(kind)
    volume = VOLUME[kind] * 9 * 6 * 12
    assert abs(solid.spectrum(np.zeros(3))) == pytest.approx(volume, rel=1e-6)
    grid = Grid.from_centre((4.0, -3.0, 2.0), shape=(40, 40, 40), spacing_mm=(1.0,) * 3, directions=AXIAL)
    image = Phantom(ellipsoids=(solid,)).render(grid, subsamples=(2, 2))
    assert image.sum() == pytest.approx(2 * volume, rel=3e-3)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1)[..., ::-1]
    points = index @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    for axis in np.eye(3):
        low, high = solid.extent_mm(axis)
        inside = points[solid.contains(points)] @ axis
        assert low - 1e-9 <= inside.min() < low + 1.5 and high - 1.5 < inside.max() <= high + 1e-9
    for k in ([0.03, 0.0, 0.01], [0.01, -0.02, 0.02]):
        summed = (image * np.exp(-2j * np.pi * points @ np.array(k))).sum()
        assert abs(summed - 2 * solid.spectrum(np.array(k))) < 0.01 * 2 * volume


def test_an_upright_solid_on_the_grid_has_straight_edges() -> None:
    grid = Grid.from_centre((0.0, 0.0, 0.0), shape=(10, 10, 10), spacing_mm=(1.0,) * 3, directions=AXIAL)
    box = Phantom(ellipsoids=(Box(np.zeros(3), np.diag([2.25, 3.0, 2.0]), Tissue(1.0, np.inf)),)).render(grid)
    np.testing.assert_allclose(box[5, 5], [0, 0, 0.25, 1, 1, 1, 1, 0.25, 0, 0], atol=1e-6)
    assert not box[1].any() and not box[5, 0].any()
    rod = Phantom(ellipsoids=(Cylinder(np.zeros(3), np.diag([4.0, 4.0, 3.0]), Tissue(1.0, np.inf)),))
    grid = Grid.from_centre(
        (0.0, 0.0, 0.0), shape=(9, 9, 9), spacing_mm=(1.0,) * 3, directions=((0, 0, 1), (0, 1, 0), (1, 0, 0))
    )
    np.testing.assert_allclose(rod.render(grid)[4, 4], [0, 0.5, 1, 1, 1, 1, 1, 0.5, 0], atol=1e-6)
