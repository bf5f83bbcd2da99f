"""One client at the MRD door: what it says comes in by one thread, what we answer goes out by another.

The session in between never waits for the client to read. A client that reads only when it has sent everything
must not stop us from reading, or both would wait for ever; so answers wait in a box of their own, and where even
that is full they are counted as not returned and the client is told.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from acquisition.errors import DataError, ScanAbortedError
from acquisition.items import Image
from acquisition.scan import Scan
from acquisition.sources.mrd_image import encode_image
from acquisition.sources.mrd_wire import Buffers, Close, Text, encode
from integration.doors.incoming import Broken, Incoming, read_incoming, size_of
from integration.doors.mailbox import Mailbox

LOG = logging.getLogger(__name__)

MIB = 1 << 20
_PIECE_BYTES = 1 << 16
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimits:
    """How patient we are with a client, and how much of it we hold in memory."""

    connections: int = 8
    """Clients at the same time."""
    greeting_s: float = 30.0
    """Longest silence before the scan's header [s]."""
    idle_s: float = 600.0
    """Longest silence during a scan [s]."""
    linger_s: float = 10.0
    """How long a client may take to go, or to read the next piece of the answer once the scan is over [s]."""
    inbox_bytes: int = 256 * MIB
    """Received and not yet worked on [bytes]; above it the client has to wait."""
    outbox_bytes: int = 1024 * MIB
    """Answers that the client has not yet read [bytes]; above it images are not returned."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """Something to send."""

    buffers: Buffers
    """Its bytes."""
    sent: Callable[[], None] | None = None
    """Called when the last byte has been handed to the network."""


class Call:
    """One connection, accepted; `incoming` once, answers as they come, `finish` at the end.

    Parameters
    ----------
    sock
        The connected socket; ours from now on.
    name
        Who it is, for the log.
    limits
        Patience and memory.
    """

    def __init__(self, sock: socket.socket, name: str, limits: CallLimits) -> None:
        self.name, self.limits, self.unreturned = name, limits, 0
        self._sock = sock
        self._inbox: Mailbox[Incoming] = Mailbox(limits.inbox_bytes)
        self._outbox: Mailbox[_Answer] = Mailbox(limits.outbox_bytes)
        self._series: dict[str, list[int]] = {}
        self._sent_bytes, self._gone = 0, threading.Event()
        self._reader: threading.Thread | None = None
        self._writer = threading.Thread(target=self._write, name=f"mrd-write {name}", daemon=True)
        prepare(sock)
        self._writer.start()

    def incoming(self, record: Callable[[memoryview], None] | None = None) -> Iterator[Incoming]:
        """Start to listen; yield what the client says until Close, `Broken` or the end of the stream."""
        self._silence(self.limits.greeting_s)
        self._reader = threading.Thread(target=self._read, args=(record,), name=f"mrd-read {self.name}", daemon=True)
        self._reader.start()
        return iter(self._inbox)

    def image(self, image: Image, sent: Callable[[], None] | None = None) -> None:
        """Send an image back as soon as the client takes it; one that cannot be is counted as not returned."""
        numbers = self._series.setdefault(image.output, [len(self._series) + 1, 0])
        numbers[1] += 1
        try:
            buffers = encode_image(image, series_index=numbers[0], image_index=numbers[1])
        except DataError as error:
            LOG.error("%s: %s", self.name, error)
            self.unreturned += 1
            return
        if not self._outbox.offer(_Answer(buffers, sent), sum(map(len, buffers))):
            self.unreturned += 1

    def text(self, level: str, line: str) -> None:
        """Send a line for the scanner's log, ``ERROR`` or ``INFO`` before it as the example server does."""
        self._outbox.offer(_Answer(encode(Text(f"{level:<5} {line}"))))

    def finish(self) -> None:
        """Say Close when all answers are out, wait a moment for the client to go, and hang up."""
        self._inbox.discard()
        self._outbox.offer(_Answer(encode(Close())))
        self._outbox.close()
        try:
            self._await_writer()
            self._await_reader()
        finally:
            self.hang_up()
            for thread in (self._writer, self._reader):
                if thread is not None:
                    thread.join()
            self._sock.close()

    def stop_listening(self) -> None:
        """Take what has come so far for all that will come (the service stops)."""
        _shut(self._sock, socket.SHUT_RD)

    def hang_up(self) -> None:
        """End the connection in both directions, now."""
        self._gone.set()
        self._outbox.close()
        _shut(self._sock, socket.SHUT_RDWR)

    def _await_writer(self) -> None:
        """Wait while the client keeps reading."""
        progress, since = self._sent_bytes, time.monotonic()
        while self._writer.is_alive():
            self._writer.join(_LOOK_S)
            if self._sent_bytes != progress:
                progress, since = self._sent_bytes, time.monotonic()
            elif time.monotonic() - since > self.limits.linger_s:
                LOG.warning("%s: does not read its images; connection ended", self.name)
                return

    def _await_reader(self) -> None:
        """Let the client go first: hanging up on bytes that we have not read would make it lose our last words."""
        _shut(self._sock, socket.SHUT_WR)
        if self._reader is None:
            self._reader = threading.Thread(target=self._drain, name=f"mrd-read {self.name}", daemon=True)
            self._reader.start()
        self._reader.join(self.limits.linger_s)

    def _read(self, record: Callable[[memoryview], None] | None) -> None:
        last: Incoming | None = Broken(ScanAbortedError("reading from the scanner", got="an error of ours"))
        try:
            for message in read_incoming(self._receive, record=record):
                if isinstance(message, Scan):
                    self._silence(self.limits.idle_s)
                if not self._inbox.put(message, size_of(message)):
                    break
            last = None
        finally:
            if last is not None:
                self._inbox.put(last)
            self._inbox.close()
            self._drain()

    def _receive(self, view: memoryview) -> int:
        try:
            n = self._sock.recv_into(view)
            _acknowledge(self._sock)
        except BlockingIOError as error:
            raise ScanAbortedError(
                f"connection of {self.name}",
                expected="data, or Close",
                got="silence",
                action="check the scanner and repeat the scan",
            ) from error
        except OSError as error:
            raise ScanAbortedError(
                f"connection of {self.name}", expected="data, or Close", got=str(error), action="repeat the scan"
            ) from error
        return n

    def _drain(self) -> None:
        """Read and throw away until the client is gone, so that it never hangs on a write."""
        scratch = bytearray(_PIECE_BYTES)
        try:
            while not self._gone.is_set() and self._sock.recv_into(scratch):
                pass
        except OSError:  # silence for too long, or reset: gone
            pass

    def _write(self) -> None:
        for answer in self._outbox:
            try:
                for buffer in answer.buffers:
                    self._send(memoryview(buffer).cast("B"))
            except OSError as error:
                lost = 1 + self._outbox.discard()
                self.unreturned += lost
                LOG.warning("%s: is gone, %d answers not sent: %s", self.name, lost, error)
                return
            if answer.sent is not None:
                answer.sent()

    def _send(self, view: memoryview) -> None:
        while view:
            n = self._sock.send(view[:_PIECE_BYTES])
            self._sent_bytes += n
            view = view[n:]

    def _silence(self, limit_s: float) -> None:
        """Set the longest silence; a socket option, because a timeout of Python's would hold for sending too."""
        seconds = int(limit_s)
        option = struct.pack("ll", seconds, int((limit_s - seconds) * 1e6))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, option)


def prepare(sock: socket.socket) -> None:
    """Set up a socket for streaming: no waiting for more to send, and a peer that died is noticed."""
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    _acknowledge(sock)


def _acknowledge(sock: socket.socket) -> None:
    """Acknowledge at once: a client without TCP_NODELAY waits for it with its next small piece, 40 ms long."""
    if hasattr(socket, "TCP_QUICKACK"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _shut(sock: socket.socket, how: int) -> None:
    with suppress(OSError):  # not connected any more
        sock.shutdown(how)
