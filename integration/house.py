"""The house: what all scans share. It answers calls, plays recordings again, and makes images durable.

Export (DICOM, spool, journal) has one thread for all scans, behind the pixels that go back to the scanner.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from typing import Any

from acquisition.errors import IsocenterError, StorageFullError
from acquisition.items import Image
from acquisition.scan import Scan
from acquisition.verdict import Verdict
from integration.console.gallery import Gallery
from integration.delivery.journal import Journal
from integration.delivery.rows import Job
from integration.delivery.states import JobState
from integration.doors.incoming import Incoming, read_incoming
from integration.doors.mrd_call import Call, CallLimits
from integration.doors.request import Request
from integration.doors.stream.call import StreamCall
from integration.doors.stream.reader import MAGIC, read_recorded
from integration.recorder import Recorder, expected_bytes
from integration.session import Nobody, Peer, Prepared, Session
from integration.timeline import Moments, Timeline

LOG = logging.getLogger(__name__)

Export = Callable[[Image], Sequence[str]]
"""Makes an image durable and queues it for its destinations; returns the SOP instance UIDs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """The rooms behind this one, as functions, so that each can be replaced in a test."""

    prepare: Callable[[Request, Scan, str], Prepared]
    """Chooses the reconstruction of a job."""
    exporter: Callable[[Scan, str], Export]
    """Makes the exporter of a job."""
    finish: Callable[[str, Sequence[Verdict]], None] = lambda job, verdicts: None
    """Told that a job makes no more images, and what was found."""
    adopt: Callable[[], object] = lambda: None
    """Queues what lies in the spool although nobody knows it; called once, after the replays."""
    expected: Callable[[], None] = lambda: None
    """Told that a scan has begun, so that there will be something to deliver."""
    exported: Callable[[], None] = lambda: None
    """Told that there is something to deliver."""
    protocols: Sequence[dict[str, Any]] = ()
    """What can be reconstructed, for people."""
    close: Callable[[], None] = lambda: None
    """Told that no scan comes any more."""


class House:
    """All scans of one service.

    Parameters
    ----------
    journal
        The durable record.
    recorder
        Keeps the raw data.
    hooks
        The other rooms.
    gallery
        Keeps pictures for the console; None: nobody looks.
    """

    def __init__(self, journal: Journal, recorder: Recorder, hooks: Hooks, *, gallery: Gallery | None = None) -> None:
        self.journal, self.recorder, self.hooks = journal, recorder, hooks
        self.timeline, self.gallery = Timeline(), gallery or Gallery()
        self.recovered = threading.Event()
        self._live: dict[str, Session] = {}
        self._exporters: dict[str, Export] = {}
        self._exports = ThreadPoolExecutor(1, "export")
        self._replaying = ""
        self._left: list[str] = []
        self._prepared: dict[str, Prepared] = {}

    # Scans

    def attend(self, call: Call | StreamCall, job: str = "") -> Job | None:
        """Talk to one client: one scan. Return its row of the journal, None if there was no scan.

        Parameters
        ----------
        call
            The client.
        job
            Name of the scan; empty: a new one.
        """
        try:
            self.recorder.admit()
        except StorageFullError as error:
            LOG.error("%s: refused: %s", call.name, error)
            call.text("ERROR", str(error))
            return None
        job = job or new_job()
        with self.recorder.record(job) as recording:
            row = _row(job, source=call.name, raw_path=str(recording.path))
            with self._session(row, call) as session:
                session.run(call.incoming(recording.write))
        if not session.begun:
            self.recorder.discard(job)
        return self.journal.job(job)

    def take(self, job: str, incoming: Iterable[Incoming], *, source: str, peer: Peer) -> JobState | None:
        """Take one scan from within this process; nobody records it. Return how it ended."""
        with self._session(_row(job, source=source, raw_path=""), peer) as session:
            return session.run(incoming)

    def sessions(self) -> list[Session]:
        """Return the scans that run now."""
        return list(self._live.values())

    def live(self) -> list[dict[str, object]]:
        """Return the progress of the scans that run now."""
        return [
            {
                "job": session.job,
                "scan": session.scan.uid if session.scan else "",
                "protocol": session.protocol,
                "readouts": session.readouts,
                "images": session.images,
            }
            for session in self.sessions()
        ]

    def close(self) -> None:
        """Finish what is being exported."""
        self.recovered.set()
        self._exports.shutdown()
        self.hooks.close()

    # Recovery

    def begin_recovery(self) -> None:
        """Note what a service before us left unfinished; call it before clients are let in.

        Until `recover` is through, new images wait to be exported: what lies in the spool would else be taken
        for something that the dead service left.
        """
        known = {row.job for row in self.journal.unfinished_jobs()}
        strays = [job for job in self.recorder.recordings() if self.journal.job(job) is None]
        self._left = [*sorted(known), *strays]
        self._exports.submit(self.recovered.wait)

    def recover(self) -> None:
        """Play the recordings of unfinished jobs again, then adopt what lies in the spool."""
        try:
            for job in self._left:
                self.replay(job)
            self.hooks.adopt()
        finally:
            self._left = []
            self.recovered.set()

    def replay(self, job: str) -> JobState:
        """Reconstruct a job anew from its recording; the images have the same UIDs as the first time."""
        path = self.recorder.path(job)
        if not path.exists():
            return self._give_up(job, "the service was stopped and there is no recording of this scan")
        if not self.recorder.try_again(job):
            return self._give_up(job, "the service died each time this recording was played")
        LOG.warning("job %s: played again from its recording, %d bytes", job, path.stat().st_size)
        row, self._replaying = _row(job, source="recording", raw_path=str(path)), job
        try:
            with self._session(row, Nobody()) as session, path.open("rb", buffering=0) as file:
                state = session.run(_recorded(file))
        finally:
            self._replaying = ""
        if state is None or not session.begun:
            state = self._give_up(job, "the recording holds no scan")
        return state

    def _give_up(self, job: str, reason: str) -> JobState:
        LOG.error("job %s: %s", job, reason)
        row = self.journal.job(job)
        if row is None:
            self.recorder.discard(job)
        elif row.state is JobState.RECEIVING:
            self.journal.finish_job(job, JobState.FAILED, reason=reason)
        return JobState.FAILED

    # What a session needs (session.House)

    def admit(self, job: str, scan: Scan) -> None:
        """Raise StorageFullError unless there is room for `scan`."""
        if job != self._replaying:
            self.recorder.admit(job, expected_bytes(scan))
            self.hooks.expected()

    def prepare(self, request: Request, scan: Scan, job: str) -> Prepared:
        """Choose the reconstruction."""
        prepared = self._prepared[job] = self.hooks.prepare(request, scan, job)
        self.gallery.meet(job, scan, prepared.plans)
        return prepared

    def found(self, job: str) -> list[Verdict]:
        """Return what has been found of a scan that runs, so far."""
        prepared = self._prepared.get(job)
        return [*prepared.verdicts, *prepared.run.verdicts] if prepared else []

    def open_job(self, row: Job) -> None:
        """Write down that a scan has begun."""
        self.journal.open_job(row)

    def finish_job(self, job: str, state: JobState, reason: str, verdicts: Iterable[Verdict]) -> None:
        """Write down how it ended, once all that it made is durable."""
        found = [*verdicts, *self.recorder.verdicts(job)]
        if job == self._replaying:
            self.hooks.finish(job, found)
        else:
            self._exports.submit(self.hooks.finish, job, found).result()
            self.hooks.exported()
        self.journal.finish_job(job, state, reason=reason, verdicts=found)

    def made(self, job: str, image: Image) -> Moments:
        """Note the time at which an image was ready."""
        return self.timeline.made(job, image)

    def export(self, job: str, scan: Scan, image: Image, moments: Moments) -> Future[None]:
        """Make an image durable: in the export thread, or at once when a recording is played."""
        if job != self._replaying:
            return self._exports.submit(self._export, job, scan, image, moments)
        done: Future[None] = Future()
        try:
            self._export(job, scan, image, moments)
        except IsocenterError as error:
            done.set_exception(error)
        else:
            done.set_result(None)
        return done

    def _export(self, job: str, scan: Scan, image: Image, moments: Moments) -> None:
        if job not in self._exporters:
            self._exporters[job] = self.hooks.exporter(scan, job)
        try:
            moments.note_spooled(self._exporters[job](image))
            self.hooks.exported()
        finally:
            self.gallery.add(job, scan, image)  # behind everything that somebody waits for

    @contextmanager
    def _session(self, row: Job, peer: Peer) -> Iterator[Session]:
        """Give the session of one scan, which the status page sees as long as it lasts."""
        session = Session(row, house=self, peer=peer)
        self._live[row.job] = session
        try:
            yield session
        finally:
            self._live.pop(row.job, None)
            self._exporters.pop(row.job, None)
            self._prepared.pop(row.job, None)


def _recorded(file: FileIO) -> Iterator[Incoming]:
    """Yield what a recording says, whichever door it came in by."""

    def receive(view: memoryview) -> int:
        return file.readinto(view) or 0

    if file.read(len(MAGIC)) == MAGIC:
        return read_recorded(receive, CallLimits().inbox_bytes)
    file.seek(0)
    return read_incoming(receive)


def new_job() -> str:
    """Return a new identifier: when it began, and chance."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"


def _row(job: str, *, source: str, raw_path: str) -> Job:
    return Job(job=job, scan_uid="", modality="", protocol="", source=source, raw_path=raw_path)
