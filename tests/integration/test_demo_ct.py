"""The CT part of the demonstration: slices in the archive while the gantry turns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch

from acquisition.sources.mrd_wire import ConfigFile
from acquisition.sources.phantom.ct import CtExam, CtSimulation, gantry
from acquisition.sources.phantom.ct_people import person
from integration import demo_ct, demo_feed
from integration.cli import OK, run
from integration.delivery.states import JobState
from integration.demo import House
from integration.demo_ct import LAST_SLICE, ct_exam
from integration.dicom.archive import Archive, Folder
from integration.house import new_job
from integration.protocol import Library
from integration.rooms import rooms
from integration.service import Service
from integration.session import Nobody
from tests.integration.delivery_samples import settled
from tests.integration.dicom_samples import validate
from tests.integration.doors_samples import plan

SMALL = gantry(n_rows=8, centre=(3.5, 91.75), n_channels=184, pitch_mm=(2.1894, 5.1432), views_per_rotation=192)
EXAM = CtExam(ct=SMALL, turns=7, feed_mm=8.0, start_z_mm=-28.0, photons=2e5)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[House]:
    """An archive without a service beside it."""
    server = Archive(Folder(tmp_path / "archive", reserve_bytes=0))
    port = server.start("127.0.0.1", 0)
    yield House(mrd_port=0, http_port=0, archive=tmp_path / "archive", archive_port=port)
    settled()
    server.stop()


@pytest.mark.peer("dciodvfy")
def test_slices_reach_the_archive_while_the_gantry_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_ct, "demo_exam", lambda: EXAM)
    assert run(["demo", "--once", "--json", "--exam", "ct", "--data", str(tmp_path)]) == OK
    said = capsys.readouterr()
    (exam,) = json.loads(said.out)["exams"]
    assert (exam["modality"], exam["series"], exam["troubles"]) == ("CT", "chest_helical", [])
    assert {"made", "spool", "archive archive", LAST_SLICE} == set(exam["latency_ms"])
    made, spool, answered = (exam["latency_ms"][name]["p50"] for name in ("made", "spool", "archive archive"))
    assert 0 < made < spool < answered
    still = re.search(r"the scanner stands still; (\d+) slices are in the archive", said.err)
    assert still is not None and 0 < int(still[1]) < exam["images"]
    assert re.search(r"slice 5 at z = -?\d+ mm: made \d+ ms after its last view", said.err)
    checks = {v["check"]: v for v in exam["verdicts"]}
    assert "ct_helical_chest" in checks["protocol.choice"]["advice"]
    assert {v["level"] for v in exam["verdicts"]} == {"PASS"} and "check.ct_range" in checks
    files = sorted(Path(exam["dicom_dir"]).glob("*.dcm"))
    assert len(files) == exam["images"] >= 12
    assert validate(files[0], tmp_path, "CTImage") == []
    _shows(person("chest", demo_ct._SEED), [pydicom.dcmread(f) for f in files])


def _shows(phantom: object, files: list[pydicom.Dataset]) -> None:
    """The object lies in the slices where it lay in the scanner."""
    middle = min(files, key=lambda f: abs(float(f.ImagePositionPatient[2])))
    hu = middle.pixel_array * float(middle.RescaleSlope) + float(middle.RescaleIntercept)
    x0, y0, z = map(float, middle.ImagePositionPatient)
    dy, dx = map(float, middle.PixelSpacing)
    y, x = np.mgrid[: middle.Rows, : middle.Columns]
    points = np.stack([x0 + dx * x, y0 + dy * y, np.full(x.shape, z)], axis=-1)
    truth = 1000 * (phantom.signal(points) - 1)  # type: ignore[attr-defined]
    error = np.abs(hu - truth).mean()
    assert (middle.Rows, middle.SliceThickness, np.median(np.abs(hu - truth)) < 40) == (512, 3, True)
    for axis in (0, 1):
        assert np.abs(np.flip(hu, axis) - truth).mean() > 1.5 * error


def test_what_goes_wrong_is_in_the_outcome(place: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_feed, "AUTO", "ct_helicla")
    monkeypatch.setattr(demo_ct, "warm_up", lambda: None)
    monkeypatch.setattr("integration.demo._DELIVERY_S", 0.5)
    outcome = ct_exam(place, exam=CtExam(ct=SMALL, turns=2, feed_mm=8.0))
    assert outcome.images == 0 and outcome.latency_ms == {LAST_SLICE: {}}
    assert any("ct_helicla" in trouble and "ct_helical (" not in trouble for trouble in outcome.troubles)
    assert outcome.troubles[-1] == "0 images did not reach the archive"


def test_a_gantry_that_goes_away_leaves_what_it_measured_on_hold(tmp_path: Path) -> None:
    measured = CtSimulation(CtExam(ct=SMALL, turns=4, feed_mm=8.0, start_z_mm=-16.0), person("chest", 1))
    job, blocks = new_job(), list(measured.projections())
    with Service(plan(tmp_path), rooms(Library())) as service:
        messages = iter([ConfigFile("ct_helical_chest"), demo_ct.header(measured), *blocks])
        assert service.house.take(job, messages, source="", peer=Nobody()) is JobState.INTERRUPTED
        row = service.console.job(job)
        assert row is not None and "the end after 800 readouts" in row.reason
        (found,) = [v for v in row.verdicts if v["check"] == "scan.complete"]
        assert (found["level"], found["value"]) == ("HOLD", 4 * 192 + 32)
        assert len(service.spool.sweep(())) >= 4
