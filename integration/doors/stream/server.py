"""The raw stream's door: a ROUTER socket of ZeroMQ, one thread that owns it, one session thread per scan.

On other addresses than the loopback it opens only with CURVE keys: every scanner has a pair of its own, and one whose
key is not listed is not heard at all.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import zmq

from acquisition.errors import InputError, ScanAbortedError, SetupError
from integration.doors.mrd_call import CallLimits
from integration.doors.stream import ring
from integration.doors.stream.call import StreamCall
from integration.doors.stream.keys import KeyPair, Porter, check_keys
from integration.doors.stream.messages import OPEN_BYTES, End, Line, encode, parse
from integration.doors.stream.plain import Bytes

LOG = logging.getLogger(__name__)

HIGH_WATER = 64
"""Messages that ZeroMQ itself holds for one scanner in either direction."""
_PULSE_MS = 2000
_DEAD_MS = 8000
_LOOK_S = 0.25
_BLOCKED_MS = 5
_LINGER_MS = 1000
_REMEMBERED = 256
_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Who we are, and who is let in."""

    own: KeyPair
    """Keys of the service."""
    clients: Mapping[str, str]
    """Public key of a scanner -> its name."""


class StreamServer:
    """Listens, and hands each scan to `handle` in a thread of its own.

    Parameters
    ----------
    handle
        Takes one scan.
    name_job
        Gives a scan its name.
    limits
        Patience and memory.
    keys
        CURVE keys; None: anyone on this computer may speak.
    """

    def __init__(
        self,
        handle: Callable[[StreamCall], None],
        name_job: Callable[[], str],
        *,
        limits: CallLimits | None = None,
        keys: Keys | None = None,
    ) -> None:
        self.limits, self.port = limits or CallLimits(), 0
        self._handle, self._name_job, self._keys = handle, name_job, keys
        self._calls: dict[bytes, StreamCall] = {}
        self._threads: dict[StreamCall, threading.Thread] = {}
        self._over: OrderedDict[bytes, None] = OrderedDict()
        self._stopping, self._leaving = threading.Event(), threading.Event()
        self._context: zmq.Context | None = None
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)
        self._bell = -1

    @property
    def listening(self) -> bool:
        """Whether scans are taken."""
        return self._thread.is_alive() and not self._stopping.is_set()

    @property
    def clients(self) -> int:
        """Scans that run now."""
        return len(self._calls)

    def start(self, host: str, port: int) -> int:
        """Listen; return the port (a free one if `port` is 0).

        Raises
        ------
        SetupError
            The address cannot be had, or is open to others without keys.
        """
        where = f"raw stream at {host}:{port}"
        if self._keys is None and not _is_loopback(host):
            raise SetupError(
                where,
                expected="keys, or a loopback address",
                got="neither",
                action="make keys with `isocenter keys` and name them in the settings",
            )
        self._context = zmq.Context()
        self._porter = None if self._keys is None else Porter(self._context, self._keys.clients)
        self._router = self._socket(self._context)
        try:
            self.port = _bound(self._router, host, port)
        except (zmq.ZMQError, OSError) as error:
            self._close()
            raise SetupError(
                where, expected="a free port", got=str(error), action="choose another with --stream-port"
            ) from error
        ring.sweep()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread.start()
        return self.port

    def stop(self, drain_s: float = 30.0) -> None:
        """Take no more scans, let those that run end for `drain_s`, then cut them short and end them properly."""
        self._stopping.set()
        if self._thread.is_alive():
            self._await(drain_s)
            for call in list(self._calls.values()):
                LOG.warning("%s: cut short, the service stops", call.name)
                call.cut(_cut("the service stops"))
            self._await(self.limits.linger_s)
            self._leaving.set()
            self._ring_bell()
            self._thread.join()
        for thread in list(self._threads.values()):
            thread.join(self.limits.linger_s)

    def _await(self, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while self._calls and time.monotonic() < deadline:
            time.sleep(0.01)

    def _socket(self, context: zmq.Context) -> zmq.Socket:
        socket = context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.ROUTER_MANDATORY, 1),
            (zmq.SNDHWM, HIGH_WATER),
            (zmq.RCVHWM, HIGH_WATER),
            (zmq.MAXMSGSIZE, self.limits.inbox_bytes + OPEN_BYTES),
            (zmq.LINGER, _LINGER_MS),
            (zmq.HEARTBEAT_IVL, _PULSE_MS),
            (zmq.HEARTBEAT_TIMEOUT, _DEAD_MS),
            (zmq.HEARTBEAT_TTL, _DEAD_MS),
        ):
            socket.setsockopt(option, value)
        if self._keys is not None:
            own = check_keys(self._keys.own)
            socket.curve_server = True
            socket.curve_secretkey, socket.curve_publickey = own.secret.encode(), own.public.encode()
            socket.zap_domain = b"isocenter"
        return socket

    # The thread that owns the socket

    def _run(self) -> None:
        poller = zmq.Poller()
        sources = [self._router, self._bell, *([self._porter.socket] if self._porter is not None else [])]
        for source in sources:
            poller.register(source, zmq.POLLIN)
        blocked, look_s = False, time.monotonic()
        try:
            while not self._leaving.is_set():
                ready = dict(poller.poll(_BLOCKED_MS if blocked else int(1e3 * _LOOK_S)))
                if self._bell in ready:
                    os.eventfd_read(self._bell)
                if self._porter is not None and self._porter.socket in ready:
                    LOG.info("raw stream: %s", self._porter.answer())
                if self._router in ready:
                    self._receive()
                if time.monotonic() - look_s > _LOOK_S:
                    look_s = time.monotonic()
                    self._look()
                blocked = self._flush()
        finally:
            self._leaving.set()
            self._close()

    def _receive(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                identity, *frames = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            if frames:
                self._sort(identity.bytes, frames)

    def _sort(self, identity: bytes, frames: list[zmq.Frame]) -> None:
        views: list[Bytes] = [frame.buffer for frame in frames]
        call = self._calls.get(identity)
        if call is not None:
            call.deliver(views)
            return
        if identity in self._over and not _opens(views[0]):
            return  # was on its way when the scan ended
        name = _name(frames[0])
        if self._stopping.is_set() or len(self._calls) >= self.limits.connections:
            why = "the service stops" if self._stopping.is_set() else f"{len(self._calls)} scans run already"
            LOG.warning("%s: refused, %s", name, why)
            self._refuse(identity, why)
            return
        call = StreamCall(name, self._name_job(), limits=self.limits, wake=self._ring_bell)
        self._calls[identity] = call
        self._threads[call] = threading.Thread(target=self._serve, args=(call,), name=f"stream {name}", daemon=True)
        call.deliver(views)
        self._threads[call].start()

    def _serve(self, call: StreamCall) -> None:
        try:
            self._handle(call)
        finally:
            call.end(None)

    def _refuse(self, identity: bytes, why: str) -> None:
        for message in (Line(level="ERROR", text=f"{why}. Try again later"), End(state="REFUSED", reason=why)):
            try:
                self._router.send_multipart([identity, *encode(message)], zmq.NOBLOCK)
            except zmq.ZMQError:  # gone, or does not listen: nothing is lost
                return
        self._forget(identity)

    def _flush(self) -> bool:
        """Send what can be sent; return whether something had to wait."""
        waiting = False
        for identity, call in list(self._calls.items()):
            while call.outbox:
                try:
                    self._router.send_multipart([identity, *call.outbox[0].frames], zmq.NOBLOCK, copy=False)
                except zmq.Again:
                    waiting = True
                    break
                except zmq.ZMQError as error:
                    self._lose(identity, call, str(error))
                    break
                answer = call.pop()
                if answer.sent is not None:
                    answer.sent()
                if answer.last:  # at once: the scanner may open its next scan as soon as it has this
                    self._drop(identity, call)
            if call.ended.is_set() and not call.outbox:
                self._drop(identity, call)
        return waiting

    def _look(self) -> None:
        """Speak to those who wait, and give up those who have been silent for too long."""
        for identity, call in list(self._calls.items()):
            call.beat()
            if call.silent_s() > call.patience_s:
                call.cut(_cut("silence"))
            if call.ended.is_set() and time.monotonic() - call.spoke_s > self.limits.linger_s:
                LOG.warning("%s: does not take its images; given up", call.name)
                self._lose(identity, call, "does not read")
                self._drop(identity, call)

    def _lose(self, identity: bytes, call: StreamCall, why: str) -> None:
        LOG.warning("%s: is gone: %s", call.name, why)
        call.lost(_cut(f"the connection is gone ({why})"))
        if call.ended.is_set():
            self._drop(identity, call)

    def _drop(self, identity: bytes, call: StreamCall) -> None:
        self._calls.pop(identity, None)
        self._threads.pop(call, None)
        self._forget(identity)

    def _forget(self, identity: bytes) -> None:
        self._over[identity] = None
        while len(self._over) > _REMEMBERED:
            self._over.popitem(last=False)

    def _ring_bell(self) -> None:
        if not self._leaving.is_set():
            os.eventfd_write(self._bell, 1)

    def _close(self) -> None:
        self._router.close()
        if self._porter is not None:
            self._porter.socket.close()
        assert self._context is not None
        self._context.term()


def _cut(got: str) -> ScanAbortedError:
    return ScanAbortedError(
        "raw stream", expected="blocks, or close", got=got, action="check the scanner and repeat the scan"
    )


def _opens(text: Bytes) -> bool:
    try:
        return parse(text, OPEN_BYTES).get("type") == "open"
    except InputError:
        return False


def _name(frame: zmq.Frame) -> str:
    """Return who sent a frame: the name of its key, and its address."""
    found = []
    for key in ("User-Id", "Peer-Address"):
        try:
            found.append(str(frame.get(key)))
        except zmq.ZMQError:  # not told
            continue
    return " at ".join(filter(None, found)) or "a scanner"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bound(socket: zmq.Socket, host: str, port: int) -> int:
    address = "127.0.0.1" if host == "localhost" else host
    if ":" in address:
        socket.ipv6 = True
        address = f"[{address}]"
    socket.bind(f"tcp://{address}:{port or '*'}")
    return int(socket.getsockopt_string(zmq.LAST_ENDPOINT).rsplit(":", 1)[1])
