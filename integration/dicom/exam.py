"""Image series on disk as exams to be checked: which there are, their volumes, and what their headers tell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from acquisition.errors import FileFormatError
from acquisition.items import Image
from acquisition.scan import Patient, PetHeader, Scan, Study, Tracer
from integration.dicom.read import read_images

_MODALITIES = ("CT", "MR", "PT")
_NEEDED = ("Rows", "Columns", "SeriesInstanceUID")


@dataclass(frozen=True, slots=True, eq=False)
class Exam:
    """One series."""

    name: str
    """SeriesDescription, or its number."""
    scan: Scan
    """What its header tells, as of a scan; no sequence, no gantry."""
    images: tuple[Image, ...]
    """Its volumes."""
    told: Mapping[str, Any]
    """How it was measured, by the names of `conformity.RULES`; None where not told."""


def read_exams(files: Iterable[Path]) -> list[Exam]:
    """Read the CT, MR and PET series among some files; other files and objects are passed over.

    Raises
    ------
    FileFormatError
        There is no such series.
    DataError
        The slices of one are no regular grid.
    """
    series: dict[str, list[Path]] = defaultdict(list)
    heads: dict[str, list[Dataset]] = defaultdict(list)
    n = 0
    for path in files:
        n += 1
        head = _head(path)
        if head is not None:
            series[str(head.SeriesInstanceUID)].append(path)
            heads[str(head.SeriesInstanceUID)].append(head)
    if not series:
        raise FileFormatError(
            "DICOM files",
            expected="images of a CT, MR or PET series",
            got=f"{n} files, none of them such an image",
            action="name the folder or a file with the images, or raw data",
        )
    return [_exam(heads[uid], files_of) for uid, files_of in series.items()]


def _head(path: Path) -> Dataset | None:
    """Return the header of an image that we read, None of anything else."""
    try:
        head = dcmread(path, stop_before_pixels=True)
    except (InvalidDicomError, OSError, ValueError):
        return None
    fine = head.get("Modality") in _MODALITIES and all(key in head for key in _NEEDED)
    return head if fine else None


def _exam(heads: list[Dataset], files: list[Path]) -> Exam:
    images = read_images(files)
    seen: dict[tuple[object, ...], int] = defaultdict(int)
    numbered = []
    for image in images:
        key = (image.position.contrast, image.kind, image.grid.normal, image.grid.origin_mm)
        numbered.append(replace(image, position=replace(image.position, repetition=seen[key])))
        seen[key] += 1
    first = heads[0]
    name = str(first.get("SeriesDescription") or f"series {first.get('SeriesNumber', '')}").strip()
    return Exam(name=name, scan=_scan(first), images=tuple(numbered), told=_told(heads))


def _scan(head: Dataset) -> Scan:
    weight = head.get("PatientWeight")
    return Scan(
        uid=str(head.SeriesInstanceUID),
        modality=str(head.Modality),
        protocol_name=str(head.get("ProtocolName") or head.get("SeriesDescription") or ""),
        patient=Patient(weight_kg=float(weight) if weight else None),
        study=Study(body_part=str(head.get("BodyPartExamined") or "") or None),
        pet=_pet(head) if head.Modality == "PT" else None,
    )


def _pet(head: Dataset) -> PetHeader | None:
    """Return the tracer in a header without a scanner: only of Bq/mL does a dose tell what to expect."""
    dose = _isotope(head).get("RadionuclideTotalDose")
    if not dose or str(head.get("Units")) != "BQML":
        return None
    half_life = float(_isotope(head).get("RadionuclideHalfLife") or 0) or 6586.2
    tracer = Tracer(nuclide="", half_life_s=half_life, dose_bq=float(dose))
    return PetHeader(n_rings=1, n_crystals=1, radius_mm=1.0, ring_pitch_mm=1.0, tracer=tracer)


def _told(heads: list[Dataset]) -> dict[str, Any]:
    first = heads[0]
    echoes = sorted({float(h.EchoTime) for h in heads if h.get("EchoTime") not in (None, "")})
    weightings = sorted({float(h.DiffusionBValue) for h in heads if h.get("DiffusionBValue") not in (None, "")})
    told: dict[str, Any] = {
        "te_ms": tuple(echoes) if first.Modality == "MR" else (),
        "tr_ms": _number(first, "RepetitionTime"),
        "ti_ms": (time,) if (time := _number(first, "InversionTime")) else (),
        "flip_deg": _number(first, "FlipAngle"),
        "field_t": _number(first, "MagneticFieldStrength"),
        "b_s_per_mm2": tuple(weightings),
        "kvp": _number(first, "KVP"),
        "kernel": _word(first.get("ConvolutionKernel")),
        "ctdi_vol_mgy": _number(first, "CTDIvol"),
    }
    return told | (_pet_told(first) if first.Modality == "PT" else {})


def _pet_told(head: Dataset) -> dict[str, Any]:
    isotope = _isotope(head)
    dose = isotope.get("RadionuclideTotalDose")
    frame_ms = _number(head, "ActualFrameDuration")
    return {
        "dose_mbq": float(dose) * 1e-6 if dose else None,
        "uptake_min": _uptake_min(head, isotope),
        "frame_s": frame_ms and frame_ms * 1e-3,
        "tracer": _word(isotope.get("Radiopharmaceutical")),
    }


def _uptake_min(head: Dataset, isotope: Dataset) -> float | None:
    """Return the time from injection to the begin of the series; across midnight only where dates are told."""
    begun = _moment(str(head.get("SeriesDate") or ""), str(head.get("SeriesTime") or ""))
    given = str(isotope.get("RadiopharmaceuticalStartDateTime") or "")
    time = str(isotope.get("RadiopharmaceuticalStartTime") or "")
    injected = _moment(given[:8], given[8:]) if given else _moment(str(head.get("SeriesDate") or ""), time)
    if begun is None or injected is None or begun < injected:
        return None
    return (begun - injected).total_seconds() / 60


def _moment(date: str, time: str) -> datetime | None:
    try:
        return datetime.strptime(date + time[:6], "%Y%m%d%H%M%S")
    except ValueError:
        return None


def _isotope(head: Dataset) -> Dataset:
    sequence = head.get("RadiopharmaceuticalInformationSequence")
    return sequence[0] if sequence else Dataset()


def _number(head: Dataset, key: str) -> float | None:
    value = head.get(key)
    return None if value in (None, "") else float(value)


def _word(value: object) -> str | None:
    if value in (None, ""):
        return None
    return str(value) if isinstance(value, str) else " ".join(map(str, value))  # type: ignore[call-overload]
