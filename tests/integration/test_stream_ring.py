"""Shared memory between scanner and service: what is written is read, nothing is left, nothing foreign is read."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acquisition.errors import LimitError, MessageError, SetupError
from integration.doors.stream.messages import Opened, Ring
from integration.doors.stream.ring import SHM, RingReader, RingWriter, sweep
from tests.integration.stream_samples import Wire, ct, listening, shm_rings

ROOT = Path(__file__).resolve().parents[2]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 700), min_size=1, max_size=3), min_size=1, max_size=25), st.integers(0, 4))
def test_what_is_put_is_read_until_it_is_freed(blocks: list[list[int]], lag: int) -> None:
    """Blocks of any sizes, up to `lag` of them under way: none is overwritten before it is taken."""
    writer = RingWriter(4096)
    reader = RingReader(writer.ring, limit_bytes=4096)
    flying: list[tuple[int, list[np.ndarray], list[int]]] = []

    def take() -> None:
        seq, arrays, places = flying.pop(0)
        for array, at in zip(arrays, places, strict=True):
            assert bytes(reader({"at": at}, array.nbytes, "x")) == array.tobytes()
        writer.free(seq)

    try:
        for seq, sizes in enumerate(blocks, 1):
            arrays = [np.full(n, seq % 251, np.uint8) for n in sizes]
            while (places := writer.put(seq, arrays)) is None:
                assert flying, "an empty ring has room"
                take()
            flying.append((seq, arrays, places))
            if len(flying) > lag:
                take()
        while flying:
            take()
    finally:
        reader.close()
        writer.close()
    assert writer.name not in shm_rings()


def test_a_full_ring_says_so_until_a_block_is_freed() -> None:
    writer = RingWriter(4096)
    block = [np.zeros(2000, np.uint8)]
    assert writer.put(1, block) == [0] and writer.put(2, block) == [2048]
    assert writer.put(3, block) is None
    writer.free(1)
    assert writer.put(3, [np.zeros(1000, np.uint8)]) == [0]
    writer.close()


def test_the_name_is_gone_as_soon_as_the_service_has_the_file() -> None:
    writer = RingWriter(4096)
    assert writer.name in shm_rings() and (SHM / writer.name).stat().st_mode & 0o777 == 0o600
    reader = RingReader(writer.ring, limit_bytes=4096)
    assert writer.name not in shm_rings()
    reader.close()
    reader.close()
    writer.close()


def test_what_a_dead_maker_left_is_swept_and_what_a_living_one_holds_is_not() -> None:
    code = "import os; from integration.doors.stream.ring import RingWriter; print(RingWriter(4096).name, flush=True); "
    dead = subprocess.run(
        [sys.executable, "-c", code + "os._exit(9)"],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    living = RingWriter(4096)
    assert {dead, living.name} <= shm_rings()
    assert dead in sweep()
    assert living.name in shm_rings() and dead not in shm_rings()
    living.close()


@pytest.mark.parametrize("name", ["../../etc/passwd", "isocenter-" + "g" * 32, "isocenter-" + "a" * 31, ""])
def test_only_names_of_rings_are_opened(name: str) -> None:
    with pytest.raises(MessageError, match=r"ring\.name: expected isocenter- and 32 hexadecimal digits"):
        RingReader(Ring(name=name, bytes=10), limit_bytes=100)


def test_foreign_files_are_not_read() -> None:
    name = "isocenter-" + "0" * 32
    path = SHM / name
    with pytest.raises(MessageError, match="expected a file in this computer's shared memory"):
        RingReader(Ring(name=name, bytes=10), limit_bytes=100)
    try:
        path.symlink_to("/etc/hostname")
        with pytest.raises(MessageError, match="expected a file in this computer's shared memory"):
            RingReader(Ring(name=name, bytes=1), limit_bytes=100)
        path.unlink()
        path.write_bytes(b"x" * 10)
        path.chmod(0o644)
        with pytest.raises(MessageError, match="mode 600, of the size it claims"):
            RingReader(Ring(name=name, bytes=10), limit_bytes=100)
        path.chmod(0o600)
        with pytest.raises(MessageError, match="of the size it claims"):
            RingReader(Ring(name=name, bytes=11), limit_bytes=100)
        with pytest.raises(LimitError, match="at most 5 bytes"):
            RingReader(Ring(name=name, bytes=10), limit_bytes=5)
    finally:
        path.unlink(missing_ok=True)


def test_a_place_outside_or_a_file_cut_short_is_an_error_and_not_a_crash() -> None:
    writer = RingWriter(4096)
    reader = RingReader(writer.ring, limit_bytes=4096)
    for at in (-1, 4000, True, "0", None):
        with pytest.raises(MessageError, match=r"x\.at: expected a place in the ring"):
            reader({"at": at}, 100, "x")
    os.ftruncate(writer._fd, 1000)
    with pytest.raises(MessageError, match="expected 2000 bytes in the ring, got 1000: it was cut short"):
        reader({"at": 0}, 2000, "x")
    reader.close()
    writer.close()


def test_more_than_there_is_cannot_be_had() -> None:
    before = shm_rings()
    with pytest.raises(SetupError, match="expected room for it"):
        RingWriter(1 << 50)
    assert shm_rings() == before


def test_a_scanner_that_is_killed_leaves_nothing() -> None:
    """The service has taken the name away when the scan is open."""
    code = (
        "import sys, time\n"
        "from tests.integration.stream_samples import ct\n"
        "from integration.doors.stream.client import StreamClient\n"
        "def incoming():\n"
        "    scan, items = ct()\n"
        "    yield from [scan, *items]\n"
        "    time.sleep(99)\n"
        "StreamClient(f'tcp://127.0.0.1:{sys.argv[1]}', ring_bytes=1 << 20).send(incoming())"
    )
    opened: list[object] = []
    before = shm_rings()

    def handle(call: object) -> None:
        opened.extend(call.incoming())  # type: ignore[attr-defined]

    with listening(handle, idle_s=60.0) as server:
        killed = subprocess.Popen([sys.executable, "-c", code, str(server.port)], cwd=ROOT, env=os.environ)
        deadline = time.monotonic() + 60
        while not server.clients and time.monotonic() < deadline:
            time.sleep(0.05)
        while shm_rings() - before and time.monotonic() < deadline:
            time.sleep(0.05)
        killed.kill()
        killed.wait()
        assert shm_rings() <= before
    with listening(handle) as server, Wire(server.port) as wire:
        wire.open(ct()[0])
        assert isinstance(wire.until(Opened)[0], Opened)
