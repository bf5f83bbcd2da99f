"""The service: the MRD door, the house behind it, the sender process and the status page, started and stopped as one.

::

    DATA/journal.sqlite   what came in, what was made of it, how far it has come
    DATA/raw/             recordings of scans whose images are not yet safe elsewhere
    DATA/spool/           DICOM files on their way
"""

from __future__ import annotations

import fcntl
import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from acquisition.errors import IsocenterError, SetupError
from integration.answers import Counter, Outcome, tidy
from integration.console.gallery import Gallery
from integration.delivery.answers import Answer
from integration.delivery.destination import Destination
from integration.delivery.journal import Journal
from integration.delivery.sender import SenderProcess
from integration.delivery.spool import Spool
from integration.doors.http import StatusPage
from integration.doors.mrd_call import Call, CallLimits
from integration.doors.mrd_server import MrdServer
from integration.doors.stream.call import StreamCall
from integration.doors.stream.server import Keys, StreamServer
from integration.house import Hooks, House, new_job
from integration.recorder import Recorder

LOG = logging.getLogger(__name__)

HOUSEKEEPING_S = 2.0
"""How often recordings that have served are looked for [s]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a service is told at its start."""

    data: Path
    """Folder of journal, recordings and spool."""
    host: str = "127.0.0.1"
    """Address to listen at."""
    mrd_port: int = 9002
    """Port for scanners; 0: a free one."""
    http_port: int | None = 8080
    """Port of the status page; 0: a free one, None: no page."""
    stream_port: int | None = None
    """Port of the raw stream; 0: a free one, None: no such door."""
    stream_keys: Keys | None = None
    """CURVE keys of the raw stream; None: it opens on the loopback address only."""
    destinations: tuple[Destination, ...] = ()
    """Where images go."""
    limits: CallLimits = field(default_factory=CallLimits)
    """Patience and memory for one client."""
    reserve_bytes: int = 2 << 30
    """Space that is left free on the disk [bytes]."""
    retention_s: float = 7 * 86400.0
    """How long recordings are kept whose images no archive vouches for [s]."""
    workers: int = 0
    """Processes that run networks beside the conventional reconstruction; 0: they run in the scan's own thread."""
    drain_s: float = 30.0
    """How long running scans may go on when the service is stopped [s]."""
    picture_bytes: int = 0
    """Memory for the pictures of the console page [bytes]; 0: no console, only the status page."""


Rooms = Callable[[Plan, Journal, Spool], Hooks]
"""Makes the hooks of a service: how to reconstruct and to export."""


class Service:
    """One reconstruction computer: `start`, `run` until told to stop, `stop`.

    Parameters
    ----------
    plan
        Folders, ports, destinations.
    rooms
        How to reconstruct and to export.

    Raises
    ------
    SetupError
        Another service uses the folder.
    DeliveryError
        The journal is damaged.
    """

    def __init__(self, plan: Plan, rooms: Rooms) -> None:
        self.plan, self.started_s = plan, time.monotonic()
        plan.data.mkdir(parents=True, exist_ok=True)
        self._lock = _claim(plan.data / "service.lock")
        self.spool = Spool(plan.data / "spool", reserve_bytes=plan.reserve_bytes)
        self.journal = Journal(plan.data / "journal.sqlite")
        self.console = Journal(plan.data / "journal.sqlite")  # its own connection: looking never delays an image
        self.recorder = Recorder(plan.data / "raw", self.spool)
        self.counter = Counter(plan.data, self.console, self.spool, destinations=plan.destinations)
        hooks = rooms(plan, self.journal, self.spool)
        self.sender = SenderProcess(plan.data, plan.destinations)
        gallery = Gallery(plan.picture_bytes)
        self.house = House(self.journal, self.recorder, _waking(hooks, self.sender), gallery=gallery)
        self.server = MrdServer(self._attend, plan.limits)
        self.stream = (
            None
            if plan.stream_port is None
            else StreamServer(self._hear, new_job, limits=plan.limits, keys=plan.stream_keys)
        )
        self.page = None if plan.http_port is None else StatusPage(self)
        self._recovery = threading.Thread(target=self.house.recover, name="recovery", daemon=True)

    @property
    def mrd_port(self) -> int:
        """Port at which scanners are heard."""
        return self.server.port

    @property
    def stream_port(self) -> int | None:
        """Port of the raw stream."""
        return None if self.stream is None else self.stream.port

    @property
    def http_port(self) -> int | None:
        """Port of the status page."""
        return None if self.page is None else self.page.port

    def start(self) -> None:
        """Start everything; scanners are heard when it returns.

        Raises
        ------
        SetupError
            A port is taken, or the sender cannot be started; nothing is left running.
        """
        with ExitStack() as undo:
            undo.callback(self._release)
            self.sender.start()
            undo.callback(self.sender.stop)
            self.house.begin_recovery()
            undo.callback(self.house.close)
            if self.page is not None:
                self.page.start(self.plan.host, self.plan.http_port or 0)
                undo.callback(self.page.stop)
            self.server.start(self.plan.host, self.plan.mrd_port)
            if self.stream is not None:
                undo.callback(self.server.stop, 0.0)
                self.stream.start(self.plan.host, self.plan.stream_port or 0)
            self._recovery.start()
            undo.pop_all()
        LOG.info("listening for scanners at %s:%d, data in %s", self.plan.host, self.mrd_port, self.plan.data)

    def run(self, stopping: threading.Event) -> None:
        """Keep house until `stopping` is set."""
        while not stopping.wait(HOUSEKEEPING_S):
            self.keep_house()

    def keep_house(self) -> None:
        """Remove recordings that have served."""
        try:
            gone = self.recorder.tidy(self.console, retention_s=self.plan.retention_s)
            tidy(self.plan.data, retention_s=self.plan.retention_s)
        except (IsocenterError, OSError):
            LOG.exception("recordings cannot be tidied for now")
            return
        if gone:
            LOG.info("recordings removed, their images are safe: %s", ", ".join(gone))

    def stop(self) -> None:
        """Let running scans end, export what they made, then stop everything."""
        LOG.info("stopping; running scans may end within %.0f s", self.plan.drain_s)
        self.server.stop(self.plan.drain_s)
        if self.stream is not None:
            self.stream.stop(self.plan.drain_s)
        self._recovery.join(self.plan.drain_s)
        self.house.close()
        if self.page is not None:
            self.page.stop()
        self.sender.stop()
        self.keep_house()
        self._release()

    def troubles(self) -> list[str]:
        """Return why the service is not ready for a scan; empty when it is."""
        found = []
        if not self.server.listening:
            found.append("the MRD door is closed")
        if self.stream is not None and not self.stream.listening:
            found.append("the raw stream is closed")
        if not self.sender.alive:
            found.append("the sender process is not running")
        try:
            self.recorder.admit()
        except IsocenterError as error:
            found.append(str(error))
        return found

    def resend(self, destination: str | None, job: str | None = None) -> int:
        """Queue dead letters again; return how many."""
        n = self.console.resend(destination=destination, job=job)
        self.sender.probe()
        return n

    def answer(self, answer: Answer) -> Outcome:
        """Write down a person's answer to a scan and do what follows.

        Raises
        ------
        ConfigError
            There is no such scan, it is not over, or nobody signs.
        """
        outcome = self.counter.give(answer)
        self.sender.wake()
        return outcome

    def __enter__(self) -> Service:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _attend(self, call: Call) -> None:
        """Take one scan over MRD."""
        self.house.attend(call)

    def _hear(self, call: StreamCall) -> None:
        """Take one scan from the raw stream."""
        call.end(self.house.attend(call, call.job))

    def _release(self) -> None:
        self.journal.close()
        self.console.close()
        self._lock.close()


def _waking(hooks: Hooks, sender: SenderProcess) -> Hooks:
    """Return the hooks with the sender told of each scan that begins and woken after each export."""

    def expected() -> None:
        hooks.expected()
        sender.expect()

    def exported() -> None:
        hooks.exported()
        sender.wake()

    return replace(hooks, expected=expected, exported=exported)


def _claim(path: Path) -> IO[str]:
    """Hold the folder's lock: one service at a time. The kernel frees it when its holder dies."""
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise SetupError(
            f"data folder {path.parent}",
            expected="no other service",
            got="one at work",
            action="stop it, or give this one another folder with --data",
        ) from None
    return file
