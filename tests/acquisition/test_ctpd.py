"""DICOM-CT-PD: rays where the format says, whatever the focal spot does; broken folders named for what they lack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from acquisition.ct_geometry import detector_columns, focal_spots, row_heights_mm
from acquisition.errors import DataError, FileFormatError, HeaderError
from acquisition.items import Image, Projections
from acquisition.sources import RawFile, open_raw
from acquisition.sources.phantom.ct import CtExam, CtSimulation, gantry
from acquisition.sources.phantom.ct_objects import built, chest
from acquisition.verdict import Level
from recon.ct.fbp import Helical
from tests.ct_pd_writer import TO_FEET_FIRST, TO_PATIENT, PdScan, line_integrals, name_of, pd_of, write

PHANTOM = built(
    {
        "body": (None, 0.0, (20, -30, 5), (90, 60, 50)),
        "hole": ("body", -1000.0, (40, -40, 10), (20, 10, 15)),
    }
)
Z_SHIFTS = ((0.0, 0.4, -1.5), (0.0, -0.4, 1.5))
XY_SHIFTS = ((7e-4, 0.0, 0.1), (-7e-4, 0.0, -0.1))
BOTH = tuple((a[0], z[1], a[2] + z[2]) for a in XY_SHIFTS for z in Z_SHIFTS)
MODES = {"FFSNONE": ((0.0, 0.0, 0.0),), "FFSZ": Z_SHIFTS, "FFSXY": XY_SHIFTS, "FFSXYZ": BOTH}


def read(raw: RawFile) -> Projections:
    blocks = list(raw.items())
    assert all(isinstance(b, Projections) and b.domain == "lines" for b in blocks)
    return Projections(
        head=np.concatenate([b.head for b in blocks]),  # type: ignore[union-attr]
        data=np.concatenate([b.data for b in blocks]),  # type: ignore[union-attr]
        domain="lines",
        photons=np.concatenate([b.photons for b in blocks]),  # type: ignore[union-attr]
    )


def recomputed(raw: RawFile, views: Projections) -> np.ndarray:
    """Line integrals along the rays that the read header draws."""
    ct = raw.scan.require_ct()
    ends = np.repeat(detector_columns(ct, views.head)[:, None], ct.n_rows, axis=1)
    ends[..., 2] += row_heights_mm(ct)[:, None]
    starts = focal_spots(ct, views.head)[:, None, None]
    return line_integrals(PHANTOM, starts, ends, mu_water=ct.mu_water_per_mm or 0.0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sense", [1, -1])
@pytest.mark.parametrize("feed", [18.0, -18.0])
def test_rays_run_where_the_format_says(mode: str, sense: int, feed: float, tmp_path: Path) -> None:
    scan = PdScan(shifts=MODES[mode], sense=sense, feed=feed, z0=-0.8 * feed)
    lines = scan.lines(PHANTOM)
    write(tmp_path / "pd", scan, lines, wrapped=False)
    raw = open_raw(tmp_path / "pd")
    views, ct = read(raw), raw.scan.require_ct()
    spots, columns = focal_spots(ct, views.head), detector_columns(ct, views.head)
    for v in range(0, scan.n_views, 7):
        np.testing.assert_allclose(spots[v], scan.spot(v) @ TO_PATIENT, atol=2e-3)
        expected = scan.elements(v) @ TO_PATIENT
        np.testing.assert_allclose(columns[v, :, :2], expected[0, :, :2], atol=2e-3)
        heights = columns[v, :, 2] + row_heights_mm(ct)[:, None]
        np.testing.assert_allclose(heights, expected[..., 2], atol=2e-3)
    assert lines.max() > 1
    np.testing.assert_allclose(views.data, lines, atol=1e-4)
    np.testing.assert_allclose(recomputed(raw, views), lines, atol=2e-3)
    for wrong in (np.flip(views.data, 1), np.flip(views.data, 2)):
        assert np.abs(wrong - lines).max() > 0.1
    assert raw.scan.user_parameters["flying_focal_spot"] == mode
    assert (ct.rotation_sign, ct.mode) == (-sense, "helical")
    assert ct.feed_mm == pytest.approx(-feed, rel=1e-4)


def test_a_flat_detector(tmp_path: Path) -> None:
    scan = PdScan(shape="FLAT", mode="AXIAL", feed=0.0, z0=-5.0)
    write(tmp_path, scan, scan.lines(PHANTOM))
    raw = open_raw(tmp_path)
    ct = raw.scan.require_ct()
    assert (ct.detector, ct.mode, ct.feed_mm) == ("flat", "axial", 0.0)
    np.testing.assert_allclose(recomputed(raw, read(raw)), scan.lines(PHANTOM), atol=2e-3)


@pytest.mark.parametrize("raw_bytes", [True, False])
@pytest.mark.parametrize("swapped", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_every_way_of_writing_reads_the_same(raw_bytes: bool, swapped: bool, wrapped: bool, tmp_path: Path) -> None:
    scan = PdScan()
    lines = np.random.default_rng(3).uniform(-0.05, 9, (scan.n_views, scan.rows, scan.columns)).astype(np.float32)
    write(tmp_path, scan, lines, raw=raw_bytes, swapped=swapped, wrapped=wrapped)
    (tmp_path / "about.txt").write_text("no view")
    raw = open_raw(tmp_path)
    views = read(raw)
    np.testing.assert_allclose(views.data, lines, atol=1e-4)
    np.testing.assert_array_equal(views.head["view"], np.arange(scan.n_views))
    steps = np.diff(views.head["angle_rad"])
    np.testing.assert_allclose(steps, -2 * np.pi / scan.steps, atol=1e-5)
    np.testing.assert_allclose(np.diff(views.head["z_mm"]), -scan.feed / scan.steps, atol=2e-4)
    np.testing.assert_allclose(views.head["z_mm"][0], -scan.z0, atol=6e-3)
    again = read(raw)
    np.testing.assert_array_equal(again.data, views.data)


def test_photons_and_what_else_the_header_tells(tmp_path: Path) -> None:
    extra = {
        "PatientID": "L067",
        "PatientName": "Muster^Erika",
        "PatientPosition": "HFS",
        "StudyInstanceUID": "1.2.9",
        "BodyPartExamined": "CHEST",
        "SeriesNumber": 4,
        "ProtocolName": "Thorax",
        "Manufacturer": "SIEMENS",
        "AcquisitionDate": "20200102",
        "AcquisitionTime": "030405.678",
        "KVP": "100",
        "RevolutionTime": 0.5,
        "XRayTubeCurrent": 210,
        "CTDIvol": 7.5,
    }
    scan = PdScan(extra=extra)
    write(tmp_path, scan, np.ones((scan.n_views, scan.rows, scan.columns)))
    raw = open_raw(tmp_path)
    views, ct = read(raw), raw.scan.require_ct()
    assert raw.scan.patient.id == "L067" and raw.scan.patient.name == "Muster^Erika"
    assert (raw.scan.study.body_part, raw.scan.study.series_number, raw.scan.protocol_name) == ("CHEST", 4, "Thorax")
    assert raw.scan.started is not None and raw.scan.started.isoformat() == "2020-01-02T03:04:05"
    assert (ct.kvp, ct.rotation_s, ct.tube_ma, ct.ctdi_vol_mgy) == (100, 0.5, 210, 7.5)
    assert ct.mu_water_per_mm == 0.0192 and raw.scan.verdicts == ()
    np.testing.assert_allclose(np.diff(views.head["time_s"]), 0.5 / scan.steps)
    np.testing.assert_array_equal(views.head["ma"], 210)
    assert views.photons is not None and views.photons.shape == (scan.n_views, scan.columns)
    profile = 1e5 * (1 - np.linspace(-0.9, 0.7, scan.columns) ** 2)
    np.testing.assert_allclose(views.photons[10], 2 * profile, rtol=1e-5)
    few = views.select(views.head["view"] >= 38)
    assert few.photons is not None
    np.testing.assert_array_equal(few.photons, views.photons[38:])


def test_ge_counts_the_central_column_from_the_other_end(tmp_path: Path) -> None:
    for vendor, centre in (("SIEMENS", 14.3), ("GE MEDICAL SYSTEMS", 31 - 1 - 15.3)):
        scan = PdScan(extra={"Manufacturer": vendor})
        write(tmp_path / vendor, scan, np.ones((scan.n_views, scan.rows, scan.columns)))
        ct = open_raw(tmp_path / vendor).scan.require_ct()
        assert ct.centre == (pytest.approx(2.9), pytest.approx(centre))


def test_the_identifier_follows_the_scan(tmp_path: Path) -> None:
    uids = []
    for name, changes in (("a", {}), ("b", {}), ("c", {"n_views": 39}), ("d", {"z0": 13.0, "feed": 19.0})):
        scan = PdScan(**changes)
        write(tmp_path / name, scan, np.ones((scan.n_views, scan.rows, scan.columns)))
        uids.append(open_raw(tmp_path / name).scan.uid)
    assert uids[0] == uids[1]
    assert len(set(uids)) == 3


@pytest.mark.parametrize("mode", ["FFSNONE", "FFSXYZ"])
def test_the_virtual_scanner_comes_back_through_the_format_and_is_reconstructed(mode: str, tmp_path: Path) -> None:
    per_turn = 192 * (2 if len(MODES[mode]) > 1 else 1)
    ct = gantry(views_per_rotation=per_turn, n_channels=160, pitch_mm=(4.4, 6.0), centre=(3.5, 79.75), n_rows=8)
    shifts = tuple((-a, -z, r) for a, z, r in MODES[mode])
    exam = CtExam(ct=ct, turns=2.6, feed_mm=-16.0, start_z_mm=21.0, direction=-1, focal_spot_shifts=shifts)
    simulation = CtSimulation(exam, chest())
    lines = simulation.lines()
    n = len(simulation.head)
    phi0 = -exam.start_angle_rad - np.pi / 2
    scan = pd_of(ct, n_views=n, phi0=phi0, sense=1, z0=-21.0, feed=16.0, shifts=MODES[mode])
    write(tmp_path, scan, lines)
    raw = open_raw(tmp_path)
    block = Projections(head=simulation.head, data=lines, domain="lines")
    made = []
    for header, items in ((simulation.scan, [block]), (raw.scan, list(raw.items()))):
        step = Helical(matrix=64, kernel="soft")
        step.open(header)
        made.append([*(i for item in items for i in step.feed(item)), *step.close()])
    assert len(made[0]) == len(made[1]) > 3
    for one, other in zip(*made, strict=True):
        np.testing.assert_allclose(one.grid.origin_mm, other.grid.origin_mm, atol=0.01)
        assert np.sqrt(np.square(one.data - other.data).mean()) < 1.0
        assert np.ptp(one.data) > 1200


def test_a_patient_feet_first_comes_back_in_his_own_coordinates(tmp_path: Path) -> None:
    ct = gantry(views_per_rotation=192, n_channels=160, pitch_mm=(4.4, 6.0), centre=(3.5, 79.75), n_rows=8)
    scan = pd_of(ct, n_views=480, z0=-20.0, feed=16.0, extra={"PatientPosition": "FFS"})
    write(tmp_path, scan, scan.lines(chest(), TO_FEET_FIRST))
    raw = open_raw(tmp_path)
    step = Helical(matrix=64, kernel="soft")
    step.open(raw.scan)
    images = [*(i for item in raw.items() for i in step.feed(item)), *step.close()]
    assert len(images) > 3
    for image in images:
        assert isinstance(image, Image) and -20 < image.grid.centre_mm[2] < 20
        index = np.stack(np.meshgrid(*(np.arange(n) for n in image.grid.shape), indexing="ij"), -1)[..., ::-1]
        truth = 1000 * (chest().signal(index @ image.grid.affine[:3, :3].T + image.grid.affine[:3, 3]) - 1)
        error = np.abs(image.data - truth)
        assert np.median(error) < 40
        for axis in (1, 2):
            assert np.abs(np.flip(image.data, axis) - truth).mean() > 1.3 * error.mean()
    z = [i.grid.centre_mm[2] for i in images if isinstance(i, Image)]
    assert z == sorted(z)  # the table feeds towards the head


# --- what is wrong with a folder


def edited(folder: Path, change: Callable[[Dataset], object], *, number: int = 5) -> None:
    """Change the file of one view."""
    path = folder / name_of(number - 1)
    ds = dcmread(path)
    assert ds.InstanceNumber == number
    change(ds)
    ds.save_as(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    scan = PdScan()
    write(tmp_path / "pd", scan, np.ones((scan.n_views, scan.rows, scan.columns)), raw=False)
    return tmp_path / "pd"


def setting(tag: int | str, value: object) -> Callable[[Dataset], object]:
    def change(ds: Dataset) -> None:
        ds[tag].value = value

    return change


def without(tag: int | str) -> Callable[[Dataset], object]:
    def change(ds: Dataset) -> None:
        del ds[tag]

    return change


@pytest.mark.parametrize(
    ("change", "number", "error", "match"),
    [
        (without(0x70311001), 5, HeaderError, r"AngularPosition \(7031,1001\): expected a finite number, got none"),
        (without(0x70311031), 1, DataError, "ConstantRadialDistance: expected none, as in .*, got 1085.5"),
        (setting(0x70311002, float("nan")), 5, HeaderError, r"AxialPosition \(7031,1002\): .* got nan"),
        (setting("RescaleSlope", ""), 5, HeaderError, r"Slope \(0028,1053\): expected a finite number, got none"),
        (setting(0x70311033, [15.3]), 5, DataError, r"DetectorCentralElement: expected 15.3.*, 3.9.*, got 15.3"),
        (setting(0x70291010, 7), 5, DataError, "NumberofDetectorRows: expected 6, as in .*, got 7"),
        (setting("SeriesInstanceUID", "1.2.4"), 5, DataError, "a folder of its own"),
        (setting("InstanceNumber", 50), 40, DataError, "10 missing: 40, 41, 42, 43, 44 ...; 0 doubled: none"),
        (setting("InstanceNumber", 6), 5, DataError, "1 missing: 5; 1 doubled: 6"),
        (setting(0x70311001, 3.0), 5, DataError, "evenly spaced views, 24 per rotation, got up to .* after view"),
        (setting(0x70331065, [1.0, 2.0]), 5, DataError, "PhotonStatistics: expected 1 or 31 values in every view"),
        (setting(0x70331065, [float("inf")]), 5, HeaderError, r"PhotonStatistics \(7033,1065\): .* got inf"),
        (setting(0x70391009, "NO"), 1, FileFormatError, "expected line integrals, got data before the logarithm"),
        (setting(0x70331061, 2), 1, HeaderError, "NumberofSpectra: expected 1, got 2"),
        (setting(0x7029100B, "SPHERICAL"), 1, HeaderError, "expected CYLINDRICAL or FLAT, got SPHERICAL"),
        (setting(0x70371009, "TOPOGRAM"), 1, HeaderError, "AXIAL or HELICAL or SPIRAL, got TOPOGRAM"),
        (setting(0x70411001, "0.192"), 1, HeaderError, "expected 0.01 to 0.05 per mm, got 0.192"),
    ],
)
def test_what_is_wrong_is_named(
    change: Callable[[Dataset], object], number: int, error: type[Exception], match: str, folder: Path
) -> None:
    edited(folder, change, number=number)
    with pytest.raises(error, match=match):
        open_raw(folder)


def every(folder: Path, change: Callable[[Dataset], object]) -> None:
    for number in range(1, 41):
        edited(folder, change, number=number)


def test_what_is_wrong_in_all_views_is_named(folder: Path) -> None:
    every(folder, setting("Rows", 30))
    with pytest.raises(FileFormatError, match="expected 31 x 6 or the other way round, 16, got 30 x 6, 16"):
        open_raw(folder)


def test_a_flag_names_corrections_that_were_not_made(folder: Path) -> None:
    edited(folder, setting(0x70391003, "NO"), number=1)
    (verdict,) = open_raw(folder).scan.verdicts
    assert verdict.level is Level.FLAG and verdict.evidence == "not made: BeamHardening"


def test_water_from_older_files_or_from_none(folder: Path) -> None:
    edited(folder, without(0x70411001), number=1)
    assert open_raw(folder).scan.require_ct().mu_water_per_mm is None
    edited(folder, lambda ds: ds.add_new(0x00180061, "DS", "0.0193"), number=1)
    assert open_raw(folder).scan.require_ct().mu_water_per_mm == 0.0193


def test_damaged_files_are_named(folder: Path) -> None:
    raw = open_raw(folder)
    edited(folder, setting("PixelData", b"\0\0"), number=7)
    with pytest.raises(FileFormatError, match=r"PixelData: expected 372 bytes, .*, got 2 bytes"):
        list(raw.items())
    bad = sorted(folder.iterdir())[3]
    bad.write_bytes(b"not DICOM")
    with pytest.raises(FileFormatError, match=f"file {bad.name}: expected a readable DICOM object"):
        open_raw(folder)


def test_other_folders_are_no_raw_data(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileFormatError, match="one DICOM object per view, got other files, or none"):
        open_raw(tmp_path / "empty")
    with pytest.raises(FileFormatError, match="of DICOM-CT-PD views name the folder"):
        open_raw(next(folder.iterdir()))


def test_a_mode_that_is_not_told_follows_from_the_table(folder: Path, tmp_path: Path) -> None:
    edited(folder, without(0x70371009), number=1)
    assert open_raw(folder).scan.require_ct().mode == "helical"
    scan = replace(PdScan(), feed=0.0)
    write(tmp_path / "rest", scan, np.ones((scan.n_views, scan.rows, scan.columns)))
    edited(tmp_path / "rest", without(0x70371009), number=1)
    assert open_raw(tmp_path / "rest").scan.require_ct().mode == "axial"
