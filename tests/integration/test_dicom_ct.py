"""CT objects: valid by dciodvfy, HU and places come back, metal does not wrap, the header's facts in DICOM's words."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from acquisition.errors import DataError, HeaderError, ReconError
from acquisition.items import Image, Kind, Position
from acquisition.scan import CtHeader, Scan
from acquisition.sources.phantom.ct import CtExam, CtSimulation, gantry
from acquisition.sources.phantom.exam import ORIENTATIONS
from acquisition.verdict import Level
from integration.dicom.ct import CT_IMAGE_STORAGE, CtSeries
from integration.dicom.part10 import split
from integration.dicom.read import read_image
from integration.export import FolderExporter
from integration.protocol import Library
from integration.runner import Run
from tests.integration.dicom_ct_samples import (
    bare_ct_scan,
    bare_header,
    ct_image,
    ct_scan,
    ct_writer,
    full_header,
)
from tests.integration.dicom_samples import (
    FLAG,
    HOLD,
    assert_valid,
    full_scan,
    grid_of,
    parsed,
    rebuilt,
    validate,
)
from tests.integration.test_dicom_geometry import assert_same, dicom_places, places

KIND = "CTImage"


def hu(values: object, **changes: object) -> Image:
    """One slice (6, 8) filled with `values`, repeated."""
    data = np.resize(np.asarray(values, np.float32), (1, 6, 8))
    return ct_image(grid_of().plane(0), data=data, **changes)


# --- the validator's word


@pytest.mark.peer("dciodvfy")
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("scan", [ct_scan(), bare_ct_scan()], ids=["full", "bare"])
def test_every_plane_is_valid(orientation: str, scan: Scan, tmp_path: Path) -> None:
    assert_valid(ct_writer(scan).instances(ct_image(grid_of(orientation)))[:2], tmp_path, KIND)


@pytest.mark.peer("dciodvfy")
@pytest.mark.parametrize("ct", [full_header(mode="axial"), full_header(ctdi_phantom=None), full_header(feed_mm=None)])
def test_every_scan_is_valid(ct: CtHeader, tmp_path: Path) -> None:
    images = [
        ct_image(kernel=""),
        ct_image(verdicts=(FLAG, HOLD), output="denoised"),
        hu([-1e6, 1e6]),
        hu([0.0, 3.5], unit="mg/mL", output="iodine"),
        hu([-2.0, 3.5], unit="1/cm", output="odd unit"),
        ct_image(position=Position(phase=3, repetition=1)),
    ]
    series = ct_writer(ct_scan(ct))
    for image in images:
        assert_valid(series.instances(image)[:1], tmp_path, KIND)


@pytest.mark.peer("dciodvfy")
def test_the_validator_does_see_errors(tmp_path: Path) -> None:
    broken = ct_writer().instances(ct_image())[0].data.replace(b"MONOCHROME2 ", b"MONOCHROME9 ")
    assert any("PhotometricInterpretation" in error for error in validate(broken, tmp_path, KIND))


def test_the_bytes_are_those_that_pydicom_writes() -> None:
    for image in (ct_image(), hu([0.0, 3.5], unit="mg/mL", output="iodine")):
        data = ct_writer().instances(image)[0].data
        assert rebuilt(data) == data


# --- values


def test_hu_come_back_whole_and_every_series_has_one_scale() -> None:
    series = ct_writer()
    image = ct_image()
    for other in (image, hu([-1000.0, 3071.0]), hu([0.0, 0.0], output="denoised")):
        instances = series.instances(other)
        ds = parsed(instances[0])
        assert (ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType) == (1, -1024, "HU")
        assert (ds.PixelRepresentation, ds.BitsStored, ds.pixel_array.dtype) == (1, 16, np.int16)
        assert all(i.verdicts == () for i in instances)
    back = read_image([i.data for i in series.instances(image)])
    np.testing.assert_array_equal(np.sort(back.data.ravel()), np.sort(image.data.ravel()))
    assert back.unit == "HU"


def test_fractions_are_rounded_to_the_nearest() -> None:
    data = np.linspace(-1023.9, 2000.3, 48)
    for dtype in (np.float32, np.float64):
        back = read_image(ct_writer().instances(hu(data, kernel=""))[0].data).data.ravel()
        np.testing.assert_allclose(back, data.astype(dtype), atol=0.5001)


def test_metal_is_clipped_and_flagged_but_never_wraps(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        instance = ct_writer().instances(hu([50.0, 1e5, -1e5, 31743.0, -33792.0, 31743.9]))[0]
    back = read_image(instance.data).data.ravel()[:6]
    np.testing.assert_array_equal(back, [50, 31743, -33792, 31743, -33792, 31743])
    (verdict,) = instance.verdicts
    assert (verdict.check, verdict.level, verdict.value, verdict.limit) == ("dicom.range", Level.FLAG, 1e5, 31743)
    assert "24 of 48 pixels" in verdict.evidence
    assert "were clipped" in caplog.text and "were clipped" in parsed(instance).ImageComments
    assert ct_writer().instances(hu([31743.4, -33792.4]))[0].verdicts == ()
    (below,) = ct_writer().instances(hu([0.0, -1e5]))[0].verdicts
    assert (below.value, below.limit) == (-1e5, -33792)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_image_is_refused(bad: float) -> None:
    with pytest.raises(ReconError, match="scan scan-1, image conventional: expected finite voxels, got 24 of 48"):
        ct_writer().instances(hu([bad, 1.0]))


def test_other_units_have_a_slope_of_their_own() -> None:
    values = np.linspace(0, 7.5, 48)
    ds = parsed(instance := ct_writer().instances(hu(values, unit="mg/mL"))[0])
    assert (ds.RescaleType, ds.RescaleIntercept, ds.RescaleSlope) == ("MGML", 0, 0.002)
    assert list(ds.ImageType) == ["DERIVED", "PRIMARY", "AXIAL"]
    assert float(ds.WindowWidth) == pytest.approx(7.5, rel=0.05)
    back = read_image(instance.data)
    assert back.unit == "mg/mL"
    np.testing.assert_allclose(back.data.ravel(), values, atol=1e-3)
    assert parsed(ct_writer().instances(hu(values, unit="1/cm"))[0]).RescaleType == "US"


def test_phase_and_complex_values_are_refused() -> None:
    with pytest.raises(DataError, match="expected real values of attenuation, got magnitude complex64"):
        ct_writer().instances(_complex())
    with pytest.raises(DataError, match="got phase"):
        ct_writer().instances(hu([1.0], kind=Kind.PHASE))


def _complex() -> Image:
    return replace(hu([1.0]), data=np.ones((1, 6, 8), np.complex64))


# --- places


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_voxels_keep_place_and_value(orientation: str) -> None:
    grid = grid_of(orientation)
    for turned in (grid, grid.flipped(0), grid.transposed(), grid.flipped(2)):
        image = ct_image(turned)
        instances = ct_writer().instances(image)
        shifted = {value + 1024: place for value, place in places(image).items()}
        assert_same(shifted, dicom_places(instances))
        assert_same(places(image), places(read_image([i.data for i in instances[::-1]])))


def test_slices_go_out_as_they_are_made_the_same_as_the_volume() -> None:
    image = ct_image()
    stream, whole = ct_writer(), ct_writer().instances(image)
    for z, other in enumerate(whole):
        part = replace(image, data=image.data[z : z + 1], grid=image.grid.plane(z), position=Position(slice=z))
        (one,) = stream.instances(part)
        assert (one.index, one.series_uid) == (other.index, other.series_uid)
        a, b = parsed(one), parsed(other)
        for name in ("InstanceNumber", "PixelData", "SliceLocation", "SpacingBetweenSlices", "SliceThickness"):
            assert a[name].value == b[name].value, name
        np.testing.assert_allclose(a.ImagePositionPatient, b.ImagePositionPatient, atol=1e-9)
        np.testing.assert_allclose(a.ReconstructionTargetCenterPatient, image.grid.plane(z).centre_mm, atol=1e-9)
        np.testing.assert_allclose(a.DataCollectionCenterPatient, (0, 0, image.grid.plane(z).centre_mm[2]))


# --- header


def test_what_the_scan_was() -> None:
    ds = parsed(ct_writer().instances(ct_image())[0])
    width = 64 * 1.0947 * 595 / 1085.6
    expected = {
        "SOPClassUID": CT_IMAGE_STORAGE,
        "Modality": "CT",
        "PatientName": "Muster^Erika",
        "SeriesDescription": "abdomen",
        "SeriesNumber": 700,
        "KVP": 120,
        "XRayTubeCurrent": 240,
        "GantryDetectorTilt": 0,
        "DistanceSourceToDetector": 1085.6,
        "DistanceSourceToPatient": 595,
        "RotationDirection": "CW",
        "ScanOptions": "HELICAL MODE",
        "ConvolutionKernel": "STANDARD",
        "ReconstructionDiameter": 240,
        "RevolutionTime": 0.5,
        "SingleCollimationWidth": pytest.approx(width / 64),
        "TotalCollimationWidth": pytest.approx(width),
        "TableFeedPerRotation": 23.04,
        "TableSpeed": pytest.approx(46.08),
        "SpiralPitchFactor": pytest.approx(23.04 / width),
        "ExposureTime": round(500 * width / 23.04),
        "Exposure": round(240 * 0.5 * width / 23.04),
        "CTDIvol": 12.5,
        "FocalSpots": 1.2,
        "FilterType": "WEDGE",
        "ExposureModulationType": "XYZ",
        "TableHeight": 151,
        "AcquisitionNumber": 1,
    }
    assert {name: ds[name].value for name in expected} == expected
    assert ds.CTDIPhantomTypeCodeSequence[0].CodeValue == "113691"
    assert list(ds.ImageType) == ["ORIGINAL", "PRIMARY", "AXIAL"]
    fan = (735 - 368.625) * 1.2858 / 1085.6
    assert float(ds.DataCollectionDiameter) == pytest.approx(2 * 595 * np.sin(fan))


def test_an_axial_scan_has_no_feed_and_the_other_way_round_is_cc() -> None:
    ds = parsed(ct_writer(ct_scan(full_header(mode="axial", rotation_sign=-1))).instances(ct_image())[0])
    assert not {"TableFeedPerRotation", "TableSpeed", "SpiralPitchFactor"} & {e.keyword for e in ds}
    assert (ds.ExposureTime, ds.Exposure, ds.RotationDirection, ds.ScanOptions) == (500, 120, "CC", "AXIAL MODE")


def test_silence_is_never_filled() -> None:
    ds = parsed(ct_writer(bare_ct_scan()).instances(ct_image(kernel=""))[0])
    assert "KVP" in ds and ds.KVP is None
    unknown = (
        "XRayTubeCurrent ExposureTime Exposure RotationDirection RevolutionTime TableSpeed CTDIvol ConvolutionKernel"
    )
    assert not set(unknown.split()) & {e.keyword for e in ds}
    assert (ds.SeriesDescription, ds.SeriesNumber) == ("CT", 9000)


@pytest.mark.parametrize(
    ("kernel", "part", "expected"),
    [
        ("SOFT", "ABDOMEN", [(40, 400)]),
        ("STANDARD", "CHEST", [(40, 400), (-600, 1500)]),
        ("BONE", "CHEST", [(-600, 1500), (300, 1500)]),
        ("BONE", "", [(-600, 1500), (300, 1500)]),
        ("RAMP", "KNEE", [(300, 1500), (40, 400)]),
        ("SOFT", "head", [(40, 80), (40, 400)]),
        ("BONE", "SKULL", [(300, 1500), (40, 80)]),
        ("", None, [(40, 400)]),
    ],
)
def test_windows_follow_kernel_and_body_part(kernel: str, part: str | None, expected: list) -> None:
    scan = ct_scan()
    scan = replace(scan, study=replace(scan.study, body_part=part))
    ds = parsed(ct_writer(scan).instances(ct_image(kernel=kernel))[0])
    found = zip(np.atleast_1d(ds.WindowCenter), np.atleast_1d(ds.WindowWidth), strict=True)
    assert [(float(c), float(w)) for c, w in found] == expected
    assert len(np.atleast_1d(ds.WindowCenterWidthExplanation)) == len(expected)


def test_cardiac_phases_are_series_and_slices_count_from_1() -> None:
    series = ct_writer()
    made = [series.instances(hu([0.0], position=Position(slice=s, phase=p)))[0] for p in range(2) for s in (0, 1, 2)]
    assert [i.index for i in made] == [1, 2, 3, 1, 2, 3]
    assert len({i.series_uid for i in made}) == 2 and len({i.sop_instance_uid for i in made}) == 6
    assert [i.description for i in made[2:4]] == ["abdomen", "abdomen phase 2"]


def test_only_ct_scans() -> None:
    with pytest.raises(HeaderError, match="expected a CT scan, got modality MR"):
        CtSeries(full_scan(), "job")


def test_a_narrow_header_still_gives_numbers() -> None:
    """One row, one rotation of unknown time: nothing is divided by nothing."""
    ct = bare_header(n_rows=1, centre=(0.0, 368.625), feed_mm=0.0, rotation_s=0.5)
    ds = parsed(ct_writer(ct_scan(ct)).instances(ct_image())[0])
    assert "ExposureTime" not in ds and "SpiralPitchFactor" not in ds
    assert ds.SingleCollimationWidth == ds.TotalCollimationWidth


# --- as the command writes it


@pytest.mark.peer("dciodvfy")
@pytest.mark.parametrize("feed", [15.0, -15.0])
def test_a_virtual_scan_becomes_files_that_lie_where_they_were_measured(feed: float, tmp_path: Path) -> None:
    ct = gantry(views_per_rotation=288, n_channels=184, pitch_mm=(2.1894, 5.1432), centre=(7.5, 91.6))
    simulation = CtSimulation(CtExam(ct=ct, turns=3.6, feed_mm=feed, start_z_mm=-1.8 * feed))
    run = Run(simulation.scan, Library()["ct_helical"].with_changes({"ct.helical.matrix": 48}))
    run.open()
    exporter = FolderExporter(tmp_path, simulation.scan, job="j")
    images = [i for block in simulation.projections() for i in run.feed(block)]
    early = [exporter.send(image).paths for image in images]
    images += list(run.close())
    paths = [p for sent in early for p in sent]
    paths += [p for image in images[len(early) :] for p in exporter.send(image).paths]
    assert early and len(paths) == len(images) > 3
    assert validate(paths[0], tmp_path, KIND) == []
    back = read_image(paths)
    made = sorted(images, key=lambda i: i.grid.origin_mm[2] * np.sign(feed))
    np.testing.assert_allclose(back.data, np.concatenate([i.data for i in made]), atol=0.501)
    np.testing.assert_allclose(back.grid.z_dir, (0, 0, np.sign(feed)), atol=1e-6)
    np.testing.assert_allclose(back.grid.origin_mm, made[0].grid.origin_mm, atol=1e-6)
    ds = parsed(paths[0].read_bytes())
    assert (ds.ConvolutionKernel, ds.TableFeedPerRotation, ds.RotationDirection) == ("STANDARD", 15, "CW")
    assert split(paths[0].read_bytes(), "image").sop_class == CT_IMAGE_STORAGE
