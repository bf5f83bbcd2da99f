"""The slab of the next series: its geometry holds together, and survives JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from acquisition.errors import ConfigError
from acquisition.items import SlicePlan
from acquisition.slice_plan import plan_of

PLAN = SlicePlan(
    name="brain-acpc",
    centre_mm=(3.0, -4.0, 5.0),
    normal=(0.0, float(np.sin(0.2)), float(np.cos(0.2))),
    in_plane=(1.0, 0.0, 0.0),
    fov_mm=(220.0, 200.0),
    n_slices=7,
    slice_distance_mm=5.0,
    slice_thickness_mm=4.0,
    landmarks_mm={"AC": (0.0, 1.0, 2.0)},
    confidence=0.9,
    evidence={"turned_deg": 0.5},
)


def test_slices_lie_where_the_slab_says() -> None:
    grid = PLAN.grid(2.0)
    np.testing.assert_allclose(grid.centre_mm, PLAN.centre_mm, atol=1e-9)
    np.testing.assert_allclose(grid.normal, PLAN.normal, atol=1e-9)
    first, last = (np.asarray(grid.plane(z).centre_mm) for z in (0, 6))
    np.testing.assert_allclose(last - first, 30.0 * np.asarray(PLAN.normal), atol=1e-9)
    assert grid.shape == (7, 110, 100)
    assert PLAN.coverage_mm == 34.0


def test_slices_touch_where_no_thickness_is_named() -> None:
    assert replace(PLAN, slice_thickness_mm=0.0).coverage_mm == 35.0


def test_json_and_back_is_the_same_plan() -> None:
    assert plan_of(json.loads(json.dumps(PLAN.as_dict())), where="here") == PLAN


@pytest.mark.parametrize("change", [{"normal": (0.0, 0.0, 2.0)}, {"in_plane": PLAN.normal}])
def test_directions_must_fit(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="perpendicular unit vectors"):
        replace(PLAN, **change)


@pytest.mark.parametrize("change", [{"n_slices": 0}, {"fov_mm": (0.0, 10.0)}, {"slice_distance_mm": -1.0}])
def test_sizes_must_be_above_0(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="sizes above 0"):
        replace(PLAN, **change)


@pytest.mark.parametrize("document", [{}, {**PLAN.as_dict(), "normal": 3}, {**PLAN.as_dict(), "fov_mm": [1]}])
def test_other_json_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="here: slice plan"):
        plan_of(document, where="here")
