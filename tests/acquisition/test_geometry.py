"""Voxels keep their place in the patient whatever is flipped, exchanged or cut out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acquisition.errors import DataError
from acquisition.geometry import Grid, display_orientation


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    q, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    shape = tuple(int(n) for n in rng.integers(1, 7, 3))
    spacing = tuple(float(s) for s in rng.uniform(0.3, 8, 3))
    return Grid.from_centre(rng.uniform(-200, 200, 3), shape=shape, spacing_mm=spacing, directions=list(q))


def places(data: np.ndarray, grid: Grid) -> dict[float, tuple[float, ...]]:
    """Value of each voxel -> its rounded position; values are unique."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in data.shape), indexing="ij"), -1).reshape(-1, 3)
    return {float(data[tuple(i)]): tuple(np.round(grid.world(i), 6) + 0.0) for i in index}


def test_the_first_voxel_follows_from_the_centre() -> None:
    grid = Grid.from_centre(
        (10, 20, 30), shape=(3, 4, 6), spacing_mm=(5, 2, 1), directions=[(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    )
    assert grid.origin_mm == (10 - 2.5, 20 - 3, 30 - 5)
    assert grid.centre_mm == (10, 20, 30)
    assert grid.thickness_mm == 5


@given(grids())
def test_affine_takes_every_corner_where_world_says(grid: Grid) -> None:
    for corner in np.ndindex(2, 2, 2):
        z, y, x = np.array(corner) * (np.array(grid.shape) - 1)
        np.testing.assert_allclose((grid.affine @ [x, y, z, 1])[:3], grid.world((z, y, x)))


@given(grids(), st.sampled_from([0, 1, 2]))
def test_flipping_array_and_grid_moves_nothing(grid: Grid, axis: int) -> None:
    data = np.arange(np.prod(grid.shape), dtype=float).reshape(grid.shape)
    before, after = places(data, grid), places(np.flip(data, axis), grid.flipped(axis))
    for value, place in before.items():
        np.testing.assert_allclose(after[value], place, atol=2e-6)


@given(grids())
def test_display_orientation_moves_nothing_and_faces_the_reader(grid: Grid) -> None:
    data = np.arange(np.prod(grid.shape), dtype=float).reshape(grid.shape)
    turned, new = display_orientation(data, grid)
    assert turned.shape == new.shape
    before, after = places(data, grid), places(turned, new)
    for value, place in before.items():
        np.testing.assert_allclose(after[value], place, atol=2e-6)
    again, same = display_orientation(turned, new)
    assert same == new
    np.testing.assert_array_equal(again, turned)


@pytest.mark.parametrize(
    ("x_dir", "y_dir", "right", "down"),
    [
        ((-1, 0, 0), (0, -1, 0), (1, 0, 0), (0, 1, 0)),  # axial: left on the right, posterior down
        ((0, 0, 1), (0, -1, 0), (0, 1, 0), (0, 0, -1)),  # sagittal: posterior on the right, feet down
        ((0, 0, 1), (1, 0, 0), (1, 0, 0), (0, 0, -1)),  # coronal: left on the right, feet down
    ],
)
def test_standard_planes_are_shown_as_radiologists_expect(x_dir, y_dir, right, down) -> None:
    z_dir = np.cross(x_dir, y_dir)
    grid = Grid.from_centre((0, 0, 0), shape=(1, 2, 3), spacing_mm=(1, 1, 1), directions=[x_dir, y_dir, z_dir])
    _, turned = display_orientation(np.zeros(grid.shape), grid)
    assert turned.x_dir == pytest.approx(right)
    assert turned.y_dir == pytest.approx(down)


def test_a_plane_of_a_volume_lies_where_the_volume_has_it() -> None:
    grid = Grid.from_centre(
        (0, 0, 0), shape=(5, 4, 4), spacing_mm=(3, 1, 1), directions=[(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    )
    assert grid.plane(4).origin_mm == grid.world((4, 0, 0))
    assert grid.plane(4).shape == (1, 4, 4)


@pytest.mark.parametrize(
    ("directions", "message"),
    [
        ([(1, 0, 0), (1, 0.2, 0), (0, 0, 1)], "perpendicular"),
        ([(0, 0, 0), (0, 1, 0), (0, 0, 1)], "unit vector"),
        ([(np.nan, 0, 0), (0, 1, 0), (0, 0, 1)], "unit vector"),
    ],
)
def test_impossible_directions_are_refused(directions, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Grid.from_centre((0, 0, 0), shape=(1, 1, 1), spacing_mm=(1, 1, 1), directions=directions)
