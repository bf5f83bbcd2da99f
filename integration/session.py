"""One scan, from its config to its last image: the boundary at which any failure of it ends.

The session knows neither sockets nor files. What the scanner says comes in as an iterator, live or played from a
recording; images go to the peer as soon as they exist, and to the house, which makes them durable.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from acquisition.errors import DataError, InputError, IsocenterError, MessageError, ReconError, ScanAbortedError
from acquisition.items import Events, Flag, Image, Item, Projections, Readouts, SlicePlan
from acquisition.scan import Scan
from acquisition.sources.mrd_wire import Close, ConfigFile, ConfigText, Text
from acquisition.verdict import Level, Verdict
from integration.delivery.rows import Job
from integration.delivery.states import JobState
from integration.doors.incoming import Broken, Incoming
from integration.doors.request import Request, from_name, from_remark, from_text
from integration.gate import Findings, holds
from integration.timeline import Moments

LOG = logging.getLogger(__name__)

_PENDING_BYTES = 512 << 20


class Reconstruction(Protocol):
    """What turns the items of one scan into images; `runner.Run` is one."""

    @property
    def verdicts(self) -> Iterable[Verdict]:
        """Findings that belong to no image."""

    def open(self) -> None:
        """Prepare: check that it can be done, allocate, warm up."""

    def feed(self, item: Item) -> Iterator[Image]:
        """Take one item; give the images that are ready now."""

    def close(self) -> Iterator[Image]:
        """The scan is over: give the rest."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A reconstruction and how it came to be chosen."""

    protocol: str
    """Name of the protocol."""
    run: Reconstruction
    """The reconstruction, not yet open."""
    verdicts: tuple[Verdict, ...] = ()
    """Findings of the choice."""
    plans: Sequence[SlicePlan] = ()
    """Where the next series shall go; grows while the scan runs."""


class House(Protocol):
    """What a session needs of the service around it."""

    def admit(self, job: str, scan: Scan) -> None:
        """Raise StorageFullError unless there is room for `scan`."""

    def prepare(self, request: Request, scan: Scan, job: str) -> Prepared:
        """Choose the reconstruction; raises UnknownProtocolError, never chooses another."""

    def open_job(self, row: Job) -> None:
        """Write down that a scan has begun."""

    def finish_job(self, job: str, state: JobState, reason: str, verdicts: Iterable[Verdict]) -> None:
        """Write down how it ended."""

    def made(self, job: str, image: Image) -> Moments:
        """Note the time at which an image was ready."""

    def export(self, job: str, scan: Scan, image: Image, moments: Moments) -> Future[None]:
        """Begin to make an image durable and to hand it over."""


class Peer(Protocol):
    """Who sent the scan and hears of it."""

    unreturned: int

    def image(self, image: Image, sent: Callable[[], None] | None = None) -> None:
        """Send an image back."""

    def text(self, level: str, line: str) -> None:
        """Send a line for the log."""


class Nobody:
    """The peer of a scan that is played from its recording."""

    unreturned = 0

    def image(self, image: Image, sent: Callable[[], None] | None = None) -> None:
        """Send nothing."""

    def text(self, level: str, line: str) -> None:
        """Log it: nobody else hears it."""
        LOG.info("replay: %s %s", level, line)


class Session:
    """One scan; `run` it once. Counters may be read from other threads meanwhile.

    Parameters
    ----------
    row
        Job, source and raw path; scan and protocol are filled in when they are known.
    house
        The service.
    peer
        Who hears of it.
    """

    def __init__(self, row: Job, *, house: House, peer: Peer) -> None:
        self.job, self._row, self._house, self._peer = row.job, row, house, peer
        self.readouts = self.images = 0
        self.scan: Scan | None = None
        self.protocol = ""
        self.begun = False
        self._request: Request | None = None
        self._prepared: Prepared | None = None
        self._found: list[Verdict] = []
        self._findings = Findings()
        self._last_seen = self._opened = False
        self._pending: deque[tuple[Future[None], int]] = deque()
        self._export_error: BaseException | None = None

    def run(self, incoming: Iterable[Incoming]) -> JobState | None:
        """Reconstruct what comes; never raises. Return how it ended, None if there was no scan at all."""
        try:
            return self._follow(incoming)
        except IsocenterError as error:
            return self._failed(str(error))
        except Exception as error:  # the boundary: whatever happens to this scan, the next one is unaffected
            LOG.exception("job %s: internal error", self.job)
            return self._failed(f"internal error in job {self.job}: {type(error).__name__}. Tell the maintainers")

    def _follow(self, incoming: Iterable[Incoming]) -> JobState | None:
        closed, cut = False, None
        for message in incoming:
            if isinstance(message, Close):
                closed = True
                break
            if isinstance(message, Broken):
                cut = message.error
                break
            self._take(message)
        if not self.begun:
            return self._nothing(closed, cut)
        if cut is None and not closed and not self._last_seen:
            cut = _cut_short(self.readouts)
        if cut is not None:
            return self._interrupted(cut)
        assert self._prepared is not None
        for image in self._prepared.run.close():
            self._out(image)
        return self._complete()

    def _take(self, message: Incoming) -> None:
        match message:
            case ConfigFile(name):
                self._configure(from_name(name))
            case ConfigText(text):
                self._configure(from_text(text))
            case Scan():
                self._meet(message)
            case Text(text):
                self._hear(text)
            case _:
                self._feed(message)

    def _configure(self, request: Request) -> None:
        if self.begun:
            raise MessageError("config", expected="one before the data", got="another after them")
        self._request = request
        self._prepare()

    def _meet(self, scan: Scan) -> None:
        if self.scan is not None:
            raise MessageError("header", expected="one scan per connection", got="a second header")
        self.scan = scan
        LOG.info("job %s: scan %s from %s", self.job, scan.uid, self._row.source)
        self._house.admit(self.job, scan)
        self._prepare()

    def _hear(self, text: str) -> None:
        """A text is for the log, but some scanners send the console's parameters in it."""
        request = from_remark(text)
        if request is None:
            LOG.info("job %s: the scanner sent a text of %d characters", self.job, len(text))
        elif self.begun:
            self._found.append(_late_parameters())
        else:
            self._configure(request)

    def _prepare(self) -> None:
        """Open the reconstruction as soon as config and header are known: nothing has been measured in vain yet."""
        if self._request is None or self.scan is None:
            return
        self.protocol = self._request.protocol
        prepared = self._house.prepare(self._request, self.scan, self.job)
        self.protocol = prepared.protocol
        prepared.run.open()
        self._prepared = prepared

    def _begin(self) -> None:
        if self._prepared is None or self.scan is None:
            raise MessageError(
                "data",
                expected="a config message and a header before them",
                got="no config" if self._request is None else "no header",
                action="send config, header, data, close, in this order",
            )
        self.begun = True
        self._open_job()

    def _feed(self, item: Item) -> None:
        if not self.begun:
            self._begin()
        assert self._prepared is not None
        if isinstance(item, Readouts | Projections | Events):
            self.readouts += len(item)
        if isinstance(item, Readouts):
            self._last_seen |= bool(item.has(Flag.LAST_IN_MEASUREMENT).any())
        for image in self._prepared.run.feed(item):
            self._out(image)

    def _out(self, image: Image) -> None:
        """Pixels first, then the archive; a full disk does not stop the scanner from getting its images."""
        assert self.scan is not None
        self.images += 1
        moments = self._house.made(self.job, image)
        self._findings.add(image.verdicts)
        if not holds(image):
            self._peer.image(image, moments.note_wire)
        future = self._house.export(self.job, self.scan, image, moments)
        self._pending.append((future, image.data.nbytes))
        while self._pending and (self._pending[0][0].done() or self._pending_bytes() > _PENDING_BYTES):
            self._settle()

    def _pending_bytes(self) -> int:
        return sum(size for _, size in self._pending)

    def _settle(self) -> None:
        """Wait for the oldest export; remember the first that failed."""
        error = self._pending.popleft()[0].exception()
        if error is None:
            return
        unforeseen = None if isinstance(error, IsocenterError) else error
        LOG.error("job %s: an image could not be exported: %s", self.job, error, exc_info=unforeseen)
        self._export_error = self._export_error or error

    # How it ends

    def _complete(self) -> JobState:
        if self.images == 0:
            self._found.append(_no_image(self.readouts))
            self._peer.text("INFO", f"no image was made from {self.readouts} readouts")
        return self._end(JobState.COMPLETE)

    def _interrupted(self, cut: InputError) -> JobState:
        """Make what can be made of what came; say HOLD on it."""
        verdict = _incomplete(self.readouts, str(cut))
        self._found.append(verdict)
        reason = str(cut)
        assert self._prepared is not None
        try:
            for image in self._prepared.run.close():
                self._out(image.with_verdicts(verdict))
        except (ReconError, InputError) as error:
            reason = f"{reason}; the rest could not be reconstructed: {error}"
        self._peer.text("ERROR", reason)
        return self._end(JobState.INTERRUPTED, reason)

    def _nothing(self, closed: bool, cut: InputError | None) -> JobState | None:
        """Nothing was measured: a port probe, a garbled greeting, or a scan without readouts."""
        if cut is not None:
            raise cut
        if self.scan is not None or self._request is not None:
            got = "Close" if closed else "the end of the connection"
            raise DataError(f"job {self.job}", expected="readouts", got=got, action="repeat the scan")
        LOG.debug("job %s: %s said nothing", self.job, self._row.source)
        return None

    def _failed(self, reason: str) -> JobState | None:
        LOG.error("job %s failed: %s", self.job, reason)
        self._peer.text("ERROR", reason)
        try:
            if self.scan is None:
                return None
            self._open_job()
            return self._end(JobState.FAILED, reason)
        except IsocenterError as error:
            LOG.critical("job %s: not written down: %s", self.job, error)
            return JobState.FAILED

    def _open_job(self) -> None:
        """Write the job down, once."""
        if self._opened:
            return
        assert self.scan is not None
        row = self._row
        self._house.open_job(
            Job(
                job=row.job,
                scan_uid=self.scan.uid,
                modality=self.scan.modality,
                protocol=self.protocol,
                source=row.source,
                raw_path=row.raw_path,
            )
        )
        self._opened = True

    def _end(self, state: JobState, reason: str = "") -> JobState:
        """Wait until the images are durable, then write down the end: Close to the client means all this."""
        while self._pending:
            self._settle()
        if self._export_error is not None and state is not JobState.FAILED:
            state, reason = JobState.FAILED, f"{type(self._export_error).__name__}: {self._export_error}"
            self._peer.text("ERROR", f"images were made but not kept: {reason}")
        if self._peer.unreturned:
            self._found.append(_unreturned(self._peer.unreturned))
            self._peer.text("ERROR", f"{self._peer.unreturned} images could not be returned; they go to the archive")
        verdicts = [*self._found]
        if self._request is not None:
            verdicts += self._request.verdicts()
        if self._prepared is not None:
            verdicts += [*self._prepared.verdicts, *self._prepared.run.verdicts]
        said = {(v.check, v.level) for v in verdicts} | {(v.check, Level.PASS) for v in self._findings.worst()}
        verdicts += [v for v in self._findings.worst() if (v.check, v.level) not in said]
        self._house.finish_job(self.job, state, reason, verdicts)
        LOG.info("job %s: %s, %d readouts, %d images", self.job, state, self.readouts, self.images)
        return state


def _cut_short(readouts: int) -> ScanAbortedError:
    return ScanAbortedError(
        "end of stream",
        expected="Close, or the last readout of the measurement",
        got=f"the end after {readouts} readouts",
        action="check the connection to the scanner and repeat the scan",
    )


def _incomplete(readouts: int, evidence: str) -> Verdict:
    return Verdict(
        check="scan.complete",
        level=Level.HOLD,
        advice="The scan ended early: this image may lack data. Repeat the scan.",
        value=float(readouts),
        unit="readouts",
        evidence=evidence,
    )


def _no_image(readouts: int) -> Verdict:
    return Verdict(
        check="scan.images",
        level=Level.FLAG,
        advice="No image was made of this scan; right for a noise or adjustment scan, else check the protocol.",
        value=float(readouts),
        unit="readouts",
    )


def _unreturned(n: int) -> Verdict:
    return Verdict(
        check="scan.returned",
        level=Level.FLAG,
        advice="Some images did not go back to the scanner; find them in the archive.",
        value=float(n),
        unit="images",
    )


def _late_parameters() -> Verdict:
    return Verdict(
        check="scan.parameters",
        level=Level.FLAG,
        advice="Parameters that came after the first readout were not used.",
    )
