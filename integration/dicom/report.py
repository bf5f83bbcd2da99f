"""The verdicts of a scan as a Comprehensive 3D SR, an imaging measurement report (PS3.16 TID 1500).

Each finding is a measurement group: the measured value, its level, the advice, the limit and the evidence. The first
group is the decision. Names of checks and levels are codes of our own scheme; everything else is standard.
"""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from integration.dicom import common
from integration.dicom import document as doc
from integration.dicom.document import Code, Reference
from integration.dicom.text import Elements
from integration.dicom.uid import device_uid, instance_uid, series_uid, study_uid, uid_of

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
OUTPUT = "verdicts"
"""Output of which the report's UIDs are made."""
SERIES_OFFSET = 98
"""Added to a hundred times the scanner's series number."""

_TITLE = Code("126000", "DCM", "Imaging Measurement Report")
_LANGUAGE = Code("121049", "DCM", "Language of Content Item and Descendants")
_ENGLISH = Code("en", "RFC5646", "English")
_OBSERVER_TYPE, _DEVICE = Code("121005", "DCM", "Observer Type"), Code("121007", "DCM", "Device")
_OBSERVER_UID, _OBSERVER_NAME = (
    Code("121012", "DCM", "Device Observer UID"),
    Code("121013", "DCM", "Device Observer Name"),
)
_OBSERVER_MODEL = Code("121015", "DCM", "Device Observer Model Name")
_PROCEDURE = Code("121058", "DCM", "Procedure reported")
_LIBRARY, _LIBRARY_GROUP = Code("111028", "DCM", "Image Library"), Code("126200", "DCM", "Image Library Group")
_MEASUREMENTS, _GROUP = Code("126010", "DCM", "Imaging Measurements"), Code("125007", "DCM", "Measurement Group")
_TRACKING, _TRACKING_UID = (
    Code("112039", "DCM", "Tracking Identifier"),
    Code("112040", "DCM", "Tracking Unique Identifier"),
)
_ASSESSMENT = Code("111050", "DCM", "Quality Assessment")
_COMMENT = Code("121106", "DCM", "Comment")
_LIMIT = doc.own("limit", "Limit that the value was held against")
_EVIDENCE = doc.own("evidence", "What a physicist needs to reproduce the finding")
_MODALITIES = {
    "MR": Code("113091000", "SCT", "Magnetic resonance imaging"),
    "CT": Code("77477000", "SCT", "Computed tomography"),
    "PT": Code("82918005", "SCT", "Positron emission tomography"),
}
"""Procedure reported, by modality (PS3.16 CID 100)."""
_LEVELS = {
    Level.PASS: doc.own("PASS", "Nothing found"),
    Level.FLAG: doc.own("FLAG", "Sent, marked: look before you rely on it"),
    Level.HOLD: doc.own("HOLD", "A person is to decide"),
}
_UNITS = {
    "": ("1", "no units"),
    "%": ("%", "percent"),
    "mm": ("mm", "mm"),
    "s": ("s", "s"),
    "Hz": ("Hz", "Hz"),
    "degrees": ("deg", "degrees"),
    "HU": ("[hnsf'U]", "Hounsfield unit"),
    "Bq/mL": ("Bq/ml", "Bq/mL"),
    "L": ("L", "L"),
}
"""Unit of a verdict -> UCUM code and its meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a report says."""

    decision: Verdict
    """What all of it comes to; its check is `decision`."""
    verdicts: Sequence[Verdict] = ()
    """Findings, each check once."""
    images: Sequence[Reference] = ()
    """The images that they speak of."""


def report(scan: Scan, job: str, found: Findings, *, now: datetime | None = None) -> common.DicomInstance:
    """Return the report of one scan; the same job has the same UIDs again.

    Parameters
    ----------
    scan, job
        The measurement, and our identifier of its reconstruction.
    found
        What is reported; at least one image.
    now
        When; the present time where it is not given.
    """
    time = now or datetime.now()
    images = list(dict.fromkeys(found.images))
    number = 90 if scan.study.series_number is None else scan.study.series_number
    elements: Elements = {
        "SOPClassUID": COMPREHENSIVE_3D_SR,
        "SOPInstanceUID": instance_uid(job, OUTPUT, 0),
        **common.patient(scan),
        **common.study(scan, job, now=time),
        "Modality": "SR",
        "SeriesInstanceUID": series_uid(job, OUTPUT),
        "SeriesNumber": number * 100 + SERIES_OFFSET,
        "SeriesDescription": f"{(scan.protocol_name or scan.modality)[:40]} quality checks",
        "ReferencedPerformedProcedureStepSequence": [],
        **maker(),
        **stamped(time),
        "InstanceNumber": 1,
        "CompletionFlag": "COMPLETE",
        "VerificationFlag": "UNVERIFIED",
        "PerformedProcedureCodeSequence": [],
        "CurrentRequestedProcedureEvidenceSequence": doc.evidence(study_uid(scan, job), images),
        **_root(scan, job, found, images),
    }
    return doc.written(elements)


def maker() -> Elements:
    """Return the equipment module of a document that we write ourselves."""
    return {
        "Manufacturer": common.PRODUCT,
        "ManufacturerModelName": common.PRODUCT,
        "DeviceSerialNumber": uid_of("serial number", platform.node())[-16:],
        "SoftwareVersions": common.software_version(),
    }


def stamped(now: datetime) -> Elements:
    """Return when the document was made, and our own coding scheme."""
    return {
        "InstanceCreationDate": f"{now:%Y%m%d}",
        "InstanceCreationTime": f"{now:%H%M%S.%f}",
        "ContentDate": f"{now:%Y%m%d}",
        "ContentTime": f"{now:%H%M%S.%f}",
        "CodingSchemeIdentificationSequence": [
            {"CodingSchemeDesignator": doc.PRIVATE, "CodingSchemeName": f"{common.PRODUCT} checks"}
        ],
    }


def _root(scan: Scan, job: str, found: Findings, images: Sequence[Reference]) -> Elements:
    station = platform.node()
    groups = [_group(verdict, job) for verdict in (found.decision, *found.verdicts)]
    library = doc.container("CONTAINS", _LIBRARY_GROUP, [doc.image("CONTAINS", reference) for reference in images])
    reported = [doc.code("HAS CONCEPT MOD", _PROCEDURE, _MODALITIES[scan.modality])]
    content = [
        doc.code("HAS CONCEPT MOD", _LANGUAGE, _ENGLISH),
        doc.code("HAS OBS CONTEXT", _OBSERVER_TYPE, _DEVICE),
        doc.uid("HAS OBS CONTEXT", _OBSERVER_UID, device_uid(station)),
        doc.text("HAS OBS CONTEXT", _OBSERVER_NAME, common.PRODUCT),
        doc.text("HAS OBS CONTEXT", _OBSERVER_MODEL, f"{common.PRODUCT} {common.software_version()}"),
        *reported,
        doc.container("CONTAINS", _LIBRARY, [library]),
        doc.container("CONTAINS", _MEASUREMENTS, groups),
    ]
    return {
        "ValueType": "CONTAINER",
        "ConceptNameCodeSequence": doc.coded(_TITLE),
        "ContinuityOfContent": "SEPARATE",
        "ContentTemplateSequence": [{"MappingResource": "DCMR", "TemplateIdentifier": "1500"}],
        "ContentSequence": content,
    }


def _group(verdict: Verdict, job: str) -> Elements:
    name = doc.own(verdict.check, verdict.check)
    said: list[Elements] = [
        doc.text("HAS OBS CONTEXT", _TRACKING, verdict.check),
        doc.uid("HAS OBS CONTEXT", _TRACKING_UID, uid_of("tracking", job, verdict.check)),
    ]
    if verdict.value is not None and math.isfinite(verdict.value):
        said.append(_number(name, verdict.value, verdict.unit))
    if verdict.limit is not None and math.isfinite(verdict.limit):
        said.append(_number(_LIMIT, verdict.limit, verdict.unit))
    said.append(doc.code("CONTAINS", _ASSESSMENT, _LEVELS[verdict.level]))
    said += _texts(((_COMMENT, verdict.advice), (_EVIDENCE, verdict.evidence)))
    return doc.container("CONTAINS", _GROUP, said)


def _texts(pairs: Iterable[tuple[Code, str]]) -> list[Elements]:
    return [doc.text("CONTAINS", name, words) for name, words in pairs if words.strip()]


def _number(name: Code, value: float, unit: str) -> Elements:
    symbol, meaning = _UNITS.get(unit) or ("{" + re.sub(r"[^A-Za-z0-9/%]", "_", unit)[:14] + "}", unit)
    measured: Elements = {
        "MeasurementUnitsCodeSequence": doc.coded(Code(symbol, "UCUM", meaning)),
        "NumericValue": float(value),
    }
    return doc.item("CONTAINS", "NUM", name, MeasuredValueSequence=[measured])
