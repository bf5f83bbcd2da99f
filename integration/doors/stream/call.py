"""One scan on the raw stream, as the session sees it: what the scanner says comes in, what we answer goes out.

The socket belongs to the server's thread alone; between it and the session lie two boxes. The scanner may have a
window of bytes under way; a block leaves the window when the session has worked on it, so a slow service slows the
scanner down, and memory never holds more than the window.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from acquisition.errors import InputError, IsocenterError, LimitError
from acquisition.items import Events, Image, Projections, Readouts, SlicePlan
from acquisition.sources.mrd_wire import Close, Text
from acquisition.verdict import Level, Verdict
from integration.delivery.rows import Job
from integration.doors.incoming import Broken, Incoming, size_of
from integration.doors.mailbox import Mailbox
from integration.doors.mrd_call import CallLimits
from integration.doors.stream.messages import (
    LEAST_BYTES,
    End,
    Found,
    Line,
    Opened,
    Planned,
    Progress,
    Returned,
    Ring,
    encode,
)
from integration.doors.stream.plain import Bytes
from integration.doors.stream.reader import Reader, record_block, record_message
from integration.doors.stream.ring import RingReader

LOG = logging.getLogger(__name__)
BEAT_S = 1.0
"""Longest silence of ours during a scan [s]."""
_PARTS = 8  # of the window; so much is worked on before it is reported


@dataclass(slots=True)
class Answer:
    """Something to send."""

    frames: list[Any]
    """Its frames."""
    n_bytes: int
    """Their length together [bytes]."""
    sent: Callable[[], None] | None = None
    """Called when ZeroMQ has it."""
    image: bool = False
    """Whether it is an image."""
    last: bool = False
    """Whether nothing comes after it."""


class StreamCall:
    """One scan; `incoming` once, answers as they come, `end` at the end.

    Parameters
    ----------
    name
        Who it is, for the log.
    job
        Our name for the scan.
    limits
        Patience and memory.
    wake
        Tells the server's thread that there is something to send.
    """

    def __init__(self, name: str, job: str, *, limits: CallLimits, wake: Callable[[], None]) -> None:
        self.name, self.job, self.limits, self.unreturned = name, job, limits, 0
        self.outbox: deque[Answer] = deque()
        self.ended = threading.Event()
        """Set when nothing more will come into the outbox."""
        self.heard_s = self.spoke_s = time.monotonic()
        self._inbox: Mailbox[list[Bytes] | Broken] = Mailbox(limits.inbox_bytes)
        self._reader, self._wake = Reader(limits.inbox_bytes, open_ring=self._open_ring), wake
        self._lock, self._held, self._gone = threading.Lock(), 0, False
        self._taken = self._readouts = self._images = self._unreported = 0
        self._working = self._opened = False

    # The session's side

    def incoming(self, record: Callable[[memoryview], None] | None = None) -> Iterator[Incoming]:
        """Yield what the scanner says until Close, or `Broken`."""
        for raw in self._inbox:
            if isinstance(raw, Broken):
                yield raw
                return
            self._working = True
            try:
                messages = self._understood(raw, record)
            except InputError as error:
                yield Broken(error)
                return
            for message in messages:
                yield message
                if isinstance(message, Close):
                    return
            self._worked_on(raw, messages)

    def image(self, image: Image, sent: Callable[[], None] | None = None) -> None:
        """Send an image back as soon as the scanner takes it; one that cannot be is counted as not returned."""
        waited = time.monotonic() - image.last_readout_s if image.last_readout_s else None
        self._images += 1
        try:
            answer = _answer(Returned(image=image, waited_s=waited))
        except IsocenterError as error:
            LOG.error("%s: %s", self.name, error)
            self.unreturned += 1
            return
        answer.sent, answer.image = sent, True
        with self._lock:
            if self._gone or (self.outbox and self._held + answer.n_bytes > self.limits.outbox_bytes):
                self.unreturned += 1
                return
            self._put(answer)
        self._wake()

    def text(self, level: str, line: str) -> None:
        """Send a line for the scanner's log."""
        self._say(Line(level=level, text=line))

    def plan(self, plan: SlicePlan) -> None:
        """Send where the next series should lie."""
        self._say(Planned(plan=plan))

    def end(self, row: Job | None) -> None:
        """Say how the scan ended and what was found; nothing comes after it."""
        if self.ended.is_set():
            return
        self._inbox.discard()
        self._reader.close()
        for found in row.verdicts if row is not None else ():
            self._say(Found(verdict=_verdict(found)))
        self._say(self._progress())
        state, reason = ("REFUSED", "") if row is None else (row.state.value, row.reason)
        job = "" if row is None else row.job
        self._say(End(state=state, job=job, reason=reason, unreturned=self.unreturned))
        self.ended.set()
        self._wake()

    # The server's side

    def deliver(self, frames: list[Bytes]) -> None:
        """Take a message in; one that the window does not allow ends the scan."""
        self.heard_s = time.monotonic()
        if not self._inbox.offer(frames, max(LEAST_BYTES, sum(map(len, frames)))) and not self.ended.is_set():
            self.cut(
                LimitError(
                    f"stream of {self.name}",
                    expected=f"at most {self.limits.inbox_bytes} bytes under way",
                    got="more",
                    action="wait for progress messages before sending on",
                )
            )

    def cut(self, error: InputError) -> None:
        """Let nothing more in; what has come is worked on, then the scan ends with `error`."""
        self._inbox.put(Broken(error))
        self._inbox.close()

    def lost(self, error: InputError) -> None:
        """The scanner is gone: what was meant for it stays here."""
        with self._lock:
            self._gone = True
            self.unreturned += sum(answer.image for answer in self.outbox)
            self.outbox.clear()
            self._held = 0
        self.cut(error)

    def pop(self) -> Answer:
        """Take the oldest answer out: ZeroMQ has it."""
        with self._lock:
            answer = self.outbox.popleft()
            self._held -= answer.n_bytes
        self.spoke_s = time.monotonic()
        return answer

    def beat(self) -> None:
        """Say how far the work is if nothing was said for a while."""
        if time.monotonic() - self.spoke_s > BEAT_S and not self.outbox:
            self._say(self._progress())

    def silent_s(self) -> float:
        """Return for how long we have been waiting for the scanner [s]."""
        return 0.0 if self._working or self._inbox.held_bytes else time.monotonic() - self.heard_s

    @property
    def patience_s(self) -> float:
        """How long we wait for the scanner [s]."""
        return self.limits.greeting_s if self._reader.scan is None else self.limits.idle_s

    def _understood(self, raw: list[Bytes], record: Callable[[memoryview], None] | None) -> Sequence[Incoming]:
        first, ring = self._reader.scan is None, self._reader.ring
        if record is not None and ring is None:
            record_message(record, raw, first=first)
        messages = self._reader.read(raw)
        if record is not None and ring is not None and not first:
            for message in messages:
                if isinstance(message, Text | Close):
                    record_message(record, raw, first=False)
                else:
                    record_block(record, self._reader.seq, message)
        return messages

    def _worked_on(self, raw: list[Bytes], messages: Sequence[Incoming]) -> None:
        """Note that the session is through with a message; report it when enough has come together."""
        self._working, self.heard_s = False, time.monotonic()
        if not self._opened:
            self._opened = True
            self._say(Opened(job=self.job, window_bytes=self.limits.inbox_bytes))
            return
        self._taken = self._reader.seq
        self._readouts += sum(len(m) for m in messages if isinstance(m, Readouts | Projections | Events))
        self._unreported += max(sum(map(len, raw)), sum(map(size_of, messages)))
        if not self._inbox.held_bytes or self._unreported * _PARTS > self.limits.inbox_bytes:
            self._unreported = 0
            self._say(self._progress())

    def _open_ring(self, ring: Ring) -> RingReader:
        return RingReader(ring, limit_bytes=4 * self.limits.inbox_bytes)

    def _progress(self) -> Progress:
        return Progress(taken=self._taken, readouts=self._readouts, images=self._images)

    def _say(self, message: Any) -> None:
        with self._lock:
            if not self._gone:
                self._put(_answer(message))
        self._wake()

    def _put(self, answer: Answer) -> None:
        self.outbox.append(answer)
        self._held += answer.n_bytes


def _answer(message: Any) -> Answer:
    frames = encode(message)
    return Answer(frames, sum(map(len, frames)), last=isinstance(message, End))


def _verdict(row: dict[str, Any]) -> Verdict:
    return Verdict(**{**row, "level": Level(row["level"])})
