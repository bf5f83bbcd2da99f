"""Where planned slices cut a localizer: known places, nothing outside the image, nothing where planes are parallel."""

from __future__ import annotations

import numpy as np
import pytest

from acquisition.geometry import Grid
from acquisition.plan_lines import plan_lines
from acquisition.slice_plan import SlicePlan

SAGITTAL = Grid.from_centre(
    (0, 0, 0), shape=(1, 100, 120), spacing_mm=(5, 2, 2), directions=([0, 1, 0], [0, 0, -1], [-1, 0, 0])
)


def plan(**changes: object) -> SlicePlan:
    fields = {
        "name": "p",
        "centre_mm": (0.0, 10.0, 20.0),
        "normal": (0.0, 0.0, 1.0),
        "in_plane": (1.0, 0.0, 0.0),
        "fov_mm": (100.0, 80.0),
        "n_slices": 3,
        "slice_distance_mm": 10.0,
    }
    return SlicePlan(**(fields | changes))  # type: ignore[arg-type]


def ends(grid: Grid, line: object) -> np.ndarray:
    return np.array([grid.world((0, y, x)) for x, y in (line.start, line.stop)])  # type: ignore[attr-defined]


def test_axial_slices_are_level_lines_on_a_sagittal_image() -> None:
    lines = plan_lines(plan(), SAGITTAL)
    assert [line.slice for line in lines] == [0, 1, 2]
    for line, z in zip(lines, (10.0, 20.0, 30.0), strict=True):
        places = ends(SAGITTAL, line)
        np.testing.assert_allclose(places[:, 0], 0, atol=1e-6)
        np.testing.assert_allclose(places[:, 2], z, atol=1e-6)
        np.testing.assert_allclose(sorted(places[:, 1]), (-40, 60), atol=1e-6)


@pytest.mark.parametrize("degrees", [20.0, -20.0])
def test_a_tilt_is_drawn_with_its_sign(degrees: float) -> None:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    (line,) = plan_lines(plan(normal=(0.0, -s, c), n_slices=1), SAGITTAL)
    one, other = ends(SAGITTAL, line)
    way = (other - one) * np.sign(other[1] - one[1])
    assert np.rad2deg(np.arctan2(way[2], way[1])) == pytest.approx(degrees)


def test_every_end_lies_in_the_slice_and_in_the_image() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        normal, other = (v / np.linalg.norm(v) for v in rng.standard_normal((2, 3)))
        in_plane = np.cross(normal, other)
        in_plane /= np.linalg.norm(in_plane)
        some = plan(normal=tuple(normal), in_plane=tuple(in_plane), n_slices=7, fov_mm=(300.0, 260.0))
        for line in plan_lines(some, SAGITTAL):
            centre = np.asarray(some.centre_mm) + (line.slice - 3) * 10.0 * normal
            places = ends(SAGITTAL, line)
            np.testing.assert_allclose((places - centre) @ normal, 0, atol=1e-6)
            for x, y in (line.start, line.stop):
                assert -0.5 - 1e-9 <= x <= 119.5 + 1e-9
                assert -0.5 - 1e-9 <= y <= 99.5 + 1e-9


def test_what_does_not_meet_is_not_drawn() -> None:
    assert plan_lines(plan(normal=(1.0, 0.0, 0.0), in_plane=(0.0, 1.0, 0.0)), SAGITTAL) == []  # parallel
    assert plan_lines(plan(centre_mm=(90.0, 0.0, 0.0)), SAGITTAL) == []  # beside it
    assert plan_lines(plan(centre_mm=(0.0, 0.0, 400.0)), SAGITTAL) == []  # above it
    assert [line.slice for line in plan_lines(plan(centre_mm=(0.0, 0.0, 100.0)), SAGITTAL)] == [0, 1]
