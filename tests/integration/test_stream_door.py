"""The raw stream's door: scans come through as they were sent; who is slow, wrong, silent or a stranger is handled."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acquisition.items import VIEW_HEAD, Image, Projections, SlicePlan
from acquisition.scan import Scan
from acquisition.sources.mrd_wire import Close, ConfigFile, ConfigText, Text
from integration.delivery.states import JobState
from integration.doors.incoming import Broken
from integration.doors.stream.call import StreamCall
from integration.doors.stream.client import StreamClient
from integration.doors.stream.messages import End, Event, Line, Opened, Planned, Progress, Returned, Shut, encode
from integration.service import Service
from tests.integration.doors_samples import EXAM, N_READOUTS, serving, simulation
from tests.integration.stream_samples import Wire, assert_same, ct, listening, mr, pet, said


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("service"), stream_port=0) as running:
        yield running


def client(port: int | None, **options: Any) -> StreamClient:
    return StreamClient(f"tcp://127.0.0.1:{port}", **options)


class Heard:
    """Remembers all that a session would take, and keeps the pace it is told."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.go = threading.Semaphore(1 << 30)
        self.over = threading.Event()

    def __call__(self, call: StreamCall) -> None:
        try:
            for item in call.incoming():
                self.items.append(item)
                self.go.acquire()
        finally:
            self.over.set()


def blank(n: int, rows: int = 8, channels: int = 92) -> Projections:
    return Projections(head=np.zeros(n, VIEW_HEAD), data=np.zeros((n, rows, channels), np.float32))


@pytest.mark.parametrize("sample", [mr, ct, pet])
@pytest.mark.parametrize("ring_bytes", [0, 1 << 21])
def test_what_goes_in_comes_out_in_order_and_bit_for_bit(sample: Any, ring_bytes: int) -> None:
    scan, items = sample()
    heard = Heard()
    with listening(heard) as server, client(server.port, ring_bytes=ring_bytes) as one:
        one.send(said(scan, [*items, Text("well")]))
    config, header, *got, text, close = heard.items
    assert isinstance(config, ConfigText) and (text, close) == (Text("well"), Close())
    assert_same(header, scan)
    assert len(got) == len(items)
    for there, here in zip(got, items, strict=True):
        assert_same(there, here)
        assert not hasattr(there, "received_s") or 0 < there.received_s <= time.monotonic()


def test_a_scan_becomes_images_and_a_row_in_the_journal(service: Service) -> None:
    scan, items = mr()
    with client(service.stream_port) as one:
        answers = one.send(said(scan, items))
    assert answers.end == End(state="COMPLETE", job=answers.job)
    row = service.console.job(answers.job)
    assert row is not None and row.state is JobState.COMPLETE and row.source == "127.0.0.1"
    assert answers.progress == Progress(taken=len(items), readouts=N_READOUTS, images=3)
    assert [i.position.slice for i in answers.images] == [0, 1, 2]
    direct = [i for item in items for i in _plain(scan, item)]
    for there, here in zip(answers.images, direct, strict=True):
        assert (there.data == here.data).all() and there.grid == here.grid
        assert 0 <= time.monotonic() - there.last_readout_s < 60


_PLAIN: dict[str, Any] = {}


def _plain(scan: Scan, item: Any) -> list[Image]:
    from tests.integration.doors_samples import Plain

    work = _PLAIN.setdefault(scan.uid, Plain(scan, ""))
    if not work.opened:
        work.open()
    return list(work.feed(item))


def test_mr_may_send_its_header_as_ismrmrd_xml(service: Service) -> None:
    with client(service.stream_port) as one:
        sim = simulation()
        answers = one.send([ConfigFile("auto"), sim.scan, *sim.readouts(), Close()])
    assert sim.scan.header == "" or answers.end is not None
    assert answers.end is not None and answers.end.state == "COMPLETE" and len(answers.images) == 3


@pytest.mark.parametrize(
    ("message", "match"),
    [
        (ConfigFile("nonsense"), r"expected one of plain, spoiled, got nonsense"),
        (ConfigText('{"protocol": "os.system"}'), r"got os\.system"),
    ],
)
def test_a_name_from_the_network_chooses_a_protocol_or_nothing(service: Service, message: Any, match: str) -> None:
    scan, items = mr()
    with client(service.stream_port) as one:
        answers = one.send([message, scan, *items, Close()])
    assert answers.end is not None and answers.end.state == "FAILED" and re.search(match, answers.end.reason)
    assert re.search(match, answers.texts[0]) and answers.texts[0].startswith("ERROR")


def test_several_scans_at_once_do_not_mix(service: Service) -> None:
    scan, items = mr()
    found: dict[int, Any] = {}

    def one(k: int) -> None:
        mine = [replace(i, data=i.data * (k + 1)) for i in items]
        with client(service.stream_port) as here:
            found[k] = here.send(said(replace(scan, uid=f"scan{k}"), mine))

    threads = [threading.Thread(target=one, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert all(a.end.state == "COMPLETE" for a in found.values()) and len({a.job for a in found.values()}) == 3
    for k in (1, 2):
        for image, first in zip(found[k].images, found[0].images, strict=True):
            np.testing.assert_allclose(image.data, (k + 1) * first.data, rtol=1e-4)


def test_a_slow_service_slows_the_scanner_and_memory_stays_within_the_window() -> None:
    heard, window = Heard(), 100_000
    heard.go = threading.Semaphore(2)  # the header may pass
    scan, _ = ct()
    block = blank(4)
    with listening(heard, inbox_bytes=window) as server, client(server.port) as one:
        sending = threading.Thread(target=one.send, args=(said(scan, [block] * 60),), daemon=True)
        sending.start()
        time.sleep(0.4)
        call = next(iter(server._calls.values()))
        assert 0 < call._inbox.held_bytes <= window
        assert one._seq <= window // block.data.nbytes + 2 < 20  # the sender stands still
        for k in range(60):
            heard.go.release()
            assert call._inbox.held_bytes <= window, k
        for _ in range(10):
            heard.go.release()
        sending.join(10)
        assert not sending.is_alive() and sum(isinstance(i, Projections) for i in heard.items) == 60


def test_who_ignores_the_window_is_told_and_cut_short() -> None:
    heard = Heard()
    heard.go = threading.Semaphore(2)
    with listening(heard, inbox_bytes=100_000) as server, Wire(server.port) as wire:
        wire.open(ct()[0])
        wire.until(Opened)
        for seq in range(1, 50):
            wire.block(seq, blank(4))
        heard.go.release(100)
        heard.over.wait(5)
    assert isinstance(heard.items[-1], Broken)
    assert "at most 100000 bytes under way, got more. wait for progress" in str(heard.items[-1].error)


def test_many_empty_messages_are_bounded_too() -> None:
    heard = Heard()
    heard.go = threading.Semaphore(2)
    with listening(heard, inbox_bytes=100_000) as server, Wire(server.port) as wire:
        wire.open(ct()[0])
        wire.until(Opened)
        for _ in range(500):
            wire.send(b"")
        deadline = time.monotonic() + 10
        while (call := next(iter(server._calls.values())))._inbox._closed is False and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(call._inbox._items) <= 100  # and the word that it was too much
        heard.go.release(200)
        heard.over.wait(5)


def test_a_scanner_that_does_not_read_its_images_is_given_up() -> None:
    made = Image(data=np.ones((1, 512, 512), np.float32), grid=replace(EXAM.grid.plane(0), shape=(1, 512, 512)))

    def flood(call: StreamCall) -> None:
        for message in call.incoming():
            if isinstance(message, Scan):
                for _ in range(100):
                    call.image(made)
                found.append(call.unreturned)
                return

    found: list[int] = []
    with (
        listening(flood, outbox_bytes=10 << 20, linger_s=0.3) as server,
        Wire(server.port, rcvhwm=1, rcvbuf=1 << 14) as wire,
    ):
        wire.open(mr()[0])
        deadline = time.monotonic() + 10
        while (server.clients or not found) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert server.clients == 0 and found and found[0] >= 100 - 10 - 70


def test_a_dead_scanner_ends_its_scan_with_what_has_come(service: Service) -> None:
    scan, items = mr()
    wire = Wire(service.stream_port or 0)
    wire.open(scan, protocol="auto")
    job = wire.until(Opened)[0].job
    for seq, item in enumerate(items[:20], 1):
        wire.block(seq, item)
    while wire.until(Progress)[0].taken < 20:
        pass
    wire.__exit__()
    deadline = time.monotonic() + 10
    while (row := service.console.job(job)) is None or row.state is JobState.RECEIVING:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert row.state is JobState.INTERRUPTED and "the connection is gone" in row.reason


def test_an_aborted_scan_is_interrupted(service: Service) -> None:
    scan, items = mr()
    with Wire(service.stream_port or 0) as wire:
        wire.open(scan)
        wire.until(Opened)
        wire.block(1, items[0])
        wire.send(*encode(Event(event="abort", text="patient moved")))
        end, before = wire.until(End)
    assert end.state == "INTERRUPTED" and "patient moved" in end.reason
    assert any(isinstance(m, Line) and m.level == "ERROR" for m in before)


def test_the_next_scan_on_the_same_connection_is_taken_and_stragglers_are_not(service: Service) -> None:
    scan, items = mr()
    with Wire(service.stream_port or 0) as wire:
        wire.open(scan, protocol="nonsense")
        for seq, item in enumerate(items[:3], 1):
            wire.block(seq, item)  # on their way when the scan fails
        assert wire.until(End)[0].state == "FAILED"
        wire.open(scan)
        wire.until(Opened)
        wire.send(*encode(Shut()))
        assert "expected readouts, got Close" in wire.until(End)[0].reason
        assert wire.next(300) is None


@pytest.mark.parametrize(
    ("frames", "match"),
    [
        ([b"garbage"], "a JSON object in UTF-8"),
        ([b'{"type": "close"}'], "open, as the first message"),
        ([b'{"type": "open", "version": 2, "mrd_header": "<x/>"}'], "open.version: expected 1, got 2"),
        ([b'{"type": "open", "version": 1}'], "either scan or mrd_header"),
        (
            [b'{"type": "open", "version": 1, "scan": {"uid": "a", "modality": "CT"}}'],
            "modality CT and that part alone",
        ),
        ([b'{"type": "open", "version": 1, "mrd_header": "<x/>"}'], "header"),
        ([b'{"type": "open", "version": 1, "mrd_header": "<x/>", "urgency": "now"}'], "'interactive', 'inline'"),
        ([b"{}"] * 20, "at most 16 frames"),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(service: Service, frames: list[bytes], match: str) -> None:
    with Wire(service.stream_port or 0) as wire:
        wire.send(*frames)
        end, before = wire.until(End)
    assert end.state in ("REFUSED", "FAILED")
    assert any(isinstance(m, Line) and re.search(match, m.text) for m in before), before


def test_blocks_out_of_order_are_refused() -> None:
    heard = Heard()
    with listening(heard) as server, Wire(server.port) as wire:
        wire.open(ct()[0])
        wire.block(2, blank(1))
        wire.until(End)
    assert "block.seq: expected 1, got 2" in str(heard.items[-1].error)


def test_a_plan_goes_back_to_the_scanner() -> None:
    plan = SlicePlan(
        name="brain-acpc",
        centre_mm=(0.0, 1.0, 2.0),
        normal=(0.0, 0.0, 1.0),
        in_plane=(1.0, 0.0, 0.0),
        fov_mm=(220.0, 220.0),
        n_slices=20,
        slice_distance_mm=5.0,
    )
    with listening(lambda call: call.plan(plan)) as server, Wire(server.port) as wire:
        wire.open(mr()[0])
        assert wire.until(Planned)[0].plan == plan


def test_silence_ends_a_scan_and_the_service_is_never_silent() -> None:
    heard = Heard()
    with listening(heard, idle_s=2.5) as server, Wire(server.port) as wire:
        wire.open(ct()[0])
        wire.until(Opened)
        _, before = wire.until(End)
    assert sum(isinstance(m, Progress) for m in before) >= 2
    assert isinstance(heard.items[-1], Broken) and "got silence" in str(heard.items[-1].error)


def test_a_full_or_stopping_service_refuses(tmp_path: Path) -> None:
    heard = Heard()
    with listening(heard, connections=1) as server, Wire(server.port) as one, Wire(server.port) as two:
        one.open(ct()[0])
        one.until(Opened)
        two.open(ct()[0])
        assert "1 scans run already" in two.until(End)[0].reason


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_mutated_streams_end_and_the_next_scan_is_unaffected(service: Service, data: st.DataObject) -> None:
    """Frames cut, changed, swapped or left out: every scan ends with a word, none hangs."""
    scan, items = mr()
    messages = [encode_open(scan), *([bytes(memoryview(f).cast("B")) for f in _block(k, i)] for k, i in _some(items))]
    for _ in range(data.draw(st.integers(1, 3))):
        message = messages[data.draw(st.integers(0, len(messages) - 1))]
        number = data.draw(st.integers(0, len(message) - 1))
        frame = bytearray(message[number])
        at = data.draw(st.integers(0, max(0, len(frame) - 1)))
        how = data.draw(st.sampled_from(["flip", "cut", "drop", "extra"]))
        if how == "flip" and frame:
            frame[at] ^= 1 << data.draw(st.integers(0, 7))
        elif how == "cut":
            del frame[at:]
        elif how == "drop" and len(message) > 1:
            del message[number]
            continue
        elif how == "extra":
            message.append(b"more")
        message[number] = bytes(frame)
    with Wire(service.stream_port or 0) as wire:
        for message in messages:
            wire.send(*message)
        wire.send(*encode(Shut()))
        end, _ = wire.until(End)
    assert end.state in ("COMPLETE", "INTERRUPTED", "FAILED", "REFUSED")


def encode_open(scan: Scan) -> list[bytes]:
    from integration.doors.stream.messages import Open

    return [bytes(memoryview(f).cast("B")) for f in encode(Open(version=1, scan=scan))]


def _block(seq: int, item: Any) -> list[Any]:
    from integration.doors.stream.messages import block_of

    return encode(block_of(seq, item))


def _some(items: list[Any]) -> list[tuple[int, Any]]:
    return list(enumerate(items[:6], 1))


def test_after_all_that_the_service_still_takes_a_scan(service: Service) -> None:
    scan, items = mr()
    with client(service.stream_port) as one:
        answers = one.send(said(scan, items))
    assert answers.end is not None and answers.end.state == "COMPLETE" and len(answers.images) == 3
    assert service.stream is not None and service.stream.listening and service.troubles() == []


def test_images_come_back_while_the_scan_goes_on(service: Service) -> None:
    scan, items = mr()
    with Wire(service.stream_port or 0) as wire:
        wire.open(scan)
        wire.until(Opened)
        for seq, item in enumerate(items[: 4 + 16], 1):  # noise and the first slice, if readouts come one by one
            wire.block(seq, item)
        assert wire.until(Returned)[0].image.position.slice == 0
