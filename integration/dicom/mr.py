"""MR images: our `Image` to classic MR Image Storage objects, one per slice (PS3.3 A.4).

Slices are turned the way a radiologist looks at them, by flips and an exchange of axes only; every voxel keeps its
place in the patient. One output of a scan is one series; a complex image becomes two, magnitude and phase.
Series numbers are the scanner's times 100, plus 0 for the conventional image and 1, 2 ... for others as they come.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import DataError
from acquisition.geometry import display_orientation
from acquisition.items import Image, Kind
from acquisition.scan import Scan
from acquisition.verdict import Verdict
from integration.dicom import common, pixels, plane
from integration.dicom.mr_number import Numbering
from integration.dicom.mr_sequence import sequence_elements, timing_elements
from integration.dicom.template import EXPLICIT_LITTLE_ENDIAN, Layer
from integration.dicom.text import Elements, cleaned
from integration.dicom.uid import instance_uid, series_uid, study_uid

LOG = logging.getLogger(__name__)

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
CONVENTIONAL = "conventional"
_UNNUMBERED = 90
"""Stands for the scanner's series number where there is none."""
_IMAGE_TYPES: dict[Kind, tuple[str, str]] = {
    Kind.MAGNITUDE: ("OTHER", "M"),
    Kind.PHASE: ("PHASE MAP", "P"),
    Kind.REAL: ("OTHER", "R"),
    Kind.IMAGINARY: ("OTHER", "I"),
}
"""Values 3 (PS3.3 C.8.3.1.1.1) and 4 (as most vendors write it) of ImageType."""


@dataclass(slots=True)
class _Series:
    """What the images of one series share, and what they have learnt of its grey values."""

    name: str
    """Output and component."""
    uid: str
    """SeriesInstanceUID."""
    elements: Elements
    """Attributes common to all images."""
    scale: pixels.Scale | None = None
    """Fixed by the first image that is not empty."""
    top: float = 0.0
    """Value shown white: the largest so far."""
    layers: dict[bool, Layer] = field(default_factory=dict)
    """``elements`` encoded, by signedness of the pixels."""

    def layer(self, signed: bool) -> Layer:
        """Return the encoded elements."""
        if signed not in self.layers:
            self.layers[signed] = Layer.of(self.elements, signed=signed)
        return self.layers[signed]


class MrSeries:
    """Makes the DICOM objects of one job; not for several threads at once.

    Parameters
    ----------
    scan
        The measurement.
    job
        Our identifier of its reconstruction: the same job makes the same UIDs again.
    clock
        Local time, asked once per image.
    station
        Name of this computer, of which DeviceUID is made.

    Raises
    ------
    HeaderError
        It is no MR scan.
    """

    def __init__(
        self, scan: Scan, job: str, *, clock: Callable[[], datetime] = datetime.now, station: str | None = None
    ) -> None:
        self._header = scan.require_mr()
        self.scan, self.job, self.study_uid = scan, job, study_uid(scan, job)
        self._clock, self._station = clock, station or platform.node()
        self._numbering = Numbering(self._header)
        self._series: dict[str, _Series] = {}
        common_elements, notes = cleaned(self._scan_elements(clock()))
        self._elements = common_elements
        self._verdicts = common.header_verdict([*common.header_notes(scan), *notes])
        for verdict in self._verdicts:
            LOG.warning("scan %s job %s: %s", scan.uid, job, verdict.evidence)

    def instances(self, image: Image) -> list[common.DicomInstance]:
        """Return one object per slice of `image`, in the order of its z axis.

        Raises
        ------
        DataError
            Array and grid do not fit each other or DICOM.
        ReconError
            The image has NaN or infinite voxels.
        """
        return [instance for part in _parts(image) for instance in self._instances(part)]

    def _instances(self, image: Image) -> list[common.DicomInstance]:
        where = f"scan {self.scan.uid}, image {image.output}"
        data = _volume(image, where)
        plane.check_grid(image.grid, data.shape, where=where)
        series = self._series_of(image)
        scale, found = self._scale(series, image, extent=pixels.extent(data, where))
        series.top = max(series.top, pixels.window_top(data))
        data, shown = display_orientation(data, image.grid)
        shown, skewed = plane.rectangular(shown)
        numbered = self._numbering.check(image.position)
        verdicts = _distinct((*self.scan.verdicts, *image.verdicts, *self._verdicts, *found, *skewed, *numbered))
        for verdict in (*found, *skewed, *numbered):
            LOG.warning("scan %s job %s: %s: %s", self.scan.uid, self.job, verdict.advice, verdict.evidence)
        now = self._clock()
        elements, notes = cleaned(
            plane.plane_elements(shown)
            | plane.encoding_elements(self._header.encodings[0], measured=image.grid, shown=shown)
            | timing_elements(self._header, image.position)
            | self._numbering.elements(image.position)
            | pixels.scale_elements(image, scale, top=series.top)
            | common.origin(image, verdicts, now=now)
            | common.contribution(image.provenance, now=now, station=self._station)
        )
        if notes:
            LOG.warning("scan %s job %s: %s", self.scan.uid, self.job, "; ".join(notes))
        layer = series.layer(scale.signed).extended(elements)
        verdicts = (*verdicts, *common.header_verdict(notes))
        stack = replace(image, data=data, grid=shown, verdicts=verdicts)
        return [self._instance(stack, series, z=z, layer=layer, scale=scale) for z in range(len(data))]

    def _instance(
        self, image: Image, series: _Series, *, z: int, layer: Layer, scale: pixels.Scale
    ) -> common.DicomInstance:
        number = self._numbering.instance(image.position, z, n_z=image.grid.shape[0])
        uid = instance_uid(self.job, series.name, self._numbering.index(image.position, z))
        own, _ = cleaned(
            {"SOPInstanceUID": uid, "InstanceNumber": number, **plane.slice_elements(image.grid, z)},
        )
        stored = pixels.store(image.data[z], scale)
        return common.DicomInstance(
            sop_class_uid=MR_IMAGE_STORAGE,
            sop_instance_uid=uid,
            series_uid=series.uid,
            study_uid=self.study_uid,
            transfer_syntax_uid=EXPLICIT_LITTLE_ENDIAN,
            index=number,
            description=str(series.elements["SeriesDescription"]),
            data=layer.part10(own, stored.data.cast("B")),
            verdicts=image.verdicts,
        )

    def _scale(
        self, series: _Series, image: Image, *, extent: tuple[float, float]
    ) -> tuple[pixels.Scale, tuple[Verdict, ...]]:
        """Return the scale of an image; the first that is not empty fixes that of the series, as far as all fit."""
        scale, found = pixels.fitting(series.scale or pixels.first_scale(image, *extent), *extent)
        if extent != (0.0, 0.0):
            series.scale = scale
        return scale, found

    def _series_of(self, image: Image) -> _Series:
        name = image.output if image.kind is Kind.MAGNITUDE else f"{image.output}/{image.kind.value}"
        if name not in self._series:
            others = [known for known in self._series if known != CONVENTIONAL]
            offset = 0 if name == CONVENTIONAL else len(others) + 1
            uid = series_uid(self.job, name)
            given = self.scan.study.series_number
            number = (_UNNUMBERED if given is None else given) * 100 + offset
            elements = common.series(self.scan, uid=uid, number=number, description=self._description(image))
            elements["ImageType"] = ("ORIGINAL", "PRIMARY", *_IMAGE_TYPES[image.kind])
            own, notes = cleaned(elements)
            if notes:
                LOG.warning("scan %s job %s: %s", self.scan.uid, self.job, "; ".join(notes))
                self._verdicts = _distinct((*self._verdicts, *common.header_verdict(notes)))
            self._series[name] = _Series(name, uid, self._elements | own)
        return self._series[name]

    def _description(self, image: Image) -> str:
        """Return the protocol's name, and what sets this series apart; the same for all its images."""
        words = [] if image.output == CONVENTIONAL else [image.output[:40]]
        words += [] if image.kind is Kind.MAGNITUDE else [image.kind.value]
        suffix = " ".join(words)
        name = (self.scan.protocol_name or "MR").strip()
        return f"{name[: 63 - len(suffix)]} {suffix}".strip()

    def _scan_elements(self, now: datetime) -> Elements:
        equipment = self.scan.equipment
        frequency = equipment.resonance_frequency_hz
        return {
            "SOPClassUID": MR_IMAGE_STORAGE,
            **common.patient(self.scan),
            **common.study(self.scan, self.job, now=now),
            **common.frame_of_reference(self.scan, self.job),
            **common.equipment(self.scan),
            **sequence_elements(self._header),
            **common.known(
                {
                    "MagneticFieldStrength": equipment.field_strength_t,
                    "ImagingFrequency": frequency and frequency * 1e-6,
                    "ReceiveCoilName": equipment.coil_name,
                }
            ),
        }


def _parts(image: Image) -> list[Image]:
    """Return the real-valued images that a complex one becomes; any other as it is."""
    if image.data.dtype.kind != "c":
        return [image]
    magnitude = replace(image, data=np.abs(image.data), kind=Kind.MAGNITUDE)
    return [magnitude, replace(image, data=np.angle(image.data), kind=Kind.PHASE, unit="rad")]


def _volume(image: Image, where: str) -> NDArray:
    """Return the array as (z, y, x)."""
    extra = image.data.shape[:-3]
    if image.data.ndim < 3 or any(n != 1 for n in extra) or image.kind is Kind.COMPLEX:
        raise DataError(
            where,
            expected="one real or complex frame (z, y, x)",
            got=f"{image.kind} {image.data.dtype} {image.data.shape}",
            action="send one image per frame and channel",
        )
    return image.data.reshape(image.data.shape[-3:])


def _distinct(verdicts: Iterable[Verdict]) -> tuple[Verdict, ...]:
    return tuple(dict.fromkeys(verdicts))
