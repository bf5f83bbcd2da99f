"""Messages of the raw stream to what a session works on: the same for a live scanner and for a recording of one."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from acquisition.errors import InputError, MessageError, ScanAbortedError
from acquisition.scan import Scan
from acquisition.sources.mrd_header import parse_header
from acquisition.sources.mrd_limits import StreamLimits, check_claim
from acquisition.sources.mrd_wire import Close, ConfigText, Text
from integration.doors.incoming import Broken, Incoming
from integration.doors.stream.checks import check_scan, checked
from integration.doors.stream.messages import (
    JSON_BYTES,
    MOST_FRAMES,
    OPEN_BYTES,
    TO_SERVICE,
    VERSION,
    Block,
    Event,
    Open,
    Ring,
    Shut,
    block_of,
    decode,
    encode,
    item_of,
)
from integration.doors.stream.plain import Bytes
from integration.doors.stream.ring import RingReader

MAGIC = b"ISOSTRM1"
"""First bytes of a recording."""
_COUNT, _LENGTH = struct.Struct("<I"), struct.Struct("<Q")


class Reader:
    """Follows one scan, message by message.

    Parameters
    ----------
    window_bytes
        What one block may have [bytes].
    open_ring
        Opens the shared memory that a scanner names; None from it: its arrays come as frames all the same.
    """

    def __init__(self, window_bytes: int, *, open_ring: Callable[[Ring], RingReader | None]) -> None:
        self.scan: Scan | None = None
        """The header, once it has come."""
        self.seq = 0
        """Number of the last block."""
        self.ring: RingReader | None = None
        """Where arrays may lie besides frames."""
        self._window, self._limits, self._open_ring = window_bytes, StreamLimits(), open_ring

    def read(self, frames: Sequence[Bytes]) -> list[Incoming]:
        """Return what a message means to a session.

        Raises
        ------
        InputError
            It cannot be used; nothing after it can.
        """
        opening = self.scan is None
        message = decode(
            frames,
            TO_SERVICE,
            json_bytes=OPEN_BYTES if opening else JSON_BYTES,
            array_bytes=OPEN_BYTES if opening else self._window,
            ring=self.ring,
        )
        if opening != isinstance(message, Open):
            raise MessageError(
                "stream",
                expected="open, as the first message and only then",
                got=type(message).__name__.lower(),
                action="open a scan before sending blocks of it",
            )
        return self._meaning(message)

    def close(self) -> None:
        """Let go of shared memory."""
        if self.ring is not None:
            self.ring.close()

    def _meaning(self, message: Any) -> list[Incoming]:
        match message:
            case Open():
                return self._opened(message)
            case Block():
                return [self._block(message)]
            case Event(event="abort", text=text):
                raise ScanAbortedError(
                    "scan", expected="all of it", got="abort from the scanner", action=text[:200] or "repeat the scan"
                )
            case Event(text=text):
                return [Text(text)]
            case _:
                assert isinstance(message, Shut)
                return [Close()]

    def _opened(self, message: Open) -> list[Incoming]:
        if message.version != VERSION:
            raise MessageError("open.version", expected=str(VERSION), got=str(message.version), action="update one end")
        if (message.scan is None) == (not message.mrd_header):
            raise MessageError("open", expected="either scan or mrd_header", got="both or none of them")
        self.scan = parse_header(message.mrd_header) if message.scan is None else check_scan(message.scan)
        if message.ring is not None:
            self.ring = self._open_ring(message.ring)
        self._limits = StreamLimits().for_scan(self.scan)
        wish: dict[str, object] = {"protocol": message.protocol, "set": dict(message.set)}
        wish |= {"urgency": message.urgency}
        if message.network_deadline_s is not None:
            wish["network_deadline_s"] = message.network_deadline_s
        return [ConfigText(json.dumps(wish)), self.scan]

    def _block(self, message: Block) -> Any:
        if message.seq != self.seq + 1:
            raise MessageError(
                "block.seq", expected=str(self.seq + 1), got=str(message.seq), action="send each block once"
            )
        self.seq = message.seq
        assert self.scan is not None
        return checked(item_of(message), self.scan, self._limits)


def record_message(record: Callable[[memoryview], None], frames: Sequence[Bytes], *, first: bool) -> None:
    """Hand a message to the recorder: how many frames, how long they are, their bytes."""
    lengths = b"".join(_LENGTH.pack(len(frame)) for frame in frames)
    record(memoryview((MAGIC if first else b"") + _COUNT.pack(len(frames)) + lengths))
    for frame in frames:
        record(memoryview(frame).cast("B"))


def record_block(record: Callable[[memoryview], None], seq: int, item: Any) -> None:
    """Hand a block whose arrays came through a ring to the recorder, with frames instead."""
    record_message(record, [memoryview(f).cast("B") for f in encode(block_of(seq, item))], first=False)


def read_recorded(receive: Callable[[memoryview], int], window_bytes: int) -> Iterator[Incoming]:
    """Yield what a recording says (after its `MAGIC`) until its end or the first error, which comes as `Broken`.

    Parameters
    ----------
    receive
        Fills the memory it is given from the start; returns how many bytes, 0 at the end.
    window_bytes
        What one block may have [bytes].
    """
    reader = Reader(window_bytes, open_ring=lambda ring: None)
    try:
        while frames := _message(receive, window_bytes + OPEN_BYTES):
            yield from reader.read(frames)
    except InputError as error:
        yield Broken(error)


def _message(receive: Callable[[memoryview], int], limit_bytes: int) -> list[bytearray]:
    """Read one message; empty at the end."""
    count = _exactly(receive, _COUNT.size, may_end=0)
    if not count:
        return []
    n = _COUNT.unpack(count)[0]
    check_claim("recording", n, limit=MOST_FRAMES, unit="frames")
    lengths = [_LENGTH.unpack(_exactly(receive, _LENGTH.size))[0] for _ in range(n)]
    check_claim("recording: a message", sum(lengths), limit=limit_bytes, unit="bytes")
    return [_exactly(receive, length) for length in lengths]


def _exactly(receive: Callable[[memoryview], int], n_bytes: int, *, may_end: int = -1) -> bytearray:
    """Read so many bytes; none where the recording ends after `may_end` of them."""
    data = bytearray(n_bytes)
    done = 0
    while done < n_bytes and (n := receive(memoryview(data)[done:])):
        done += n
    if done == n_bytes:
        return data
    if done == may_end:
        return bytearray()
    raise ScanAbortedError("recording", expected=f"{n_bytes} bytes", got=f"{done}: it ends there")
