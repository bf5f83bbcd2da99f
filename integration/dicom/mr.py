"""MR images: our `Image` to classic MR Image Storage objects, one per slice (PS3.3 A.4).

A complex image becomes two series, magnitude and phase. What is common to all modalities is in `series`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from acquisition.geometry import Grid
from acquisition.items import Image, Kind, Position
from acquisition.scan import Scan
from acquisition.verdict import Verdict
from integration.dicom import common, pixels, plane
from integration.dicom.mr_number import Numbering
from integration.dicom.mr_sequence import sequence_elements, timing_elements
from integration.dicom.series import Grey, SliceSeries, grey_of
from integration.dicom.text import Elements

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
_IMAGE_TYPES: dict[Kind, tuple[str, str]] = {
    Kind.MAGNITUDE: ("OTHER", "M"),
    Kind.PHASE: ("PHASE MAP", "P"),
    Kind.REAL: ("OTHER", "R"),
    Kind.IMAGINARY: ("OTHER", "I"),
}
"""Values 3 (PS3.3 C.8.3.1.1.1) and 4 (as most vendors write it) of ImageType."""


class MrSeries(SliceSeries):
    """Makes the MR objects of one job; see `SliceSeries`.

    Raises
    ------
    HeaderError
        It is no MR scan.
    """

    def __init__(
        self, scan: Scan, job: str, *, clock: Callable[[], datetime] = datetime.now, station: str | None = None
    ) -> None:
        super().__init__(scan, job, modality=MrModality(scan), clock=clock, station=station)


class MrModality:
    """What only MR images have (a `series.Modality`).

    Raises
    ------
    HeaderError
        It is no MR scan.
    """

    sop_class_uid = MR_IMAGE_STORAGE

    def __init__(self, scan: Scan) -> None:
        self._header, self._equipment = scan.require_mr(), scan.equipment
        self._numbering = Numbering(self._header)

    def scan_elements(self) -> Elements:
        """Return sequence and magnet."""
        frequency = self._equipment.resonance_frequency_hz
        return sequence_elements(self._header) | common.known(
            {
                "MagneticFieldStrength": self._equipment.field_strength_t,
                "ImagingFrequency": frequency and frequency * 1e-6,
                "ReceiveCoilName": self._equipment.coil_name,
            }
        )

    def parts(self, image: Image) -> list[Image]:
        """Return magnitude and phase of a complex image; any other as it is."""
        if image.data.dtype.kind != "c":
            return [image]
        magnitude = replace(image, data=np.abs(image.data), kind=Kind.MAGNITUDE)
        return [magnitude, replace(image, data=np.angle(image.data), kind=Kind.PHASE, unit="rad")]

    def words(self, image: Image) -> tuple[str, ...]:
        """Return the component, unless it is the magnitude."""
        return () if image.kind is Kind.MAGNITUDE else (image.kind.value,)

    def series_elements(self, image: Image) -> Elements:
        """Return the image type."""
        return {"ImageType": ("ORIGINAL", "PRIMARY", *_IMAGE_TYPES[image.kind])}

    def image_elements(self, image: Image, shown: Grid) -> Elements:
        """Return phase encoding, times and numbers of a frame."""
        return (
            plane.encoding_elements(self._header.encodings[0], measured=image.grid, shown=shown)
            | timing_elements(self._header, image.position)
            | self._numbering.elements(image.position)
        )

    def slice_elements(self, shown: Grid, z: int) -> Elements:
        """Return nothing: slices differ by their place only."""
        return {}

    def grey(
        self, earlier: Grey | None, data: NDArray, image: Image, *, where: str
    ) -> tuple[Grey, tuple[Verdict, ...]]:
        """Return one scale for the series, coarser where an image does not fit."""
        return grey_of(earlier, data, image, where=where)

    def pixel_elements(self, image: Image, grey: Grey) -> Elements:
        """Return the real values and a window up to the brightest so far."""
        return pixels.scale_elements(image, grey.scale, top=grey.top)

    def instance_number(self, position: Position, z: int, n_z: int) -> int:
        """Return InstanceNumber: slices first, then contrasts, phases, repetitions, sets, averages; from 1."""
        return self._numbering.instance(position, z, n_z=n_z)

    def check(self, position: Position) -> tuple[Verdict, ...]:
        """Return a FLAG where a counter is outside what the header says."""
        return self._numbering.check(position)
