"""The MRD door: scanners connect here and stream (ISMRMRD protocol, TCP 9002).

One thread accepts; each client gets one for its session, and two in its `Call` for reading and writing.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable

from acquisition.errors import SetupError
from acquisition.sources.mrd_wire import Close, Text, encode
from integration.doors.mrd_call import Call, CallLimits

LOG = logging.getLogger(__name__)

_ACCEPT_S = 0.2
_REFUSALS = 16
_REFUSAL_S = 2.0


class MrdServer:
    """Listens, and hands each client to `handle` in a thread of its own.

    Parameters
    ----------
    handle
        Talks to one client; the call is finished (answers out, Close, hung up) when it returns.
    limits
        Patience and memory.
    """

    def __init__(self, handle: Callable[[Call], None], limits: CallLimits | None = None) -> None:
        self.limits, self.port = limits or CallLimits(), 0
        self._handle = handle
        self._calls: dict[Call, threading.Thread] = {}
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._refusals = threading.BoundedSemaphore(_REFUSALS)
        self._server: socket.socket | None = None
        self._listener = threading.Thread(target=self._listen, name="mrd-accept", daemon=True)

    @property
    def listening(self) -> bool:
        """Whether clients are taken."""
        return self._listener.is_alive() and not self._stopping.is_set()

    @property
    def clients(self) -> int:
        """Clients connected now."""
        with self._lock:
            return len(self._calls)

    def start(self, host: str, port: int) -> int:
        """Listen; return the port (a free one if `port` is 0).

        Raises
        ------
        SetupError
            The address cannot be had.
        """
        try:
            self._server = socket.create_server((host, port), backlog=16)
        except OSError as error:
            raise SetupError(
                f"MRD server at {host}:{port}",
                expected="a free port",
                got=str(error),
                action="stop what uses it, or choose another with --mrd-port",
            ) from error
        self._server.settimeout(_ACCEPT_S)
        self.port = int(self._server.getsockname()[1])
        self._listener.start()
        return self.port

    def stop(self, drain_s: float = 30.0) -> None:
        """Take no more clients, let scans end for `drain_s`, then cut them short and end them properly."""
        self._stopping.set()
        if self._server is not None:
            self._listener.join()
            self._server.close()
        deadline = time.monotonic() + drain_s
        self._join(deadline)
        for call in self._running():
            LOG.warning("%s: cut short, the service stops", call.name)
            call.stop_listening()
        self._join(time.monotonic() + self.limits.linger_s)
        for call in self._running():
            call.hang_up()
        self._join(time.monotonic() + self.limits.linger_s)

    def _running(self) -> list[Call]:
        with self._lock:
            return list(self._calls)

    def _join(self, deadline: float) -> None:
        with self._lock:
            threads = list(self._calls.values())
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _listen(self) -> None:
        assert self._server is not None
        while not self._stopping.is_set():
            try:
                sock, address = self._server.accept()
            except TimeoutError:
                continue
            except OSError:  # e.g. too many open files
                LOG.exception("MRD server: cannot accept")
                self._stopping.wait(_ACCEPT_S)
                continue
            self._welcome(sock, f"{address[0]}:{address[1]}")

    def _welcome(self, sock: socket.socket, name: str) -> None:
        if self.clients >= self.limits.connections:
            LOG.warning("%s: refused, %d clients are connected", name, self.limits.connections)
            self._refuse(sock)
            return
        try:
            call = Call(sock, name, self.limits)
        except OSError as error:  # gone already
            LOG.info("%s: gone at once: %s", name, error)
            sock.close()
            return
        thread = threading.Thread(target=self._serve, args=(call,), name=f"mrd {name}", daemon=True)
        with self._lock:
            self._calls[call] = thread
        thread.start()

    def _serve(self, call: Call) -> None:
        try:
            self._handle(call)
        finally:
            call.finish()
            with self._lock:
                del self._calls[call]

    def _refuse(self, sock: socket.socket) -> None:
        """Tell a client that we are full, without making others wait."""
        if not self._refusals.acquire(blocking=False):
            sock.close()
            return

        def tell() -> None:
            line = f"ERROR server full: {self.limits.connections} clients are connected. Try again later"
            with sock:
                try:
                    sock.settimeout(_REFUSAL_S)
                    sock.sendall(b"".join([*encode(Text(line)), *encode(Close())]))
                    sock.shutdown(socket.SHUT_WR)
                    deadline = time.monotonic() + _REFUSAL_S
                    while time.monotonic() < deadline and sock.recv(1 << 16):
                        pass
                except OSError:
                    pass
            self._refusals.release()

        threading.Thread(target=tell, name="mrd-refuse", daemon=True).start()
