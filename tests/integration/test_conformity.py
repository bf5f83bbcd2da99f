"""Conformity: a reference made of an exam fits it, and each fact that is changed is told of, and no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from acquisition.errors import ConfigError
from acquisition.geometry import Grid
from acquisition.items import Image
from acquisition.verdict import Level
from integration.conformity import (
    RULES,
    CheckProtocol,
    Facts,
    Places,
    Reference,
    compare,
    facts_of,
    read_reference,
    written_reference,
)
from tests.integration.dicom_ct_samples import ct_scan
from tests.integration.dicom_samples import full_scan, grid_of
from tests.integration.test_dicom_pet import pet_scan

FACTS: Facts = {
    "te_ms": (3.4, 6.8),
    "tr_ms": 2500.0,
    "ti_ms": (900.0,),
    "flip_deg": 15.0,
    "field_t": 2.89,
    "b_s_per_mm2": (0.0, 1000.0),
    "kvp": 120.0,
    "kernel": "soft",
    "ctdi_vol_mgy": 12.5,
    "dose_mbq": 310.0,
    "uptake_min": 60.0,
    "frame_s": 600.0,
    "tracer": "FDG",
    "matrix": (256.0, 256.0),
    "pixel_mm": (1.0, 1.0),
    "thickness_mm": 3.0,
    "coverage_mm": 150.0,
    "distance_mm": 3.3,
    "normal": (0.0, 0.0, 1.0),
    "rows_along": (1.0, 0.0, 0.0),
}
CHANGED: dict[str, tuple[object, object]] = {
    "te_ms": ((3.43, 6.83), (3.6, 6.8)),
    "tr_ms": (2520.0, 2000.0),
    "ti_ms": ((905.0,), (1000.0,)),
    "flip_deg": (15.5, 12.0),
    "field_t": (2.93, 1.5),
    "b_s_per_mm2": ((0.0, 1010.0), (0.0, 800.0)),
    "kvp": (120.5, 100.0),
    "kernel": ("SOFT", "bone"),
    "ctdi_vol_mgy": (14.0, 25.0),
    "dose_mbq": (290.0, 150.0),
    "uptake_min": (66.0, 95.0),
    "frame_s": (620.0, 300.0),
    "tracer": ("fdg", "PSMA"),
    "matrix": ((256.0, 256.0), (256.0, 224.0)),
    "pixel_mm": ((1.01, 1.0), (0.9, 0.9)),
    "thickness_mm": (3.1, 5.0),
    "coverage_mm": (145.0, 120.0),
    "distance_mm": (3.3, 3.9),
    "normal": ((0.0, 0.05, 0.9987), (0.0, 0.2588, 0.9659)),
    "rows_along": ((-1.0, 0.0, 0.0), (0.966, 0.2588, 0.0)),
}
REFERENCE = Reference(name="ref", modality="MR", expected=FACTS)


def deviating(facts: Facts, reference: Reference = REFERENCE) -> list[str]:
    verdicts = list(compare(reference, facts))
    assert verdicts
    return [v.check for v in verdicts if v.level is Level.FLAG]


def test_every_rule_is_tried() -> None:
    assert set(FACTS) == set(CHANGED) == set(RULES)


def test_the_exam_itself_conforms() -> None:
    (verdict,) = compare(REFERENCE, FACTS)
    assert (verdict.check, verdict.level) == ("check.protocol", Level.PASS)
    assert "echo times" in verdict.evidence


@pytest.mark.parametrize("key", CHANGED)
def test_a_small_change_passes_and_a_large_one_is_named_alone(key: str) -> None:
    small, large = CHANGED[key]
    assert deviating(FACTS | {key: small}) == []  # type: ignore[dict-item]
    assert deviating(FACTS | {key: large}) == [f"protocol.{key}"]  # type: ignore[dict-item]


def test_more_coverage_is_no_deviation_and_what_is_not_told_is() -> None:
    assert deviating(FACTS | {"coverage_mm": 300.0}) == []
    told = {key: fact for key, fact in FACTS.items() if key != "flip_deg"}
    (verdict,) = compare(REFERENCE, told)
    assert "flip angle is not told, expected 15" in verdict.advice
    assert verdict.value is None


def test_another_number_of_echoes_deviates() -> None:
    (verdict,) = compare(REFERENCE, FACTS | {"te_ms": (3.4,)})
    assert verdict.check == "protocol.te_ms"
    assert verdict.value is None


def test_a_reference_may_have_its_own_tolerances_and_be_silent() -> None:
    wide = REFERENCE.model_copy(update={"tolerances": {"flip_deg": 5.0}})
    assert deviating(FACTS | {"flip_deg": 12.0}, wide) == []
    few = Reference(name="few", modality="MR", expected={"flip_deg": 15.0})
    assert deviating(FACTS | {"te_ms": (9.0,)}, few) == []


def test_values_and_limits_have_the_unit_they_say() -> None:
    (verdict,) = compare(REFERENCE, FACTS | {"tr_ms": 2000.0})
    assert (verdict.value, verdict.limit, verdict.unit) == (pytest.approx(20.0), pytest.approx(2.0), "%")
    (verdict,) = compare(REFERENCE, FACTS | {"normal": CHANGED["normal"][1]})  # type: ignore[dict-item]
    assert (verdict.value, verdict.unit) == (pytest.approx(15.0, abs=0.1), "degrees")


# From headers and images


def test_headers_of_all_modalities_tell_their_facts() -> None:
    assert facts_of(full_scan()) == {"te_ms": (3.4, 6.8), "tr_ms": 2500.0, "flip_deg": 15.0, "field_t": 2.8936}
    assert facts_of(ct_scan()) == {"kvp": 120.0, "ctdi_vol_mgy": 12.5}
    assert facts_of(pet_scan()) == {"tracer": "FDG", "dose_mbq": 310.0, "uptake_min": pytest.approx(109.77)}


@pytest.mark.parametrize("apart", [False, True])
def test_places_are_the_same_of_a_volume_and_of_its_slices(apart: bool) -> None:
    grid = grid_of("axial", (4, 6, 8))
    grids = [grid.plane(z) for z in (2, 0, 3, 1)] if apart else [grid]
    places = Places()
    for g in grids * 2:  # measured twice: a series
        places.add(Image(data=np.ones(g.shape, np.float32), grid=g))
    facts = places.facts()
    assert facts["matrix"] == (6.0, 8.0)
    assert facts["pixel_mm"] == (30.0, 30.0)
    assert facts["distance_mm"] == pytest.approx(6.0)
    assert facts["coverage_mm"] == pytest.approx(18.0 + grid.thickness_mm)
    assert abs(np.dot(facts["normal"], grid.normal)) == pytest.approx(1.0)


def test_nothing_is_known_without_images() -> None:
    assert Places().facts() == {}


# Files


def test_a_written_reference_fits_its_exam(tmp_path: Path) -> None:
    path = tmp_path / "ref.yaml"
    written_reference(path, name="brain", modality="MR", facts=FACTS)
    reference = read_reference(path)
    assert reference.name == "brain"
    assert deviating(FACTS, reference) == []
    assert "#   te_ms: echo times [ms]" in path.read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nmodality: MR\nexpected: {flip: 3}\n", "did you mean flip_deg"),
        ("name: a\nmodality: MR\nexpected: {flip_deg: 3}\ntolerances: {te: 1}\n", "did you mean te_ms|one of"),
        ("name: a\nmodality: XX\nexpected: {flip_deg: 3}\n", "modality"),
        ("name: a\nmodality: MR\nexpected: {}\n", "expected"),
        ("name: a\nmodality: MR\nexpectd: {flip_deg: 3}\n", "expect"),
        ("- 1", "document"),
        ("a: [", "expected a YAML file"),
    ],
)
def test_a_wrong_reference_is_refused_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "ref.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_reference(path)
    with pytest.raises(ConfigError, match="expected a YAML file"):
        read_reference(tmp_path / "absent.yaml")


def test_an_exam_that_tells_nothing_makes_no_reference(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="got no facts"):
        written_reference(tmp_path / "r.yaml", name="a", modality="MR", facts={})


def test_the_step_says_at_the_end_what_differs(tmp_path: Path) -> None:
    path, scan = tmp_path / "ref.yaml", full_scan()
    grid: Grid = grid_of()
    image = Image(data=np.ones(grid.shape, np.float32), grid=grid)
    places = Places()
    places.add(image)
    written_reference(path, name="brain", modality="MR", facts=facts_of(scan) | places.facts())

    def said(changed: object) -> list[str]:
        step = CheckProtocol(reference=str(path))
        step.open(changed)  # type: ignore[arg-type]
        assert list(step.feed(image)) == [image]
        return [v.check for v in step.close()]  # type: ignore[attr-defined]

    assert said(scan) == ["check.protocol"]
    mr = scan.require_mr()
    assert said(replace(scan, mr=replace(mr, flip_deg=(40.0,)))) == ["protocol.flip_deg"]
    with pytest.raises(ConfigError, match="expected one for CT, got MR"):
        CheckProtocol(reference=str(path)).open(ct_scan())
