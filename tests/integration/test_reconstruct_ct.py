"""From a folder of DICOM-CT-PD views to DICOM images with one command; only MR goes over the wire to a server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from acquisition.sources.phantom.ct import gantry
from acquisition.sources.phantom.ct_objects import chest
from integration.cli import FAILED, OK, run
from integration.dicom.read import read_image
from tests.ct_pd_writer import pd_of, write
from tests.integration.dicom_samples import parsed, validate
from tests.integration.doors_samples import serving

CT = gantry(views_per_rotation=192, n_channels=160, pitch_mm=(4.4, 6.0), centre=(3.5, 79.75), n_rows=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pd")
    extra = {"PatientID": "L067", "BodyPartExamined": "CHEST", "RevolutionTime": 0.5, "KVP": "120"}
    scan = pd_of(CT, n_views=480, z0=-20.0, feed=16.0, extra=extra)
    write(path, scan, scan.lines(chest()))
    return path


@pytest.mark.peer("dciodvfy")
def test_views_become_images(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["--set", "ct.helical.matrix=64", "--set", "ct.helical.kernel=bone"]
    made = []
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "more.txt").write_text("a folder of another size")
    for name, source in (("one", folder), ("two", copy)):
        command = ["reconstruct", str(source), "-p", "ct_helical", *changes, "-o", str(tmp_path / name), "--json"]
        assert run(command) == OK
        report = json.loads(capsys.readouterr().out)
        assert (report["modality"], report["readouts"]) == ("CT", 480)
        made.append({p.name: p for p in (tmp_path / name).rglob("*.dcm")})
    paths = list(made[0].values())
    assert len(paths) == report["files"] > 3
    assert validate(paths[0], tmp_path, "CTImage") == []
    first, again = parsed(paths[0].read_bytes()), parsed(made[1][paths[0].name].read_bytes())
    assert first.SOPInstanceUID == again.SOPInstanceUID and first.PixelData == again.PixelData
    assert (first.PatientID, first.KVP, first.ConvolutionKernel) == ("L067", 120, "BONE")
    assert (first.RotationDirection, first.TableFeedPerRotation) == ("CC", pytest.approx(16, rel=1e-4))
    assert float(first.WindowCenter[0]) == -600
    back = read_image(paths)
    z = back.grid.origin_mm[2] + np.arange(len(back.data)) * back.grid.spacing_mm[0] * back.grid.z_dir[2]
    assert -20 < z.min() < z.max() < 20
    index = np.stack(np.meshgrid(*(np.arange(n) for n in back.grid.shape), indexing="ij"), -1)[..., ::-1]
    points = index @ back.grid.affine[:3, :3].T + back.grid.affine[:3, 3]
    truth = 1000 * (chest().signal(points) - 1)
    error = np.abs(back.data - truth)
    assert np.median(error) < 40
    for axis in (1, 2):
        assert np.abs(np.flip(back.data, axis) - truth).mean() > 1.3 * error.mean()


def test_the_summary_counts_views(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["reconstruct", str(folder), "--set", "ct.helical.matrix=32", "--npy", str(tmp_path / "v.npy")]) == OK
    assert "480 views -> " in capsys.readouterr().out


def test_a_server_is_not_sent_views(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(tmp_path) as server:
        assert run(["send", str(folder), "--to", f"127.0.0.1:{server.mrd_port}"]) == FAILED
    assert "expected an MR scan, got modality CT" in capsys.readouterr().err
