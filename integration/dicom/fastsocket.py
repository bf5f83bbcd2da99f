"""Sockets that answer at once.

DICOM asks one question and waits for one answer, in small packets: where Nagle's algorithm at one end meets
delayed acknowledgement at the other, each image waits 40 ms for nothing. ``TCP_NODELAY`` cures our end;
``TCP_QUICKACK`` cures the other one's, but the kernel forgets it, so it is set before every read.
Linux: https://man7.org/linux/man-pages/man7/tcp.7.html
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

from pynetdicom import AE
from pynetdicom.transport import ThreadedAssociationServer

_STALL_S = 30.0
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)


class QuickSocket(socket.socket):
    """A TCP socket with both options, and an orderly end even if the peer has gone first."""

    def recv(self, n_bytes: int, flags: int = 0, /) -> bytes:
        """Read, after asking for immediate acknowledgement of what comes."""
        acknowledge_at_once(self)
        return super().recv(n_bytes, flags)

    def recv_into(self, buffer: Any, n_bytes: int = 0, flags: int = 0, /) -> int:
        """Read into `buffer`, after asking for immediate acknowledgement of what comes."""
        acknowledge_at_once(self)
        return super().recv_into(buffer, n_bytes, flags)

    def shutdown(self, how: int, /) -> None:
        """Shut down; a peer that has already gone is no error (`close` must follow in any case)."""
        with contextlib.suppress(OSError):
            super().shutdown(how)


def acknowledge_at_once(sock: socket.socket) -> None:
    """Ask the kernel not to delay the next acknowledgements."""
    if _QUICKACK is not None:
        with contextlib.suppress(OSError):  # closed meanwhile: the read that follows says so
            sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)


def quick(sock: socket.socket) -> QuickSocket:
    """Turn a TCP socket into a `QuickSocket`; the old one must not be used any more."""
    timeout = sock.gettimeout()
    fast = QuickSocket(sock.family, sock.type, sock.proto, fileno=sock.detach())
    fast.settimeout(timeout)
    fast.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return fast


class QuickServer(ThreadedAssociationServer):
    """pynetdicom's server, on quick sockets."""

    request_queue_size = 64

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept one connection; one that stalls in the middle of a PDU is given up."""
        sock, address = super().get_request()
        sock.settimeout(_STALL_S)
        return quick(sock), address


def serve(ae: AE, address: tuple[str, int], handlers: list[tuple[Any, ...]]) -> ThreadedAssociationServer:
    """Start a DICOM server in a thread; ``ae.shutdown()`` ends it.

    Parameters
    ----------
    ae
        Has the supported contexts.
    address
        Host and port; port 0 takes a free one (``server.server_address[1]``).
    handlers
        pynetdicom event handlers.
    """
    server = ae.make_server(address, evt_handlers=handlers, server_class=QuickServer)
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="dicom-server", daemon=True
    ).start()
    ae._servers.append(server)
    return server
