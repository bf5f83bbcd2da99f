"""Normalisation and attenuation from files: right numbers at the right side, refused where they must not come from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from acquisition.errors import ConfigError, DataError
from acquisition.geometry import Grid
from acquisition.items import Events, Image
from acquisition.pet import mu_of_hu
from acquisition.pet_norm import Normalisation
from acquisition.scan import Equipment, Patient, PetHeader, Scan
from acquisition.sources import open_raw
from acquisition.sources.petsird_write import write_petsird
from acquisition.sources.phantom.pet import PetSimulation
from acquisition.sources.phantom.pet_exam import PetExam, gantry
from acquisition.sources.phantom.pet_objects import cylinder
from acquisition.verdict import Level, Verdict
from integration.cli import WRONG, run
from integration.companion import FOLDER, companion
from integration.doors.request import Request
from integration.pet_companions import AttenuationFile, NormalisationFile
from integration.protocol import Library
from integration.rooms import rooms
from integration.service import Plan
from recon.pet.gather import Gathered
from tests.acquisition.test_mmr import event, tag, written
from tests.acquisition.test_mmr_norm import norm_file
from tests.acquisition.test_nifti import nifti
from tests.integration.dicom_ct_samples import ct_scan, ct_writer, full_header

PET = PetHeader(n_rings=20, n_crystals=120, radius_mm=200.0, ring_pitch_mm=8.0)
BLOCK = (55.0, -35.0, 40.0)
"""Middle of the only attenuating block: left, anterior, towards the head, LPS [mm]."""
SIZE = 30.0
AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def scan_of(position: str = "HFS", **changes: object) -> Scan:
    return Scan(uid="pet-1", modality="PT", pet=PET, patient=Patient(position=position), **changes)  # type: ignore[arg-type]


def block_on(grid: Grid) -> np.ndarray:
    """1 in the block and 0 outside, for a grid along the patient's axes in any direction."""
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    places = index[..., ::-1] @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return (np.abs(places - BLOCK) <= SIZE / 2).all(axis=-1)


def interfile(folder: Path, *, orientation: str = "head_in", level: float = 0.15) -> Path:
    """Write the block [1/cm] as STIR does: x right and y down seen from the foot of the bed, z out of the tunnel."""
    signs = {"head_in": (1, 1, -1), "feet_in": (-1, 1, 1)}[orientation]
    (nz, ny, nx), (dz, dy, dx) = (50, 60, 70), (5.0, 5.0, 5.0)
    first = (-(nx // 2) * dx, -(ny // 2) * dy, -(nz - 1) / 2 * dz)
    x, y, z = (s * (o + d * np.arange(n)) for s, o, d, n in zip(signs, first, (dx, dy, dz), (nx, ny, nz), strict=True))
    near = [np.abs(a - c) <= SIZE / 2 for a, c in zip((x, y, z), BLOCK, strict=True)]
    data = level * (near[2][:, None, None] & near[1][:, None] & near[0])
    data.astype("<f4").tofile(folder / "mu.v")
    lines = ["!INTERFILE :=", "name of data file := mu.v", "!PET data type := Image", "!number format := float"]
    lines += ["!number of bytes per pixel := 4", "imagedata byte order := LITTLEENDIAN"]
    lines += [f"patient orientation := {orientation}", "patient rotation := supine"]
    for i, (n, d) in enumerate(((nx, dx), (ny, dy), (nz, dz)), 1):
        lines += [f"!matrix size [{i}] := {n}", f"scaling factor (mm/pixel) [{i}] := {d}"]
    path = folder / "mu.hv"
    path.write_text("\n".join([*lines, "!END OF INTERFILE :=", ""]))
    return path


def dicom(folder: Path) -> Path:
    """Write the block as bone of 1000 HU in air, one object per slice, the last slice first."""
    grid = Grid.from_centre((3.0, -2.0, 10.0), shape=(48, 60, 64), spacing_mm=(4.0, 3.0, 3.0), directions=AXES)
    image = Image(data=np.where(block_on(grid), 1000.0, -1000.0).astype(np.float32), grid=grid, unit="HU")
    (folder / "ct").mkdir()
    scan = ct_scan(full_header(kvp=140.0))
    scan = replace(scan, equipment=Equipment(vendor="GE MEDICAL SYSTEMS"))
    for n, made in enumerate(reversed(ct_writer(scan).instances(image))):
        (folder / "ct" / f"{n}.dcm").write_bytes(made.data)
    return folder / "ct"


def niftied(folder: Path) -> Path:
    """Write the block as bone in air, x towards the left and y towards the front: both directions other than RAS."""
    matrix = np.array([[-4.0, 0, 0, 120.0], [0, 4.0, 0, -110.0], [0, 0, 4.0, -60.0]])
    lps = matrix * [[-1.0], [-1.0], [1.0]]
    index = np.stack(np.meshgrid(np.arange(45), np.arange(55), np.arange(60), indexing="ij"), axis=-1)[..., ::-1]
    inside = (np.abs(index @ lps[:, :3].T + lps[:, 3] - BLOCK) <= SIZE / 2).all(axis=-1)
    return nifti(folder / "ct.nii.gz", np.where(inside, 1000, -1000).astype("i2"), matrix)


def fed(step: AttenuationFile | NormalisationFile, scan: Scan) -> list[object]:
    none = np.zeros((0, 2), np.int32)
    block = Events(start_s=0.0, stop_s=1.0, prompts=none, delayeds=none)
    step.open(scan)
    first, second = list(step.feed(block)), list(step.feed(block))
    assert first[-1] is block and second == [block] and not list(step.close())
    return first[:-1]


def feet_first(folder: Path) -> Path:
    return interfile(folder, orientation="feet_in")


WRITERS = {
    "interfile": (interfile, {}, 0.015),
    "interfile of one who lay feet first": (feet_first, {}, 0.015),
    "dicom": (dicom, {}, float(mu_of_hu(1000.0, kvp=140.0, vendor="GE"))),
    "nifti": (niftied, {"unit": "HU", "kvp": 120.0}, float(mu_of_hu(1000.0))),
}


@pytest.mark.parametrize("position", ["HFS", "FFS", "HFP", "HFDR"])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_lopsided_map_lies_on_its_own_side(tmp_path: Path, kind: str, position: str) -> None:
    write, given, level = WRITERS[kind]
    scan = scan_of(position)
    mu, verdict = fed(AttenuationFile(path=str(write(tmp_path)), fwhm_mm=0.0, **given), scan)  # type: ignore[arg-type]
    assert isinstance(mu, Image) and isinstance(verdict, Verdict) and mu.unit == "1/mm"
    dense = mu.data > 0.3 * level
    index = np.argwhere(dense)[:, ::-1]
    places = index @ mu.grid.affine[:3, :3].T + mu.grid.affine[:3, 3]
    np.testing.assert_allclose(places.mean(axis=0), BLOCK, atol=2.5)
    assert mu.data.max() == pytest.approx(level, rel=1e-4)
    assert mu.data.sum() * 64 == pytest.approx(level * SIZE**3, rel=0.4)
    data = Gathered(PET, "scan", position)
    assert data.takes(mu)
    axes = {"HFS": np.eye(3), "FFS": np.diag([-1, 1, -1]), "HFP": np.diag([-1, -1, 1])}.get(position)
    x, y, z = np.array(BLOCK) if axes is None else axes @ BLOCK
    if axes is None:  # on the right side: the gantry's left is the patient's back
        x, y = through(data)
        assert np.hypot(x, y) == pytest.approx(np.hypot(*BLOCK[:2]), abs=8.0)
    ring, lines = round(z / 8.0 + 9.5), []
    for angle in (0.0, 1.0, 2.0):  # lines through the block, and their mirror images
        u = np.array([np.cos(angle), np.sin(angle)])
        for place in ((x, y), (-x, y), (x, -y)):
            lines.append([crystal(place, u), crystal(place, -u)])
    pairs = (np.array(lines) + 120 * ring).astype(np.int32)
    left = data.model.attenuation.factors(PET, pairs).reshape(3, 3)
    assert left[:, 0].max() < np.exp(-level * 0.6 * SIZE)
    other = (np.array(lines) + 120 * (19 - ring)).astype(np.int32)
    np.testing.assert_allclose(data.model.attenuation.factors(PET, other), 1, atol=1e-6)  # at the other end: nothing
    assert (left[:, 1:] > 0.999).any(axis=0).all()


def crystal(place: tuple[float, float], towards: np.ndarray) -> int:
    """The crystal at which a line from a place ends."""
    p = np.asarray(place)
    along = -(p @ towards) + np.sqrt((p @ towards) ** 2 - p @ p + 200.0**2)
    x, y = p + along * towards
    return round(np.arctan2(y, x) / (2 * np.pi) * 120) % 120


def through(data: Gathered) -> tuple[float, float]:
    """Where the block lies across the gantry, of the map as it is projected."""
    found = data.model.attenuation
    index = np.argwhere(found.mu_per_mm > 0.005)[:, ::-1]
    x, y, _ = (index @ found.grid.affine[:3, :3].T + found.grid.affine[:3, 3]).mean(axis=0)
    return float(x), float(y)


def test_a_shift_is_added_in_the_patient(tmp_path: Path) -> None:
    step = AttenuationFile(path=str(interfile(tmp_path)), shift_mm=(-10.0, 20.0, -30.0))
    mu = fed(step, scan_of("FFS"))[0]
    assert isinstance(mu, Image)
    index = np.argwhere(mu.data > 0.005)[:, ::-1]
    places = index @ mu.grid.affine[:3, :3].T + mu.grid.affine[:3, 3]
    np.testing.assert_allclose(places.mean(axis=0), np.add(BLOCK, (-10.0, 20.0, -30.0)), atol=2.5)


def test_the_hardware_is_added_where_it_lies(tmp_path: Path) -> None:
    """Table and coils have a map of their own, on other voxels; a table alone is no patient."""
    path = interfile(tmp_path)
    matrix = np.array([[-6.0, 0, 0, 150.0], [0, -6.0, 0, -90.0], [0, 0, 6.0, -75.0]])
    table = np.full((26, 6, 51), 0.008, "f4")  # 90 to 120 mm behind the axis
    nifti(tmp_path / "table.nii", table, matrix)
    both = AttenuationFile(path=str(path), hardware=str(tmp_path / "table.nii"), unit="1/mm")
    with pytest.raises(DataError, match=r"map mu\.hv: .* got 1\.5 1/cm"):
        both.open(scan_of())  # the unit holds for both
    nifti(tmp_path / "table.nii", table * 10, matrix)
    mu = fed(AttenuationFile(path=str(path), hardware=str(tmp_path / "table.nii"), unit="1/cm"), scan_of())[0]
    assert isinstance(mu, Image)
    index = np.argwhere((mu.data > 0.0079) & (mu.data < 0.0081))[:, ::-1]
    places = index @ mu.grid.affine[:3, :3].T + mu.grid.affine[:3, 3]
    assert places[:, 1].min() > 88 and places[:, 1].max() < 122 and np.ptp(places[:, 0]) > 290
    assert mu.data.max() == pytest.approx(0.015, rel=1e-4)


def test_a_map_that_ends_within_the_rings_is_marked(tmp_path: Path) -> None:
    long = fed(AttenuationFile(path=str(interfile(tmp_path))), scan_of())[-1]
    short = fed(AttenuationFile(path=str(dicom(tmp_path)), shift_mm=(0, 0, -40.0)), scan_of())[-1]
    assert isinstance(long, Verdict) and isinstance(short, Verdict)
    assert (long.level, short.level) == (Level.PASS, Level.FLAG)
    assert "too dark" in short.advice and short.value == pytest.approx(80 - 66 + 40 - 40 + 4, abs=30)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"unit": "1/mm"}, DataError, r"map mu\.hv: expected a greatest value of 0\.05 to 1 1/cm, got 1\.5 1/cm"),
        ({"unit": "HU"}, DataError, r"CT mu\.hv: expected air, below -500 HU, got 0 HU at least"),
        ({"shift_mm": (900.0, 0.0, 0.0)}, DataError, "expected a map within 200 mm of the rings' axis"),
        ({"shift_mm": (0.0, 0.0, -900.0)}, DataError, "expected tissue between -80 and 80 mm"),
        ({"voxel_mm": 0.0}, ConfigError, "expected voxel_mm above 0"),
    ],
)
def test_maps_that_cannot_be_are_refused(tmp_path: Path, values: dict, error: type[Exception], message: str) -> None:
    path = interfile(tmp_path)
    with pytest.raises(error, match=message):
        AttenuationFile(path=str(path), **values).open(scan_of())


def test_files_that_do_not_say_enough_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unit: expected one volume in 1/cm, 1/mm or HU, got ct\.nii\.gz"):
        AttenuationFile(path=str(niftied(tmp_path))).open(scan_of())
    with pytest.raises(ConfigError, match=r"one of 80, 100, 120, 140 kV, got 90"):
        AttenuationFile(path=str(dicom(tmp_path)), kvp=90.0).open(scan_of())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"expected a folder with one CT series, got empty: 0 files, 0 CT volumes"):
        AttenuationFile(path=str(tmp_path / "empty")).open(scan_of())
    assert fed(AttenuationFile(), scan_of()) == [] == fed(NormalisationFile(), scan_of())


def test_the_normalisation_comes_before_the_events(tmp_path: Path) -> None:
    path, _ = norm_file(tmp_path)
    scan = open_raw(written(tmp_path, [tag(0), event(0, 1, 172)])).scan
    norm, verdict = fed(NormalisationFile(path=str(path)), scan)
    assert isinstance(norm, Normalisation) and norm.sinogram is not None
    assert isinstance(verdict, Verdict) and verdict.check == "pet.dead_time"
    with pytest.raises(DataError, match="expected a scan of 64 rings"):
        NormalisationFile(path=str(path)).open(scan_of())


# Where files may come from


@pytest.mark.parametrize("name", ["../mu.hv", "/etc/passwd", "a/../../mu.hv", "link.hv"])
def test_the_service_reads_nothing_outside_its_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / FOLDER
    (folder / "a").mkdir(parents=True)
    interfile(tmp_path)
    (folder / "link.hv").symlink_to(tmp_path / "mu.hv")
    with pytest.raises(ConfigError, match="expected a name within the service's folder companions"):
        AttenuationFile(path=name).open(scan_of(companions=folder))
    with pytest.raises(ConfigError, match="there is none"):
        companion("mu.hv", scan_of(companions=folder), where="here")
    interfile(folder / "a")
    assert fed(AttenuationFile(path="a/mu.hv"), scan_of(companions=folder))


def test_a_client_of_the_service_names_files_of_the_data_folder(tmp_path: Path) -> None:
    plan = Plan(data=tmp_path / "data")
    (plan.data / FOLDER).mkdir(parents=True)
    interfile(plan.data / FOLDER)
    hooks = rooms(Library())(plan, None, None)  # type: ignore[arg-type]

    def prepared(name: str) -> object:
        request = Request(protocol="pet_osem", changes={"pet.attenuation.path": name, "pet.osem.voxel_mm": 9})
        run = hooks.prepare(request, scan_of(), "job").run
        run.open()
        return run

    prepared("mu.hv")
    with pytest.raises(ConfigError, match=r"pet\.attenuation path: expected a name within"):
        prepared("../../mu.hv")


# At the command line


def simulated(folder: Path) -> tuple[Path, PetSimulation]:
    pet = gantry(n_rings=8, n_crystals=120, ring_pitch_mm=16.0)
    exam = PetExam(pet=pet, duration_s=1.0, block_s=0.5, scatter="none", randoms="none", efficiency=0.4, spread=0.0)
    simulation = PetSimulation(exam, cylinder(radius_mm=70.0, length_mm=80.0))
    write_petsird(folder / "scan.petsird", simulation.scan, items=simulation.items())
    return folder / "scan.petsird", simulation


def test_attenuation_is_corrected_at_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, simulation = simulated(tmp_path)
    grid = Grid.from_centre((0, 0, 0), shape=(35, 45, 45), spacing_mm=(4.0, 4.0, 4.0), directions=AXES)
    mu = np.maximum(simulation.object_at(0.0).body.render(grid, subsamples=(1, 2)), 0)
    hu = (1000 * (mu / 0.0096 - 1)).astype("f4")
    matrix = np.array([[-4.0, 0, 0, 88.0], [0, -4.0, 0, 88.0], [0, 0, 4.0, -68.0]])
    path = nifti(tmp_path / "ct.nii", hu, matrix)
    sizes = ["pet.osem.voxel_mm=9", "pet.osem.slice_mm=8", "pet.osem.fov_mm=250", "pet.osem.scatter=none"]
    sizes += ["pet.preview.voxel_mm=12", "pet.preview.slice_mm=16", "pet.preview.fov_mm=250", "pet.osem.n_iterations=3"]
    common = ["reconstruct", str(raw), "-p", "pet_osem", "--json", *(a for s in sizes for a in ("--set", s))]

    def reconstructed(*more: str) -> tuple[np.ndarray, dict]:
        assert run([*common, "--npy", str(tmp_path / "v.npy"), *more]) == 0
        return np.load(tmp_path / "v.npy"), json.loads(capsys.readouterr().out)

    plain, first = reconstructed()
    right, second = reconstructed("--attenuation", str(path), "--set", "pet.attenuation.unit=HU")
    quantitative = {v["check"]: v["evidence"] for v in second["verdicts"]}["pet.quantitative"]
    assert "ATTN" in {v["check"]: v["evidence"] for v in first["verdicts"]}["pet.quantitative"]
    assert "ATTN" not in quantitative
    middle = (slice(5, 10), slice(11, 16), slice(11, 16))
    assert right[middle].mean() == pytest.approx(10e3, rel=0.05)
    assert plain[middle].mean() < 0.45 * right[middle].mean()
    again = nifti(tmp_path / "ct.nii", hu - 1, matrix)
    _, third = reconstructed("--attenuation", str(again), "--set", "pet.attenuation.unit=HU")
    assert len({first["job"], second["job"], third["job"]}) == 3  # other pixels, other UIDs
    assert run([*common, "--attenuation", str(tmp_path / "none.hv")]) == WRONG
    assert "pet.attenuation path: expected a file or folder" in capsys.readouterr().err


@pytest.mark.data
def test_a_real_ct_is_the_same_as_dicom_and_as_nifti(data_dir: Path) -> None:
    folder = data_dir / "pet" / "ibsi"
    scan = scan_of()
    scan = replace(scan, pet=replace(PET, radius_mm=400.0, n_rings=30, ring_pitch_mm=6.5))
    given = {"shift_mm": (0.0, 0.0, 785.0), "kvp": 120.0}
    one = fed(AttenuationFile(path=str(folder / "dicom" / "STS_001" / "CT" / "image"), **given), scan)[0]  # type: ignore[arg-type]
    other = fed(AttenuationFile(path=str(folder / "STS_001" / "CT_image.nii.gz"), unit="HU", **given), scan)[0]  # type: ignore[arg-type]
    assert isinstance(one, Image) and isinstance(other, Image)
    assert 0.0092 < np.median(one.data[one.data > 0.007]) < 0.0102  # soft tissue
    z, y, x = (np.array(other.grid.shape) / 2).astype(int).tolist()
    for offset in (-8, 0, 8):
        place = np.linalg.inv(one.grid.affine) @ [*other.grid.world((z, y + offset, x + offset)), 1.0]
        near = one.data[tuple(np.round(place[2::-1]).astype(int))]
        assert near == pytest.approx(other.data[z, y + offset, x + offset], rel=0.2)
