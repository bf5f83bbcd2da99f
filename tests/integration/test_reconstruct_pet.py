"""PET list-mode at the command line: what is no list-mode, and what no protocol is made for, is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from acquisition.sources import open_raw
from integration import router
from integration.cli import FAILED, OK, WRONG, run
from integration.protocol import Library
from tests.acquisition.test_interfile import image_file, sinogram_file
from tests.acquisition.test_mmr import HEADER, event, tag, written


def test_an_image_is_no_raw_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["reconstruct", str(image_file(tmp_path)), "--json"]) == FAILED
    assert "expected the header of PET list-mode" in capsys.readouterr().err


def test_a_sinogram_becomes_dicom(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ["--set", "pet.osem.voxel_mm=20", "--set", "pet.osem.slice_mm=5", "--json"]
    assert (
        run(["reconstruct", str(sinogram_file(tmp_path)), "-p", "pet_osem", "-o", str(tmp_path / "out"), *told]) == OK
    )
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 3
    assert json.loads(capsys.readouterr().out)["prompts"] == 44850


def test_a_protocol_of_another_modality_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, [tag(0), event(0, 0, 172)])
    assert run(["reconstruct", str(path), "-p", "ct_helical", "--json"]) == WRONG
    assert "expected a scan of modality CT, got PT" in capsys.readouterr().err


def test_a_scan_that_nothing_fits_is_described(tmp_path: Path) -> None:
    scan = open_raw(written(tmp_path, [tag(0), event(0, 0, 172)])).scan
    assert router._described(scan) == "PT, 64 rings of 504, 1 time-of-flight bins"
    assert all(c.protocol.modality == "PT" for c in router.explain(Library(), scan))


def test_what_the_header_says_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is in every image and of the scan."""
    longer = HEADER.replace("{words}", "1000000")
    words = [word for ms in range(2200) for word in (tag(ms), event(30, ms % 252, 172), event(31, ms % 252, 175))]
    path = written(tmp_path, words, longer)
    coarse = ["voxel_mm=16", "slice_mm=16", "fov_mm=320"]
    changes = [word for text in coarse for word in ("--set", f"pet.preview.{text}")]
    command = ["reconstruct", str(path), "-p", "pet_preview", *changes, "-o", str(tmp_path / "dicom"), "--json"]
    assert run(command) == OK
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == {"preview": 2} and found["prompts"] == 4400
    checks = [v["check"] for v in found["verdicts"]]
    assert sorted(set(checks)) == sorted(checks) and {"pet.cut", "pet.preview"} <= set(checks)
