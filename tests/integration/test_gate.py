"""The gate's decision: the gravest finding counts, each check speaks once, and only extras wait."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.items import Image
from acquisition.verdict import Level, Verdict
from integration.gate import Findings, decide, holds
from tests.integration.dicom_samples import grid_of


def said(check: str, level: Level, value: float | None = None, limit: float | None = None) -> Verdict:
    return Verdict(check=check, level=level, advice=f"{check} says {level}.", value=value, limit=limit)


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([], Level.PASS),
        ([Level.PASS, Level.PASS], Level.PASS),
        ([Level.PASS, Level.FLAG], Level.FLAG),
        ([Level.HOLD, Level.PASS, Level.FLAG], Level.HOLD),
    ],
)
def test_the_gravest_finding_decides(levels: list[Level], expected: Level) -> None:
    decision = decide(said(f"check.{i}", level) for i, level in enumerate(levels))
    assert decision.level is expected
    assert len(decision.reasons) == sum(level is not Level.PASS for level in levels)
    assert all(v.advice in decision.text for v in decision.reasons)


def test_reasons_come_gravest_first() -> None:
    decision = decide([said("a", Level.FLAG), said("b", Level.HOLD), said("c", Level.PASS)])
    assert decision.as_dict()["checks"] == ["b", "a"]
    assert "A person decides" in decision.text


def test_a_check_that_speaks_of_many_images_speaks_once_by_its_worst() -> None:
    snr = [said("snr", Level.FLAG, value, 10.0) for value in (8.0, 2.0, 9.0)]
    (found,) = Findings([said("snr", Level.PASS, 30.0, 10.0), *snr]).worst()
    assert (found.level, found.value) == (Level.FLAG, 2.0)
    assert found.evidence == "the worst of 3 findings"
    (alone,) = Findings([snr[0]]).worst()
    assert alone == snr[0]


def test_only_what_is_not_conventional_waits() -> None:
    image = Image(data=np.ones((4, 6, 8), np.float32), grid=grid_of())
    held = image.with_verdicts(said("x", Level.HOLD))
    assert not holds(image)
    assert not holds(held)
    assert holds(replace(held, output="map"))
    assert not holds(replace(image.with_verdicts(said("x", Level.FLAG)), output="map"))
