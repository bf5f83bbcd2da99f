"""Slices to DICOM objects, whatever the modality: one output of a scan is one series, one slice is one object.

Slices are turned the way a radiologist looks at them, by flips and an exchange of axes only; every voxel keeps its
place in the patient. Series numbers are the scanner's times 100, plus 0 for the conventional image and 1, 2 ... for
others as they come. What differs between modalities is a `Modality`.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from numpy.typing import NDArray

from acquisition.errors import DataError
from acquisition.geometry import Grid, display_orientation
from acquisition.items import Image, Kind, Position
from acquisition.scan import Scan
from acquisition.verdict import Verdict
from integration.dicom import common, pixels, plane
from integration.dicom.template import EXPLICIT_LITTLE_ENDIAN, Layer
from integration.dicom.text import Elements, cleaned
from integration.dicom.uid import instance_uid, series_uid, study_uid

LOG = logging.getLogger(__name__)

CONVENTIONAL = "conventional"
OUTER = ("average", "set", "repetition", "phase", "contrast", "slice")
"""Counters of a frame from the slowest to the fastest."""
_UNNUMBERED = 90
"""Stands for the scanner's series number where there is none."""


@dataclass(frozen=True, slots=True)
class Grey:
    """How the values of a series are stored and shown, as far as its images have told."""

    scale: pixels.Scale
    """Stored integers to values."""
    top: float = 0.0
    """Value shown white: the largest so far; 0 where the window does not follow the image."""
    settled: bool = True
    """Whether an image that is not empty has fixed the scale."""


class Modality(Protocol):
    """What only one modality knows of its images; made for one scan."""

    sop_class_uid: str
    """SOPClassUID of its objects."""

    def scan_elements(self) -> Elements:
        """Return what all images of the scan have in common."""

    def parts(self, image: Image) -> list[Image]:
        """Return the images with real values that `image` becomes."""

    def words(self, image: Image) -> tuple[str, ...]:
        """Return what sets the series of an image apart from others of the same output."""

    def series_elements(self, image: Image) -> Elements:
        """Return what all images of a series have in common."""

    def image_elements(self, image: Image, shown: Grid) -> Elements:
        """Return what all slices of an image, written on the grid `shown`, have in common."""

    def slice_elements(self, shown: Grid, z: int) -> Elements:
        """Return what only slice `z` has, besides its place."""

    def grey(
        self, earlier: Grey | None, data: NDArray, image: Image, *, where: str
    ) -> tuple[Grey, tuple[Verdict, ...]]:
        """Return how the values of an image are stored, and what was found; raises ReconError on NaN."""

    def pixel_elements(self, image: Image, grey: Grey) -> Elements:
        """Return what stored pixels mean and how to show them."""

    def instance_number(self, position: Position, z: int, n_z: int) -> int:
        """Return InstanceNumber of slice `z` of `n_z`, from 1."""

    def check(self, position: Position) -> tuple[Verdict, ...]:
        """Return findings about the counters of a frame."""


@dataclass(slots=True)
class _Series:
    """What the images of one series share, and what they have learnt of its grey values."""

    name: str
    """Output and what else sets it apart."""
    uid: str
    """SeriesInstanceUID."""
    elements: Elements
    """Attributes common to all images."""
    grey: Grey | None = None
    """As the images so far have fixed it."""
    layers: dict[bool, Layer] = field(default_factory=dict)
    """``elements`` encoded, by signedness of the pixels."""

    def layer(self, signed: bool) -> Layer:
        """Return the encoded elements."""
        if signed not in self.layers:
            self.layers[signed] = Layer.of(self.elements, signed=signed)
        return self.layers[signed]


class SliceSeries:
    """Makes the DICOM objects of one job; not for several threads at once.

    Parameters
    ----------
    scan
        The measurement.
    job
        Our identifier of its reconstruction: the same job makes the same UIDs again.
    modality
        What is special to its images.
    clock
        Local time, asked once per image.
    station
        Name of this computer, of which DeviceUID is made.
    """

    def __init__(
        self,
        scan: Scan,
        job: str,
        *,
        modality: Modality,
        clock: Callable[[], datetime] = datetime.now,
        station: str | None = None,
    ) -> None:
        self.scan, self.job, self.study_uid = scan, job, study_uid(scan, job)
        self._modality, self._clock, self._station = modality, clock, station or platform.node()
        self._series: dict[str, _Series] = {}
        self._elements, notes = cleaned(self._scan_elements(clock()))
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
        return [instance for part in self._modality.parts(image) for instance in self._instances(part)]

    def _instances(self, image: Image) -> list[common.DicomInstance]:
        where = f"scan {self.scan.uid}, image {image.output}"
        data = volume(image, where)
        plane.check_grid(image.grid, data.shape, where=where)
        series = self._series_of(image)
        grey, found = self._modality.grey(series.grey, data, image, where=where)
        series.grey = grey
        data, shown = display_orientation(data, image.grid)
        shown, skewed = plane.rectangular(shown)
        numbered = self._modality.check(image.position)
        verdicts = distinct((*self.scan.verdicts, *image.verdicts, *self._verdicts, *found, *skewed, *numbered))
        for verdict in (*found, *skewed, *numbered):
            LOG.warning("scan %s job %s: %s: %s", self.scan.uid, self.job, verdict.advice, verdict.evidence)
        now = self._clock()
        elements, notes = cleaned(
            plane.plane_elements(shown)
            | self._modality.image_elements(image, shown)
            | self._modality.pixel_elements(image, grey)
            | common.origin(image, verdicts, now=now)
            | common.contribution(image.provenance, now=now, station=self._station)
        )
        if notes:
            LOG.warning("scan %s job %s: %s", self.scan.uid, self.job, "; ".join(notes))
        layer = series.layer(grey.scale.signed).extended(elements)
        verdicts = (*verdicts, *common.header_verdict(notes))
        stack = replace(image, data=data, grid=shown, verdicts=verdicts)
        return [self._instance(stack, series, z=z, layer=layer, scale=grey.scale) for z in range(len(data))]

    def _instance(
        self, image: Image, series: _Series, *, z: int, layer: Layer, scale: pixels.Scale
    ) -> common.DicomInstance:
        number = self._modality.instance_number(image.position, z, image.grid.shape[0])
        uid = instance_uid(self.job, series.name, unique_index(image.position, z))
        own, _ = cleaned(
            {
                "SOPInstanceUID": uid,
                "InstanceNumber": number,
                **plane.slice_elements(image.grid, z),
                **self._modality.slice_elements(image.grid, z),
            },
        )
        stored = pixels.store(image.data[z], scale)
        return common.DicomInstance(
            sop_class_uid=self._modality.sop_class_uid,
            sop_instance_uid=uid,
            series_uid=series.uid,
            study_uid=self.study_uid,
            transfer_syntax_uid=EXPLICIT_LITTLE_ENDIAN,
            index=number,
            description=str(series.elements["SeriesDescription"]),
            data=layer.part10(own, stored.data.cast("B")),
            verdicts=image.verdicts,
        )

    def _series_of(self, image: Image) -> _Series:
        words = self._modality.words(image)
        name = "/".join((image.output, *words))
        if name not in self._series:
            others = [known for known in self._series if known != CONVENTIONAL]
            offset = 0 if name == CONVENTIONAL else len(others) + 1
            uid = series_uid(self.job, name)
            given = self.scan.study.series_number
            number = (_UNNUMBERED if given is None else given) * 100 + offset
            description = self._description(common.output_words(image, CONVENTIONAL), words)
            elements = common.series(self.scan, uid=uid, number=number, description=description)
            own, notes = cleaned(elements | common.derived(self._modality.series_elements(image), image.provenance))
            if notes:
                LOG.warning("scan %s job %s: %s", self.scan.uid, self.job, "; ".join(notes))
                self._verdicts = distinct((*self._verdicts, *common.header_verdict(notes)))
            self._series[name] = _Series(name, uid, self._elements | own)
        return self._series[name]

    def _description(self, told: str, words: tuple[str, ...]) -> str:
        """Return the protocol's name, and what sets this series apart; the same for all its images."""
        suffix = " ".join(word for word in (told, *words) if word)
        name = (self.scan.protocol_name or self.scan.modality).strip()
        return f"{name[: 63 - len(suffix)]} {suffix}".strip()

    def _scan_elements(self, now: datetime) -> Elements:
        return {
            "SOPClassUID": self._modality.sop_class_uid,
            **common.patient(self.scan),
            **common.study(self.scan, self.job, now=now),
            **common.frame_of_reference(self.scan, self.job),
            **common.equipment(self.scan),
            **self._modality.scan_elements(),
        }


def volume(image: Image, where: str) -> NDArray:
    """Return the array as (z, y, x).

    Raises
    ------
    DataError
        It is no single frame.
    """
    extra = image.data.shape[:-3]
    if image.data.ndim < 3 or any(n != 1 for n in extra) or image.kind is Kind.COMPLEX:
        raise DataError(
            where,
            expected="one real or complex frame (z, y, x)",
            got=f"{image.kind} {image.data.dtype} {image.data.shape}",
            action="send one image per frame and channel",
        )
    return image.data.reshape(image.data.shape[-3:])


def unique_index(position: Position, z: int) -> int:
    """Return a number that no other slice of the series has, whatever the header claims."""
    index = 0
    for counter in OUTER:
        index = (index << 16) + getattr(position, counter)
    return (index << 16) + z


def distinct(verdicts: Iterable[Verdict]) -> tuple[Verdict, ...]:
    """Return `verdicts` in order, each once."""
    return tuple(dict.fromkeys(verdicts))


def grey_of(earlier: Grey | None, data: NDArray, image: Image, *, where: str) -> tuple[Grey, tuple[Verdict, ...]]:
    """Return the scale that the first image of a series that is not empty fixes, as far as all fit, and the window.

    Raises
    ------
    ReconError
        A value is NaN or infinite.
    """
    low, high = pixels.extent(data, where)
    known = earlier.scale if earlier is not None and earlier.settled else None
    scale, found = pixels.fitting(known or pixels.first_scale(image, low, high), low, high)
    top = max(0.0 if earlier is None else earlier.top, pixels.window_top(data))
    settled = known is not None or (low, high) != (0.0, 0.0)
    return Grey(scale, top, settled), found
