"""What the tests of the raw stream share: a small scan of each modality, a service with the stream, a raw client."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from acquisition.items import Image, Item
from acquisition.scan import Scan
from acquisition.sources.mrd_wire import Close, ConfigFile, ConfigText
from acquisition.sources.phantom.ct import CtExam, CtSimulation, gantry
from acquisition.sources.phantom.pet import PetSimulation
from acquisition.sources.phantom.pet_exam import PetExam
from acquisition.sources.phantom.pet_exam import gantry as ring_gantry
from acquisition.sources.phantom.pet_objects import cylinder
from integration.doors.incoming import Incoming
from integration.doors.mrd_call import CallLimits
from integration.doors.stream.call import StreamCall
from integration.doors.stream.messages import FROM_SERVICE, Open, block_of, decode, encode
from integration.doors.stream.plain import Bytes, from_plain, to_plain
from integration.doors.stream.server import Keys, StreamServer
from integration.protocol import Library
from integration.runner import Run
from tests.integration.doors_samples import simulation

PATIENCE_MS = 10_000


@cache
def mr() -> tuple[Scan, list[Item]]:
    sim = simulation()
    return replace(sim.scan, header=""), list(sim.readouts())


@cache
def ct() -> tuple[Scan, list[Item]]:
    small = gantry(n_rows=8, centre=(3.5, 45.75), n_channels=92, pitch_mm=(2.1894, 10.2864), views_per_rotation=96)
    sim = CtSimulation(CtExam(ct=small, turns=3, feed_mm=6.0))
    return sim.scan, list(sim.projections())


@cache
def pet() -> tuple[Scan, list[Item]]:
    small = ring_gantry(n_rings=2, n_crystals=48, ring_pitch_mm=40.0)
    sim = PetSimulation(
        PetExam(pet=small, duration_s=1.0, scatter="none", randoms="none"),
        cylinder(radius_mm=60.0, length_mm=60.0, bq_per_ml=2e3),
    )
    return sim.scan, [sim.normalisation, *sim.events()]


CONFIGS = {
    "CT": ConfigText('{"protocol": "ct_helical", "set": {"ct.helical.matrix": 32}}'),
    "PT": ConfigFile("pet_preview"),
}


def said(scan: Scan, items: Sequence[Any], *, close: bool = True) -> list[Incoming]:
    """All that a scanner says."""
    config = CONFIGS.get(scan.modality, ConfigFile("auto"))
    return [config, scan, *items, *([Close()] if close else [])]


def directly(scan: Scan, items: Sequence[Item]) -> list[Image]:
    """The images of the same protocol without any door."""
    config = CONFIGS[scan.modality]
    document = json.loads(config.text) if isinstance(config, ConfigText) else {"protocol": config.name}
    work = Run(scan, Library()[document["protocol"]].with_changes(document.get("set", {})))
    work.open()
    images = [image for item in items for image in work.feed(item)]
    return [*images, *work.close()]


def there_and_back(kind: type, value: object) -> Any:
    """What arrives at the other end."""
    arrays: list[np.ndarray] = []
    text = json.dumps(to_plain(value, arrays), allow_nan=False)

    def fetch(described: Any, n_bytes: int, where: str) -> Bytes:
        data = arrays[described["frame"]].tobytes()
        assert len(data) == n_bytes
        return data

    return from_plain(kind, json.loads(text), fetch, "x")


def assert_same(one: Any, other: Any) -> None:
    """Two items are equal to the last bit, but for when they arrived."""
    assert type(one) is type(other)
    for name in type(one).__dataclass_fields__:
        a, b = getattr(one, name), getattr(other, name)
        if name in ("received_s", "last_readout_s"):
            continue
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes(), name
        elif hasattr(a, "__dataclass_fields__"):
            assert_same(a, b)
        else:
            assert a == b, name


class Wire:
    """A raw client: frames out, messages in."""

    def __init__(self, port: int, **options: object) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        for name, value in options.items():
            setattr(self.socket, name, value)
        self.socket.connect(f"tcp://127.0.0.1:{port}")

    def send(self, *frames: Any) -> None:
        self.socket.send_multipart(list(frames))

    def open(self, scan: Scan, **changes: Any) -> None:
        self.send(*encode(Open(version=1, scan=scan, **changes)))

    def block(self, seq: int, item: Any) -> None:
        self.send(*encode(block_of(seq, item)))

    def next(self, wait_ms: int = PATIENCE_MS) -> Any:
        """The next message, None if there is none in time."""
        if not self.socket.poll(wait_ms):
            return None
        return decode(self.socket.recv_multipart(), FROM_SERVICE, json_bytes=1 << 24, array_bytes=1 << 30)

    def until(self, kind: type) -> tuple[Any, list[Any]]:
        """The first message of a kind, and those before it."""
        before: list[Any] = []
        while not isinstance(message := self.next(), kind):
            assert message is not None, before
            before.append(message)
        return message, before

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self.context.destroy(linger=0)


@contextmanager
def listening(
    handle: Callable[[StreamCall], None], *, keys: Keys | None = None, **limits: Any
) -> Iterator[StreamServer]:
    """A door without a house."""
    given = {"greeting_s": 5.0, "idle_s": 5.0, "linger_s": 1.0} | limits
    server = StreamServer(handle, lambda: "job-1", limits=CallLimits(**given), keys=keys)
    server.start("127.0.0.1", 0)
    try:
        yield server
    finally:
        server.stop(0.5)


def shm_rings() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("isocenter-*")}
