"""What the exams of the demonstration without MRD share: a scanner that keeps its pace, and who watches it.

The scanner's data come from within the process, or where the service has a raw stream, through that; from the session
on, everything is the service's own: protocol by the header, gate, journal, spool, sender process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from acquisition.items import Events, Image, Projections
from acquisition.scan import Scan
from acquisition.sources.mrd_wire import Close, ConfigFile
from acquisition.verdict import Verdict
from integration.delivery.destination import Destination
from integration.demo import ARCHIVE, House, delivered
from integration.doors.incoming import Incoming
from integration.doors.mailbox import Mailbox
from integration.doors.request import AUTO
from integration.doors.stream.client import StreamClient
from integration.doors.stream.messages import Line, Opened, Returned
from integration.house import new_job
from integration.protocol import Library
from integration.rooms import rooms
from integration.service import Plan, Service
from integration.timeline import Moments

Tell = Callable[[str], None]
Watch = Callable[[Image, int], str]
"""Puts an image that has been made, and how many objects the archive has, into words; empty: nothing to tell."""

_RING_BYTES = 64 << 20
NAME = "archive"
"""The archive's name among the destinations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a virtual scanner has measured, before the first of it is delivered."""

    source: str
    """The scanner, for the journal."""
    scan: Scan
    """The header."""
    items: Sequence[Incoming]
    """All that it delivers, in order; what has no time of its own is known before the scan."""
    lead_s: float = 0.0
    """Time from what is known before the scan to its begin [s]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """One exam, delivered and followed into the archive."""

    row: Any
    """What the status page says of it."""
    verdicts: list[Verdict]
    """Findings that belong to single images."""
    troubles: list[str]
    """What has gone wrong."""
    started_s: float
    """When the scan began; time.monotonic() [s]."""
    ended_s: float
    """When it had delivered all; time.monotonic() [s]."""
    archived: list[Moments]
    """The images that the archive has."""

    def answered_s(self, *outputs: str) -> list[float]:
        """Return when the archive answered to the last slice of each image; of these outputs only, if some are named.

        In the order in which they were made; time.monotonic() [s].
        """
        return [m.archived_s[NAME] for m in self._of(outputs)]

    def sop_uids(self, *outputs: str) -> set[str]:
        """Return the SOPInstanceUIDs of the images that the archive has; of these outputs only, if some are named."""
        return {uid for m in self._of(outputs) for uid in m.sop_uids}

    def _of(self, outputs: Sequence[str]) -> list[Moments]:
        return [m for m in self.archived if m.output in outputs or not outputs]


@contextmanager
def serving(place: House, folder: str, *, stream_port: int | None = None) -> Iterator[tuple[House, Service]]:
    """Run a service of our own beside the house's archive; give the house with this one's status page.

    A house whose service runs in this process takes the exam itself.

    Parameters
    ----------
    place
        Where the archive is.
    folder
        Name of the service's folder.
    stream_port
        Port of its raw stream; 0: a free one, None: it has none, and scans come from within the process.
    """
    if place.service is not None:
        yield place, place.service
        return
    archive = Destination(name=NAME, host="127.0.0.1", port=place.archive_port, ae_title=ARCHIVE)
    data = place.archive.parent / folder
    plan = Plan(data=data, mrd_port=0, http_port=0, stream_port=stream_port, destinations=(archive,))
    with Service(plan, rooms(Library())) as service:
        yield replace(place, http_port=service.http_port or 0), service


def follow(place: House, service: Service, measured: Measured, *, speed: float, tell: Tell, watch: Watch) -> Followed:
    """Let the scanner deliver until all images are in the archive.

    Parameters
    ----------
    place
        The service's status page.
    service
        The service.
    measured
        What is delivered.
    speed
        Times the scanner's pace.
    tell
        Told one line for each thing that happens.
    watch
        Puts images into words.
    """
    console = Console(service, new_job(), tell=tell, watch=watch)
    machine = Gantry(measured, speed=speed, on_end=console.still)
    machine.start()
    tell(f"the scanner runs; status page {place.page}")
    try:
        _deliver(service, machine, console, source=measured.source)
    finally:
        machine.stop()
    row = delivered(place, console.job)
    moments = service.house.timeline.of(console.job, service.console.deliveries(console.job))
    return Followed(
        row=row,
        verdicts=list(console.verdicts),
        troubles=console.troubles,
        started_s=machine.started_s,
        ended_s=machine.ended_s,
        archived=[m for m in moments if NAME in m.archived_s],
    )


def _deliver(service: Service, machine: Gantry, console: Console, *, source: str) -> None:
    """Let the service take what the scanner delivers, through its raw stream if it has one."""
    if service.stream_port is None:
        service.house.take(console.job, machine.box, source=source, peer=console)
        return
    address = f"tcp://127.0.0.1:{service.stream_port}"
    with StreamClient(address, ring_bytes=_RING_BYTES, on_answer=console.hear) as client:
        client.send(machine.box)


class Gantry(threading.Thread):
    """Delivers what was measured when it is due, whether or not anyone keeps up.

    Parameters
    ----------
    measured
        What is delivered.
    speed
        Times the pace that the items' own times tell.
    on_end
        Told when the last item has been delivered.
    """

    def __init__(self, measured: Measured, *, speed: float, on_end: Callable[[], None] = lambda: None) -> None:
        super().__init__(name="gantry", daemon=True)
        self.box: Mailbox[Incoming] = Mailbox(0)
        """What the scanner says."""
        self.started_s = self.ended_s = 0.0
        """When the scan began and when its last item was delivered; time.monotonic() [s]."""
        self._measured, self._speed = measured, speed
        self._on_end, self._stopping = on_end, threading.Event()

    def run(self) -> None:
        """Deliver everything once."""
        self.box.put(ConfigFile(AUTO))
        self.box.put(self._measured.scan)
        self.started_s = time.monotonic() + self._measured.lead_s / self._speed
        for item in self._measured.items:
            if not isinstance(item, Projections | Events):
                self.box.put(item)
                continue
            due = self.started_s + due_s(item) / self._speed
            if self._stopping.wait(max(0.0, due - time.monotonic())):
                break
            self.box.put(replace(item, received_s=time.monotonic()))
        self.ended_s = time.monotonic()
        self.box.put(Close())
        self.box.close()
        self._on_end()

    def stop(self) -> None:
        """Stand still, and wait until it does."""
        self._stopping.set()
        self.box.discard()
        self.join()


def due_s(item: Projections | Events) -> float:
    """Return when the scanner has all of an item, after the begin of the scan [s]."""
    return item.stop_s if isinstance(item, Events) else float(item.head["time_s"][-1])


class Console:
    """Who hears of the scan: the person who watches the demonstration.

    Parameters
    ----------
    service
        Where the images are delivered from.
    job
        The scan.
    tell
        Told one line for each thing that happens.
    watch
        Puts images into words.
    """

    unreturned = 0

    def __init__(self, service: Service, job: str, *, tell: Tell, watch: Watch) -> None:
        self.job, self.verdicts, self.troubles = job, dict[Verdict, None](), list[str]()
        self._service, self._tell, self._watch = service, tell, watch

    def still(self) -> None:
        """Tell that the scanner stands still."""
        self._tell(f"the scanner stands still; {self._archived()} slices are in the archive")

    def image(self, image: Image, sent: Callable[[], None] | None = None) -> None:
        """Tell of an image."""
        self.verdicts |= dict.fromkeys(image.verdicts)
        if line := self._watch(image, self._archived()):
            self._tell(line)

    def text(self, level: str, line: str) -> None:
        """Tell what is said."""
        self._tell(f"{level}: {line}")
        if level == "ERROR":
            self.troubles.append(line)

    def hear(self, message: Opened | Returned | Line | object) -> None:
        """Take what the raw stream says."""
        match message:
            case Opened(job=job):
                self.job = job
            case Returned(image=image):
                self.image(image)
            case Line(level=level, text=line):
                self.text(level, line)

    def _archived(self) -> int:
        return sum(d.sent_at is not None for d in self._service.console.deliveries(self.job))
