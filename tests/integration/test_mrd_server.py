"""The MRD door with real sockets: order, several clients, slow clients, broken clients; the next scan is unaffected."""

from __future__ import annotations

import json
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from acquisition.errors import SetupError
from acquisition.items import Image
from acquisition.sources.mrd_wire import Close, ConfigFile, ConfigText, Header, Message, Text
from integration.delivery.rows import Job
from integration.delivery.states import JobState
from integration.doors.mrd_call import CallLimits
from integration.doors.mrd_server import MrdServer
from integration.service import Service
from tests.integration.delivery_samples import until
from tests.integration.doors_samples import EXAM, N_READOUTS, Wire, as_bytes, serving, simulation, stream, talk


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all: each test also shows that the one before did it no harm."""
    with serving(tmp_path_factory.mktemp("data"), limits=CallLimits(greeting_s=1, idle_s=1, linger_s=1)) as found:
        yield found


def images(messages: list[Message]) -> list[Image]:
    return [m for m in messages if isinstance(m, Image)]


def texts(messages: list[Message]) -> list[str]:
    return [m.text for m in messages if isinstance(m, Text)]


def check_whole(messages: list[Message]) -> None:
    """All slices, right, in order, no text, then Close."""
    assert texts(messages) == []
    found = images(messages)
    assert [i.position.slice for i in found] == [0, 1, 2]
    for image in found:
        truth = simulation().truth(image.position.slice)
        scale = np.vdot(image.data, truth.data) / np.vdot(image.data, image.data)
        assert np.linalg.norm(scale * image.data - truth.data) < 0.25 * np.linalg.norm(truth.data)
        np.testing.assert_allclose(image.grid.origin_mm, truth.grid.origin_mm, atol=1e-3)
    assert isinstance(messages[-1], Close)


def last_job(service: Service) -> Job:
    return service.console.jobs(1)[0]


def test_a_scan_comes_back_as_images_and_close(service: Service) -> None:
    check_whole(talk(service.mrd_port, as_bytes(stream())))
    assert last_job(service).state is JobState.COMPLETE


def test_an_image_comes_while_the_scan_still_runs(service: Service) -> None:
    messages = stream()
    with Wire(service.mrd_port) as wire:
        wire.send(*messages[: 2 + 4 + 16])
        data = wire.sock.recv(1 << 20)
        assert struct.unpack_from("<H", data) == (1022,)
        wire.send(*messages[2 + 4 + 16 :])
        wire.sock.settimeout(5)
        while data[-2:] != struct.pack("<H", 4):
            data += wire.sock.recv(1 << 20)


def test_bytes_may_come_one_by_one_at_first(service: Service) -> None:
    data = as_bytes(stream())
    with Wire(service.mrd_port) as wire:
        for i in range(1100):
            wire.send_bytes(data[i : i + 1])
        wire.send_bytes(data[1100:])
        check_whole(wire.until_closed())


def test_header_before_config_is_understood(service: Service) -> None:
    config, header, *rest = stream()
    check_whole(talk(service.mrd_port, as_bytes([header, config, *rest])))


@pytest.mark.parametrize(
    "config",
    [
        ConfigFile("plain.xml"),
        ConfigFile("auto"),
        ConfigText("plain"),
        ConfigText('{"protocol": "plain", "set": {}}'),
        ConfigText('{"version": "1.0", "parameters": {"config": "plain"}}'),
    ],
    ids=str,
)
def test_forms_of_the_config(service: Service, config: Message) -> None:
    check_whole(talk(service.mrd_port, as_bytes([config, *stream()[1:]])))


def test_console_parameters_after_the_header_choose_the_protocol(service: Service) -> None:
    _, header, *rest = stream()
    chosen = Text(json.dumps({"version": "1", "parameters": {"config": "plain", "flavour": "mild"}}))
    check_whole(talk(service.mrd_port, as_bytes([ConfigFile("spoiled"), header, chosen, *rest])))
    job = last_job(service)
    assert job.protocol == "plain"
    assert [v["evidence"] for v in job.verdicts if v["check"] == "scan.parameters"] == ["not used: flavour"]


def test_console_parameters_that_come_too_late_are_flagged(service: Service) -> None:
    messages = stream()
    messages.insert(10, Text(json.dumps({"parameters": {"config": "spoiled"}})))
    messages.insert(12, Text("only a remark"))
    check_whole(talk(service.mrd_port, as_bytes(messages)))
    assert [v["level"] for v in last_job(service).verdicts] == ["FLAG"]


def test_an_unknown_protocol_is_an_error_with_the_known_ones_and_no_other_is_run(service: Service) -> None:
    messages = talk(service.mrd_port, as_bytes(stream("mri_fancy")))
    assert images(messages) == []
    (line,) = texts(messages)
    assert line.startswith("ERROR")
    assert "mri_fancy" in line
    assert "plain, spoiled" in line
    assert isinstance(messages[-1], Close)
    assert last_job(service).state is JobState.FAILED


def test_an_internal_error_keeps_the_images_already_made(service: Service) -> None:
    messages = talk(service.mrd_port, as_bytes(stream("spoiled")))
    assert [i.position.slice for i in images(messages)] == [0]
    assert "internal error" in texts(messages)[0]
    assert "ZeroDivisionError" in texts(messages)[0]
    assert isinstance(messages[-1], Close)
    assert last_job(service).state is JobState.FAILED
    check_whole(talk(service.mrd_port, as_bytes(stream())))


@pytest.mark.parametrize(
    ("messages", "match"),
    [
        ([ConfigFile("plain"), *stream()[2:]], "no header"),
        (stream()[1:], "no config"),
        ([*stream()[:2], Close()], "expected readouts, got Close"),
        ([*stream()[:2], *stream()[1:]], "second header"),
        ([*stream()[:10], ConfigFile("plain"), *stream()[10:]], "another after them"),
        ([ConfigFile("plain"), Header("<nonsense"), *stream()[2:]], "header"),
    ],
    ids=["no header", "no config", "no data", "two headers", "late config", "broken header"],
)
def test_messages_in_the_wrong_order(service: Service, messages: list[Message], match: str) -> None:
    answer = talk(service.mrd_port, as_bytes(messages))
    assert any(match in line for line in texts(answer)), texts(answer)
    assert isinstance(answer[-1], Close)


def test_a_scan_cut_inside_a_message(service: Service) -> None:
    data = as_bytes(stream(close=False))
    answer = talk(service.mrd_port, data[:-100], half_close=True)
    assert [i.position.slice for i in images(answer)][:2] == [0, 1]
    assert "the rest of a message" in texts(answer)[0]
    job = last_job(service)
    assert job.state is JobState.INTERRUPTED
    assert [(v["check"], v["level"]) for v in job.verdicts] == [("scan.complete", "HOLD")]


def test_what_is_made_of_a_cut_scan_says_hold(service: Service) -> None:
    answer = talk(service.mrd_port, as_bytes(stream()[:-10]), half_close=True)
    checks = {i.position.slice: [v.check for v in i.verdicts] for i in images(answer)}
    assert checks == {0: [], 1: [], 2: ["scan.complete"]}
    assert last_job(service).state is JobState.INTERRUPTED


def test_a_client_that_forgets_close_has_a_whole_scan_if_the_last_readout_came(service: Service) -> None:
    messages = stream(close=False)
    check_whole(talk(service.mrd_port, as_bytes(messages), half_close=True))
    assert last_job(service).state is JobState.COMPLETE


def test_a_scanner_that_vanishes(service: Service) -> None:
    with Wire(service.mrd_port) as wire:
        wire.send(*stream()[:30])
        until(lambda: service.house.live() and service.house.live()[0]["readouts"] == 28)
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: last_job(service).state is JobState.INTERRUPTED)
    assert "reset" in last_job(service).reason


def test_a_scanner_that_falls_silent(service: Service) -> None:
    with Wire(service.mrd_port) as wire:
        wire.send(*stream()[:30])
        answer = wire.until_closed()
    assert "silence" in texts(answer)[0]
    assert isinstance(answer[-1], Close)


def test_a_port_probe_leaves_no_trace(service: Service) -> None:
    before = len(service.console.jobs(1000))
    with Wire(service.mrd_port):
        pass
    until(lambda: service.server.clients == 0)
    assert len(service.console.jobs(1000)) == before


def test_noise_only_makes_no_image_and_says_so(service: Service) -> None:
    answer = talk(service.mrd_port, as_bytes([*stream()[: 2 + 4], Close()]))
    assert texts(answer) == ["INFO  no image was made from 4 readouts"]
    assert last_job(service).state is JobState.COMPLETE
    assert last_job(service).verdicts[0]["check"] == "scan.images"


def test_garbage_is_refused_with_words(service: Service) -> None:
    answer = talk(service.mrd_port, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert "message number" in texts(answer)[0]
    assert isinstance(answer[-1], Close)


def test_a_readout_that_claims_32_gib_is_refused_before_memory_is_taken(service: Service) -> None:
    config, header, first, *_ = stream()
    head = first.head.copy()
    head["n_samples"] = head["n_coils"] = 65535
    claim = struct.pack("<H", 1008) + head.tobytes()
    answer = talk(service.mrd_port, as_bytes([config, header]) + claim + bytes(1000))
    assert "claim" in texts(answer)[0]


@pytest.mark.parametrize("seed", range(12))
def test_damaged_streams_end_with_words_and_close(service: Service, seed: int) -> None:
    """Flip, cut, insert or repeat bytes anywhere: the client always gets Close, and what is sent before it is sound."""
    rng = random.Random(seed)
    data = bytearray(as_bytes(stream()))
    at = rng.randrange(len(data))
    match seed % 4:
        case 0:
            data[at : at + 8] = rng.randbytes(8)
        case 1:
            del data[at : at + rng.randrange(1, 5000)]
        case 2:
            data[at:at] = rng.randbytes(rng.randrange(1, 5000))
        case 3:
            data[at:] = rng.randbytes(5000)
    answer = talk(service.mrd_port, bytes(data), half_close=True)
    assert isinstance(answer[-1], Close)
    if len(images(answer)) < 3:
        assert texts(answer)


def test_after_all_that_a_scan_still_works_and_nobody_is_connected(service: Service) -> None:
    check_whole(talk(service.mrd_port, as_bytes(stream())))
    until(lambda: service.server.clients == 0)
    assert service.house.live() == []


def test_two_scanners_at_once(service: Service) -> None:
    messages = stream()
    half = len(messages) // 2
    with Wire(service.mrd_port) as a, Wire(service.mrd_port) as b:
        for wire, part in ((a, messages[:half]), (b, messages[:half]), (a, messages[half:]), (b, messages[half:])):
            wire.send(*part)
        check_whole(b.until_closed())
        check_whole(a.until_closed())


def test_a_client_that_reads_only_at_the_end(tmp_path: Path) -> None:
    """Answers and readouts are larger than what the sockets hold; neither side may wait for the other."""
    exam = replace(EXAM, matrix=(6, 512, 512), n_coils=1, n_noise=0, tr_s=0.006)
    data = as_bytes(stream(exam=exam))
    limits = CallLimits(linger_s=5, inbox_bytes=1 << 20)
    with serving(tmp_path, limits=limits) as service, Wire(service.mrd_port) as wire:
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        wire.send_bytes(data)
        answer = wire.until_closed()
    assert len(images(answer)) == 6
    assert texts(answer) == []


def test_a_client_that_never_reads_does_not_stop_the_scan(tmp_path: Path) -> None:
    exam = replace(EXAM, matrix=(8, 512, 512), n_coils=1, n_noise=0, tr_s=0.006)
    limits = CallLimits(linger_s=0.5, outbox_bytes=1 << 20)
    with serving(tmp_path, limits=limits) as service, Wire(service.mrd_port) as wire:
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        wire.send(*stream(exam=exam))
        until(lambda: service.console.jobs(1) and last_job(service).state is not JobState.RECEIVING)
        job = last_job(service)
        assert job.state is JobState.COMPLETE
        assert len(list((tmp_path / "spool").glob("*.dcm"))) == 8
        assert [v["check"] for v in job.verdicts] == ["scan.returned"]
        until(lambda: service.server.clients == 0)


def test_a_full_server_says_so_and_takes_the_next_when_there_is_room(tmp_path: Path) -> None:
    with serving(tmp_path, limits=CallLimits(connections=1, linger_s=1)) as service:
        with Wire(service.mrd_port) as first:
            first.send(*stream()[:10])
            until(lambda: service.server.clients == 1)
            answer = talk(service.mrd_port, as_bytes(stream()))
            assert texts(answer) == ["ERROR server full: 1 clients are connected. Try again later"]
            first.send(*stream()[10:])
            check_whole(first.until_closed())
        until(lambda: service.server.clients == 0)
        check_whole(talk(service.mrd_port, as_bytes(stream())))


def test_a_busy_port_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = MrdServer(lambda call: None)
        with pytest.raises(SetupError, match="--mrd-port"):
            server.start("127.0.0.1", taken.getsockname()[1])


def test_stopping_lets_a_scan_end(tmp_path: Path) -> None:
    with serving(tmp_path, drain_s=10) as service:
        wire = Wire(service.mrd_port)
        wire.send(*stream()[:30])
        until(lambda: service.house.live() and service.house.live()[0]["readouts"] == 28)
        port = service.mrd_port
        stopper = threading.Thread(target=service.server.stop, args=(10,))
        stopper.start()
        time.sleep(0.3)
        with pytest.raises(OSError, match="refused"):
            Wire(port)
        wire.send(*stream()[30:])
        check_whole(wire.until_closed())
        wire.sock.close()
        stopper.join(5)
        assert last_job(service).state is JobState.COMPLETE


def test_stopping_cuts_a_scan_that_takes_too_long(tmp_path: Path) -> None:
    with serving(tmp_path, drain_s=0.2) as service, Wire(service.mrd_port) as wire:
        wire.send(*stream()[:30])
        until(lambda: service.house.live() and service.house.live()[0]["readouts"] == 28)
        service.server.stop(0.2)
        answer = wire.until_closed()
        assert [i.position.slice for i in images(answer)] == [0, 1]
        assert texts(answer)
        assert last_job(service).state is JobState.INTERRUPTED


def test_readouts_are_counted(service: Service) -> None:
    with Wire(service.mrd_port) as wire:
        wire.send(*stream(close=False))
        until(lambda: any(row["readouts"] == N_READOUTS for row in service.house.live()))
        (row,) = service.house.live()
        assert row["images"] == 3
        wire.send(Close())
        wire.until_closed()
