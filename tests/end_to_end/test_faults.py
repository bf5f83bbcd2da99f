"""The service as a process with its real protocols, and everything that goes wrong around it."""

from __future__ import annotations

import json
import random
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from acquisition.errors import SetupError
from acquisition.items import Readouts
from acquisition.sources.mrd_header_write import write_header
from acquisition.sources.mrd_wire import Close, ConfigFile, Header, Message
from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.mri import Simulation
from integration.delivery.journal import Journal
from integration.delivery.states import DeliveryState, JobState
from integration.demo import running
from integration.doors.mrd_client import Answer, MrdClient
from tests.integration.delivery_samples import until
from tests.integration.doors_samples import Wire, as_bytes, talk
from tests.peers import StoreScp

EXAM = MriExam(matrix=(3, 64, 64), n_coils=4, acceleration=2, n_acs=16, tr_s=0.002, slice_order="ascending")
SIMULATION = Simulation(EXAM)


class Served:
    """A service that runs as a process."""

    def __init__(self, data: Path, mrd_port: int, pid: int) -> None:
        self.data, self.port, self.pid = data, mrd_port, pid

    def scan(self, *, speed: float = float("inf")) -> Answer:
        with MrdClient("127.0.0.1", self.port) as client:
            return client.send(SIMULATION.scan, SIMULATION.readouts(), config="auto", speed=speed)

    def states(self) -> list[DeliveryState]:
        with Journal(self.data / "journal.sqlite") as journal:
            return [d.state for d in journal.deliveries()]

    def kill(self) -> None:
        import os
        import signal

        os.kill(self.pid, signal.SIGKILL)


@contextmanager
def served(folder: Path, archive_port: int, *more: str, title: str = "ISOARCHIVE") -> Iterator[Served]:
    data = folder / "data"
    command = ["integration", "serve", "--mrd-port", "0", "--http-port", "0", "--data", str(data)]
    archive = ["--archive", f"127.0.0.1:{archive_port}:{title}"]
    with running(folder, "service", [*command, *archive, *more]) as ready:
        yield Served(data, ready["mrd_port"], ready["pid"])


@contextmanager
def archived(folder: Path, port: int = 0, *more: str) -> Iterator[tuple[int, Path]]:
    """The embedded archive as a process: its port and its folder."""
    command = ["integration.dicom.archive", "--dir", str(folder / "archive"), "--port", str(port), *more]
    with running(folder, "archive", command) as ready:
        yield ready["port"], folder / "archive"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Path]]:
    """A healthy service and its archive."""
    folder = tmp_path_factory.mktemp("house")
    with archived(folder) as (port, kept), served(folder, port) as service:
        yield service, kept


def messages(config: str = "auto") -> list[Message]:
    return [ConfigFile(config), Header(write_header(SIMULATION.scan)), *SIMULATION.readouts(), Close()]


def cut_in_a_readout() -> bytes:
    return as_bytes(messages()[:60])[:-777]


def lying_header() -> bytes:
    """A readout that claims 65535 samples of 65535 coils: 32 GiB."""
    data = bytearray(as_bytes(messages()[2:3]))
    block = next(m for m in messages() if isinstance(m, Readouts))
    names = block.head.dtype.fields
    assert names is not None
    for field in ("n_samples", "n_coils"):
        struct.pack_into("<H", data, 2 + names[field][1], 65535)
    return as_bytes(messages()[:2]) + bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (cut_in_a_readout(), "ERROR"),
        (lying_header(), "ERROR"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "ERROR"),
        (bytes(random.Random(3).randbytes(5000)), "ERROR"),
        (as_bytes(messages()[:2]) + random.Random(4).randbytes(3000), "ERROR"),
        (as_bytes(messages("mri_cartesain")), "did you mean mri_cartesian?"),
        (as_bytes([ConfigFile("auto"), Header("<ismrmrdHeader/>"), Close()]), "ERROR"),
        (as_bytes([ConfigFile("auto"), Header("no xml"), Close()]), "ERROR"),
        (as_bytes(messages()[2:]), "a config message and a header before them"),
    ],
    ids=["cut", "lie", "http", "noise", "noise-later", "unknown", "empty-header", "no-xml", "no-header"],
)
def test_broken_input_is_answered_and_the_next_scan_is_unaffected(
    house: tuple[Served, Path], data: bytes, message: str
) -> None:
    service, kept = house
    before = len(list(kept.rglob("*.dcm")))
    answer = talk(service.port, data, half_close=True)
    texts = [m.text for m in answer if hasattr(m, "text")]
    assert any(message in text for text in texts), texts
    whole = sum(1 for m in answer if not hasattr(m, "text") and not isinstance(m, Close))
    assert service.scan().troubles() == []
    until(lambda: len(list(kept.rglob("*.dcm"))) == before + whole + 3, 20)


def test_slices_that_were_whole_when_the_line_broke_are_kept(house: tuple[Served, Path]) -> None:
    service, kept = house
    before = len(list(kept.rglob("*.dcm")))
    with Wire(service.port) as wire:
        wire.send(*messages()[:-30])
    until(lambda: len(list(kept.rglob("*.dcm"))) == before + 3, 20)
    with Journal(service.data / "journal.sqlite") as journal:
        until(lambda: journal.jobs(1)[0].state is JobState.INTERRUPTED)
        assert [v["level"] for v in journal.jobs(1)[0].verdicts if v["check"] == "scan.complete"] == ["HOLD"]


def test_an_archive_that_is_down_gets_all_when_it_comes_back(tmp_path: Path) -> None:
    with archived(tmp_path) as (port, kept):
        pass
    with served(tmp_path, port) as service:
        assert service.scan().troubles() == []
        assert set(service.states()) == {DeliveryState.QUEUED}
        with archived(tmp_path, port):
            until(lambda: len(list(kept.rglob("*.dcm"))) == 3, 30)
            until(lambda: set(service.states()) == {DeliveryState.COMMITTED}, 30)


@pytest.mark.peer("dcmtk")
@pytest.mark.parametrize("flags", [("--sleep-after", "1"), ("--abort-after",), ("--abort-during",), ("--refuse",)])
def test_a_slow_or_ill_archive_delays_no_scan(
    tmp_path: Path, storescp: Callable[..., StoreScp], flags: tuple[str, ...]
) -> None:
    peer = storescp(*flags)
    with served(tmp_path, peer.port, title=peer.ae_title) as service:
        began = time.monotonic()
        for _ in range(3):
            assert service.scan().troubles() == []
        assert time.monotonic() - began < 5
        assert len(service.states()) == 9
        if flags[0] == "--sleep-after":
            until(lambda: set(service.states()) <= {DeliveryState.COMMITTED}, 40)


def test_an_archive_that_is_full_is_tried_again(tmp_path: Path) -> None:
    with archived(tmp_path, 0, "--reserve-mb", str(1 << 30)) as (port, _), served(tmp_path, port) as service:
        assert service.scan().troubles() == []
        with Journal(service.data / "journal.sqlite") as journal:
            until(lambda: any("A7" in d.last_error for d in journal.deliveries()), 20)
        assert not {DeliveryState.SENT, DeliveryState.COMMITTED} & set(service.states())


def test_a_disk_that_is_nearly_full_refuses_the_scan_before_it_is_measured(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("reserve_gib: 1000000\n")
    with served(tmp_path, 1, "--config", str(tmp_path / "site.yaml")) as service:
        texts = service.scan().texts
        assert any("free" in text and text.startswith("ERROR") for text in texts), texts


def test_killed_at_ten_random_moments_every_image_is_delivered_once(tmp_path: Path) -> None:
    rng = random.Random(11)
    finished = 0
    with archived(tmp_path) as (port, kept):
        for _ in range(10):
            with served(tmp_path, port) as service:
                deadline = time.monotonic() + rng.uniform(0.05, 0.8)
                while time.monotonic() < deadline:
                    with suppress(SetupError, OSError):
                        finished += service.scan(speed=3).closed
                service.kill()
        with served(tmp_path, port) as service, Journal(service.data / "journal.sqlite") as journal:
            until(lambda: not journal.unfinished_jobs(), 40)
            until(lambda: set(service.states()) == {DeliveryState.COMMITTED}, 40)
            jobs = journal.jobs()
            assert finished > 0
            assert sum(j.state is JobState.COMPLETE for j in jobs) >= finished
            for job in jobs:
                if job.state is JobState.COMPLETE:
                    assert len(journal.deliveries(job.job)) == 3
            sent = sorted(d.sop_uid for d in journal.deliveries())
            assert sorted(p.stem for p in kept.rglob("*.dcm")) == sent
            assert json.dumps(sent)
