"""A client of the raw stream: sends a scan as a scanner does, through shared memory where it can, and listens."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from acquisition.errors import InputError, SetupError
from acquisition.items import Image
from acquisition.scan import Scan
from acquisition.sources.mrd_wire import Close, ConfigFile, ConfigText, Text
from acquisition.verdict import Verdict
from integration.doors.incoming import Broken, Incoming
from integration.doors.request import Request, from_name, from_text
from integration.doors.stream.keys import KeyPair
from integration.doors.stream.messages import (
    FROM_SERVICE,
    JSON_BYTES,
    LEAST_BYTES,
    VERSION,
    Block,
    End,
    Event,
    Found,
    Line,
    Open,
    Opened,
    Planned,
    Progress,
    Returned,
    Shut,
    block_of,
    decode,
    encode,
)
from integration.doors.stream.ring import RingWriter

SILENCE_S = 15.0
"""Longest silence of a service that lives [s]."""
_LARGEST_ANSWER = 1 << 30
_RING_FROM = 1 << 16  # smaller blocks go as frames
_STEP_MS = 200
_HIGH_WATER = 64
_QUIET_S = 0.5  # a service that works speaks more often; one that is silent is asked for the reason


@dataclass(slots=True)
class Answers:
    """What the service said."""

    job: str = ""
    """Its name for the scan."""
    images: list[Image] = field(default_factory=list)
    """Images, as they came."""
    verdicts: list[Verdict] = field(default_factory=list)
    """Findings that belong to the scan."""
    texts: list[str] = field(default_factory=list)
    """Lines for the log, the level first."""
    plans: list[Any] = field(default_factory=list)
    """Slice plans."""
    progress: Progress | None = None
    """The last report."""
    end: End | None = None
    """How it ended; None: it has not."""


class StreamClient:
    """One connection; `send` one scan.

    Parameters
    ----------
    address
        Where the service listens, ``tcp://host:port``.
    keys
        Our keys; None: the door has none either.
    service_key
        The service's public key.
    ring_bytes
        Shared memory to use [bytes]; 0: all goes through the socket.
    on_answer
        Told each message of the service as it comes.
    """

    def __init__(
        self,
        address: str,
        *,
        keys: KeyPair | None = None,
        service_key: str = "",
        ring_bytes: int = 0,
        on_answer: Callable[[Any], None] = lambda message: None,
    ) -> None:
        self.answers, self._address, self._on_answer = Answers(), address, on_answer
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.SNDHWM, _HIGH_WATER),
            (zmq.HEARTBEAT_IVL, 2000),
            (zmq.HEARTBEAT_TIMEOUT, 8000),
        ):
            self._socket.setsockopt(option, value)
        if keys is not None:
            self._socket.curve_serverkey = service_key.encode()
            self._socket.curve_publickey, self._socket.curve_secretkey = keys.public.encode(), keys.secret.encode()
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        )
        self._socket.connect(address)
        self._ring = RingWriter(ring_bytes) if ring_bytes else None
        self._flying: deque[tuple[int, int]] = deque()
        self._window, self._seq, self._flying_bytes, self._heard_s = 0, 0, 0, time.monotonic()

    def send(
        self, incoming: Iterable[Incoming], *, urgency: str = "inline", network_deadline_s: float | None = None
    ) -> Answers:
        """Send a scan and wait for all that comes back.

        Parameters
        ----------
        incoming
            Config, header, data, Close, as a session takes them.
        urgency, network_deadline_s
            What the scan waits for (`messages.Open`).

        Raises
        ------
        SetupError
            Nobody answers: no service, another key, or it died.
        """
        request, scan = from_name("auto"), None
        for item in incoming:
            match item:
                case ConfigFile(name):
                    request = from_name(name)
                case ConfigText(text):
                    request = from_text(text)
                case Scan():
                    scan = item
                    self._open(request, scan, urgency=urgency, network_deadline_s=network_deadline_s)
                case Close():
                    self._say(encode(Shut()))
                case Text(text):
                    self._say(encode(Event(event="text", text=text)))
                case Broken(error):
                    self._say(encode(Event(event="abort", text=str(error))))
                case _:
                    self._block(item)
            self._hear(0)
            if self.answers.end is not None:
                break
        while self.answers.end is None:
            self._hear(_STEP_MS)
        return self.answers

    def close(self) -> None:
        """Hang up, and give shared memory back."""
        self._socket.disable_monitor()
        self._socket.close()
        self._context.destroy(linger=0)
        if self._ring is not None:
            self._ring.close()

    def __enter__(self) -> StreamClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, request: Request, scan: Scan, *, urgency: Any, network_deadline_s: float | None) -> None:
        message = Open(
            version=VERSION,
            protocol=request.protocol,
            set=_settings(request.changes),
            urgency=urgency,
            network_deadline_s=network_deadline_s,
            scan=None if scan.header else replace(scan, verdicts=()),
            mrd_header=scan.header,
            ring=None if self._ring is None else self._ring.ring,
        )
        self._say(encode(message))
        while not self._window and self.answers.end is None:
            self._hear(_STEP_MS)

    def _block(self, item: Any) -> None:
        self._seq += 1
        frames = self._placed(block_of(self._seq, item))
        size = max(LEAST_BYTES, sum(map(len, frames)))
        while self._flying and self._flying_bytes + size > self._window and self.answers.end is None:
            self._hear(_STEP_MS)
        self._flying.append((self._seq, size))
        self._flying_bytes += size
        self._say(frames)

    def _placed(self, block: Block) -> list[Any]:
        """Return the frames of a block; its arrays in the ring where they are large enough for that to be faster."""
        frames = encode(block)
        if (
            self._ring is None
            or sum(map(len, frames[1:])) < _RING_FROM
            or sum(map(len, frames[1:])) > self._ring.ring.bytes
        ):
            return frames
        while (places := self._ring.put(block.seq, frames[1:])) is None:
            if self.answers.end is not None:
                return frames
            self._hear(_STEP_MS)
        text = frames[0].decode()
        for number, place in enumerate(places):
            text = text.replace(f'"frame": {number}}}', f'"at": {place}}}', 1)
        return [text.encode()]

    def _say(self, frames: list[Any]) -> None:
        """Send a message; listen while the socket is full."""
        while self.answers.end is None:
            try:
                self._socket.send_multipart(frames, zmq.NOBLOCK, copy=False)
                return
            except zmq.Again:
                self._socket.poll(_STEP_MS, zmq.POLLIN | zmq.POLLOUT)
                self._hear(0)

    def _hear(self, wait_ms: int) -> None:
        """Take what has come; wait for it so long."""
        if self._socket.poll(wait_ms):
            while self._socket.poll(0):
                frames = self._socket.recv_multipart(copy=False)
                self._heard_s = time.monotonic()
                self._take([frame.buffer for frame in frames])
            return
        if time.monotonic() - self._heard_s < _QUIET_S:
            return
        refused = self._monitor.poll(0) and recv_monitor_message(self._monitor)
        if refused or time.monotonic() - self._heard_s > SILENCE_S:
            raise SetupError(
                f"raw stream at {self._address}",
                expected="a service that knows our key",
                got="our key is refused, or the service's is another" if refused else f"silence for {SILENCE_S:.0f} s",
                action="check the keys of both ends" if refused else "check that the service runs, and its address",
            )

    def _take(self, frames: list[Any]) -> None:
        try:
            message = decode(frames, FROM_SERVICE, json_bytes=16 * JSON_BYTES, array_bytes=_LARGEST_ANSWER)
        except InputError as error:
            raise SetupError(
                f"raw stream at {self._address}", expected="an Isocenter service", got=str(error)
            ) from error
        answers = self.answers
        match message:
            case Opened(job=job, window_bytes=window):
                answers.job, self._window = job, window
            case Progress(taken=taken):
                answers.progress = message
                self._free(taken)
            case Returned(image=image, waited_s=waited):
                if waited is not None:
                    image = replace(image, last_readout_s=time.monotonic() - waited)
                    message = replace(message, image=image)
                answers.images.append(image)
            case Found(verdict=verdict):
                answers.verdicts.append(verdict)
            case Planned(plan=plan):
                answers.plans.append(plan)
            case Line(level=level, text=text):
                answers.texts.append(f"{level:<5} {text}")
            case End():
                answers.end = message
        self._on_answer(message)

    def _free(self, taken: int) -> None:
        while self._flying and self._flying[0][0] <= taken:
            self._flying_bytes -= self._flying.popleft()[1]
        if self._ring is not None:
            self._ring.free(taken)


def _settings(changes: Mapping[str, object]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in changes.items()}
