"""The recorder: every byte that a scanner sends, on disk while it arrives, until its images are safe elsewhere.

A recording is what makes a scan survive the death of the service: it is played again at the next start. It goes
through the page cache without waiting for the disk, so it outlives the process, not necessarily a power cut.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from integration.delivery.journal import Journal
from integration.delivery.spool import Spool
from integration.delivery.states import DeliveryState, JobState

LOG = logging.getLogger(__name__)

SUFFIX = ".mrd"
LARGEST_CLAIM = 4 << 30
"""A header's promise of more data than this is not believed when space is set aside [bytes]."""
MAX_REPLAYS = 3
"""A recording that was being played when the service died this many times is given up."""
_LOOPS = ("slice", "contrast", "phase", "repetition", "set", "average")


class Recording:
    """The file of one scan, growing.

    Parameters
    ----------
    path
        Made with the first byte.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.written, self.claim = path, 0, 0
        self.fault = ""
        self._fd: int | None = None
        self._closed, self._lock = False, threading.Lock()

    def write(self, view: memoryview) -> None:
        """Append bytes; none once it is closed. A disk that fails ends the recording, not the scan."""
        with self._lock:
            if self.fault or self._closed:
                return
            try:
                self._append(view)
            except OSError as error:
                self.fault = str(error)
                LOG.error("recording %s ends early, the scan goes on: %s", self.path.name, error)

    def _append(self, view: memoryview) -> None:
        if self._fd is None:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        while view:
            n = os.write(self._fd, view)
            self.written += n
            view = view[n:]

    def close(self) -> None:
        """Keep what has come; whoever still writes, writes nothing."""
        with self._lock:
            self._closed = True
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def verdicts(self) -> tuple[Verdict, ...]:
        """Return what went wrong with it."""
        if not self.fault:
            return ()
        return (
            Verdict(
                check="scan.recording",
                level=Level.FLAG,
                advice="Raw data could not be kept; check the disk of the reconstruction computer.",
                evidence=f"after {self.written} bytes: {self.fault}",
            ),
        )


class Recorder:
    """The folder of recordings, and the guard of the disk.

    Parameters
    ----------
    directory
        Made if it is not there.
    spool
        On the same disk; its reserve stays free.
    """

    def __init__(self, directory: Path, spool: Spool) -> None:
        self.directory, self._spool = directory, spool
        self._running: dict[str, Recording] = {}
        self._lock = threading.Lock()
        directory.mkdir(parents=True, exist_ok=True)

    def path(self, job: str) -> Path:
        """Return where the recording of `job` lies, or would."""
        return self.directory / f"{job}{SUFFIX}"

    @contextmanager
    def record(self, job: str) -> Iterator[Recording]:
        """Give a recording that is closed at the end."""
        recording = Recording(self.path(job))
        with self._lock:
            self._running[job] = recording
        try:
            yield recording
        finally:
            with self._lock:
                del self._running[job]
            recording.close()

    def admit(self, job: str = "", n_bytes: int = 0) -> None:
        """Make sure that a scan of `n_bytes` fits beside those that run, and set the space aside for it.

        Raises
        ------
        StorageFullError
            It does not.
        """
        with self._lock:
            others = [r for name, r in self._running.items() if name != job]
            self._spool.require(n_bytes + sum(max(0, r.claim - r.written) for r in others))
            if job in self._running:
                self._running[job].claim = n_bytes

    def verdicts(self, job: str) -> tuple[Verdict, ...]:
        """Return what went wrong with the recording of a running scan."""
        with self._lock:
            recording = self._running.get(job)
        return recording.verdicts() if recording is not None else ()

    def discard(self, job: str) -> None:
        """Remove a recording; one that is not there is no error."""
        for path in (self.path(job), self._tries(job)):
            path.unlink(missing_ok=True)

    def recordings(self) -> list[str]:
        """Return the jobs that have one and are not running, oldest first."""
        with self._lock:
            running = set(self._running)
        found = sorted(self.directory.glob(f"*{SUFFIX}"), key=lambda p: p.stat().st_mtime)
        return [p.stem for p in found if p.stem not in running]

    def try_again(self, job: str) -> bool:
        """Note down one more attempt to play a recording; False when it has brought the service down too often."""
        path = self._tries(job)
        with path.open("ab") as file:
            file.write(b".")
        return path.stat().st_size <= MAX_REPLAYS

    def tidy(self, journal: Journal, *, retention_s: float) -> list[str]:
        """Remove recordings whose images every destination vouches for; return their jobs.

        What was interrupted, or has nowhere to go, stays for `retention_s`; what failed stays until a person
        removes it.
        """
        gone = [job for job in self.recordings() if self._spent(journal, job, retention_s)]
        for job in gone:
            self.discard(job)
        return gone

    def _spent(self, journal: Journal, job: str, retention_s: float) -> bool:
        row = journal.job(job)
        if row is None or row.finished_at is None or row.state not in (JobState.COMPLETE, JobState.INTERRUPTED):
            return False
        states = {d.state for d in journal.deliveries(job)}
        old = time.time() - row.finished_at > retention_s
        if states - {DeliveryState.COMMITTED}:
            return False
        return old or (row.state is JobState.COMPLETE and bool(states))

    def _tries(self, job: str) -> Path:
        return self.directory / f"{job}.tries"


def expected_bytes(scan: Scan) -> int:
    """Return about how much raw data the header of `scan` promises [bytes], at most `LARGEST_CLAIM`."""
    if scan.mr is None:
        return 0
    coils = scan.equipment.n_coils or 1
    total = 0.0
    for encoding in scan.mr.encodings:
        loops = prod(encoding.limit(name).maximum + 1 for name in _LOOPS)
        total += 8.0 * coils * prod(encoding.matrix) * loops / max(1.0, prod(encoding.acceleration))
    return int(min(total, LARGEST_CLAIM))
