"""A finished CT series as one multi-frame Enhanced CT object (PS3.3 A.38), for archives that prefer it.

What all frames share is said once, each frame adds its place. The standard asks more of an ORIGINAL image than many
scanners tell; where a fact is missing the type is DERIVED, which may leave it out, rather than an invented value.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from acquisition.ct_geometry import field_radius_mm, patient_axes
from acquisition.errors import DataError
from acquisition.geometry import Grid, display_orientation
from acquisition.items import Image
from acquisition.scan import CtHeader, Scan
from acquisition.verdict import Verdict
from integration.dicom import common, pixels, plane
from integration.dicom.ct import HU_SCALE, RESCALE_TYPES, clipped, kernel_of
from integration.dicom.ct_acquisition import (
    ROTATION,
    collimation_elements,
    dose_elements,
    exposure_s,
    is_sharp,
    table_elements,
    window_elements,
    windows,
)
from integration.dicom.series import CONVENTIONAL, distinct, volume
from integration.dicom.template import EXPLICIT_LITTLE_ENDIAN, Layer
from integration.dicom.text import Elements, cleaned
from integration.dicom.uid import instance_uid, series_uid, uid_of

ENHANCED_CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2.1"
_TYPES = {"axial": "SEQUENCED", "helical": "SPIRAL"}
"""Mode -> AcquisitionType (PS3.3 C.8.15.3.2.1)."""
_STACK, _IN_STACK, _CONTENT = 0x00209056, 0x00209057, 0x00209111
_LARGEST = 0xFFFFFFFE
_EVEN = 1e-3
_REGIONS = {
    "ABDOMEN": ("818981001", "Abdomen"),
    "BRAIN": ("12738006", "Brain"),
    "CHEST": ("51185008", "Chest"),
    "HEAD": ("69536005", "Head"),
    "HEART": ("80891009", "Heart"),
    "NECK": ("45048000", "Neck"),
    "PELVIS": ("12921003", "Pelvis"),
    "SPINE": ("421060004", "Spine"),
}
"""Body part -> SNOMED CT code and meaning (PS3.16 CID 4030)."""
_ANYWHERE = ("38266002", "Entire body")


def enhanced_ct(
    scan: Scan,
    job: str,
    images: Sequence[Image],
    *,
    clock: Callable[[], datetime] = datetime.now,
    station: str | None = None,
) -> common.DicomInstance:
    """Return one object with all slices of a series in HU; `clock` and `station` as for `series.SliceSeries`.

    Parameters
    ----------
    scan, job
        The measurement, and our identifier of its reconstruction.
    images
        The slices of one output, in any order.

    Raises
    ------
    HeaderError
        It is no CT scan.
    DataError
        The images are not the slices of one volume in HU, or too many for one object.
    ReconError
        A value is NaN or infinite.
    """
    ct, now, where = scan.require_ct(), clock(), f"scan {scan.uid}: Enhanced CT"
    data, grid, first = _stacked(images, where)
    verdicts = (*_found(scan, images), *clipped(data, where))
    clean, notes = cleaned(
        _general(scan, job, first, now=now)
        | common.origin(first, verdicts, now=now)
        | common.contribution(first.provenance, now=now, station=station or platform.node())
        | _image_elements(scan, ct, first, grid)
        | _dimensions(job)
        | {"SharedFunctionalGroupsSequence": [_shared(scan, ct, first, grid)]}
        | {"PerFrameFunctionalGroupsSequence": [_frame(scan, ct, grid, z) for z in range(len(data))]}
    )
    return common.DicomInstance(
        sop_class_uid=ENHANCED_CT_STORAGE,
        sop_instance_uid=str(clean["SOPInstanceUID"]),
        series_uid=str(clean["SeriesInstanceUID"]),
        study_uid=str(clean["StudyInstanceUID"]),
        transfer_syntax_uid=EXPLICIT_LITTLE_ENDIAN,
        index=1,
        description=str(clean["SeriesDescription"]),
        data=Layer.of({}, signed=True).part10(clean, pixels.store(data, HU_SCALE).data.cast("B")),
        verdicts=distinct((*verdicts, *common.header_verdict(notes))),
    )


def _found(scan: Scan, images: Sequence[Image]) -> tuple[Verdict, ...]:
    header = common.header_verdict(common.header_notes(scan))
    return distinct((*scan.verdicts, *(v for image in images for v in image.verdicts), *header))


def _general(scan: Scan, job: str, image: Image, *, now: datetime) -> Elements:
    """Return identity, series and equipment; the side of the body stands with the frames here."""
    name = f"{image.output}/enhanced"
    number = (90 if scan.study.series_number is None else scan.study.series_number) * 100 + 90
    told = common.output_words(image, CONVENTIONAL)
    suffix = f"{told} enhanced".strip()
    description = f"{(scan.protocol_name or 'CT').strip()[: 63 - len(suffix)]} {suffix}"
    series = common.series(scan, uid=series_uid(job, name), number=number, description=description)
    series.pop("Laterality", None)
    return {
        "SOPClassUID": ENHANCED_CT_STORAGE,
        "SOPInstanceUID": instance_uid(job, name, 0),
        **common.patient(scan),
        **common.study(scan, job, now=now),
        **series,
        **common.frame_of_reference(scan, job),
        **_equipment(scan),
    }


def _stacked(images: Sequence[Image], where: str) -> tuple[NDArray, Grid, Image]:
    """Return the volume (z, y, x), z along the slices' normal, its grid, and its first image."""
    parts = [part for image in images for part in _slices(image, where)]
    if not parts or len({(i.output, i.unit) for i, _ in parts}) > 1 or parts[0][0].unit != "HU":
        got = ", ".join(sorted({f"{i.output} in {i.unit}" for i, _ in parts})) or "none"
        raise DataError(where, expected="slices of one output in HU", got=got)
    normal = np.asarray(parts[0][1].normal)
    parts = sorted(parts, key=lambda part: float(part[1].origin_mm @ normal))
    first, last, n = parts[0][1], parts[-1][1], len(parts)
    way = np.subtract(last.origin_mm, first.origin_mm)
    spacing = float(way @ normal) / (n - 1) if n > 1 else first.spacing_mm[0]
    for z, (_, grid) in enumerate(parts):
        same = replace(grid, origin_mm=first.origin_mm) == first
        if not same or np.abs(np.subtract(grid.origin_mm, first.origin_mm) - z * spacing * normal).max() > _EVEN:
            raise DataError(
                where,
                expected="evenly spaced slices of one size and direction, each place once",
                got=f"slice {z} at {grid.origin_mm}, {grid.shape}",
                action="send the series as single slices",
            )
    data = np.concatenate([image.data for image, _ in parts])
    if 2 * data.size > _LARGEST:
        raise DataError(where, expected="less than 4 GiB of pixels", got=f"{2 * data.size} bytes")
    whole = replace(
        first,
        shape=(n, *first.shape[1:]),
        spacing_mm=(spacing, *first.spacing_mm[1:]),
        z_dir=first.normal,
    )
    return data, whole, parts[0][0]


def _slices(image: Image, where: str) -> list[tuple[Image, Grid]]:
    """Return each slice of an image, turned for display, with its grid."""
    data = volume(image, where)
    plane.check_grid(image.grid, data.shape, where=where)
    data, grid = display_orientation(data, image.grid)
    planes = [replace(grid.plane(z), z_dir=grid.normal) for z in range(len(data))]
    return [(replace(image, data=data[z : z + 1]), one) for z, one in enumerate(planes)]


def _equipment(scan: Scan) -> Elements:
    """Return the scanner; Enhanced objects must name it."""
    e = scan.equipment
    told: Elements = {
        "Manufacturer": e.vendor,
        "ManufacturerModelName": e.model,
        "DeviceSerialNumber": e.serial_number,
        "SoftwareVersions": e.software,
    }
    return common.equipment(scan) | {key: value or "UNKNOWN" for key, value in told.items()}


def _type(scan: Scan, ct: CtHeader, image: Image) -> tuple[str, ...]:
    """Return ImageType: ORIGINAL where every fact is known that the standard then asks for."""
    facts = (scan.started, ct.rotation_s, ct.rotation_sign, ct.kvp, ct.tube_ma, ct.table_height_mm, exposure_s(ct))
    texts = (ct.focal_spot_mm, ct.filter_type, ct.filter_materials, ct.exposure_modulation, kernel_of(image))
    complete = (
        image.provenance.network is None
        and all(fact is not None for fact in facts)
        and all(texts)
        and (ct.mode == "axial" or bool(ct.feed_mm))
    )
    return ("ORIGINAL" if complete else "DERIVED", "PRIMARY", "VOLUME", "NONE")


def _image_elements(scan: Scan, ct: CtHeader, image: Image, grid: Grid) -> Elements:
    covered = grid.shape[0] * grid.spacing_mm[0]
    turns = covered / abs(ct.feed_mm) if ct.mode == "helical" and ct.feed_mm else 1.0
    started = scan.started
    timing = {
        "AcquisitionDateTime": started and f"{started:%Y%m%d%H%M%S.%f}",
        "AcquisitionDuration": ct.rotation_s and turns * ct.rotation_s,
    }
    return {
        "ImageType": _type(scan, ct, image),
        **_description(),
        "InstanceNumber": 1,
        "AcquisitionNumber": 1,
        **common.known(timing),  # type: ignore[arg-type]
        **pixels.storage_elements(HU_SCALE),
        "PresentationLUTShape": "IDENTITY",
        "Rows": grid.shape[1],
        "Columns": grid.shape[2],
        "NumberOfFrames": grid.shape[0],
        "AcquisitionContextSequence": [],
    }


def _description() -> Elements:
    return {
        "PixelPresentation": "MONOCHROME",
        "VolumetricProperties": "VOLUME",
        "VolumeBasedCalculationTechnique": "NONE",
    }


def _dimensions(job: str) -> Elements:
    """Return the one dimension: the place of a frame in the stack."""
    organization = uid_of("dimensions", job)
    return {
        "DimensionOrganizationSequence": [{"DimensionOrganizationUID": organization}],
        "DimensionOrganizationType": "3D",
        "DimensionIndexSequence": [
            {
                "DimensionOrganizationUID": organization,
                "DimensionIndexPointer": tag,
                "FunctionalGroupPointer": _CONTENT,
                "DimensionDescriptionLabel": label,
            }
            for tag, label in ((_STACK, "Stack"), (_IN_STACK, "Slice"))
        ],
    }


def _shared(scan: Scan, ct: CtHeader, image: Image, grid: Grid) -> Elements:
    place = plane.plane_elements(grid)
    measures = {key: place[key] for key in ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices")}
    rescale: Elements = {
        "RescaleIntercept": HU_SCALE.intercept,
        "RescaleSlope": HU_SCALE.slope,
        "RescaleType": RESCALE_TYPES["HU"],
    }
    details = common.known({"KVP": ct.kvp, "FocalSpots": ct.focal_spot_mm, "FilterType": ct.filter_type})
    groups: dict[str, Elements] = {
        "PixelMeasuresSequence": measures,
        "PlaneOrientationSequence": {"ImageOrientationPatient": place["ImageOrientationPatient"]},
        "PixelValueTransformationSequence": rescale,
        "FrameVOILUTSequence": window_elements(windows(kernel_of(image), scan.study.body_part)),
        "FrameAnatomySequence": _anatomy(scan),
        "CTImageFrameTypeSequence": {"FrameType": _type(scan, ct, image), **_description()},
        "CTAcquisitionTypeSequence": {
            "AcquisitionType": _TYPES[ct.mode],
            "ConstantVolumeFlag": "NO",
            "FluoroscopyFlag": "NO",
        },
        "CTAcquisitionDetailsSequence": _acquisition(ct),
        "CTTableDynamicsSequence": {"TableSpeed": 0.0} if ct.mode == "axial" else table_elements(ct),
        "CTGeometrySequence": {
            "DistanceSourceToDetector": ct.source_detector_mm,
            "DistanceSourceToDataCollectionCenter": ct.source_isocentre_mm,
        },
        "CTReconstructionSequence": _reconstruction(image, grid) if kernel_of(image) else {},
        "CTExposureSequence": _exposure(ct),
        "CTXRayDetailsSequence": details | common.known({"FilterMaterial": ct.filter_materials}),
        "IrradiationEventIdentificationSequence": {"IrradiationEventUID": uid_of("irradiation", scan.uid)},
    }
    filled: Elements = {name: [group] for name, group in groups.items() if group}
    return filled


def _anatomy(scan: Scan) -> Elements:
    value, meaning = _REGIONS.get((scan.study.body_part or "").strip().upper(), _ANYWHERE)
    code: Elements = {"CodeValue": value, "CodingSchemeDesignator": "SCT", "CodeMeaning": meaning}
    return {"FrameLaterality": "U", "AnatomicRegionSequence": [code]}


def _acquisition(ct: CtHeader) -> Elements:
    """Return gantry and collimation; nothing without the height of the table, which the standard asks for with them."""
    if ct.table_height_mm is None:
        return {}
    return {
        "GantryDetectorTilt": 0.0,
        "DataCollectionDiameter": 2 * field_radius_mm(ct),
        "TableHeight": ct.table_height_mm,
        **collimation_elements(ct),
        **common.known({"RotationDirection": ROTATION.get(ct.rotation_sign or 0)}),
    }


def _reconstruction(image: Image, grid: Grid) -> Elements:
    _, ny, nx = grid.shape
    _, dy, dx = grid.spacing_mm
    kernel = kernel_of(image)
    return {
        "ReconstructionAlgorithm": "FILTER_BACK_PROJ",
        "ConvolutionKernel": kernel,
        "ConvolutionKernelGroup": "BONE" if is_sharp(kernel) else "SOFT_TISSUE",
        "ReconstructionDiameter": max(ny * dy, nx * dx),
        "ReconstructionPixelSpacing": (dy, dx),
        "ReconstructionAngle": 360.0,
        "ImageFilter": "NONE",
    }


def _exposure(ct: CtHeader) -> Elements:
    """Return exposure and dose; nothing unless all of the exposure is known, which the standard asks for together."""
    time_s = exposure_s(ct)
    if time_s is None or ct.tube_ma is None or ct.exposure_modulation is None:
        return {}
    return {
        "ExposureTimeInms": 1e3 * time_s,
        "XRayTubeCurrentInmA": ct.tube_ma,
        "ExposureInmAs": ct.tube_ma * time_s,
        "ExposureModulationType": ct.exposure_modulation,
        **dose_elements(ct),
    }


def _frame(scan: Scan, ct: CtHeader, grid: Grid, z: int) -> Elements:
    place = plane.slice_elements(grid, z)
    _, ny, nx = grid.shape
    centre = grid.world((z, (ny - 1) / 2, (nx - 1) / 2))
    position: Elements = {
        "TablePosition": centre[2] * patient_axes(scan.patient.position)[2][2],
        "DataCollectionCenterPatient": (0.0, 0.0, centre[2]),
        "ReconstructionTargetCenterPatient": centre,
    }
    content: Elements = {"StackID": "1", "InStackPositionNumber": z + 1, "DimensionIndexValues": (1, z + 1)}
    return {
        "FrameContentSequence": [content | _frame_times(scan, ct, grid, z)],
        "PlanePositionSequence": [{"ImagePositionPatient": place["ImagePositionPatient"]}],
        "CTPositionSequence": [position],
    }


def _frame_times(scan: Scan, ct: CtHeader, grid: Grid, z: int) -> Elements:
    """Return when a frame was exposed, the first one of the scan's direction at its start."""
    duration_s = exposure_s(ct)
    if scan.started is None or duration_s is None:
        return {}
    after_s = 0.0
    if ct.feed_mm and ct.rotation_s:
        along = float(np.dot(patient_axes(scan.patient.position)[2], grid.z_dir))
        steps = z if ct.feed_mm * along > 0 else grid.shape[0] - 1 - z
        after_s = steps * grid.spacing_mm[0] / abs(ct.feed_mm) * ct.rotation_s
    begin, middle = (scan.started + timedelta(seconds=after_s + part * duration_s) for part in (0, 0.5))
    return {
        "FrameAcquisitionDateTime": f"{begin:%Y%m%d%H%M%S.%f}",
        "FrameReferenceDateTime": f"{middle:%Y%m%d%H%M%S.%f}",
        "FrameAcquisitionDuration": 1e3 * duration_s,
    }
