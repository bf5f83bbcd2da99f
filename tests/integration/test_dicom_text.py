"""No text, whoever wrote it, makes an object invalid; identifiers are right or empty; changes are said."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom import config
from pydicom.valuerep import DS, validate_value

from acquisition.items import Provenance
from acquisition.scan import Equipment, Patient, Scan, Study
from acquisition.verdict import Level
from integration.dicom.text import cleaned, decimal, tag_and_vr
from tests.integration.dicom_samples import (
    bare_scan,
    full_scan,
    image_of,
    parsed,
    rebuilt,
    validate,
    written,
)

NASTY = st.text(st.characters() | st.sampled_from("\\^=\0\n\r\x1b\x7f\u202e\ud800 "), max_size=90)


def one(keyword: str, value: object) -> tuple[object, tuple[str, ...]]:
    elements, notes = cleaned({keyword: value})  # type: ignore[dict-item]
    return elements[keyword], notes


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("SeriesDescription", "T1 ax", "T1 ax"),
        ("SeriesDescription", "  T1 ax  ", "T1 ax"),
        ("SeriesDescription", "a\\b", "a/b"),
        ("SeriesDescription", "a\nb\0c", "a b c"),
        ("SeriesDescription", "x" * 70, "x" * 64),
        ("SeriesDescription", "é" * 64, "é" * 64),
        ("SeriesDescription", "safe\u202eevil", "safeevil"),
        ("SeriesDescription", "half \ud800", "half ?"),
        ("SeriesDescription", " \n ", None),
        ("StationName", "x" * 17, "x" * 16),
        ("PatientName", "Yamada^Tarou=山田^太郎", "Yamada^Tarou=山田^太郎"),
        ("PatientName", "a=b=c=d", "a=b=c d"),
        ("PatientName", "a^b^c^d^e^f", "a^b^c^d^e f"),
        ("PatientName", "x" * 70 + "=y", "x" * 64 + "=y"),
        ("BodyPartExamined", "brain", "BRAIN"),
        ("BodyPartExamined", "Kopf/Hals", None),
        ("BodyPartExamined", "ABDOMEN AND PELVIS", None),
        ("StudyDate", "20260229", None),
        ("StudyDate", "20240229", "20240229"),
        ("StudyDate", "٢٠٢٦٠١٠١", None),
        ("StudyTime", "235959.5", "235959.5"),
        ("StudyTime", "25", None),
        ("StudyTime", "0930", "0930"),
        ("PatientWeight", float("inf"), None),
        ("PatientWeight", 70.0, "70"),
        ("SeriesNumber", 2**31, None),
        ("ImageComments", "a\\b\r\nc\x07", "a\\b\r\nc"),
        ("StudyInstanceUID", "1.02.3", None),
        ("PatientID", "x" * 65, None),
        ("PatientID", "1\\2", None),
        ("PatientID", " 12 ", "12"),
        ("AccessionNumber", "x" * 17, None),
        ("StudyID", "x" * 16, "x" * 16),
    ],
)
def test_values_fit(keyword: str, value: object, expected: object) -> None:
    assert one(keyword, value)[0] == expected


def test_changes_are_said_without_the_value() -> None:
    assert one("SeriesDescription", "x" * 70)[1] == ("SeriesDescription: cut from 70 to 64 characters",)
    assert one("PatientID", "secret\\1")[1] == (
        "PatientID left out: characters that DICOM does not allow were replaced",
    )
    assert one("StudyDate", "secret")[1] == ("StudyDate: left out: not a date YYYYMMDD",)
    for fine in ("T1 ax", " T1 ax ", ""):
        assert one("SeriesDescription", fine)[1] == ()


def test_sequences_are_cleaned_too() -> None:
    elements, notes = cleaned({"ContributingEquipmentSequence": [{"Manufacturer": "a\\b"}]})
    assert elements == {"ContributingEquipmentSequence": [{"Manufacturer": "a/b"}]}
    assert len(notes) == 1


def test_an_unknown_keyword_is_a_mistake_of_ours() -> None:
    with pytest.raises(KeyError, match="PatientNmae"):
        tag_and_vr("PatientNmae")


@given(st.sampled_from(["SH", "LO", "ST", "LT", "PN", "CS", "DA", "TM"]), NASTY)
@settings(deadline=None)
def test_any_text_fits_its_representation(vr: str, text: str) -> None:
    keyword = {
        "SH": "StationName",
        "LO": "SeriesDescription",
        "ST": "DerivationDescription",
        "LT": "ImageComments",
        "PN": "ReferringPhysicianName",
        "CS": "BodyPartExamined",
        "DA": "StudyDate",
        "TM": "StudyTime",
    }[vr]
    value, _ = one(keyword, text)
    if value is not None:
        assert isinstance(value, str)
        value.encode()
        validate_value(vr, value, config.RAISE)
        assert one(keyword, value) == (value, ())


@given(st.floats(-1e300, 1e300))
def test_decimals_are_short_and_close(value: float) -> None:
    text = decimal(value)
    DS(text, validation_mode=config.RAISE)
    assert len(text) <= 16
    assert float(text) == pytest.approx(value, rel=1e-8, abs=0)


@given(st.floats(-1000, 1000))
def test_positions_are_exact_to_a_nanometre(value: float) -> None:
    assert float(decimal(value)) == pytest.approx(value, abs=1e-9)


def hostile_scan(text: str) -> Scan:
    return replace(
        full_scan(),
        protocol_name=text,
        patient=Patient(id=text, name=text, birth_date=text, sex=text, position=text, weight_kg=1e300),
        study=Study(
            instance_uid=text,
            id=text,
            date=text,
            time=text,
            accession_number=text,
            referring_physician=text,
            description=text,
            body_part=text,
            series_number=2**40,
            frame_of_reference_uid=text,
        ),
        equipment=Equipment(
            vendor=text,
            model=text,
            serial_number=text,
            software=text,
            institution=text,
            station=text,
            coil_name=text,
            field_strength_t=float("nan"),
        ),
    )


@given(NASTY.filter(bool))
@example("=")
@example("a=")
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_hostile_header_makes_a_readable_object(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    # While reading, pydicom counts the padding, too; we look at the values themselves.
    monkeypatch.setattr(config.settings, "reading_validation_mode", config.IGNORE)
    monkeypatch.setattr(config.settings, "writing_validation_mode", config.IGNORE)
    image = image_of(output=text, provenance=Provenance(protocol=text, steps=(text,), notes={text: text}))
    instance = written(image, hostile_scan(text))[0]
    ds = parsed(instance)
    for element in ds.iterall():
        if element.VR in ("LO", "SH", "CS", "DA", "TM", "UI", "LT", "ST"):
            for value in element.value if element.VM > 1 else [element.value]:
                validate_value(element.VR, value, config.RAISE)
    assert rebuilt(instance.data) == instance.data


@pytest.mark.peer("dciodvfy")
@pytest.mark.parametrize(
    "text",
    ["a\\b^c=d=e=f", "x" * 300, "^^^^^^^^^^", "\0\0\1\2", "\x1b$B;3ED", "ends with =", "=", "^", "é\\ü", "\u202e"],
)
def test_a_hostile_header_is_valid(text: str, tmp_path: Path) -> None:
    image = image_of(output=text, provenance=Provenance(protocol=text, steps=(text,), notes={text: text}))
    assert validate(written(image, hostile_scan(text))[0].data, tmp_path) == []


def test_what_was_left_out_is_flagged_and_logged_without_patient_data(caplog: pytest.LogCaptureFixture) -> None:
    scan = replace(
        bare_scan(),
        patient=Patient(id="SECRET" * 20, name="SECRET", sex="SECRET"),
        study=Study(instance_uid="SECRET"),
    )
    with caplog.at_level(logging.INFO):
        instance = written(image_of(), scan)[0]
    (verdict,) = instance.verdicts
    assert (verdict.check, verdict.level) == ("dicom.header", Level.FLAG)
    assert "StudyInstanceUID, PatientSex, PatientID" in verdict.advice
    assert "SECRET" not in caplog.text + verdict.advice + verdict.evidence
    assert "scan scan-1 job job-1: StudyInstanceUID: not a value that DICOM knows" in caplog.text
    ds = parsed(instance)
    assert (ds.PatientID, ds.PatientSex) == ("", "")
    assert "FLAG: Some of the scanner's header" in ds.ImageComments


@pytest.mark.peer("dciodvfy")
def test_names_of_the_world(tmp_path: Path) -> None:
    for name in ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Müller^Jürgen", "Люкceмбypг", "Ōe^Kenzaburō", "محمد^علي"):
        scan = replace(bare_scan(), patient=Patient(name=name))
        instance = written(image_of(), scan)[0]
        ds = parsed(instance)
        assert ds.SpecificCharacterSet == "ISO_IR 192"
        assert ds.PatientName == name
        assert validate(instance.data, tmp_path) == []


def test_plain_text_needs_no_character_set() -> None:
    assert "SpecificCharacterSet" not in parsed(written(image_of())[0])
    nested = image_of(provenance=Provenance(protocol="größe"))
    assert parsed(written(nested)[0]).SpecificCharacterSet == "ISO_IR 192"
