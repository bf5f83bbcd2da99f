"""PET images: our `Image` in Bq/mL to classic PET Image Storage objects, one per slice (PS3.3 A.21).

Every slice has a slope of its own and no intercept, as PET has it. Activity is that of the start of the series (START)
or of the injection (ADMIN); SeriesTime is the start of the scan, AcquisitionTime that of the frame. An image that is
not calibrated has Units NONE, and where the start of the scan is not known the injection's time is left out: nobody
can make an SUV of either. What is common to all modalities is in `series`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from numpy.typing import NDArray

from acquisition.errors import DataError
from acquisition.geometry import Grid
from acquisition.items import Image, Kind, Position
from acquisition.scan import Scan, Tracer
from acquisition.verdict import Level, Verdict
from integration.dicom import common, pixels
from integration.dicom.series import CONVENTIONAL, Grey, SliceSeries
from integration.dicom.text import Elements

PET_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.128"
UNITS = {"Bq/mL": "BQML", "g/mL": "GML", "%": "PCNT", "1/cm": "1CM"}
"""Our unit -> Units (PS3.3 C.8.9.1.1.3); NONE for others."""
_DECAY = {"start": "START", "injection": "ADMIN"}
_STORED_TOP = 32767
_PREVIEW = "preview"
_NUCLIDES = {
    "^11^Carbon": "C-105A1",
    "^13^Nitrogen": "C-107A1",
    "^15^Oxygen": "C-B1038",
    "^18^Fluorine": "C-111A1",
    "^64^Copper": "C-127A2",
    "^68^Gallium": "C-131A3",
    "^82^Rubidium": "C-159A2",
    "^89^Zirconium": "C-168A4",
    "^124^Iodine": "C-114A5",
}
"""CID 4020."""
_ENTRY = {"H": ("102540008", "headfirst"), "F": ("102541007", "feet-first")}
_LYING = {"S": ("40199007", "supine"), "P": ("1240000", "prone")}
"""CID 21 and 20, by letter of the patient's position."""
_ORIGINAL = (CONVENTIONAL, "gated", "quiet", "motion_corrected")
"""Outputs that are made from counts, not from images."""
_SIGNALS = {"belt": "EXTERNAL", "events": "DATA DRIVEN"}
"""TriggerSourceOrType by where the breath was taken from."""
_METHODS = {
    "RAN": "RandomsCorrectionMethod",
    "ATTN": "AttenuationCorrectionMethod",
    "SCAT": "ScatterCorrectionMethod",
}
_DONE = {"RAN": "DLYD", "ATTN": "measured attenuation", "SCAT": "single scatter simulation"}


class PetSeries(SliceSeries):
    """Makes the PET objects of one job; see `SliceSeries`.

    Raises
    ------
    HeaderError
        It is no PET scan.
    """

    def __init__(
        self, scan: Scan, job: str, *, clock: Callable[[], datetime] = datetime.now, station: str | None = None
    ) -> None:
        super().__init__(scan, job, modality=PetModality(scan, clock()), clock=clock, station=station)


class PetModality:
    """What only PET images have (a `series.Modality`).

    Parameters
    ----------
    scan
        The measurement.
    now
        Stands for the start of a scan that does not tell it.

    Raises
    ------
    HeaderError
        It is no PET scan.
    """

    sop_class_uid = PET_IMAGE_STORAGE

    def __init__(self, scan: Scan, now: datetime) -> None:
        self._pet, self._known_start, self._start = scan.require_pet(), scan.started is not None, scan.started or now
        self._position = scan.patient.position

    def scan_elements(self) -> Elements:
        """Return tracer, and how the patient lies."""
        tracer = self._pet.tracer
        return {
            "RadiopharmaceuticalInformationSequence": [] if tracer is None else [self._injection(tracer)],
            **_orientation(self._position),
        }

    def parts(self, image: Image) -> list[Image]:
        """Return the slices, each an image of its own, because each has a slope of its own.

        Raises
        ------
        DataError
            It has complex values, or is a component of such.
        """
        if image.data.dtype.kind == "c" or image.kind is not Kind.MAGNITUDE or image.data.ndim < 3:
            raise DataError(
                f"image {image.output}",
                expected="real values of activity (z, y, x)",
                got=f"{image.kind} {image.data.dtype} {image.data.shape}",
                action="PET images have no phase; check the protocol",
            )
        n = image.grid.shape[0]
        told = dict(image.attributes) | {"n_slices": str(n)}
        times = _times(told.pop("slice_frames", ""), n)
        data = image.data.reshape(image.data.shape[-3:])
        if len(data) != n:
            raise DataError(f"image {image.output}", expected=f"{n} slices, as the grid has", got=str(len(data)))
        return [
            replace(
                image,
                data=data[z : z + 1],
                grid=image.grid.plane(z),
                position=replace(image.position, slice=image.position.slice + z),
                attributes=told | times[z],
            )
            for z in range(n)
        ]

    def words(self, image: Image) -> tuple[str, ...]:
        """Return that a preview is none to measure in, and the phase of the breath or heart, where it is no gate.

        Frames of time share a series, and so do gates.
        """
        warning = ("not quantitative",) if image.output == _PREVIEW else ()
        alone = image.position.phase and _n_gates(image) == 1
        return (*warning, *((f"phase {image.position.phase + 1}",) if alone else ()))

    def series_elements(self, image: Image) -> Elements:
        """Return units, corrections and kind of series."""
        told = image.attributes
        n_frames = int(told.get("n_frames", "1"))
        corrected = tuple(told.get("corrected", "").split())
        kind: Elements = {"SeriesType": ("STATIC", "IMAGE")}
        if int(told.get("n_beds", "1")) > 1:
            kind = {"SeriesType": ("WHOLE BODY", "IMAGE")}
        if n_frames > 1:
            kind = {"SeriesType": ("DYNAMIC", "IMAGE"), "NumberOfTimeSlices": n_frames}
        if _n_gates(image) > 1:
            kind = _gated(_n_gates(image), told)
        date, time = f"{self._start:%Y%m%d}", f"{self._start:%H%M%S.%f}"
        methods = {name: _DONE[word] if word in corrected else "NONE" for word, name in _METHODS.items()}
        return {
            "ImageType": _image_type(image.output),
            "SeriesDate": date,
            "SeriesTime": time,
            "Units": UNITS.get(image.unit, "NONE"),
            "CountsSource": "EMISSION",
            "NumberOfSlices": int(told.get("n_slices", "1")),
            "CorrectedImage": corrected,
            "DecayCorrection": _DECAY.get(told.get("decay_corrected_to", ""), "NONE"),
            "CollimatorType": None,
            **kind,
            **methods,
            **common.known({"ReconstructionMethod": told.get("method")}),
        }

    def image_elements(self, image: Image, shown: Grid) -> Elements:
        """Return time, length and decay of the frame, and the number of the image."""
        told, index = image.attributes, image.position
        begin, end = float(told.get("frame_start_s", "0")), float(told.get("frame_stop_s", "0"))
        at = self._start + timedelta(seconds=begin)
        live = float(told.get("live_s", end - begin))
        factor = float(told.get("decay_factor", self._decay_factor(begin, end)))
        elements: Elements = {
            "AcquisitionDate": f"{at:%Y%m%d}",
            "AcquisitionTime": f"{at:%H%M%S.%f}",
            "AcquisitionNumber": index.repetition + index.phase + 1,
            "ActualFrameDuration": round(1000 * live),
            "FrameReferenceTime": 1000 * self._reference_s(begin, end),
            "ImageIndex": (index.repetition + index.phase) * int(told.get("n_slices", "1")) + index.slice + 1,
            "DoseCalibrationFactor": self._pet.calibration_bq_per_cps,
        }
        if _n_gates(image) > 1:
            elements |= {"TriggerTime": float(told["trigger_ms"]), "FrameTime": float(told["slot_ms"])}
        if told.get("decay_corrected_to", "none") != "none":
            elements["DecayFactor"] = factor * (self._since_injection() if told["decay_corrected_to"] != "start" else 1)
        return elements

    def slice_elements(self, shown: Grid, z: int) -> Elements:
        """Return nothing: the slope is that of the image, which is one slice."""
        return {}

    def grey(
        self, earlier: Grey | None, data: NDArray, image: Image, *, where: str
    ) -> tuple[Grey, tuple[Verdict, ...]]:
        """Return the slope of this slice, and the window of all slices so far."""
        low, high = pixels.extent(data, where)
        slope = float(f"{max(abs(low), abs(high)) / _STORED_TOP * (1 + 1e-6):.8g}") or 1.0
        top = max(0.0 if earlier is None else earlier.top, pixels.window_top(data))
        return Grey(pixels.Scale(slope, True), top), ()

    def pixel_elements(self, image: Image, grey: Grey) -> Elements:
        """Return what stored pixels mean, and a window from 0 to the brightest so far."""
        top = max(grey.top, grey.scale.slope)
        return pixels.storage_elements(grey.scale) | {
            "RescaleIntercept": 0,
            "RescaleSlope": grey.scale.slope,
            "WindowCenter": top / 2,
            "WindowWidth": top,
            "VOILUTFunction": "LINEAR_EXACT",  # LINEAR knows no window narrower than 1
        }

    def instance_number(self, position: Position, z: int, n_z: int) -> int:
        """Return the number of the slice in its series, from 1; frames and gates of 10000 slices follow each other."""
        return (position.repetition + position.phase) * 10000 + position.slice + z + 1

    def check(self, position: Position) -> tuple[Verdict, ...]:
        """Return a FLAG where the start of the scan is not known."""
        if self._known_start:
            return ()
        return (
            Verdict(
                check="dicom.pet_time",
                level=Level.FLAG,
                advice="The scanner did not say when the scan began: no SUV can be made of these images.",
            ),
        )

    def _injection(self, tracer: Tracer) -> Elements:
        code = _NUCLIDES.get(tracer.nuclide)
        known: Elements = {
            "Radiopharmaceutical": tracer.name,
            "RadionuclideTotalDose": tracer.dose_bq,
            "RadionuclideHalfLife": tracer.half_life_s,
            "RadionuclidePositronFraction": tracer.branching,
        }
        if tracer.injected is not None and self._known_start:
            known["RadiopharmaceuticalStartTime"] = f"{tracer.injected:%H%M%S.%f}"
            known["RadiopharmaceuticalStartDateTime"] = f"{tracer.injected:%Y%m%d%H%M%S.%f}"
        return common.known(known) | {"RadionuclideCodeSequence": [_code(code, tracer.nuclide)] if code else []}

    def _decay_factor(self, begin: float, end: float) -> float:
        """Return what the counts of a frame were multiplied with to be those of the start of the scan."""
        tracer = self._pet.tracer
        if tracer is None or end <= begin:
            return 1.0
        rate = math.log(2) / tracer.half_life_s
        return math.exp(rate * begin) * rate * (end - begin) / -math.expm1(-rate * (end - begin))

    def _reference_s(self, begin: float, end: float) -> float:
        """Return when the activity was its mean over the frame, after the start of the scan [s]."""
        tracer = self._pet.tracer
        if tracer is None or end <= begin:
            return (begin + end) / 2
        return math.log2(self._decay_factor(begin, end)) * tracer.half_life_s

    def _since_injection(self) -> float:
        tracer = self._pet.tracer
        if tracer is None or tracer.injected is None:
            return 1.0
        return float(2 ** ((self._start - tracer.injected).total_seconds() / tracer.half_life_s))


def _n_gates(image: Image) -> int:
    return int(image.attributes.get("n_gates", "1"))


def _gated(n_gates: int, told: Mapping[str, str]) -> Elements:
    """Return the kind of a series of gates (PS3.3 C.8.9.1 and C.8.9.3); every breath was taken."""
    return {
        "SeriesType": ("GATED", "IMAGE"),
        "NumberOfRRIntervals": 1,
        "NumberOfTimeSlots": n_gates,
        "BeatRejectionFlag": "N",
        **common.known({"TriggerSourceOrType": _SIGNALS.get(told.get("gated_by", ""))}),
    }


def _times(told: str, n: int) -> list[dict[str, str]]:
    """Return begin and end of each of n slices, where the table was moved: they differ; else nothing."""
    spans = [span.split(":") for span in told.split()]
    return [{"frame_start_s": a, "frame_stop_s": b} for a, b in spans] if len(spans) == n else [{} for _ in range(n)]


def _image_type(output: str) -> tuple[str, ...]:
    """Return ImageType; that of a preview is no other image's."""
    if output == _PREVIEW:
        return ("ORIGINAL", "PRIMARY", "PREVIEW")
    return ("ORIGINAL" if output in _ORIGINAL else "DERIVED", "PRIMARY")


def _orientation(position: str | None) -> Elements:
    """Return how the patient lies and enters, as codes; empty where it is not known or on a side."""
    entry, lying = (position or "   ")[0], (position or "   ")[-1]
    recumbent: list[Elements] = []
    if lying in _LYING and len(position or "") == 3:
        modifier: list[Elements] = [_code(*_LYING[lying])]
        recumbent = [_code("102538003", "recumbent") | {"PatientOrientationModifierCodeSequence": modifier}]
    return {
        "PatientOrientationCodeSequence": recumbent,
        "PatientGantryRelationshipCodeSequence": [_code(*_ENTRY[entry])] if entry in _ENTRY else [],
    }


def _code(value: str, meaning: str) -> Elements:
    scheme = "SCT" if value.isdecimal() else "SRT"
    return {"CodeValue": value, "CodingSchemeDesignator": scheme, "CodeMeaning": meaning}
