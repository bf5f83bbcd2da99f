"""One Enhanced CT object per series: valid by dciodvfy, every frame where the single slices are, honest about gaps."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import dcmwrite

from acquisition.errors import DataError, HeaderError, ReconError
from acquisition.items import Image, Position
from acquisition.scan import CtHeader, Scan
from acquisition.sources.phantom.exam import ORIENTATIONS
from acquisition.verdict import Level
from integration.dicom.common import DicomInstance
from integration.dicom.enhanced_ct import ENHANCED_CT_STORAGE, enhanced_ct
from integration.dicom.part10 import split
from tests.integration.dicom_ct_samples import bare_ct_scan, ct_image, ct_scan, ct_writer, full_header
from tests.integration.dicom_samples import FLAG, NOW, full_scan, grid_of, parsed, validate

KIND = "EnhancedCTImage"


def made(*images: Image, scan: Scan | None = None) -> DicomInstance:
    return enhanced_ct(scan or ct_scan(), "job-1", images, clock=lambda: NOW, station="recon-1")


def slices(image: Image) -> list[Image]:
    """The image slice by slice."""
    return [
        replace(image, data=image.data[z : z + 1], grid=image.grid.plane(z), position=Position(slice=z))
        for z in range(len(image.data))
    ]


def frame_places(ds: Dataset) -> dict[int, tuple[float, ...]]:
    """Stored value -> place [mm], by the standard's equation."""
    shared = ds.SharedFunctionalGroupsSequence[0]
    along, down = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    dy, dx = shared.PixelMeasuresSequence[0].PixelSpacing
    found = {}
    for frame, plane in zip(ds.PerFrameFunctionalGroupsSequence, ds.pixel_array, strict=True):
        corner = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        for (row, column), value in np.ndenumerate(plane):
            found[int(value)] = tuple(corner + along * dx * column + down * dy * row)
    return found


def single_places(instances: list[DicomInstance]) -> dict[int, tuple[float, ...]]:
    found = {}
    for instance in instances:
        ds = parsed(instance)
        along, down = np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
        dy, dx = ds.PixelSpacing
        for (row, column), value in np.ndenumerate(ds.pixel_array):
            place = np.array(ds.ImagePositionPatient, float) + along * dx * column + down * dy * row
            found[int(value)] = tuple(place)
    return found


@pytest.mark.peer("dciodvfy")
@pytest.mark.parametrize(
    "scan",
    [
        ct_scan(),
        ct_scan(full_header(mode="axial")),
        bare_ct_scan(),
        ct_scan(full_header(table_height_mm=None)),
        ct_scan(full_header(feed_mm=None)),
        replace(ct_scan(), started=None),
    ],
    ids=["full", "axial", "bare", "height", "feed", "start"],
)
def test_every_scan_is_valid(scan: Scan, tmp_path: Path) -> None:
    for image in (ct_image(), ct_image(kernel="", verdicts=(FLAG,)), slices(ct_image())[0]):
        assert validate(made(image, scan=scan).data, tmp_path, KIND) == []


@pytest.mark.peer("dciodvfy")
def test_the_validator_does_see_errors(tmp_path: Path) -> None:
    broken = made(ct_image()).data.replace(b"MONOCHROME2 ", b"MONOCHROME9 ")
    assert validate(broken, tmp_path, KIND)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_frames_lie_where_the_slices_lie(orientation: str) -> None:
    grid = grid_of(orientation)
    for turned in (grid, grid.flipped(0), grid.transposed()):
        image = ct_image(turned)
        single = single_places(ct_writer().instances(image))
        parts = slices(image)
        for given in ([image], parts, parts[::-1], [parts[2], parts[0], parts[3], parts[1]]):
            ds = parsed(made(*given))
            found = frame_places(ds)
            assert single.keys() == found.keys()
            np.testing.assert_allclose([found[v] for v in single], list(single.values()), atol=1e-6)
            assert ds.NumberOfFrames == 4


def test_frames_count_along_the_normal_and_times_along_the_table() -> None:
    ds = parsed(made(*slices(ct_image())))
    contents = [f.FrameContentSequence[0] for f in ds.PerFrameFunctionalGroupsSequence]
    assert [c.InStackPositionNumber for c in contents] == [1, 2, 3, 4]
    assert [list(c.DimensionIndexValues) for c in contents] == [[1, k] for k in (1, 2, 3, 4)]
    times = [datetime.strptime(c.FrameAcquisitionDateTime, "%Y%m%d%H%M%S.%f") for c in contents]
    assert times == sorted(times, reverse=True)  # the table of this scan feeds towards the feet
    assert (times[2] - times[3]).total_seconds() == pytest.approx(6 / 23.04 * 0.5, abs=1e-5)
    assert times[3] == datetime(2026, 3, 4, 4, 30)
    up = parsed(made(*slices(ct_image()), scan=ct_scan(full_header(feed_mm=23.04))))
    rising = [f.FrameContentSequence[0].FrameAcquisitionDateTime for f in up.PerFrameFunctionalGroupsSequence]
    assert rising == sorted(rising) and len(set(rising)) == 4


def test_the_table_moves_as_the_patient_lies() -> None:
    """More negative as the table moves in: towards the head where the feet went in first."""
    for position, sign in (("HFS", 1), ("FFS", -1), ("FFP", -1)):
        scan = ct_scan()
        scan = replace(scan, patient=replace(scan.patient, position=position))
        ds = parsed(made(ct_image(), scan=scan))
        frames = ds.PerFrameFunctionalGroupsSequence
        heights = [f.CTPositionSequence[0].DataCollectionCenterPatient[2] for f in frames]
        tables = [f.CTPositionSequence[0].TablePosition for f in frames]
        np.testing.assert_allclose(np.diff(tables), sign * np.diff(heights))
        times = [f.FrameContentSequence[0].FrameAcquisitionDateTime for f in frames]
        assert (times == sorted(times)) == (sign < 0)


def test_the_groups_say_what_the_scan_was() -> None:
    ds = parsed(instance := made(ct_image(kernel="BONE")))
    shared = ds.SharedFunctionalGroupsSequence[0]
    assert list(ds.ImageType) == ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    assert shared.CTAcquisitionTypeSequence[0].AcquisitionType == "SPIRAL"
    assert shared.CTReconstructionSequence[0].ConvolutionKernelGroup == "BONE"
    assert shared.CTXRayDetailsSequence[0].KVP == 120
    assert list(shared.CTXRayDetailsSequence[0].FilterMaterial) == ["ALUMINUM", "TITANIUM"]
    assert shared.CTExposureSequence[0].CTDIvol == 12.5
    assert shared.FrameAnatomySequence[0].AnatomicRegionSequence[0].CodeMeaning == "Abdomen"
    assert (shared.PixelValueTransformationSequence[0].RescaleIntercept, ds.PixelRepresentation) == (-1024, 1)
    assert (instance.sop_class_uid, ds.SeriesNumber, ds.SeriesDescription) == (
        ENHANCED_CT_STORAGE,
        790,
        "abdomen enhanced",
    )
    assert split(instance.data, "image").sop_class == ENHANCED_CT_STORAGE
    again = made(*slices(ct_image(kernel="BONE")))
    assert again.sop_instance_uid == instance.sop_instance_uid
    assert again.data == instance.data


@pytest.mark.parametrize(
    "missing",
    [
        {"tube_ma": None},
        {"filter_type": None},
        {"exposure_modulation": None},
        {"feed_mm": None},
        {"focal_spot_mm": ()},
        {"rotation_sign": None},
    ],
)
def test_what_is_not_known_makes_it_derived(missing: dict) -> None:
    ct: CtHeader = full_header(**missing)
    ds = parsed(made(ct_image(), scan=ct_scan(ct)))
    assert ds.ImageType[0] == ds.SharedFunctionalGroupsSequence[0].CTImageFrameTypeSequence[0].FrameType[0] == "DERIVED"


def test_metal_is_clipped_and_flagged() -> None:
    image = ct_image()
    image = replace(image, data=np.where(image.data == image.data.max(), 1e6, image.data))
    instance = made(image)
    assert parsed(instance).pixel_array.max() == 32767
    assert [(v.check, v.level) for v in instance.verdicts] == [("dicom.range", Level.FLAG)]


def test_what_is_no_volume_is_refused() -> None:
    image = ct_image()
    parts = slices(image)
    with pytest.raises(HeaderError, match="expected a CT scan, got modality MR"):
        made(image, scan=full_scan())
    with pytest.raises(DataError, match="expected slices of one output in HU, got none"):
        made()
    with pytest.raises(DataError, match="got conventional in HU, soft in HU"):
        made(parts[0], replace(parts[1], output="soft"))
    with pytest.raises(DataError, match="in mg/mL"):
        made(replace(image, unit="mg/mL"))
    with pytest.raises(DataError, match="evenly spaced slices"):
        made(parts[0], parts[1], parts[3])
    with pytest.raises(DataError, match="each place once"):
        made(parts[0], parts[1], parts[1])
    with pytest.raises(ReconError, match="got 1 of 192 voxels NaN"):
        bad = image.data.copy()
        bad[1, 2, 3] = np.nan
        made(replace(image, data=bad))


def test_pydicom_writes_the_same_bytes() -> None:
    data = made(ct_image()).data
    ds = dcmread(io.BytesIO(data))
    for element in ds.iterall():
        assert element.value is not None or element.VM == 0
    fresh = Dataset()
    fresh.update(ds)
    fresh.file_meta = FileMetaDataset(ds.file_meta)
    buffer = io.BytesIO()
    dcmwrite(buffer, fresh, enforce_file_format=True)
    assert buffer.getvalue() == data
