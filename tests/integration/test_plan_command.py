"""``isocenter plan``: JSON, picture and exit code, on a localizer that is a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from acquisition.errors import DataError
from acquisition.geometry import Grid
from acquisition.items import Image, SlicePlan
from acquisition.slice_plan import plan_of
from integration.cli import run
from integration.plan_picture import page
from tests.models.test_plan import MOTIONS, T1, head, marks, volume_grid


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
    plan = SlicePlan(
        name="x",
        centre_mm=(0.0, 0.0, 0.0),
        normal=(0.0, 0.0, 1.0),
        in_plane=(1.0, 0.0, 0.0),
        fov_mm=(100.0, 100.0),
        n_slices=3,
        slice_distance_mm=40.0,
    )
    rows = np.flatnonzero((page(images, plan)[:, :384] == 255).sum(axis=1) > 150)
    assert rows.size
    heights = 96 - (rows + 0.5) / 2  # pixels of 0.5 mm, the top at +96 mm
    assert {round(h / 40) * 40 for h in heights} == {-40, 0, 40}
    assert np.abs(heights - np.round(heights / 40) * 40).max() < 1.0
    with pytest.raises(DataError, match="images of the localizer"):
        page([], plan)
