"""Patient, study and tracer between a PETSIRD header and a Scan, in both directions."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from acquisition.scan import Patient, Scan, Study, Tracer

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUCLIDES = {  # half-life [s] and positrons per decay, Laboratoire National Henri Becquerel
    "^18^Fluorine": (6586.2, 0.9673),
    "^11^Carbon": (1221.7, 0.9975),
    "^13^Nitrogen": (597.9, 0.998),
    "^15^Oxygen": (122.2, 0.999),
    "^68^Gallium": (4062.6, 0.889),
    "^82^Rubidium": (75.5, 0.954),
    "^64^Copper": (45721.0, 0.175),
    "^89^Zirconium": (282276.0, 0.227),
}
_SYMBOLS = {"F": "Fluorine", "C": "Carbon", "N": "Nitrogen", "O": "Oxygen", "Ga": "Gallium", "Rb": "Rubidium"}
_SYMBOLS |= {"Cu": "Copper", "Zr": "Zirconium"}


def exam_of(exam: dict[str, Any] | None) -> dict[str, Any]:
    """Return the fields of a Scan that an exam tells; nothing where the file has none."""
    if exam is None:
        return {}
    started = _moment(exam.get("startOfAcquisition"))
    if "patient" not in exam:  # before 0.12
        subject = exam["subject"]
        patient = Patient(id=subject["id"] or None, name=subject["name"] or None)
        return {"patient": patient, "started": started, "protocol_name": exam.get("protocol") or None}
    who = exam["patient"]
    return {
        "patient": Patient(
            id=who["patientID"] or None,
            sex=who["patientsSex"] or None,
            weight_kg=who["patientsWeight"] or None,
            height_m=who["patientsSize"] or None,
            position=_position(exam["patientOrientation"]),
        ),
        "study": Study(
            instance_uid=exam["studyInstanceUID"] or None,
            series_instance_uid=exam["seriesInstanceUID"] or None,
            frame_of_reference_uid=exam["frameOfReferenceUID"] or None,
            date=started.strftime("%Y%m%d") if started else None,
            time=started.strftime("%H%M%S") if started else None,
        ),
        "started": started,
    }


def tracer_of(exam: dict[str, Any] | None) -> Tracer | None:
    """Return what was injected; None where it is not told, or of a nuclide whose half-life is not known here."""
    told = (exam or {}).get("radiopharmaceuticals") or []
    if len(told) != 1:
        return None
    first = told[0]
    nuclide = _nuclide(first["radionuclideCodeSequence"]["codeMeaning"])
    if nuclide is None:
        return None
    half_life_s, branching = _NUCLIDES[nuclide]
    return Tracer(
        nuclide=nuclide,
        half_life_s=half_life_s,
        branching=branching,
        name=first["radiopharmaceuticalCodeSequence"]["codeMeaning"] or None,
        dose_bq=1e6 * first["radionuclideTotalDose"] or None,
        injected=_moment(first["radiopharmaceuticalStartDateTime"]),
    )


def to_exam(scan: Scan) -> dict[str, Any]:
    """Return the exam of a scan, as PETSIRD 0.12 writes it."""
    patient, study = scan.patient, scan.study
    position = patient.position or "HFS"
    tracer = scan.pet.tracer if scan.pet is not None else None
    return {
        "modality": "PT",
        "studyInstanceUID": study.instance_uid or "",
        "seriesInstanceUID": study.series_instance_uid or "",
        "sopInstanceUID": "",
        "frameOfReferenceUID": study.frame_of_reference_uid or "",
        "startOfStudy": _nanoseconds(scan.started),
        "startOfAcquisition": None if scan.started is None else _nanoseconds(scan.started),
        "patient": {
            "patientID": patient.id or "",
            "patientsSex": patient.sex or "",
            "patientsSize": patient.height_m or 0.0,
            "patientsWeight": patient.weight_kg or 0.0,
            "patientsBodyMassIndex": (patient.weight_kg or 0.0) / patient.height_m**2 if patient.height_m else 0.0,
        },
        "patientOrientation": {
            "patientOrientationCodeSequence": _code("102538003", "recumbent"),
            "patientOrientationModifierCodeSequence": _code("1240000", "prone")
            if position.endswith("P")
            else _code("40199007", "supine"),
            "patientGantryRelationshipCodeSequence": _code("102541007", "feet-first")
            if position.startswith("FF")
            else _code("102540008", "headfirst"),
        },
        "radiopharmaceuticals": [] if tracer is None else [_told(tracer)],
        "externalSignals": [],
    }


def _told(tracer: Tracer) -> dict[str, Any]:
    injected = _nanoseconds(tracer.injected)
    return {
        "radiopharmaceuticalVolume": 0.0,
        "radiopharmaceuticalStartDateTime": injected,
        "radiopharmaceuticalStopDateTime": injected,
        "radionuclideTotalDose": (tracer.dose_bq or 0.0) / 1e6,  # MBq, as in enhanced PET
        "radiopharmaceuticalAdministrationEventUID": "",
        "radiopharmaceuticalSpecificActivity": 0.0,
        "radiopharmaceuticalCodeSequence": _code("", tracer.name or ""),
        "radionuclideCodeSequence": _code("", tracer.nuclide),
    }


def _code(value: str, meaning: str) -> dict[str, str]:
    return {
        "codeValue": value,
        "codeValueURN": "",
        "codingSchemeDesignator": "SCT" if value else "",
        "codingSchemeVersion": "",
        "codeMeaning": meaning,
    }


def _nuclide(text: str) -> str | None:
    """Return the nuclide in DICOM's words: from ^18^Fluorine, Fluorine-18, F-18 or 18F."""
    number, word = re.search(r"\d+", text), re.search(r"[A-Za-z]+", text)
    if number is None or word is None:
        return None
    name = f"^{number[0]}^{_SYMBOLS.get(word[0], word[0].capitalize())}"
    return name if name in _NUCLIDES else None


def _position(orientation: dict[str, Any]) -> str | None:
    lies = orientation["patientOrientationModifierCodeSequence"]["codeMeaning"].lower()
    enters = re.sub(r"[^a-z]", "", orientation["patientGantryRelationshipCodeSequence"]["codeMeaning"].lower())
    first = {"headfirst": "HF", "feetfirst": "FF"}.get(enters)
    side = {"supine": "S", "prone": "P"}.get(lies)
    return f"{first}{side}" if first and side else None


def _moment(nanoseconds: int | None) -> datetime | None:
    """Return the scanner's clock, without a zone; None at the epoch, which stands for unknown."""
    if not nanoseconds:
        return None
    return (_EPOCH + timedelta(microseconds=nanoseconds // 1000)).replace(tzinfo=None)


def _nanoseconds(moment: datetime | None) -> int:
    if moment is None:
        return 0
    return round((moment.replace(tzinfo=UTC) - _EPOCH) / timedelta(microseconds=1)) * 1000
