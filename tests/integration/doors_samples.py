"""What the tests of the doors share: a small exam, a plain reconstruction, a service around them, a wire."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from acquisition.errors import UnknownProtocolError
from acquisition.items import NOT_IMAGING, Flag, Image, Item, Position, Readouts
from acquisition.scan import Scan
from acquisition.sources.mrd_header_write import write_header
from acquisition.sources.mrd_stream import StreamDecoder
from acquisition.sources.mrd_wire import Close, ConfigFile, Header, Message, encode
from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.mri import Simulation
from acquisition.verdict import Verdict
from integration.delivery.destination import Destination
from integration.delivery.journal import Journal
from integration.delivery.rows import Instance
from integration.delivery.spool import Spool, digest
from integration.dicom.mr import MrSeries
from integration.dicom.recover import recover
from integration.doors.mrd_call import CallLimits
from integration.doors.request import Request
from integration.house import Export, Hooks
from integration.service import Plan, Service
from integration.session import Prepared

EXAM = MriExam(matrix=(3, 16, 16), n_coils=2, n_noise=4, snr=float("inf"), tr_s=0.002, slice_order="ascending")
"""Three slices, small enough for a test."""
N_READOUTS = 4 + 3 * 16
PROTOCOL = "plain"


class Plain:
    """Root of the sum of squares of fully sampled slices, each when its last readout comes."""

    def __init__(self, scan: Scan, job: str) -> None:
        self.scan, self.job = scan, job
        self.verdicts: list[Verdict] = []
        self.opened = self.closed = False
        self._slices: dict[int, np.ndarray] = {}
        self._counts: dict[int, int] = {}

    def open(self) -> None:
        self.opened = True
        self._matrix = self.scan.require_mr().encodings[0].matrix

    def feed(self, item: Item) -> Iterator[Image]:
        if not isinstance(item, Readouts):
            return
        for i in range(len(item)):
            head = item.head[i]
            if int(head["flags"]) & int(NOT_IMAGING):
                continue
            k = self._slices.setdefault(
                int(head["slice"]), np.zeros((item.data.shape[1], self._matrix[1], self._matrix[2]), np.complex64)
            )
            k[:, int(head["k1"])] = item.data[i]
            if int(head["flags"]) & int(Flag.LAST_IN_SLICE):
                yield self._image(head, item.received_s)

    def close(self) -> Iterator[Image]:
        self.closed = True
        for index in list(self._slices):
            head = np.zeros(1, [("slice", "<u2"), ("time_stamp", "<u4")])
            head["slice"] = index
            yield self._image(head[0], 0.0)

    def _image(self, head: np.void, received_s: float) -> Image:
        index = int(head["slice"])
        k = self._slices.pop(index)
        pixels = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(k, axes=(-2, -1))), axes=(-2, -1))
        nx = k.shape[-1] // 2
        pixels = pixels[..., k.shape[-1] // 4 : k.shape[-1] // 4 + nx]
        magnitude = np.sqrt((np.abs(pixels) ** 2).sum(0))[None].astype(np.float32)
        grid = replace(EXAM.grid.plane(index), shape=magnitude.shape)
        return Image(data=magnitude, grid=grid, position=Position(slice=index), last_readout_s=received_s)


class Spoiled(Plain):
    """Fails in a way that nobody foresaw, at the second slice."""

    def feed(self, item: Item) -> Iterator[Image]:
        for image in super().feed(item):
            if image.position.slice == 1:
                raise ZeroDivisionError("planted")
            yield image


RUNS: dict[str, Callable[[Scan, str], Plain]] = {PROTOCOL: Plain, "spoiled": Spoiled}


def prepare(request: Request, scan: Scan, job: str) -> Prepared:
    name = PROTOCOL if request.protocol == "auto" else request.protocol
    if name not in RUNS:
        raise UnknownProtocolError("protocol", expected=f"one of {', '.join(RUNS)}", got=name, action="name one")
    return Prepared(name, RUNS[name](scan, job))


def rooms(plan: Plan, journal: Journal, spool: Spool) -> Hooks:
    """Real DICOM, spool and journal behind the plain reconstruction."""
    names = [d.name for d in plan.destinations]

    def exporter(scan: Scan, job: str) -> Export:
        series = MrSeries(scan, job)

        def export(image: Image) -> Sequence[str]:
            uids = []
            for made in series.instances(image):
                path = spool.write(made.sop_instance_uid, made.data)
                journal.queue(
                    Instance(
                        sop_uid=made.sop_instance_uid,
                        job=job,
                        series_uid=made.series_uid,
                        study_uid=made.study_uid,
                        sop_class=made.sop_class_uid,
                        path=str(path),
                        sha256=digest(made.data),
                        size=len(made.data),
                    ),
                    names,
                )
                uids.append(made.sop_instance_uid)
            return uids

        return export

    return Hooks(prepare=prepare, exporter=exporter, adopt=lambda: recover(spool, journal, names))


def plan(data: Path, *destinations: Destination, **changes: object) -> Plan:
    """A plan for a test: free ports, little patience, no reserve."""
    limits = CallLimits(greeting_s=5, idle_s=5, linger_s=2)
    basic = Plan(
        data=data,
        mrd_port=0,
        http_port=None,
        destinations=destinations,
        limits=limits,
        reserve_bytes=0,
        drain_s=5,
    )
    return replace(basic, **changes)  # type: ignore[arg-type]


@contextmanager
def serving(data: Path, *destinations: Destination, **changes: object) -> Iterator[Service]:
    """A running service with the plain reconstruction."""
    with Service(plan(data, *destinations, **changes), rooms) as service:
        yield service


def simulation(exam: MriExam = EXAM) -> Simulation:
    return Simulation(exam)


def stream(config: str = PROTOCOL, exam: MriExam = EXAM, *, close: bool = True) -> list[Message]:
    """All messages of an exam, readouts one by one."""
    sim = simulation(exam)
    messages: list[Message] = [ConfigFile(config), Header(write_header(sim.scan)), *sim.readouts()]
    return [*messages, Close()] if close else messages


def as_bytes(messages: Iterable[Message]) -> bytes:
    return b"".join(bytes(buffer) for message in messages for buffer in encode(message))


class Wire:
    """A raw client: bytes out, messages in."""

    def __init__(self, port: int, timeout_s: float = 10.0) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, *messages: Message) -> None:
        self.sock.sendall(as_bytes(messages))

    def send_bytes(self, data: bytes) -> None:
        self.sock.sendall(data)

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def until_closed(self) -> list[Message]:
        """All that comes until the server says Close (which is the last) or hangs up."""
        decoder, found = StreamDecoder(), []
        while n := self.sock.recv_into(decoder.writable()):
            found += decoder.received(n)
            if found and isinstance(found[-1], Close):
                break
        return found

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


def talk(port: int, data: bytes, *, half_close: bool = False) -> list[Message]:
    """Send bytes while listening; return what the server said."""
    with Wire(port) as wire:

        def push() -> None:
            try:
                wire.send_bytes(data)
                if half_close:
                    wire.half_close()
            except OSError:
                pass

        pusher = threading.Thread(target=push)
        pusher.start()
        try:
            return wire.until_closed()
        finally:
            pusher.join()
