"""CT images: our `Image` in HU to classic CT Image Storage objects, one per slice (PS3.3 A.3).

HU are whole numbers, stored with slope 1 and intercept -1024 in signed 16 bits: -33792 to 31743 HU, which metal does
not reach. What is beyond is clipped, never wrapped, with a FLAG. So every slice of every series has the same scale.
Maps in another unit (%, mg/mL ...) have one slope per series, as MR images do. What is common to all modalities is in
`series`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import DataError
from acquisition.geometry import Grid
from acquisition.items import Image, Kind, Position
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from integration.dicom import common, pixels
from integration.dicom.ct_acquisition import acquisition_elements, window_elements, windows
from integration.dicom.series import Grey, SliceSeries, grey_of
from integration.dicom.text import Elements

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
HU_SCALE = pixels.Scale(1.0, True, -1024.0)
"""How HU are stored."""
RESCALE_TYPES = {"HU": "HU", "%": "PCT", "mg/mL": "MGML"}
"""Unit -> RescaleType (PS3.3 C.11.1.1.2); US (unspecified) for others."""
_APART = ("average", "set", "repetition", "phase", "contrast")
"""Counters that make series of their own, as radiologists know cardiac phases and passes of contrast agent."""


class CtSeries(SliceSeries):
    """Makes the CT objects of one job; see `SliceSeries`.

    Raises
    ------
    HeaderError
        It is no CT scan.
    """

    def __init__(
        self, scan: Scan, job: str, *, clock: Callable[[], datetime] = datetime.now, station: str | None = None
    ) -> None:
        super().__init__(scan, job, modality=CtModality(scan), clock=clock, station=station)


class CtModality:
    """What only CT images have (a `series.Modality`).

    Raises
    ------
    HeaderError
        It is no CT scan.
    """

    sop_class_uid = CT_IMAGE_STORAGE

    def __init__(self, scan: Scan) -> None:
        self._header, self._body_part = scan.require_ct(), scan.study.body_part

    def scan_elements(self) -> Elements:
        """Return gantry, tube, table and dose."""
        return acquisition_elements(self._header)

    def parts(self, image: Image) -> list[Image]:
        """Return the image, which has real values.

        Raises
        ------
        DataError
            It has complex values, or is a component of such.
        """
        if image.data.dtype.kind == "c" or image.kind is not Kind.MAGNITUDE:
            raise DataError(
                f"image {image.output}",
                expected="real values of attenuation",
                got=f"{image.kind} {image.data.dtype}",
                action="CT images have no phase; check the protocol",
            )
        return [image]

    def words(self, image: Image) -> tuple[str, ...]:
        """Return the counters of a frame that is not the first of its kind."""
        return tuple(f"{c} {n + 1}" for c in _APART if (n := getattr(image.position, c)))

    def series_elements(self, image: Image) -> Elements:
        """Return the image type: what is not HU was derived from them."""
        return {"ImageType": ("ORIGINAL" if image.unit == "HU" else "DERIVED", "PRIMARY", "AXIAL")}

    def image_elements(self, image: Image, shown: Grid) -> Elements:
        """Return field of view, kernel and acquisition number."""
        _, ny, nx = shown.shape
        _, dy, dx = shown.spacing_mm
        return {
            "AcquisitionNumber": image.position.repetition + 1,
            "ReconstructionDiameter": max(ny * dy, nx * dx),
            **common.known({"ConvolutionKernel": kernel_of(image)}),
        }

    def slice_elements(self, shown: Grid, z: int) -> Elements:
        """Return the centres of what was measured and of what is shown."""
        _, ny, nx = shown.shape
        centre = shown.world((z, (ny - 1) / 2, (nx - 1) / 2))
        return {"DataCollectionCenterPatient": (0.0, 0.0, centre[2]), "ReconstructionTargetCenterPatient": centre}

    def grey(
        self, earlier: Grey | None, data: NDArray, image: Image, *, where: str
    ) -> tuple[Grey, tuple[Verdict, ...]]:
        """Return the scale of HU, with a FLAG where some are clipped; for other units one that fits all."""
        if image.unit != "HU":
            return grey_of(earlier, data, image, where=where)
        return Grey(HU_SCALE), clipped(data, where)

    def pixel_elements(self, image: Image, grey: Grey) -> Elements:
        """Return what stored pixels mean, and windows by kernel and body part."""
        rescale: Elements = {
            "RescaleIntercept": grey.scale.intercept,
            "RescaleSlope": grey.scale.slope,
            "RescaleType": RESCALE_TYPES.get(image.unit, "US"),
        }
        shown: Elements = {"WindowCenter": grey.top / 2, "WindowWidth": max(grey.top, grey.scale.slope)}
        if image.unit == "HU":
            shown = window_elements(windows(kernel_of(image), self._body_part))
        return pixels.storage_elements(grey.scale) | rescale | shown

    def instance_number(self, position: Position, z: int, n_z: int) -> int:
        """Return the number of the slice in its series, from 1."""
        return position.slice + z + 1

    def check(self, position: Position) -> tuple[Verdict, ...]:
        """Return nothing: a CT header announces no counters."""
        return ()


def kernel_of(image: Image) -> str:
    """Return the reconstruction kernel that the image's origin names, or nothing."""
    return image.provenance.notes.get("kernel", "")


def clipped(data: NDArray, where: str) -> tuple[Verdict, ...]:
    """Return a FLAG where HU are beyond what is stored of them.

    Raises
    ------
    ReconError
        A value is NaN or infinite.
    """
    low, high = pixels.extent(data, where)
    if HU_SCALE.fits(low, high):
        return ()
    first, last = HU_SCALE.limits
    n_beyond = int(np.count_nonzero((data < first) | (data > last)))
    return (
        Verdict(
            check="dicom.range",
            level=Level.FLAG,
            advice="Some pixels are beyond what CT can be and were clipped: do not measure there.",
            value=high if high > last else low,
            limit=last if high > last else first,
            unit="HU",
            evidence=f"{n_beyond} of {data.size} pixels beyond {first:g} to {last:g} HU",
        ),
    )
