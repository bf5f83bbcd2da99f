"""The sender process: woken at once, killed at will, and in the end every image has arrived once."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from acquisition.errors import SetupError
from integration.delivery import sender as module
from integration.delivery.destination import write_destinations
from integration.delivery.journal import Journal
from integration.delivery.sender import SenderProcess
from integration.dicom.archive import Archive, Folder
from integration.dicom.part10 import split
from integration.dicom.send import exclusive
from tests.integration.delivery_samples import Box, destination, dicom, settled, uid, until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path / "data")
    yield box
    box.journal.close()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "archive", reserve_bytes=0)


@pytest.fixture
def port(folder: Folder) -> Iterator[int]:
    archive = Archive(folder)
    archive._ae.acse_timeout = 1
    yield archive.start("127.0.0.1", 0)
    settled()
    archive.stop()
    settled()


def delivers(box: Box, sender: SenderProcess) -> bool:
    """Whether the sender that runs now has said that it is at work."""
    said = box.data / "sender.json"
    return sender.alive and said.exists() and said.read_bytes().count(str(sender.pid).encode()) == 1


def kill(sender: SenderProcess) -> None:
    pid = sender.pid
    assert pid is not None, "the sender died by itself"
    os.kill(pid, signal.SIGKILL)
    until(lambda: sender.pid != pid)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def arrived_once(folder: Folder, indices: range, *, size: int = 32) -> None:
    """Each image is in the archive exactly once, byte for byte."""
    found = {p.stem: p for p in folder.directory.rglob("*.dcm")}
    assert sorted(found) == [uid(i) for i in indices]
    assert len(list(folder.directory.rglob("*.dcm"))) == len(indices)
    for i in indices:
        assert bytes(split(found[uid(i)].read_bytes(), "a").data) == bytes(split(dicom(i, size=size), "b").data)


def test_images_arrive_are_vouched_for_and_leave_the_spool(box: Box, folder: Folder, port: int) -> None:
    with SenderProcess(box.data, [destination(port=port)]) as sender:
        box.put(range(20), ["pacs"])
        sender.wake()
        until(lambda: box.counts("pacs") == {"COMMITTED": 20})
        until(lambda: box.spooled() == [])
        assert {d.evidence for d in box.journal.deliveries()} == {"commitment"}
        state = json.loads((box.data / "sender.json").read_text())
        assert state["pid"] == sender.pid
    assert not sender.alive
    arrived_once(folder, range(20))


def test_a_wake_up_is_quicker_than_polling(box: Box, port: int) -> None:
    with SenderProcess(box.data, [destination(port=port)]) as sender:
        box.put([0], ["pacs"])
        until(lambda: box.counts("pacs") == {"COMMITTED": 1})
        waits = []
        for i in range(1, 8):
            box.put([i], ["pacs"])
            sender.wake()
            until(lambda: "QUEUED" not in box.counts("pacs"))
            (d,) = [d for d in box.journal.deliveries() if d.sop_uid == uid(i)]
            waits.append(d.sent_at - d.queued_at)
        assert sorted(waits)[len(waits) // 2] < 0.25, waits


def test_without_a_wake_up_it_looks_by_itself(box: Box, port: int) -> None:
    with SenderProcess(box.data, [destination(port=port)]):
        box.put([0], ["pacs"])
        until(lambda: box.counts("pacs") == {"COMMITTED": 1})


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_moments_every_image_arrives_once(
    box: Box, folder: Folder, port: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_HEALTHY_S", 0.0)  # no growing pauses between restarts
    rng = random.Random(seed)
    with SenderProcess(box.data, [destination(port=port)]) as sender:
        for round_ in range(4):
            until(lambda: delivers(box, sender))
            box.put(range(15 * round_, 15 * (round_ + 1)), ["pacs"], size=64)
            sender.wake()
            time.sleep(rng.uniform(0.0, 0.15))
            kill(sender)
        until(lambda: box.counts("pacs") == {"COMMITTED": 60}, 30)
        until(lambda: box.spooled() == [])
        assert sender.restarts >= 3
    arrived_once(folder, range(60), size=64)


_SERVICE = """
import sys, pathlib
from tests.integration.delivery_samples import Box, destination
from integration.delivery.sender import SenderProcess
box = Box(pathlib.Path(sys.argv[1]))
with SenderProcess(box.data, [destination(port=int(sys.argv[2]))]) as sender:
    for i in range(int(sys.argv[3]), 10000):
        box.put([i], ["pacs"])
        sender.wake()
        print(i, flush=True)
"""


def test_the_service_killed_with_its_sender_at_work_loses_nothing(box: Box, folder: Folder, port: int) -> None:
    rng, last = random.Random(3), -1
    for _ in range(3):
        command = [sys.executable, "-c", _SERVICE, box.data, str(port), str(last + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as service:
            assert service.stdout
            lines = [service.stdout.readline() for _ in range(3)]
            time.sleep(rng.uniform(0.1, 0.8))
            service.kill()
            lines += service.stdout.readlines()
        last = max(int(line) for line in lines if line.endswith("\n"))
        # What was written but not acknowledged may be queued as well: the next service goes on behind it.
        last = max(last, *(int(d.sop_uid[-6:]) for d in box.journal.deliveries()))
    with SenderProcess(box.data, [destination(port=port)]):
        until(lambda: box.counts("pacs") == {"COMMITTED": last + 1}, 30)
    arrived_once(folder, range(last + 1))


def test_the_sender_ends_when_its_service_is_killed(box: Box, port: int) -> None:
    command = [sys.executable, "-c", _SERVICE, box.data, str(port), "9999"]
    service = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)
    until(lambda: (box.data / "sender.json").exists() or service.poll() is not None)
    service.kill()
    service.wait()
    with exclusive(box.data):
        pass  # waits until the other sender has let go


def test_two_senders_never_share_a_folder(box: Box, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("integration.dicom.send._LOCK_WAIT_S", 0.1)
    with exclusive(box.data), pytest.raises(SetupError, match="expected no other sender"), exclusive(box.data):
        pass


def test_a_dead_destination_blocks_no_other_and_shows(box: Box, port: int) -> None:
    where = [destination("dead", closed_port()), destination(port=port)]
    with SenderProcess(box.data, where) as sender:
        box.put(range(10), ["dead", "pacs"])
        sender.wake()
        until(lambda: box.counts("pacs") == {"COMMITTED": 10})
        until(lambda: box.journal.status()["dead"].down_since is not None)
        assert box.counts("dead") == {"QUEUED": 10}
        assert len(box.spooled()) == 10, "nothing leaves the spool before all have it"


def test_after_resend_and_probe_a_dead_letter_arrives(box: Box, folder: Folder) -> None:
    port = closed_port()
    box.put(range(3), ["pacs"])
    patient = destination(port=port, max_outage_s=0.1, backoff_first_s=0.05, backoff_max_s=600)
    with SenderProcess(box.data, [patient]) as sender:
        until(lambda: box.counts("pacs") == {"DEAD": 3})
        assert len(box.spooled()) == 3
        archive = Archive(folder)
        archive.start("127.0.0.1", port)
        time.sleep(0.2)
        assert box.journal.resend(destination="pacs") == 3
        sender.probe()
        until(lambda: box.counts("pacs") == {"COMMITTED": 3})
    settled()
    archive.stop()


def test_a_disabled_destination_is_sent_nothing(box: Box, folder: Folder, port: int) -> None:
    where = [destination(port=port), destination("ws", port, enabled=False)]
    with SenderProcess(box.data, where) as sender:
        box.put(range(2), ["pacs", "ws"])
        sender.wake()
        until(lambda: box.counts("pacs") == {"COMMITTED": 2})
        assert box.counts("ws") == {"QUEUED": 2}
        assert len(box.spooled()) == 2


def test_stop_finishes_and_leaves_the_rest_in_the_journal(box: Box, port: int) -> None:
    box.put(range(60), ["pacs"])
    sender = SenderProcess(box.data, [destination(port=port)])
    sender.start()
    until(lambda: box.counts("pacs").get("QUEUED", 0) < 60)
    began = time.monotonic()
    sender.stop()
    assert time.monotonic() - began < 5
    assert sum(box.counts("pacs").values()) == 60
    left = box.counts("pacs")
    time.sleep(0.1)
    assert box.counts("pacs") == left


def test_it_may_be_started_once(box: Box, port: int) -> None:
    with SenderProcess(box.data, []) as sender, pytest.raises(SetupError, match="expected one start"):
        sender.start()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: (data / "destinations.json").write_text("{"), "destinations.json"),
        (lambda data: (data / "journal.sqlite").write_bytes(b"junk" * 5000), "expected an intact journal"),
    ],
)
def test_what_it_cannot_work_with_is_said_and_ends_it(tmp_path: Path, spoil: object, message: str) -> None:
    Journal(tmp_path / "journal.sqlite").close()
    write_destinations(tmp_path / "destinations.json", [destination()])
    spoil(tmp_path)  # type: ignore[operator]
    command = [sys.executable, "-m", "integration.dicom.send", "--data", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_the_keeper_waits_longer_when_a_sender_ends_at_once(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    sender = SenderProcess(box.data, [])
    (box.data / "destinations.json").write_text("{")
    sender.start()
    until(lambda: sender.restarts >= 1)
    sender.stop()
    assert "ended with 1; a new one in 0.2 s" in caplog.text
