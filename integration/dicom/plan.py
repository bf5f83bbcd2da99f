"""A slice plan for people: lines over the localizer as a presentation state, and burned into a page for all to see.

No DICOM object hands a prescription to a scanner's console. The presentation state (GSPS, PS3.3 A.33.1) keeps the lines
apart from the pixels; since many viewers do not draw it, the same lines go out as a secondary capture, too.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from acquisition.errors import DataError, FileFormatError
from acquisition.geometry import Grid
from acquisition.plan_lines import Line, plan_lines
from acquisition.slice_plan import SlicePlan
from integration.dicom import document as doc
from integration.dicom.common import DicomInstance
from integration.dicom.document import Reference
from integration.dicom.read import read_image
from integration.dicom.report import maker
from integration.dicom.text import Elements
from integration.dicom.uid import instance_uid, series_uid
from integration.plan_page import page

GSPS = "1.2.840.10008.5.1.4.1.1.11.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_STATE, _PAGE = "plan-state", "plan-page"
_OFFSETS = {_STATE: 96, _PAGE: 97}
_LAYER = "PLAN"
_SAME = (
    "PatientName PatientID PatientBirthDate PatientSex StudyInstanceUID StudyDate StudyTime ReferringPhysicianName "
    "StudyID AccessionNumber"
)
"""Attributes of the patient and the study that all objects share."""


@dataclass(frozen=True, slots=True, eq=False)
class Localizer:
    """One image that the plan is drawn on, as it lies in the archive."""

    reference: Reference
    """Which object it is."""
    grid: Grid
    """Where it lies."""
    pixels: NDArray[np.float64]
    """Its values (y, x)."""
    common: Elements
    """Patient and study."""
    series: Elements
    """Body part, frame of reference, and number of its series."""


def localizer(source: bytes | Path) -> Localizer:
    """Read an image from a file or its bytes.

    Raises
    ------
    FileFormatError
        It is no image that we read.
    """
    try:
        head = dcmread(io.BytesIO(source) if isinstance(source, bytes) else source, stop_before_pixels=True)
    except InvalidDicomError as error:
        raise FileFormatError("localizer", expected="a DICOM image", got=str(error)) from error
    image = read_image(source)
    part = str(head.get("BodyPartExamined") or "")
    return Localizer(
        reference=Reference(str(head.SOPClassUID), str(head.SOPInstanceUID), str(head.SeriesInstanceUID)),
        grid=image.grid,
        pixels=image.data[0],
        common={key: str(head.get(key)) if head.get(key) else None for key in _SAME.split()},
        series={
            "SeriesNumber": int(head.get("SeriesNumber") or 0),
            "BodyPartExamined": part,
            "FrameOfReferenceUID": str(head.get("FrameOfReferenceUID") or ""),
            **({"Laterality": None} if "Laterality" in head or not part else {}),
        },
    )


def plan_objects(
    localizers: Sequence[Localizer], plan: SlicePlan, job: str, *, now: datetime | None = None
) -> list[DicomInstance]:
    """Return the presentation state and the page of a plan; the same job and plan have the same UIDs again.

    Parameters
    ----------
    localizers
        Images of one study, of any orientation.
    plan
        What is drawn.
    job
        Our identifier of the localizer's reconstruction, or any other name for the occasion.
    now
        When; the present time where it is not given.

    Raises
    ------
    DataError
        There is no image that the plan cuts, they are of several studies, or lie in another frame of reference.
    """
    time = now or datetime.now()
    drawn = [(one, lines) for one in localizers if (lines := plan_lines(plan, one.grid))]
    studies = {str(one.common["StudyInstanceUID"]) for one in localizers}
    frames = {str(one.series["FrameOfReferenceUID"]) for one, _ in drawn}
    if plan.frame_of_reference_uid:
        frames.add(plan.frame_of_reference_uid)
    if not drawn or len(studies) != 1 or len(frames - {""}) > 1:
        raise DataError(
            f"plan {plan.name}",
            expected="images of one study and frame of reference that the planned slices cut",
            got=f"{len(drawn)} images cut, {len(studies)} studies, {len(frames)} frames of reference",
            action="name the localizer that the plan was made of",
        )
    return [_state(drawn, plan, job, time), _burned_in(drawn, plan, job, time)]


Drawn = Sequence[tuple[Localizer, list[Line]]]


def _state(drawn: Drawn, plan: SlicePlan, job: str, now: datetime) -> DicomInstance:
    series: dict[str, list[Elements]] = {}
    for one, _ in drawn:
        series.setdefault(one.reference.series_uid, []).append(_pointer(one))
    elements: Elements = {
        **_head(drawn[0][0], plan, job, output=_STATE, now=now),
        "SOPClassUID": GSPS,
        "Modality": "PR",
        "SeriesDescription": f"Slice plan {plan.name}"[:64],
        "PresentationCreationDate": f"{now:%Y%m%d}",
        "PresentationCreationTime": f"{now:%H%M%S.%f}",
        "ContentLabel": "SLICE PLAN",
        "ContentDescription": _told(plan)[:64],
        "ContentCreatorName": None,
        "ReferencedSeriesSequence": [
            {"ReferencedImageSequence": images, "SeriesInstanceUID": uid} for uid, images in series.items()
        ],
        "DisplayedAreaSelectionSequence": [_shown(one) for one, _ in drawn],
        "GraphicLayerSequence": [
            {"GraphicLayer": _LAYER, "GraphicLayerOrder": 1, "GraphicLayerDescription": "Planned slices"}
        ],
        "GraphicAnnotationSequence": [_annotation(one, lines, plan) for one, lines in drawn],
        "PresentationLUTShape": "IDENTITY",
    }
    return doc.written(elements)


def _burned_in(drawn: Drawn, plan: SlicePlan, job: str, now: datetime) -> DicomInstance:
    picture = page([(one.pixels, one.grid, lines) for one, lines in drawn], plan)
    elements: Elements = {
        **_head(drawn[0][0], plan, job, output=_PAGE, now=now),
        "SOPClassUID": SECONDARY_CAPTURE,
        "Modality": "OT",
        "ConversionType": "WSD",
        "SeriesDescription": f"Slice plan {plan.name} (page)"[:64],
        "ImageType": ("DERIVED", "SECONDARY"),
        "PatientOrientation": None,
        "BurnedInAnnotation": "YES",
        "ContentDate": f"{now:%Y%m%d}",
        "ContentTime": f"{now:%H%M%S.%f}",
        "SourceImageSequence": [_pointer(one) for one, _ in drawn],
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": "RGB",
        "PlanarConfiguration": 0,
        "Rows": picture.shape[0],
        "Columns": picture.shape[1],
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
    }
    return doc.written(elements, picture.tobytes())


def _head(first: Localizer, plan: SlicePlan, job: str, *, output: str, now: datetime) -> Elements:
    name = f"{output}/{plan.name}"
    kept = ("BodyPartExamined", "Laterality")
    own = {key: value for key, value in first.series.items() if key in kept and value != ""}
    return {
        **first.common,
        **own,
        **maker(),
        "SOPInstanceUID": instance_uid(job, name, 0),
        "SeriesInstanceUID": series_uid(job, name),
        "SeriesNumber": int(str(first.series["SeriesNumber"])) // 100 * 100 + _OFFSETS[output],
        "InstanceNumber": 1,
        "InstanceCreationDate": f"{now:%Y%m%d}",
        "InstanceCreationTime": f"{now:%H%M%S.%f}",
    }


def _told(plan: SlicePlan) -> str:
    return f"{plan.name}: {plan.n_slices} slices every {plan.slice_distance_mm:g} mm, confidence {plan.confidence:.2f}"


def _pointer(one: Localizer) -> Elements:
    return {
        "ReferencedSOPClassUID": one.reference.sop_class,
        "ReferencedSOPInstanceUID": one.reference.sop_uid,
    }


def _shown(one: Localizer) -> Elements:
    _, n_y, n_x = one.grid.shape
    dy, dx = one.grid.spacing_mm[1:]
    return {
        "ReferencedImageSequence": [_pointer(one)],
        "DisplayedAreaTopLeftHandCorner": (1, 1),
        "DisplayedAreaBottomRightHandCorner": (n_x, n_y),
        "PresentationSizeMode": "SCALE TO FIT",
        "PresentationPixelSpacing": (dy, dx),
    }


def _annotation(one: Localizer, lines: Sequence[Line], plan: SlicePlan) -> Elements:
    """Return the lines over one image; graphic coordinates count from the corner of the first pixel."""
    x, y = lines[0].start
    words: Elements = {
        "AnchorPointAnnotationUnits": "PIXEL",
        "UnformattedTextValue": _told(plan),
        "AnchorPoint": (x + 0.5, y + 0.5),
        "AnchorPointVisibility": "N",
    }
    return {
        "ReferencedImageSequence": [_pointer(one)],
        "GraphicLayer": _LAYER,
        "TextObjectSequence": [words],
        "GraphicObjectSequence": [_polyline(line) for line in lines],
    }


def _polyline(line: Line) -> Elements:
    return {
        "GraphicAnnotationUnits": "PIXEL",
        "GraphicDimensions": 2,
        "NumberOfGraphicPoints": 2,
        "GraphicData": tuple(v + 0.5 for v in (*line.start, *line.stop)),
        "GraphicType": "POLYLINE",
        "GraphicFilled": "N",
    }
