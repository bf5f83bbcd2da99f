"""From the words of DICOM-CT-PD to ours: coordinates, gantry, patient.

The format counts in the gantry as seen from its front: X to the right, Y up, Z out of it, towards who looks. The
detector's focus rests at ``rho0 (-sin phi0, cos phi0), z0``. A patient who lies head first supine has the left side at
+X, the back at -Y and the head at -Z, so in the coordinates of `acquisition.ct_geometry` ``x = X, y = -Y, z = -Z`` and
``a = -(phi0 + pi/2)``: angles and heights change their sense, of the flying focal spot too. Columns count along growing
phi as seen from the focus, where the fan angle grows; rows along falling Z: nothing is flipped. GE counts the central
column from the other end, from 0; others from 1.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from acquisition.ct_geometry import checked
from acquisition.errors import DataError, FileFormatError, HeaderError
from acquisition.items import VIEW_HEAD
from acquisition.scan import CtHeader, Equipment, Patient, Scan, Study
from acquisition.sources.ctpd_tags import TAGS, Tags
from acquisition.verdict import Level, Verdict

Floats: TypeAlias = NDArray[np.float64]
_T = TypeVar("_T")

_ROUNDING_MM = 0.02  # table positions come rounded to 0.01 mm
_OFF_PATH = 2.5  # views off an even turn; a lost rotation or a jump is more
_WATER_PER_MM = (0.01, 0.05)  # 150 keV attenuates more than the first, 30 keV less than the second
_SHAPES: dict[str, Literal["cylindrical", "flat"]] = {"CYLINDRICAL": "cylindrical", "FLAT": "flat"}
_MODES: dict[str, Literal["axial", "helical"]] = {"AXIAL": "axial", "HELICAL": "helical", "SPIRAL": "helical"}
_CORRECTIONS = tuple(name for name in TAGS if name.endswith("CorrectionFlag"))


def view_heads(columns: dict[str, Floats], per_turn: int, *, where: str) -> NDArray[np.void]:
    """Return the heads of views in our coordinates, `VIEW_HEAD` (n,); heights that are only rounded are mended.

    Parameters
    ----------
    columns
        Values of the per-view attributes by name, each (n,).
    per_turn
        Views per rotation.
    where
        The folder, for messages.

    Raises
    ------
    DataError
        The angles are not those of a gantry that turns evenly.
    """
    angle = -(np.unwrap(columns["DetectorFocalCenterAngularPosition"]) + np.pi / 2)
    index = np.arange(len(angle))
    step = 2 * np.pi / per_turn * (1.0 if angle[-1] >= angle[0] else -1.0)
    off = np.abs(angle - angle[0] - step * index).max() / abs(step)
    if off > _OFF_PATH:
        worst = int(np.argmax(np.abs(np.diff(angle) - step)))
        raise DataError(
            f"{where}: angles",
            expected=f"evenly spaced views, {per_turn} per rotation",
            got=f"up to {off:.1f} views off, a step of {np.rad2deg(angle[worst + 1] - angle[worst]):.3f} degrees "
            f"after view {worst}",
            action="check for missing views and the number of angular steps",
        )
    head = np.zeros(len(angle), VIEW_HEAD)
    head["view"], head["angle_rad"] = index, angle
    head["z_mm"] = _unrounded(-columns["DetectorFocalCenterAxialPosition"])
    head["angle_shift_rad"] = -columns["SourceAngularPositionShift"]
    head["z_shift_mm"] = -columns["SourceAxialPositionShift"]
    head["radius_shift_mm"] = columns["SourceRadialDistanceShift"]
    head["ma"] = columns["XRayTubeCurrent"]
    return head


def _unrounded(z_mm: Floats) -> Floats:
    """Return heights on the straight line that they follow, if rounding is all that they are off it."""
    if len(z_mm) < 3 or np.ptp(z_mm) == 0:
        return z_mm
    index = np.arange(len(z_mm), dtype=np.float64)
    line = np.polynomial.Polynomial.fit(index, z_mm, 1)(index)
    return np.asarray(line) if np.abs(line - z_mm).max() <= _ROUNDING_MM else z_mm


def ct_header(tags: Tags, head: NDArray[np.void]) -> CtHeader:
    """Return gantry and detector.

    Parameters
    ----------
    tags
        Attributes of the first view.
    head
        Heads of all views, which tell how gantry and table moved.

    Raises
    ------
    FileFormatError
        The data are no line integrals.
    HeaderError
        A tag is missing or says what cannot be reconstructed.
    """
    if tags.text("LogFlag").upper() == "NO":
        raise FileFormatError(f"{tags.where}: LogFlag", expected="line integrals", got="data before the logarithm")
    for name in ("NumberofSources", "NumberofSpectra"):
        if tags.number(name, 1) > 1:
            raise HeaderError(f"{tags.where}: {name}", expected="1", got=tags.text(name), action="split the scan")
    n_channels, per_turn = int(tags.number("NumberofDetectorColumns")), int(tags.number("NumberofSourceAngularSteps"))
    moved = float(head["z_mm"][-1] - head["z_mm"][0])
    told = tags.text("TypeofProjectionData").upper() or ("HELICAL" if abs(moved) > _ROUNDING_MM else "AXIAL")
    mode = _choice(tags, "TypeofProjectionData", told, _MODES)
    return checked(
        CtHeader(
            mode=mode,
            detector=_choice(tags, "DetectorShape", tags.text("DetectorShape").upper(), _SHAPES),
            n_rows=int(tags.number("NumberofDetectorRows")),
            n_channels=n_channels,
            pitch_mm=(tags.number("DetectorElementAxialSpacing"), tags.number("DetectorElementTransverseSpacing")),
            centre=_centre(tags, n_channels),
            source_isocentre_mm=tags.number("DetectorFocalCenterRadialDistance"),
            source_detector_mm=tags.number("ConstantRadialDistance"),
            views_per_rotation=per_turn,
            rotation_s=tags.known("RevolutionTime"),
            mu_water_per_mm=_water(tags),
            kvp=tags.known("KVP"),
            tube_ma=float(head["ma"].mean()) if (head["ma"] > 0).all() else None,
            rotation_sign=1 if head["angle_rad"][-1] >= head["angle_rad"][0] else -1,
            feed_mm=moved / max(len(head) - 1, 1) * per_turn if mode == "helical" else 0.0,
            ctdi_vol_mgy=tags.known("CTDIvol"),
        ),
        tags.where,
    )


def scan_of(tags: Tags, ct: CtHeader, n_views: int) -> Scan:
    """Return the header of the scan."""
    names = ("SeriesInstanceUID", "StudyInstanceUID", "PatientID", "SeriesNumber")
    identity = "\n".join((*map(tags.text, names), str(n_views), str(ct)))
    number = tags.known("SeriesNumber")
    return Scan(
        uid=f"ctpd-{hashlib.sha256(identity.encode()).hexdigest()[:16]}",
        modality="CT",
        protocol_name=tags.text("ProtocolName") or tags.text("SeriesDescription") or None,
        patient=Patient(
            id=tags.text("PatientID") or None,
            name=tags.text("PatientName") or None,
            birth_date=tags.text("PatientBirthDate") or None,
            sex=tags.text("PatientSex") or None,
            position=tags.text("PatientPosition") or None,
        ),
        study=Study(
            instance_uid=tags.text("StudyInstanceUID") or None,
            id=tags.text("StudyID") or None,
            date=tags.text("StudyDate") or None,
            time=tags.text("StudyTime") or None,
            accession_number=tags.text("AccessionNumber") or None,
            description=tags.text("StudyDescription") or None,
            body_part=tags.text("BodyPartExamined") or None,
            series_instance_uid=tags.text("SeriesInstanceUID") or None,
            series_number=None if number is None else int(number),
            frame_of_reference_uid=tags.text("FrameOfReferenceUID") or None,
        ),
        equipment=Equipment(
            vendor=tags.text("Manufacturer") or None,
            model=tags.text("ManufacturerModelName") or None,
            serial_number=tags.text("DeviceSerialNumber") or None,
            software=tags.text("SoftwareVersions") or None,
            institution=tags.text("InstitutionName") or None,
            station=tags.text("StationName") or None,
        ),
        started=_started(tags),
        user_parameters={"flying_focal_spot": tags.text("FlyingFocalSpotMode") or "FFSNONE"},
        ct=ct,
        verdicts=_uncorrected(tags),
    )


def _choice(tags: Tags, name: str, told: str, table: dict[str, _T]) -> _T:
    if told not in table:
        raise HeaderError(f"{tags.where}: {name}", expected=" or ".join(table), got=told or "none")
    return table[told]


def _centre(tags: Tags, n_channels: int) -> tuple[float, float]:
    """Return the index (row, channel), from 0, of the ray through the isocentre."""
    column, row = tags.numbers("DetectorCentralElement", 2)
    is_ge = tags.text("Manufacturer").upper().startswith("GE")
    return row - 1, n_channels - 1 - column if is_ge else column - 1


def _water(tags: Tags) -> float | None:
    """Return the attenuation of water [1/mm], which older files keep in another place."""
    name = next((n for n in ("WaterAttenuationCoefficient", "HUCalibrationFactor") if tags.values(n)), None)
    if name is None:
        return None
    mu, (low, high) = tags.number(name), _WATER_PER_MM
    if not low < mu < high:
        raise HeaderError(f"{tags.where}: {name}", expected=f"{low} to {high} per mm", got=f"{mu:g}")
    return mu


def _started(tags: Tags) -> datetime | None:
    text = tags.text("AcquisitionDate") + tags.text("AcquisitionTime").split(".")[0]
    try:
        return datetime.strptime(text, "%Y%m%d%H%M%S")
    except ValueError:
        return None


def _uncorrected(tags: Tags) -> tuple[Verdict, ...]:
    """Return a FLAG that names the corrections which the scanner says it has not made."""
    left = [name.removesuffix("CorrectionFlag") for name in _CORRECTIONS if tags.text(name).upper() == "NO"]
    if not left:
        return ()
    return (
        Verdict(
            check="ct.corrections",
            level=Level.FLAG,
            advice="The scanner has not made all corrections of these data: HU may be off.",
            value=float(len(left)),
            limit=0.0,
            unit="corrections",
            evidence=f"not made: {', '.join(left)}",
        ),
    )
