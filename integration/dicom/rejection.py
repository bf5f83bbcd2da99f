"""A person has rejected a scan: the Key Object that says so (PS3.16 TID 2010, title 113001).

Archives that follow IHE IOCM hide the images that it names at once, so it is made only of a person's answer, never of a
verdict. Who the patient is and which images there are is taken from the scan's report.
"""

from __future__ import annotations

import io
from datetime import datetime

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from acquisition.errors import FileFormatError
from integration.delivery.answers import Answer
from integration.dicom import document as doc
from integration.dicom.common import DicomInstance
from integration.dicom.document import Code, Reference
from integration.dicom.report import maker, stamped
from integration.dicom.text import Elements
from integration.dicom.uid import instance_uid, series_uid

KEY_OBJECTS = "1.2.840.10008.5.1.4.1.1.88.59"
OUTPUT = "rejection"
"""Output of which its UIDs are made."""

_TITLE = Code("113001", "DCM", "Rejected for Quality Reasons")
_MODIFIER = Code("113011", "DCM", "Document Title Modifier")
_MOTION, _ARTIFACTS = Code("111210", "DCM", "Motion blur"), Code("111207", "DCM", "Image artifact(s)")
_OBSERVER_TYPE, _PERSON = Code("121005", "DCM", "Observer Type"), Code("121006", "DCM", "Person")
_OBSERVER = Code("121008", "DCM", "Person Observer Name")
_DESCRIPTION = Code("113012", "DCM", "Key Object Description")
_MOVED = ("motion", "framewise", "moved")
_SAME = (
    "PatientName PatientID PatientBirthDate PatientSex StudyInstanceUID StudyDate StudyTime ReferringPhysicianName "
    "StudyID AccessionNumber"
)
"""Attributes of the patient and the study that the report and the key object share."""


def rejection(report: bytes, answer: Answer, *, now: datetime | None = None) -> DicomInstance:
    """Return the key object of a rejected scan.

    Parameters
    ----------
    report
        The scan's report as it was written.
    answer
        Who rejected it, and why.
    now
        When; the present time where it is not given.

    Raises
    ------
    FileFormatError
        The report is not one of ours.
    """
    try:
        told = dcmread(io.BytesIO(report))
        references = _references(told)
        same: Elements = {key: _plain(told.get(key)) for key in _SAME.split()}
        number = int(told.SeriesNumber) + 1
    except (InvalidDicomError, AttributeError, TypeError) as error:
        raise FileFormatError(f"report of job {answer.job}", expected="a report of verdicts", got=str(error)) from error
    time = now or datetime.now()
    elements: Elements = {
        **same,
        "SOPClassUID": KEY_OBJECTS,
        "SOPInstanceUID": instance_uid(answer.job, OUTPUT, round(answer.at * 1000)),
        "Modality": "KO",
        "SeriesInstanceUID": series_uid(answer.job, OUTPUT),
        "SeriesNumber": number,
        "SeriesDescription": "Rejected for quality",
        "ReferencedPerformedProcedureStepSequence": [],
        **maker(),
        **stamped(time),
        "InstanceNumber": 1,
        "CurrentRequestedProcedureEvidenceSequence": doc.evidence(str(told.StudyInstanceUID), references),
        "ValueType": "CONTAINER",
        "ConceptNameCodeSequence": doc.coded(_TITLE),
        "ContinuityOfContent": "SEPARATE",
        "ContentTemplateSequence": [{"MappingResource": "DCMR", "TemplateIdentifier": "2010"}],
        "ContentSequence": _content(told, answer, references),
    }
    return doc.written(elements)


def _content(told: Dataset, answer: Answer, references: list[Reference]) -> list[Elements]:
    why = answer.why.strip()
    return [
        doc.code("HAS CONCEPT MOD", _MODIFIER, _MOTION if _moved(told, why) else _ARTIFACTS),
        doc.code("HAS OBS CONTEXT", _OBSERVER_TYPE, _PERSON),
        doc.item("HAS OBS CONTEXT", "PNAME", _OBSERVER, PersonName=answer.who),
        *([doc.text("CONTAINS", _DESCRIPTION, why)] if why else []),
        *(doc.image("CONTAINS", reference) for reference in references),
    ]


def _moved(told: Dataset, why: str) -> bool:
    """Return whether motion was the reason: the person says so, or the gravest finding is one of motion."""
    if any(word in why.lower() for word in _MOVED):
        return True
    measured = told.ContentSequence[-1].ContentSequence
    reasons = [group.ContentSequence[0].TextValue for group in measured[1:] if _level(group) != "PASS"]
    return bool(reasons) and any(word in reasons[0] for word in _MOVED)


def _level(group: Dataset) -> str:
    codes = [i.ConceptCodeSequence[0].CodeValue for i in group.ContentSequence if i.ValueType == "CODE"]
    return str(codes[0]) if codes else ""


def _references(told: Dataset) -> list[Reference]:
    series = told.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    return [
        Reference(str(o.ReferencedSOPClassUID), str(o.ReferencedSOPInstanceUID), str(s.SeriesInstanceUID))
        for s in series
        for o in s.ReferencedSOPSequence
    ]


def _plain(value: object) -> str | None:
    return None if value is None or str(value) == "" else str(value)
