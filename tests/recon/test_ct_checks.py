"""Are all planned slices there?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.errors import ConfigError
from acquisition.geometry import Grid
from acquisition.items import Image
from acquisition.scan import Scan
from acquisition.sources.phantom.ct import CtExam, CtSimulation, gantry
from acquisition.verdict import Level, Verdict
from recon.ct.checks import CheckRange

SCAN = CtSimulation(CtExam(ct=gantry())).scan


def image(z_mm: float, *, output: str = "conventional", unit: str = "HU") -> Image:
    grid = Grid(
        shape=(1, 4, 4),
        spacing_mm=(3.0, 1.0, 1.0),
        origin_mm=(0.0, 0.0, z_mm),
        x_dir=(1.0, 0.0, 0.0),
        y_dir=(0.0, 1.0, 0.0),
        z_dir=(0.0, 0.0, 1.0),
        thickness_mm=4.0,
    )
    return Image(data=np.zeros((1, 4, 4), np.float32), grid=grid, unit=unit, output=output)


def said(step: CheckRange, places: list[float], scan: Scan = SCAN) -> dict[str, Verdict]:
    step.open(scan)
    for z in places:
        item = image(z)
        assert list(step.feed(item)) == [item]
    return {v.check: v for v in step.close() if isinstance(v, Verdict)}


@pytest.mark.parametrize("planned", [(-12.0, 11.0), (11.0, -12.0)])
@pytest.mark.parametrize("order", [1, -1])
def test_what_is_covered_passes(planned: tuple[float, float], order: int) -> None:
    found = said(CheckRange(planned_mm=planned), [-10.0, -7.0, -4.0, -1.0, 2.0, 5.0, 8.0, 11.0][::order])
    assert {v.level for v in found.values()} == {Level.PASS} and len(found) == 2


@pytest.mark.parametrize(("planned", "missing", "end"), [((-30.0, 10.0), 18.0, "feet"), ((-10.0, 25.0), 12.0, "head")])
def test_a_missing_end_is_named(planned: tuple[float, float], missing: float, end: str) -> None:
    found = said(CheckRange(planned_mm=planned), [-10.0, -7.0, -4.0, -1.0, 2.0, 5.0, 8.0, 11.0])["check.ct_range"]
    assert found.level is Level.FLAG and found.value == pytest.approx(missing)
    assert f"{missing:.0f} mm at the {end} end" in found.advice


def test_a_gap_is_named() -> None:
    found = said(CheckRange(), [-10.0, -7.0, -1.0, 2.0])
    assert set(found) == {"check.ct_gaps"}
    assert found["check.ct_gaps"].level is Level.FLAG and "behind z = -7.0 mm" in found["check.ct_gaps"].evidence


def test_the_plan_may_stand_in_the_header() -> None:
    scan = replace(SCAN, user_parameters={"planned_start_mm": "-40", "planned_end_mm": 12.0})
    assert said(CheckRange(), [-10.0, -7.0], scan)["check.ct_range"].level is Level.FLAG
    assert said(CheckRange(planned_mm=(-12.0, -5.0)), [-10.0, -7.0], scan)["check.ct_range"].level is Level.PASS
    with pytest.raises(ConfigError, match="planned_end_mm: expected numbers"):
        CheckRange().open(replace(SCAN, user_parameters={"planned_start_mm": "top", "planned_end_mm": 1.0}))


def test_only_ct_slices_count() -> None:
    step = CheckRange(planned_mm=(0.0, 10.0))
    step.open(SCAN)
    for item in ("other", image(0.0, output="denoised"), image(0.0, unit="a.u.")):
        assert list(step.feed(item)) == [item]
    assert list(step.close()) == []
    with pytest.raises(ConfigError, match="0 mm or more"):
        CheckRange(tolerance_mm=-1)
