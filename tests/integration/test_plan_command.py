"""``isocenter plan``: JSON, picture and exit code, on a localizer that is a file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from acquisition.errors import DataError
from acquisition.geometry import Grid
from acquisition.items import Image, SlicePlan
from acquisition.slice_plan import plan_of
from integration.cli import run
from integration.dicom.mr import MrSeries
from integration.dicom.plan import GSPS, SECONDARY_CAPTURE
from integration.plan_page import page
from integration.plan_views import views
from tests.integration.dicom_samples import NOW, full_scan, parsed
from tests.models.test_plan import MOTIONS, T1, head, marks, volume_grid

PLAN = SlicePlan(
    name="x",
    centre_mm=(0.0, 0.0, 0.0),
    normal=(0.0, 0.0, 1.0),
    in_plane=(1.0, 0.0, 0.0),
    fov_mm=(100.0, 100.0),
    n_slices=3,
    slice_distance_mm=40.0,
)


@pytest.fixture(scope="module")
def nifti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A turned head as NIfTI-1."""
    image = head(MOTIONS[1], T1, grid=volume_grid())
    return written(tmp_path_factory.mktemp("plan") / "localizer.nii", image.data, image.grid)


def written(path: Path, data: np.ndarray, grid: Grid) -> Path:
    """Write a NIfTI-1 file with its sform."""
    header = bytearray(352)
    header[0:4] = np.array([348], "<i4").tobytes()
    header[40:56] = np.array([3, *data.shape[::-1], 1, 1, 1, 1], "<i2").tobytes()
    header[70:74] = np.array([16, 32], "<i2").tobytes()
    header[76:108] = np.array([1, *grid.spacing_mm[::-1], 0, 0, 0, 0], "<f4").tobytes()
    header[108:112] = np.array([352], "<f4").tobytes()
    header[112:116] = np.array([1], "<f4").tobytes()
    header[254:256] = np.array([1], "<i2").tobytes()
    header[280:328] = (np.diag([-1.0, -1.0, 1.0]) @ grid.affine[:3]).astype("<f4").tobytes()
    header[344:348] = b"n+1\0"
    path.write_bytes(bytes(header) + data.astype("<f4").tobytes())
    return path


def test_json_is_a_plan_of_that_head(nifti: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "plan.png"
    assert run(["plan", str(nifti), "--json", "--picture", str(picture)]) == 0
    told = json.loads(capsys.readouterr().out)
    plan = plan_of(told["plan"], where="here")
    assert np.linalg.norm(np.asarray(plan.landmarks_mm["AC"]) - marks(MOTIONS[1])["AC"]) < 1.5
    assert told["verdict"]["check"] == "plan.brain"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_no_plan_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = np.abs(np.random.default_rng(0).standard_normal((40, 40, 40))).astype(np.float32)
    grid = Grid.from_centre((0, 0, 0), shape=noise.shape, spacing_mm=(5, 5, 5), directions=np.eye(3).tolist())
    assert run(["plan", str(written(tmp_path / "noise.nii", noise, grid))]) == 1
    assert "plan by hand" in capsys.readouterr().out


def test_prior_needs_its_plan(nifti: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", str(nifti), "--prior", str(nifti)]) == 2
    assert "--prior-plan" in capsys.readouterr().err


def test_lines_are_where_the_slices_are() -> None:
    grid = Grid.from_centre((0, 0, 0), shape=(9, 96, 96), spacing_mm=(10, 2, 2), directions=np.eye(3).tolist())
    sagittal = Grid.from_centre(
        (0, 0, 0), shape=(1, 96, 96), spacing_mm=(5, 2, 2), directions=[(0, 1, 0), (0, 0, -1), (-1, 0, 0)]
    )
    images = [Image(data=np.full(g.shape, 0.5, np.float32), grid=g) for g in (grid, sagittal)]
    sagittal_, coronal, axial = views(images, PLAN)
    assert len(sagittal_[2]) == len(coronal[2]) == 3
    assert axial[2] == []  # it lies in the slices
    picture = page(views(images, PLAN), PLAN).astype(int)[:384]
    coloured = np.ptp(picture, axis=-1) > 100
    rows = np.flatnonzero(coloured[:, : picture.shape[1] // 3].sum(axis=1) > 150) - 10  # margin
    assert rows.size
    heights = 96 - (rows + 0.5) / 2  # pixels of 0.5 mm, the top at +96 mm
    assert {round(h / 40) * 40 for h in heights} == {-40, 0, 40}
    assert np.abs(heights - np.round(heights / 40) * 40).max() < 1.0
    with pytest.raises(DataError, match="images of the localizer"):
        views([], PLAN)


def test_landmarks_are_marked_where_they_lie() -> None:
    grid = Grid.from_centre((0, 0, 0), shape=(96, 96, 96), spacing_mm=(2, 2, 2), directions=np.eye(3).tolist())
    image = Image(data=np.full(grid.shape, 0.5, np.float32), grid=grid)
    plan = replace(PLAN, landmarks_mm={"AC": (0.0, -20.0, 40.0)})
    without, marked = (page(views([image], p), p).astype(int) for p in (PLAN, plan))
    y, x = np.nonzero((without != marked).any(axis=-1))
    panel = (x < 394) & (y < 394)  # sagittal, face to the left: (96 mm - height) and (96 mm + back) of 0.5 mm
    assert y[panel].mean() - 10 == pytest.approx(2 * (96 - 40), abs=1.5)
    assert x[panel].mean() - 10 == pytest.approx(2 * (96 - 20), abs=1.5)


def test_dicom_of_a_dicom_localizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = head(MOTIONS[1], T1, grid=volume_grid())
    series = MrSeries(full_scan(), "loc", clock=lambda: NOW)
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for made in series.instances(image):
        (source / f"{made.index}.dcm").write_bytes(made.data)
    assert run(["plan", str(source), "-o", str(out), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    objects = [parsed(file.read_bytes()) for file in out.iterdir()]
    assert {str(o.SOPClassUID) for o in objects} == {GSPS, SECONDARY_CAPTURE}
    assert {str(o.PatientID) for o in objects} == {full_scan().patient.id}
    (state,) = (o for o in objects if str(o.SOPClassUID) == GSPS)
    assert plan["name"] in state.SeriesDescription
    written_before = {file.name for file in out.iterdir()}
    assert run(["plan", str(source), "-o", str(out)]) == 0
    assert {file.name for file in out.iterdir()} == written_before


def test_dicom_needs_a_dicom_localizer(nifti: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", str(nifti), "-o", str(tmp_path / "out")]) == 2
    assert "refers to them" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
