"""The report of verdicts and the key object: valid by dciodvfy, readable by DCMTK, nothing lost on the way."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from pydicom import Dataset

from acquisition.errors import FileFormatError
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from integration.delivery.answers import Answer, Word
from integration.dicom.document import Reference
from integration.dicom.rejection import rejection
from integration.export import report_of
from tests.integration.dicom_ct_samples import ct_scan
from tests.integration.dicom_samples import NOW, bare_scan, full_scan, parsed, validate
from tests.integration.test_dicom_pet import bare_pet_scan, pet_scan
from tests.peers import program

MR = "1.2.840.10008.5.1.4.1.1.4"
IMAGES = [Reference(MR, f"1.2.3.{i}", f"1.2.9.{i // 2}") for i in range(4)]
VERDICTS = [
    Verdict(check="check.mri_motion_of_shots", level=Level.HOLD, advice="Moved.", value=3.5, limit=1.0, unit="mm"),
    Verdict(check="check.image", level=Level.PASS, advice="A proper image.", value=0.1, limit=0.2, unit="%"),
    Verdict(check="mri.noise", level=Level.FLAG, advice="Spule 3 ist übersteuert.", evidence="line 7", unit="a.u."),
    Verdict(check="odd.unit", level=Level.PASS, advice="x", value=float("inf"), limit=2.0, unit="% of views µ"),
]
ANSWER = Answer(job="job-1", word=Word.REJECT, who="Muster^Anna", why="the patient moved", at=1.8e9)
SCANS = {"MR": full_scan, "bare MR": bare_scan, "CT": ct_scan, "PT": pet_scan, "bare PT": bare_pet_scan}


def made(scan: Scan) -> bytes:
    return report_of(scan, "job-1", VERDICTS, IMAGES).data


def groups(ds: Dataset) -> dict[str, Dataset]:
    return {g.ContentSequence[0].TextValue: g for g in ds.ContentSequence[-1].ContentSequence}


@pytest.mark.peer("dciodvfy")
@pytest.mark.parametrize("name", SCANS)
def test_the_report_is_valid(name: str, tmp_path: Path) -> None:
    assert validate(made(SCANS[name]()), tmp_path, "Comprehensive3DSR") == []


@pytest.mark.peer("dciodvfy")
@pytest.mark.parametrize("why", ["the patient moved", ""])
@pytest.mark.parametrize("name", SCANS)
def test_the_key_object_is_valid(name: str, why: str, tmp_path: Path) -> None:
    answer = Answer(job="job-1", word=Word.REJECT, who="Muster^Anna", why=why, at=1.8e9)
    assert validate(rejection(made(SCANS[name]()), answer, now=NOW).data, tmp_path, "KeyObjectSelectionDocument") == []


@pytest.mark.peer("dcmtk")
def test_dcmtk_reads_both_trees(tmp_path: Path) -> None:
    for name, data in (("sr", made(full_scan())), ("ko", rejection(made(full_scan()), ANSWER).data)):
        path = tmp_path / f"{name}.dcm"
        path.write_bytes(data)
        command = [str(Path(program("dcmdump") or "dcmdump").with_name("dsrdump")), str(path)]
        answer = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        assert answer.returncode == 0, answer.stderr
        assert "Error" not in answer.stderr
        assert ("Imaging Measurement Report" if name == "sr" else "Rejected for Quality Reasons") in answer.stdout


def test_the_report_says_what_was_found_and_of_which_images() -> None:
    ds = parsed(made(full_scan()))
    assert (ds.PatientID, ds.StudyInstanceUID, ds.Modality) == ("P-77", "1.2.3.4", "SR")
    assert ds.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    found = groups(ds)
    assert list(found) == ["decision", *(v.check for v in VERDICTS)]
    moved = found["check.mri_motion_of_shots"].ContentSequence
    value, limit = (i for i in moved if i.ValueType == "NUM")
    measured = value.MeasuredValueSequence[0]
    assert float(measured.NumericValue) == 3.5
    assert measured.MeasurementUnitsCodeSequence[0].CodeValue == "mm"
    assert value.ConceptNameCodeSequence[0].LongCodeValue == "check.mri_motion_of_shots"
    assert float(limit.MeasuredValueSequence[0].NumericValue) == 1.0
    levels = {
        name: next(i for i in g.ContentSequence if i.ValueType == "CODE").ConceptCodeSequence[0].CodeValue
        for name, g in found.items()
    }
    assert levels["decision"] == "HOLD"
    assert levels["check.image"] == "PASS"
    assert levels["mri.noise"] == "FLAG"
    assert "Spule 3 ist übersteuert." in [i.get("TextValue") for i in found["mri.noise"].ContentSequence]
    library = next(i for i in ds.ContentSequence if "Library" in i.ConceptNameCodeSequence[0].CodeMeaning)
    named = [i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for i in library.ContentSequence[0].ContentSequence]
    assert named == [r.sop_uid for r in IMAGES]
    series = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert [len(s.ReferencedSOPSequence) for s in series] == [2, 2]


def test_a_value_that_is_no_number_is_left_out() -> None:
    odd = groups(parsed(made(full_scan())))["odd.unit"].ContentSequence
    (limit,) = (i for i in odd if i.ValueType == "NUM")
    assert limit.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue == "{%_of_views__}"


def test_the_same_job_has_the_same_uids() -> None:
    one, other = parsed(made(full_scan())), parsed(report_of(full_scan(), "job-2", VERDICTS, IMAGES).data)
    assert one.SOPInstanceUID == parsed(made(full_scan())).SOPInstanceUID
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert one.SeriesInstanceUID != other.SeriesInstanceUID


def test_the_key_object_names_person_reason_and_images() -> None:
    ds = parsed(rejection(made(full_scan()), ANSWER).data)
    assert ds.ConceptNameCodeSequence[0].CodeValue == "113001"
    content = {i.ValueType: i for i in ds.ContentSequence if i.ValueType != "IMAGE"}
    assert content["PNAME"].PersonName == "Muster^Anna"
    assert content["TEXT"].TextValue == "the patient moved"
    named = [i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for i in ds.ContentSequence if i.ValueType == "IMAGE"]
    assert named == [r.sop_uid for r in IMAGES]


@pytest.mark.parametrize(
    ("verdicts", "why", "modifier"),
    [
        (VERDICTS, "", "111210"),
        (VERDICTS[1:], "", "111207"),
        (VERDICTS[1:], "The patient MOVED", "111210"),
        (VERDICTS[1:2], "wrong side", "111207"),
    ],
)
def test_motion_is_told_from_other_reasons(verdicts: list[Verdict], why: str, modifier: str) -> None:
    data = report_of(full_scan(), "job-1", verdicts, IMAGES).data
    ds = parsed(rejection(data, Answer(job="job-1", word=Word.REJECT, who="A", why=why)).data)
    assert ds.ContentSequence[0].ConceptCodeSequence[0].CodeValue == modifier


@pytest.mark.parametrize("data", [b"", b"nothing", bytes(128) + b"DICM"])
def test_a_broken_report_is_refused(data: bytes) -> None:
    with pytest.raises(FileFormatError, match="expected a report of verdicts"):
        rejection(data, ANSWER)
