"""The CT part of the demonstration: slices in the archive while the gantry turns."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch

from acquisition.errors import ConfigError
from acquisition.items import VIEW_HEAD, Image, Projections
from acquisition.scan import Scan
from acquisition.sources.mrd_wire import Close, ConfigFile
from acquisition.sources.phantom.ct import CtExam, CtSimulation, gantry
from acquisition.sources.phantom.ct_people import person
from integration import demo_ct
from integration.cli import OK, WRONG, run
from integration.commands.demo import EXAMS, chosen
from integration.delivery.states import JobState
from integration.demo import House
from integration.demo_ct import LAST_SLICE, Gantry, ct_exam
from integration.dicom.archive import Archive, Folder
from integration.doors.incoming import Incoming
from integration.doors.mailbox import Mailbox
from integration.house import new_job
from integration.protocol import Library
from integration.rooms import rooms
from integration.service import Service
from integration.session import Nobody
from tests.integration.delivery_samples import settled
from tests.integration.dicom_samples import validate
from tests.integration.doors_samples import N_READOUTS, plan, serving, simulation

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
    still = re.search(r"the gantry stands still; (\d+) slices are in the archive", said.err)
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
    monkeypatch.setattr(demo_ct, "AUTO", "ct_helicla")
    monkeypatch.setattr(demo_ct, "warm_up", lambda: None)
    monkeypatch.setattr("integration.demo._DELIVERY_S", 0.5)
    outcome = ct_exam(place, exam=CtExam(ct=SMALL, turns=2, feed_mm=8.0))
    assert outcome.images == 0 and outcome.latency_ms == {LAST_SLICE: {}}
    assert any("ct_helicla" in trouble and "ct_helical (" not in trouble for trouble in outcome.troubles)
    assert outcome.troubles[-1] == "0 images did not reach the archive"


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("pet", "expected one of ct, mri, got pet, which is not there yet"),
        ("cct", r"expected one of ct, mri \(did you mean ct\?\), got 'cct'"),
        ("MRI", "expected one of ct, mri, got 'MRI'. leave --exam out to see all"),
    ],
)
def test_an_exam_that_is_not_there_is_refused(name: str, match: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=match):
        chosen(name)
    assert run(["demo", "--exam", name]) == WRONG
    said = capsys.readouterr()
    assert said.out == "" and f"--exam {name}: expected one of ct, mri" in said.err and "starting" not in said.err


def test_all_exams_are_run_unless_one_is_named() -> None:
    assert chosen(None) == list(EXAMS.values())
    assert [chosen(name) for name in EXAMS] == [[exam] for exam in EXAMS.values()]


def views(n_blocks: int, length: int, step_s: float) -> list[Projections]:
    """Blocks of empty views, `step_s` apart."""
    blocks = []
    for k in range(n_blocks):
        head = np.zeros(length, VIEW_HEAD)
        head["time_s"] = (k * length + np.arange(length)) * step_s
        blocks.append(Projections(head=head, data=np.zeros((length, 1, 1), np.float32)))
    return blocks


def test_the_gantry_keeps_its_pace_even_if_nobody_listens() -> None:
    scan = Scan(uid="s", modality="CT")
    ended: list[float] = []
    machine = Gantry(scan, views(5, 4, 0.02), speed=2.0, on_end=lambda: ended.append(time.monotonic()))
    start = time.monotonic()
    machine.start()
    machine.join()
    config, header, *blocks, close = list(machine.box)
    assert (config, header, close) == (ConfigFile("auto"), scan, Close())
    due = start + (4 * np.arange(5) + 3) * 0.01
    late = np.array([b.received_s for b in blocks if isinstance(b, Projections)]) - due
    assert len(late) == 5 and late.min() > -1e-3 and late.max() < 0.1
    assert blocks[-1].received_s <= machine.ended_s <= ended[0]  # type: ignore[union-attr]


def test_the_gantry_stops_when_it_is_told() -> None:
    machine = Gantry(Scan(uid="s", modality="CT"), views(2, 1, 1000.0), speed=1.0)
    machine.start()
    start = time.monotonic()
    machine.stop()
    assert time.monotonic() - start < 1 and not machine.is_alive()
    assert list(machine.box) == []


class Watching(Nobody):
    """A peer that remembers which slices came."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def image(self, image: Image, sent: Callable[[], None] | None = None) -> None:
        self.seen.append(image.position.slice)


def test_a_scan_from_within_the_process_is_treated_like_any_other(tmp_path: Path) -> None:
    box: Mailbox[Incoming] = Mailbox(0)
    scan, peer, job = simulation().scan, Watching(), new_job()
    with serving(tmp_path) as service:
        ended: list[object] = []

        def take() -> None:
            ended.append(service.house.take(job, box, source="in here", peer=peer))

        thread = threading.Thread(target=take)
        thread.start()
        for message in (ConfigFile("auto"), scan, *simulation().readouts()):
            box.put(message)
        while not (rows := service.house.live()) or rows[0]["readouts"] != N_READOUTS:
            time.sleep(0.01)
        assert rows[0]["job"] == job
        box.put(Close())
        thread.join(10)
        row = service.console.job(job)
        assert row is not None and ended == [JobState.COMPLETE]
        assert (row.source, row.raw_path, row.state) == ("in here", "", JobState.COMPLETE)
        assert peer.seen == [0, 1, 2] and service.house.live() == []
        assert service.house.take(new_job(), iter([ConfigFile("none"), scan]), source="", peer=peer) is JobState.FAILED


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
