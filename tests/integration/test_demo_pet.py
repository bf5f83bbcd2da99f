"""The PET part of the demonstration: pictures in the archive while counting, and a shift that is caught."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from scipy.ndimage import gaussian_filter

from acquisition.sources.phantom.pet import PetSimulation
from acquisition.sources.phantom.pet_exam import PetExam, gantry
from acquisition.sources.phantom.pet_faults import PetFaults, jump
from acquisition.sources.phantom.pet_objects import cylinder
from integration import demo_pet
from integration.cli import OK, run
from integration.demo_pet import FINAL_IMAGE, FIRST_PREVIEW, attenuation
from tests.integration.dicom_samples import validate

SMALL = gantry(n_rings=8, n_crystals=120, ring_pitch_mm=16.0, block=(4, 10))
EXAM = PetExam(pet=SMALL, duration_s=10.0, faults=PetFaults(motion=jump(5.0, (12.0, 0.0, 0.0))), seed=4)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.peer("dciodvfy")
def test_pictures_reach_the_archive_while_counting_and_the_shift_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_pet, "demo_exam", lambda: EXAM)
    monkeypatch.setattr(demo_pet, "_BQ_PER_ML_PER_SUV", 150.0)
    assert run(["demo", "--once", "--json", "--exam", "pet", "--speed", "3", "--data", str(tmp_path)]) == OK
    said = capsys.readouterr()
    (exam,) = json.loads(said.out)["exams"]
    assert (exam["modality"], exam["series"], exam["troubles"]) == ("PT", "torso_fdg", [])
    latency = exam["latency_ms"]
    assert {"made", "spool", "archive archive", FIRST_PREVIEW, FINAL_IMAGE} == set(latency)
    assert latency[FIRST_PREVIEW]["p50"] > 1000 / 3 and latency[FINAL_IMAGE]["p50"] > latency["made"]["p50"]
    still = re.search(r"the scanner stands still; (\d+) slices are in the archive", said.err)
    assert still is not None and 0 < int(still[1]) < exam["images"]
    assert re.search(r"preview of 1 s of counting: made \d+ ms after its last event", said.err)
    _found({v["check"]: v for v in exam["verdicts"]})
    final = [pydicom.dcmread(f) for f in sorted(Path(exam["dicom_dir"]).glob("*.dcm"))]
    others = {f for f in (tmp_path / "archive").rglob("*.dcm") if f.parent != Path(exam["dicom_dir"])}
    early = [pydicom.dcmread(f) for f in sorted(others)]
    assert (len(final), len(early)) == (15, 10 * 31) and exam["images"] == 15 + 10 * 31
    assert validate(min(others), tmp_path, "PETImage") == []
    assert {(f.Units, f.SeriesDescription) for f in early} == {("NONE", "torso_fdg preview not quantitative")}
    assert {(f.Units, f.SeriesDescription) for f in final} == {("BQML", "torso_fdg")}
    _shows(final)


def _found(checks: dict[str, dict[str, object]]) -> None:
    moved = checks["check.pet_motion"]
    assert moved["level"] == "FLAG" and moved["value"] == pytest.approx(12.0, abs=4.0)
    when = re.search(r"shift at ([\d.]+) s: x \+([\d.]+), y", str(moved["evidence"]))
    assert when is not None and float(when[1]) == pytest.approx(5.0, abs=0.51)
    assert "pet_torso" in str(checks["protocol.choice"]["advice"])
    levels = {name: checks[name]["level"] for name in ("pet.quantitative", "pet.preview", "check.pet_dose")}
    assert levels == {"pet.quantitative": "PASS", "pet.preview": "FLAG", "check.pet_dose": "PASS"}


def _shows(files: list[pydicom.Dataset]) -> None:
    """The activity is that of the torso, and lies where it lay: no axis is turned round."""
    body = demo_pet.torso(demo_pet._SEED, centre_mm=demo_pet._CENTRE_MM, bq_per_ml_per_suv=150.0)
    truth, activity = [], []
    for file in sorted(files, key=lambda f: float(f.ImagePositionPatient[2]))[2:-2]:
        x0, y0, z = map(float, file.ImagePositionPatient)
        dy, dx = map(float, file.PixelSpacing)
        y, x = np.mgrid[: file.Rows, : file.Columns]
        places = np.stack([x0 + dx * x - 6.0, y0 + dy * y, np.full(x.shape, z)], axis=-1)  # half of the shift
        truth.append(body.activity.signal(places))
        activity.append(file.pixel_array * float(file.RescaleSlope))
    true, found = (gaussian_filter(np.array(a), (1, 3, 3)) for a in (truth, activity))
    assert found.sum() == pytest.approx(true.sum(), rel=0.2)  # scatter from beyond the rings is in it
    error = np.abs(found - true).mean()
    assert error < 0.3 * true.mean()
    for axis in range(3):
        assert np.abs(np.flip(found, axis) - true).mean() > 1.1 * error


def test_attenuation_is_that_of_the_patient_before_the_shift() -> None:
    simulation = PetSimulation(
        PetExam(pet=SMALL, faults=PetFaults(motion=jump(5.0, (60.0, 0.0, 0.0)))), cylinder(radius_mm=81.0)
    )
    mu = attenuation(simulation)
    (nz, ny, nx), (_, dy, dx) = mu.grid.shape, mu.grid.spacing_mm
    y, x = (mu.grid.origin_mm[1] + dy * np.arange(ny))[:, None], (mu.grid.origin_mm[0] + dx * np.arange(nx))[None]
    assert mu.unit == "1/mm" and nz == 31
    for plane in mu.data:
        np.testing.assert_allclose(plane, 0.0096 * (np.hypot(x, y) < 81.0), rtol=1e-6)
