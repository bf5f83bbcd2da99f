"""What a CT scan was, in DICOM's words: gantry, tube, table and dose, and the windows that fit its images."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from acquisition.ct_geometry import field_radius_mm, pitch_factor, row_pitch_iso_mm
from acquisition.scan import CtHeader
from integration.dicom.common import known
from integration.dicom.text import Elements

ROTATION = {1: "CW", -1: "CC"}
"""Sign of the rotation -> RotationDirection, seen from the front of the gantry: +x is right and +y down there."""
_MODES = {"axial": "AXIAL MODE", "helical": "HELICAL MODE"}
_PHANTOMS = {
    "head": ("113690", "IEC Head Dosimetry Phantom"),
    "body": ("113691", "IEC Body Dosimetry Phantom"),
}
"""CID 4052."""
_SHARP = frozenset({"BONE", "RAMP"})


@dataclass(frozen=True, slots=True)
class Window:
    """A range of HU worth looking at."""

    center: float
    """Grey half way between black and white [HU]."""
    width: float
    """From black to white [HU]."""
    name: str
    """What it is for."""


_SOFT, _BRAIN = Window(40, 400, "SOFT_TISSUE"), Window(40, 80, "BRAIN")
_LUNG, _BONE = Window(-600, 1500, "LUNG"), Window(300, 1500, "BONE")
_WINDOWS: tuple[tuple[re.Pattern[str], tuple[Window, ...], tuple[Window, ...]], ...] = (
    (re.compile("CHEST|THORAX|LUNG"), (_SOFT, _LUNG), (_LUNG, _BONE)),
    (re.compile("HEAD|BRAIN|SKULL"), (_BRAIN, _SOFT), (_BONE, _BRAIN)),
    (re.compile("."), (_SOFT,), (_BONE, _SOFT)),
    (re.compile(""), (_SOFT,), (_LUNG, _BONE)),
)
"""Body part; windows of smooth kernels, windows of sharp ones; the first row that fits holds."""


def windows(kernel: str, body_part: str | None) -> tuple[Window, ...]:
    """Return the windows for images of a kernel, the one to begin with first."""
    part = (body_part or "").strip().upper()
    smooth, sharp = next(row[1:] for row in _WINDOWS if row[0].search(part))
    return sharp if is_sharp(kernel) else smooth


def is_sharp(kernel: str) -> bool:
    """Return whether a kernel is made for edges rather than for low contrast."""
    return kernel.upper() in _SHARP


def window_elements(shown: tuple[Window, ...]) -> Elements:
    """Return the attributes of `windows`."""
    return {
        "WindowCenter": tuple(w.center for w in shown),
        "WindowWidth": tuple(w.width for w in shown),
        "WindowCenterWidthExplanation": tuple(w.name for w in shown),
    }


def exposure_s(ct: CtHeader) -> float | None:
    """Return how long a slice is exposed [s]: one rotation, of a helical scan divided by the pitch factor."""
    if ct.mode == "axial" or ct.rotation_s is None:
        return ct.rotation_s
    pitch = pitch_factor(ct)
    return ct.rotation_s / pitch if pitch else None


def acquisition_elements(ct: CtHeader) -> Elements:
    """Return what all images of a scan have in common (CT image module, PS3.3 C.8.2.1); the tilt is always 0."""
    time_s = exposure_s(ct)
    elements: Elements = {"KVP": ct.kvp, "GantryDetectorTilt": 0, "ScanOptions": _MODES[ct.mode]}
    elements |= known(
        {
            "DataCollectionDiameter": 2 * field_radius_mm(ct),
            "DistanceSourceToDetector": ct.source_detector_mm,
            "DistanceSourceToPatient": ct.source_isocentre_mm,
            "TableHeight": ct.table_height_mm,
            "RotationDirection": ROTATION.get(ct.rotation_sign or 0),
            "FocalSpots": ct.focal_spot_mm,
            "FilterType": ct.filter_type,
            "ExposureModulationType": ct.exposure_modulation,
            "ExposureTime": time_s and round(1e3 * time_s),
            "XRayTubeCurrent": ct.tube_ma and round(ct.tube_ma),
            "Exposure": time_s and ct.tube_ma and round(ct.tube_ma * time_s),
        }
    )
    return elements | collimation_elements(ct) | table_elements(ct) | dose_elements(ct)


def collimation_elements(ct: CtHeader) -> Elements:
    """Return the width of the beam, and the time of a rotation."""
    single = row_pitch_iso_mm(ct)
    return known(
        {
            "RevolutionTime": ct.rotation_s,
            "SingleCollimationWidth": single,
            "TotalCollimationWidth": single * ct.n_rows,
        }
    )


def table_elements(ct: CtHeader) -> Elements:
    """Return how the table moved while the gantry turned; nothing where it rested or nobody says."""
    if ct.mode == "axial" or not ct.feed_mm:
        return {}
    feed = abs(ct.feed_mm)
    return known(
        {
            "TableFeedPerRotation": feed,
            "TableSpeed": feed / ct.rotation_s if ct.rotation_s else None,
            "SpiralPitchFactor": pitch_factor(ct),
        }
    )


def dose_elements(ct: CtHeader) -> Elements:
    """Return the dose index and its phantom, where the scanner tells them."""
    if ct.ctdi_vol_mgy is None or not math.isfinite(ct.ctdi_vol_mgy):
        return {}
    elements: Elements = {"CTDIvol": ct.ctdi_vol_mgy}
    if ct.ctdi_phantom is None:
        return elements
    value, meaning = _PHANTOMS[ct.ctdi_phantom]
    code: Elements = {"CodeValue": value, "CodingSchemeDesignator": "DCM", "CodeMeaning": meaning}
    return elements | {"CTDIPhantomTypeCodeSequence": [code]}
