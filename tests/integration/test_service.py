"""The service as a whole: start, stop, recovery after kill -9 at any moment, and what it keeps on disk."""

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
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from acquisition.errors import SetupError
from acquisition.sources.mrd_wire import Close
from integration.delivery.destination import Destination
from integration.delivery.journal import Journal
from integration.delivery.spool import Spool
from integration.delivery.states import DeliveryState, JobState
from integration.dicom.archive import Archive, Folder
from integration.doors.mrd_client import MrdClient
from integration.house import new_job
from integration.service import Service
from tests.conftest import ROOT
from tests.integration.delivery_samples import settled, until
from tests.integration.doors_samples import Wire, as_bytes, plan, rooms, serving, simulation, stream, talk


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """An embedded archive: its port and its folder."""
    folder = tmp_path / "archive"
    server = Archive(Folder(folder, reserve_bytes=0))
    port = server.start("127.0.0.1", 0)
    yield port, folder
    settled()
    server.stop()


def destination(port: int) -> Destination:
    return Destination(name="archive", host="127.0.0.1", port=port, ae_title="ISOARCHIVE", backoff_first_s=0.1)


def arrived(folder: Path) -> list[str]:
    return sorted(p.stem for p in folder.rglob("*.dcm"))


def journalled(data: Path) -> dict[str, DeliveryState]:
    with Journal(data / "journal.sqlite") as journal:
        return {d.sop_uid: d.state for d in journal.deliveries()}


def recordings(data: Path) -> list[Path]:
    return sorted((data / "raw").glob("*.mrd"))


def test_images_arrive_in_the_archive_and_nothing_is_left_behind(tmp_path: Path, archive: tuple[int, Path]) -> None:
    port, folder = archive
    data = tmp_path / "data"
    with serving(data, destination(port)) as service:
        talk(service.mrd_port, as_bytes(stream()))
        assert len(recordings(data)) == 1
        until(lambda: len(arrived(folder)) == 3)
        until(lambda: set(journalled(data).values()) == {DeliveryState.COMMITTED})
        service.keep_house()
        assert recordings(data) == []
        until(lambda: not list((data / "spool").glob("*.dcm")))
        job = service.console.jobs(1)[0]
        rows = service.house.timeline.of(job.job, service.console.deliveries(job.job))
        for row in rows:
            assert row.last_readout_s <= row.made_s <= row.spooled_s <= row.archived_s["archive"]
            assert row.on_wire_s is not None


def test_close_means_that_the_images_are_durable(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        assert isinstance(talk(service.mrd_port, as_bytes(stream()))[-1], Close)
        assert service.journal.jobs(1)[0].state is JobState.COMPLETE
        assert len(service.journal.spooled()) == 3


def test_one_service_per_folder(tmp_path: Path) -> None:
    with serving(tmp_path), pytest.raises(SetupError, match="--data"):
        Service(plan(tmp_path), rooms)


def test_a_start_that_fails_leaves_nothing_running(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for wrong in ({"mrd_port": port}, {"http_port": port}):
            with pytest.raises(SetupError, match="a free port"):
                Service(plan(tmp_path, **wrong), rooms).start()
    with serving(tmp_path) as service:
        assert service.troubles() == []


def test_a_disk_without_room_refuses_a_scan_at_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("integration.house.expected_bytes", lambda scan: 2 << 30)
    with serving(tmp_path) as service:
        service.spool.reserve_bytes = service.spool.free_bytes - (1 << 30)
        answer = talk(service.mrd_port, as_bytes(stream()))
        assert "MB free" in answer[0].text
        assert answer[0].text.startswith("ERROR spool")
        service.spool.reserve_bytes = service.spool.free_bytes + (1 << 30)
        assert "MB free" in talk(service.mrd_port, as_bytes(stream()))[0].text
        assert any("MB free" in line for line in service.troubles())
        service.spool.reserve_bytes = 0
        assert len(talk(service.mrd_port, as_bytes(stream()))) == 4


def test_a_disk_that_fills_up_during_a_scan_loses_neither_raw_data_nor_the_answer(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        with Wire(service.mrd_port) as wire:
            messages = stream()
            wire.send(*messages[:40])
            until(lambda: len(service.journal.spooled()) == 2)
            service.spool.reserve_bytes = service.spool.free_bytes + (1 << 30)
            wire.send(*messages[40:])
            answer = wire.until_closed()
        assert len(answer) == 3 + 1 + 1
        assert "not kept: StorageFullError" in answer[3].text
        job = service.console.jobs(1)[0]
        assert job.state is JobState.FAILED
        service.spool.reserve_bytes = 0
        service.keep_house()
        assert recordings(tmp_path) == [Path(job.raw_path)]
        assert service.house.replay(job.job) is JobState.COMPLETE
        assert len(service.journal.spooled()) == 3


def test_a_dead_sender_comes_back_and_delivers(tmp_path: Path, archive: tuple[int, Path]) -> None:
    port, folder = archive
    with serving(tmp_path / "data", destination(port)) as service:
        talk(service.mrd_port, as_bytes(stream()))
        os.kill(service.sender.pid or 0, signal.SIGKILL)
        talk(service.mrd_port, as_bytes(stream()))
        until(lambda: len(arrived(folder)) == 6)
        until(lambda: set(journalled(tmp_path / "data").values()) == {DeliveryState.COMMITTED})
        assert service.sender.restarts == 1


def test_a_recording_without_a_scan_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir(parents=True)
    for job, content in (("stray", b""), ("noise", b"\xff" * 50), ("cut", as_bytes(stream()[:2]))):
        (tmp_path / "raw" / f"{job}.mrd").write_bytes(content)
    with serving(tmp_path) as service:
        until(service.house.recovered.is_set)
        assert recordings(tmp_path) == [] or [p.stem for p in recordings(tmp_path)] == ["cut"]
        assert [j.state for j in service.console.jobs() if j.job != "cut"] == []


def test_a_recording_nobody_wrote_down_is_played(tmp_path: Path) -> None:
    """Killed between the first readout and the journal."""
    (tmp_path / "raw").mkdir(parents=True)
    (tmp_path / "raw" / "stray.mrd").write_bytes(as_bytes(stream()))
    with serving(tmp_path) as service:
        until(service.house.recovered.is_set)
        assert service.console.job("stray").state is JobState.COMPLETE
        assert len(service.journal.spooled()) == 3


def test_a_recording_that_kills_the_service_each_time_is_given_up(tmp_path: Path) -> None:
    from integration.delivery.rows import Job

    (tmp_path / "raw").mkdir(parents=True)
    (tmp_path / "raw" / "bad.mrd").write_bytes(as_bytes(stream()))
    (tmp_path / "raw" / "bad.tries").write_bytes(b"...")
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.open_job(Job(job="bad", scan_uid="s", modality="MR", protocol="p"))
        journal.open_job(Job(job="gone", scan_uid="s", modality="MR", protocol="p"))
    with serving(tmp_path) as service:
        until(service.house.recovered.is_set)
        assert "died each time" in service.console.job("bad").reason
        assert "no recording" in service.console.job("gone").reason
        assert len(recordings(tmp_path)) == 1


def test_images_in_the_spool_that_nobody_knows_are_adopted_and_live_scans_are_not_mistaken_for_them(
    tmp_path: Path,
) -> None:
    with serving(tmp_path / "first") as service:
        talk(service.mrd_port, as_bytes(stream()))
        orphans = [Path(p).read_bytes() for p in service.journal.spooled()]
    data = tmp_path / "second"
    spool = Spool(data / "spool", reserve_bytes=0)
    for i, content in enumerate(orphans):
        (spool.directory / f"2.25.{i}.0000.dcm").write_bytes(content)
    with serving(data) as service:
        answer = talk(service.mrd_port, as_bytes(stream()))
        assert len(answer) == 4
        until(service.house.recovered.is_set)
        assert len(service.journal.spooled()) == 6


# kill -9


class Victim:
    """The service as a process."""

    def __init__(self, data: Path, archive_port: int) -> None:
        command = [sys.executable, "-m", "tests.integration.doors_service", str(data), str(archive_port)]
        self.log = (data.parent / "service.log").open("ab")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, cwd=ROOT)
        assert self.process.stdout is not None
        self.port = json.loads(self.process.stdout.readline())["mrd_port"]

    def kill(self) -> None:
        self.process.kill()
        self._wait()

    def stop(self) -> int:
        self.process.terminate()
        return self._wait()

    def _wait(self) -> int:
        code = self.process.wait(20)
        self.process.stdout.close()
        self.log.close()
        return code


@contextmanager
def victim(data: Path, port: int) -> Iterator[Victim]:
    found = Victim(data, port)
    try:
        yield found
    finally:
        if found.process.poll() is None:
            found.kill()


def test_killed_in_mid_scan_the_slices_that_were_whole_arrive_and_the_rest_says_hold(
    tmp_path: Path, archive: tuple[int, Path]
) -> None:
    port, folder = archive
    data = tmp_path / "data"
    with victim(data, port) as service, Wire(service.port) as wire:
        wire.send(*stream()[:-10])
        until(lambda: len(journalled(data)) == 2)
        service.kill()
    before = set(journalled(data))
    with victim(data, port) as service:
        until(lambda: len(arrived(folder)) == 3)
        until(lambda: set(journalled(data).values()) == {DeliveryState.COMMITTED})
        assert service.stop() == 0
    assert before < set(arrived(folder)) == set(journalled(data))
    with Journal(data / "journal.sqlite") as journal:
        (job,) = journal.jobs()
        assert job.state is JobState.INTERRUPTED
        assert [v["check"] for v in job.verdicts] == ["scan.complete"]
    assert recordings(data) != []
    assert not list((data / "spool").glob("*.dcm"))


def test_killed_at_ten_random_moments_every_image_is_delivered_once(tmp_path: Path, archive: tuple[int, Path]) -> None:
    """Scans come one after the other; the service is killed again and again, wherever it is."""
    port, folder = archive
    data = tmp_path / "data"
    rng = random.Random(7)
    finished, sim = 0, simulation()
    for _ in range(10):
        with victim(data, port) as service:
            deadline = time.monotonic() + rng.uniform(0.0, 0.5)
            while time.monotonic() < deadline:
                with suppress(SetupError), MrdClient("127.0.0.1", service.port) as client:
                    answer = client.send(sim.scan, sim.readouts(), config="plain", speed=4)
                    finished += answer.closed
            service.kill()
    with victim(data, port) as service:
        until(lambda: all(s is DeliveryState.COMMITTED for s in journalled(data).values()), 30)
        with Journal(data / "journal.sqlite") as journal:
            until(lambda: not journal.unfinished_jobs(), 30)
        until(lambda: all(s is DeliveryState.COMMITTED for s in journalled(data).values()), 30)
        until(lambda: not list((data / "spool").glob("*.dcm")), 30)
        assert service.stop() == 0
    assert finished > 0
    assert arrived(folder) == sorted(journalled(data))
    with Journal(data / "journal.sqlite") as journal:
        jobs = journal.jobs()
        whole = [j for j in jobs if j.state is JobState.COMPLETE]
        assert len(whole) >= finished
        for job in whole:
            assert len(journal.deliveries(job.job)) == 3
        assert {j.state for j in jobs} <= {JobState.COMPLETE, JobState.INTERRUPTED, JobState.FAILED}
        assert all("expected readouts" in j.reason for j in jobs if j.state is JobState.FAILED)


def test_stopped_by_sigterm_it_ends_well(tmp_path: Path, archive: tuple[int, Path]) -> None:
    with victim(tmp_path / "data", archive[0]) as service:
        talk(service.port, as_bytes(stream()))
        assert service.stop() == 0
    assert len(journalled(tmp_path / "data")) == 3


def test_jobs_have_names_of_their_own() -> None:
    assert len({new_job() for _ in range(1000)}) == 1000
