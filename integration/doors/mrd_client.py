"""A client of the MRD door, ours or any other's: sends a scan as a scanner does, and listens meanwhile."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from acquisition.errors import InputError, SetupError
from acquisition.items import NOT_IMAGING, Events, Histogram, Image, Position, Projections, Readouts
from acquisition.scan import Scan
from acquisition.sources.mrd_header_write import write_header
from acquisition.sources.mrd_raw import RawItem
from acquisition.sources.mrd_stream import StreamDecoder
from acquisition.sources.mrd_wire import Close, ConfigFile, ConfigText, Header, Message, Text, encode
from integration.doors.mrd_call import prepare
from integration.doors.pace import scheduled

LOG = logging.getLogger(__name__)

ANSWER_S = 300.0
"""Longest silence of the server after everything has been sent [s]."""
_CONNECT_S = 10.0
_KEY = ("slice", "contrast", "phase", "repetition", "set")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One image that came back."""

    image: Image
    """The image."""
    received_s: float
    """time.monotonic() when it was complete [s]."""
    last_readout_s: float | None = None
    """time.monotonic() when its last readout was about to be sent [s]; None if it cannot be told."""

    @property
    def latency_ms(self) -> float | None:
        """From its last readout to its last pixel, seen from the scanner [ms]."""
        return None if self.last_readout_s is None else 1e3 * (self.received_s - self.last_readout_s)


@dataclass(slots=True)
class Answer:
    """What the server said."""

    arrivals: list[Arrival] = field(default_factory=list)
    """Images, as they came."""
    texts: list[str] = field(default_factory=list)
    """Lines for the log."""
    closed: bool = False
    """Whether it said Close."""
    fault: str = ""
    """How the connection failed; empty: it did not."""
    sent: int = 0
    """Readouts sent."""

    @property
    def images(self) -> list[Image]:
        """The images alone."""
        return [arrival.image for arrival in self.arrivals]

    def troubles(self) -> list[str]:
        """Return why this is no success; empty when it is one."""
        found = [text for text in self.texts if _is_error(text)]
        if self.fault:
            found.append(self.fault)
        elif not self.closed:
            found.append("the server hung up without saying Close")
        if not self.arrivals:
            found.append("no image came back")
        return found


class MrdClient:
    """One connection to a server; `send` one scan.

    Parameters
    ----------
    host, port
        Where it listens.
    on_event
        Told each text and image as it comes.

    Raises
    ------
    SetupError
        Nobody listens there.
    """

    def __init__(self, host: str, port: int, *, on_event: Callable[[str | Arrival], None] | None = None) -> None:
        try:
            self._sock = socket.create_connection((host, port), timeout=_CONNECT_S)
        except OSError as error:
            raise SetupError(
                f"MRD server {host}:{port}",
                expected="a listening server",
                got=str(error),
                action="start one with `isocenter serve`, or correct --to",
            ) from error
        prepare(self._sock)
        self.answer = Answer()
        self._on_event = on_event or (lambda event: None)
        self._last: dict[tuple[int, ...], float] = {}
        self._listener = threading.Thread(target=self._listen, name="mrd-client", daemon=True)

    def send(self, scan: Scan, items: Iterable[RawItem], *, config: str | Mapping[str, object], speed: float) -> Answer:
        """Send a scan and wait for all that comes back.

        Parameters
        ----------
        scan
            Its header; sent as it came, where it came from a file.
        items
            Its readouts and waveforms.
        config
            Name of the protocol, or a JSON document as config text.
        speed
            Times the scanner's pace; ``inf`` sends as fast as the server takes it.

        Returns
        -------
        Answer
            Images, texts and how it ended. A server that goes away is a finding in it, no exception.

        Raises
        ------
        HeaderError
            It is no MR scan: MRD has no message for anything else.
        """
        scan.require_mr()
        self._listener.start()
        try:
            self._say(ConfigFile(config) if isinstance(config, str) else ConfigText(json.dumps(dict(config))))
            self._say(Header(scan.header or write_header(scan)))
            for item in _paced(items, scan, speed):
                self._note(item)
                if not isinstance(item, Projections | Events | Histogram):
                    self._say(item)
            self._say(Close())
        except OSError as error:
            self.answer.fault = f"the server does not listen any more: {error}"
        return self._await()

    def close(self) -> None:
        """Hang up."""
        self._sock.close()

    def __enter__(self) -> MrdClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _say(self, message: Message) -> None:
        for buffer in encode(message):
            self._sock.sendall(buffer)

    def _note(self, item: RawItem) -> None:
        if not isinstance(item, Readouts):
            return
        self.answer.sent += len(item)
        now = time.monotonic()
        rows = item.head[~item.has(NOT_IMAGING)]
        for key in set(zip(*(rows[name].tolist() for name in _KEY), strict=True)):
            self._last[key] = now

    def _await(self) -> Answer:
        """Wait for Close, as long as something comes now and then."""
        heard, since = -1, time.monotonic()
        while self._listener.is_alive():
            self._listener.join(0.05)
            n = len(self.answer.arrivals) + len(self.answer.texts)
            if n != heard:
                heard, since = n, time.monotonic()
            elif time.monotonic() - since > ANSWER_S:
                self.answer.fault = f"the server has said nothing for {ANSWER_S:.0f} s"
                break
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._listener.join()
        return self.answer

    def _listen(self) -> None:
        decoder = StreamDecoder()
        try:
            while n := self._sock.recv_into(decoder.writable()):
                for message in decoder.received(n):
                    if self._hear(message):
                        return
            decoder.finish()
        except InputError as error:
            self.answer.fault = self.answer.fault or f"the server's answer breaks off: {error}"
        except OSError as error:
            self.answer.fault = self.answer.fault or f"connection lost: {error}"

    def _hear(self, message: Message) -> bool:
        """Take note of one message; return whether it was the last."""
        match message:
            case Close():
                self.answer.closed = True
                return True
            case Text(text):
                self.answer.texts.append(text)
                self._on_event(text)
            case Image():
                arrival = Arrival(
                    image=message, received_s=time.monotonic(), last_readout_s=self._last.get(_key(message.position))
                )
                self.answer.arrivals.append(arrival)
                self._on_event(arrival)
            case _:
                LOG.info("the server sent a %s; not kept", type(message).__name__)
        return False


def _paced(items: Iterable[RawItem], scan: Scan, speed: float) -> Iterator[RawItem]:
    if speed == float("inf"):
        yield from items
        return
    start = time.monotonic()
    for due, item in scheduled(items, scan):
        wait = start + due / speed - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        yield item


def _key(position: Position) -> tuple[int, ...]:
    return tuple(getattr(position, name) for name in _KEY)


def _is_error(text: str) -> bool:
    """Whether a line tells of a failure: servers put the level first, or send Python's own report."""
    return text.lstrip().upper().startswith(("ERROR", "CRITICAL")) or "Traceback" in text
