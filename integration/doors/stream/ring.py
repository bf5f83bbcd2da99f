"""Arrays between two programs on one computer: a ring in /dev/shm, of which the socket carries only the places.

The client makes the file, faults its pages in once and writes; the service reads with `pread` into memory of its own
(a file that someone cuts short is then an error, not the death of the service) and takes the name away as soon as it
has the file open. From then on nothing can be left behind: the kernel frees the memory with the last of both. A client
that dies before leaves a file that nobody holds locked any more; `sweep` removes those.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import re
import secrets
import stat
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import MessageError, SetupError
from acquisition.sources.mrd_limits import check_claim
from integration.doors.stream.messages import Ring

LOG = logging.getLogger(__name__)
SHM = Path("/dev/shm")
_PREFIX = "isocenter-"
_NAME = re.compile(rf"{_PREFIX}[0-9a-f]{{32}}")
_ALIGN = 64


class RingWriter:
    """The client's end.

    Parameters
    ----------
    n_bytes
        Size: what may be under way, best twice the largest block.

    Raises
    ------
    SetupError
        There is no room in /dev/shm.
    """

    def __init__(self, n_bytes: int) -> None:
        self.name = f"{_PREFIX}{secrets.token_hex(16)}"
        self._path = SHM / self.name
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_SH)
            os.posix_fallocate(self._fd, 0, n_bytes)
            self._map = mmap.mmap(self._fd, n_bytes, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        except OSError as error:
            self._path.unlink(missing_ok=True)
            raise SetupError(
                f"ring of {n_bytes} bytes in {SHM}",
                expected="room for it",
                got=str(error),
                action="send frames instead",
            ) from error
        self._memory = np.frombuffer(self._map, np.uint8)
        self._head = 0
        self._held: deque[tuple[int, int, int]] = deque()  # block, where it begins, where it ends

    @property
    def ring(self) -> Ring:
        """What the service is told."""
        return Ring(name=self.name, bytes=len(self._memory))

    def put(self, seq: int, arrays: list[NDArray]) -> list[int] | None:
        """Write the arrays of a block; return where each begins, None while there is no room."""
        sizes = [-(-a.nbytes // _ALIGN) * _ALIGN for a in arrays]
        start = self._room(sum(sizes))
        if start is None:
            return None
        places = []
        for array, size in zip(arrays, sizes, strict=True):
            self._memory[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
            places.append(start)
            start += size
        if sum(sizes):
            self._held.append((seq, places[0], start))
            self._head = start
        return places

    def free(self, taken: int) -> None:
        """Forget the blocks up to number `taken`."""
        while self._held and self._held[0][0] <= taken:
            self._held.popleft()

    def close(self) -> None:
        """Give the memory back; a name that nobody has taken goes too."""
        self._path.unlink(missing_ok=True)
        self._memory = np.zeros(0, np.uint8)
        self._map.close()
        os.close(self._fd)

    def _room(self, n: int) -> int | None:
        """Return where `n` bytes fit in one piece, before what is still held."""
        size = len(self._memory)
        if not self._held:
            return 0 if n <= size else None
        tail = self._held[0][1]
        if self._head > tail:
            return self._head if self._head + n <= size else (0 if n < tail else None)
        return self._head if self._head + n < tail else None


class RingReader:
    """The service's end; `plain.Fetch`.

    Parameters
    ----------
    ring
        What the client told.
    limit_bytes
        Largest size that is believed.

    Raises
    ------
    MessageError
        There is no such file, or it is not that of a program of the same user.
    LimitError
        It claims to be too large.
    """

    def __init__(self, ring: Ring, *, limit_bytes: int) -> None:
        if not _NAME.fullmatch(ring.name):
            raise MessageError(
                "open.ring.name", expected=f"{_PREFIX} and 32 hexadecimal digits", got=repr(ring.name)[:60]
            )
        check_claim("open.ring", ring.bytes, limit=limit_bytes, unit="bytes")
        path = SHM / ring.name
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise MessageError(
                "open.ring",
                expected="a file in this computer's shared memory",
                got=str(error),
                action="send frames instead",
            ) from error
        found = os.fstat(self._fd)
        ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
        if not ours or found.st_size < ring.bytes:
            os.close(self._fd)
            raise MessageError(
                "open.ring", expected="a file of the same user, mode 600, of the size it claims", got="another one"
            )
        path.unlink(missing_ok=True)
        self._size = ring.bytes

    def __call__(self, described: Mapping[str, Any], n_bytes: int, where: str) -> memoryview:
        """Return a copy of the bytes of one array."""
        at = described["at"]
        if type(at) is not int or not 0 <= at <= self._size - n_bytes:
            raise MessageError(f"{where}.at", expected=f"a place in the ring of {self._size} bytes", got=repr(at)[:20])
        view, done = np.empty(n_bytes, np.uint8).data, 0  # not zeroed first, as a bytearray would be
        while done < n_bytes:
            n = os.preadv(self._fd, [view[done:]], at + done)
            if not n:
                raise MessageError(where, expected=f"{n_bytes} bytes in the ring", got=f"{done}: it was cut short")
            done += n
        return view

    def close(self) -> None:
        """Let go of the memory."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def sweep() -> list[str]:
    """Remove rings whose makers died before a service took them over; return their names."""
    gone = []
    for path in SHM.glob(f"{_PREFIX}*"):
        if _NAME.fullmatch(path.name) and _abandoned(path):
            path.unlink(missing_ok=True)
            gone.append(path.name)
    if gone:
        LOG.info("shared memory: %d abandoned rings removed", len(gone))
    return gone


def _abandoned(path: Path) -> bool:
    """Whether nobody holds the lock that a living maker holds."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # gone meanwhile, or another user's
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True
