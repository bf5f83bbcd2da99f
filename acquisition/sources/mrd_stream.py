"""MRD bytes to messages, without touching a socket.

::

    decoder = StreamDecoder()
    while n := sock.recv_into(decoder.writable()):
        for message in decoder.received(n):
            ...
    decoder.finish()

Consecutive acquisitions of equal shape come out as one `Readouts` block: their bytes lie at a constant
distance in the receive buffer, so a block is two strided copies (heads, samples) whatever its length. The
receive buffer is small enough to stay in the cache, and every message handed out owns its memory. A message
larger than the buffer is received straight into the memory it will be handed out in.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import InputError, MessageError, ScanAbortedError
from acquisition.items import READOUT_HEAD, Readouts
from acquisition.scan import Scan
from acquisition.sources.mrd_frame import LAYOUTS, Frame, decode, readouts
from acquisition.sources.mrd_limits import StreamLimits
from acquisition.sources.mrd_wire import FOREIGN_IDS, Message, MessageId

BUFFER_BYTES = 4 << 20
"""Default receive buffer [bytes]: small enough for the cache, large enough that calls cost little (1 MiB: 1.2x)."""
_ALIGN = 64
_ACQUISITION_MESSAGE = np.dtype([("id", "<u2"), ("head", READOUT_HEAD)])

Bytes = NDArray[np.uint8]


class StreamDecoder:
    """Collects bytes and gives complete messages; one stream, one thread.

    Parameters
    ----------
    limits
        What a message may claim.
    buffer_bytes
        Size of the receive buffer [bytes].
    """

    def __init__(self, limits: StreamLimits | None = None, *, buffer_bytes: int = BUFFER_BYTES) -> None:
        self.limits = limits or StreamLimits()
        self._buffer: Bytes = np.empty(max(buffer_bytes, 4096), np.uint8)
        self._view = self._buffer.data
        self._start = self._end = 0
        self._large: tuple[Frame, Bytes] | None = None
        self._filled = 0
        self._error: InputError | None = None

    def expect(self, scan: Scan) -> None:
        """Narrow the limits to what the header of `scan` leads to expect."""
        self.limits = self.limits.for_scan(scan)

    def writable(self) -> memoryview:
        """Return where the next bytes go, never empty; valid until the next call of `received`.

        Raises
        ------
        InputError
            The stream broke in an earlier call, after messages that were still good.
        """
        self._raise_if_broken()
        if self._large is not None:
            return self._large[1].data[self._filled :]
        held = self._end - self._start
        if not held:
            self._start = self._end = 0
        elif len(self._buffer) - self._end < len(self._buffer) // 4:
            self._view[:held] = self._view[self._start : self._end]
            self._start, self._end = 0, held
        return self._view[self._end :]

    def received(self, n: int) -> list[Message]:
        """Take note of `n` new bytes in `writable()` and return the messages that are complete now.

        Raises
        ------
        MessageError
            An unknown or broken message; messages before it are returned first and the error is raised by
            the next call of any method.
        LimitError
            A message claims more than `limits` allow; nothing was allocated for it.
        """
        self._raise_if_broken()
        messages: list[Message] = []
        try:
            self._take(n, messages)
        except InputError as error:
            self._error = error
            if not messages:
                raise
        return messages

    def finish(self) -> None:
        """Say that no more bytes will come.

        Raises
        ------
        ScanAbortedError
            The stream ended inside a message.
        """
        self._raise_if_broken()
        if self._large is not None:
            frame, have = self._large[0], self._filled + 2 + len(self._large[0].head)
            raise _aborted(frame.id.name, f"{have} of {frame.total} bytes")
        held = self._end - self._start
        if held:
            frame_or_none = self._frame()
            name = frame_or_none.id.name if frame_or_none else "one whose size had not arrived yet"
            of = f" of {frame_or_none.total}" if frame_or_none else ""
            raise _aborted(name, f"{held}{of} bytes")

    def _raise_if_broken(self) -> None:
        if self._error is not None:
            raise self._error

    def _take(self, n: int, messages: list[Message]) -> None:
        room = len(self._buffer) - self._end if self._large is None else len(self._large[1]) - self._filled
        if not 0 <= n <= room:
            raise ValueError(f"{n} bytes cannot have been written into {room}")
        if self._large is not None:
            frame, target = self._large
            self._filled += n
            if self._filled < len(target):
                return
            self._large = None
            messages.append(decode(frame, target))
        else:
            self._end += n
        while (frame_or_none := self._frame()) is not None:
            frame = frame_or_none
            held = self._end - self._start
            if frame.total > held:
                if frame.total > len(self._buffer):
                    self._begin_large(frame)
                return
            if frame.id is MessageId.ACQUISITION:
                messages.append(self._run(frame))
            else:
                messages.append(decode(frame, self._payload(frame)))
                self._start += frame.total

    def _frame(self) -> Frame | None:
        """Return the frame of the message at the start of the buffer; None where too little has arrived."""
        held = self._end - self._start
        if held < 2:
            return None
        (number,) = struct.unpack_from("<H", self._view, self._start)
        layout = LAYOUTS.get(number)
        if layout is None:
            raise _unknown(number)
        size, measure = layout
        if held < 2 + size:
            return None
        head = bytes(self._view[self._start + 2 : self._start + 2 + size])
        lead, data = measure(head, self.limits)
        return Frame(MessageId(number), head, lead, data)

    def _payload(self, frame: Frame, held: int | None = None) -> Bytes:
        """Return fresh memory for the message behind its fixed part, the first `held` bytes filled."""
        size = frame.lead + frame.data
        pad = -frame.lead % _ALIGN
        payload = np.empty(pad + size, np.uint8)[pad:]
        begin = self._start + 2 + len(frame.head)
        held = size if held is None else held
        payload[:held] = self._buffer[begin : begin + held]
        return payload

    def _begin_large(self, frame: Frame) -> None:
        self._filled = self._end - self._start - 2 - len(frame.head)
        self._large = (frame, self._payload(frame, self._filled))
        self._start = self._end = 0

    def _run(self, frame: Frame) -> Readouts:
        """Decode all complete acquisitions of equal shape that lie one behind the other."""
        stride, n = frame.total, (self._end - self._start) // frame.total
        if n > 1:
            n = self._equal(stride, n)
        head = np.empty((n, READOUT_HEAD.itemsize), np.uint8)
        traj, data = np.empty((n, frame.lead), np.uint8), np.empty((n, frame.data), np.uint8)
        offset = self._start + 2
        for part in (head, traj, data):
            part[...] = np.ndarray(part.shape, np.uint8, self._buffer, offset, (stride, 1))
            offset += part.shape[1]
        self._start += n * stride
        return readouts(head, traj, data)

    def _equal(self, stride: int, n: int) -> int:
        """Return how many of the `n` next messages, `stride` apart, are acquisitions of the first one's shape."""
        run = np.ndarray((n,), _ACQUISITION_MESSAGE, self._buffer, self._start, (stride,))
        same = run["id"] == MessageId.ACQUISITION
        for name in ("n_samples", "n_coils", "traj_dims"):
            same &= run["head"][name] == run["head"][name][0]
        return n if same.all() else int(np.argmin(same))


def _unknown(number: int) -> MessageError:
    spoken = ", ".join(str(int(known)) for known in MessageId)
    return MessageError(
        "message number",
        expected=f"one of {spoken}",
        got=f"{number} ({FOREIGN_IDS.get(number, 'unknown')})",
        action="the stream cannot be followed beyond it; check what the sender speaks",
    )


def _aborted(name: str, have: str) -> ScanAbortedError:
    return ScanAbortedError(
        "end of stream",
        expected=f"the rest of a message ({name})",
        got=f"only {have}",
        action="check the connection to the scanner and repeat the scan",
    )
