"""The CT part of the demonstration: slices reach the archive while the virtual gantry still turns.

There is no raw stream for CT yet, so views come from within the process; from the session on, everything is the
service's own: protocol by the header, gate, journal, spool, sender process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain

import torch

from acquisition.items import Image, Projections
from acquisition.scan import Scan, Study
from acquisition.sources.mrd_wire import Close, ConfigFile
from acquisition.sources.phantom.ct import CtExam, CtSimulation, gantry
from acquisition.sources.phantom.ct_faults import CtFaults
from acquisition.sources.phantom.ct_people import person
from acquisition.verdict import Verdict
from integration.delivery.destination import Destination
from integration.demo import ARCHIVE, House, Outcome, delivered, outcome
from integration.doors.incoming import Incoming
from integration.doors.mailbox import Mailbox
from integration.doors.request import AUTO
from integration.export import series_of
from integration.house import new_job
from integration.protocol import Library
from integration.rooms import rooms
from integration.runner import Run
from integration.service import Plan, Service
from integration.settings import default_threads
from integration.timeline import percentiles
from kernels.memory import keep_memory
from recon.ct.checks import PLANNED

Tell = Callable[[str], None]

LAST_SLICE = "last slice"
"""Station: from the last view of the scan to the archive's answer to its last slice."""
_NAME = "archive"
_PROTOCOL = "ct_helical_chest"
_SEED = 4
_BLOCK = 16  # views that the gantry delivers together
_OVERRANGE = 1.0  # rotations at either end that give no slice
_TOLD = 5  # a line for every so many slices


def demo_exam() -> CtExam:
    """Return the exam of the demonstration: 15 cm of chest at 15 mm per rotation of 1 s, 16 rows."""
    turns, feed_mm = 10.0, 15.0
    return CtExam(
        ct=gantry(rotation_s=1.0),
        turns=turns,
        feed_mm=feed_mm,
        start_z_mm=-turns * feed_mm / 2,
        photons=2e5,
        electronic=8.0,
        modulation=0.3,
        faults=CtFaults(gain_sd=0.002),
    )


def ct_exam(place: House, *, exam: CtExam | None = None, speed: float = 1.0, tell: Tell = lambda line: None) -> Outcome:
    """Let the gantry turn around a chest, and follow the slices into the archive.

    Parameters
    ----------
    place
        Where the archive is.
    exam
        What is measured; `demo_exam` when None.
    speed
        Times the gantry's pace.
    tell
        Told one line for each thing that happens.
    """
    keep_memory()
    torch.set_num_threads(default_threads())
    simulation = CtSimulation(exam or demo_exam(), person("chest", _SEED))
    tell("the virtual CT scanner measures a chest")
    with ThreadPoolExecutor(1, "warm-up") as pool:  # all before the first is sent: the scanner must not be what is slow
        warm = pool.submit(warm_up)
        blocks = _simulated(simulation, tell)
        warm.result()
    archive = Destination(name=_NAME, host="127.0.0.1", port=place.archive_port, ae_title=ARCHIVE)
    plan = Plan(data=place.archive.parent / "service-ct", mrd_port=0, http_port=0, destinations=(archive,))
    with Service(plan, rooms(Library())) as service:
        at = replace(place, http_port=service.http_port or 0)
        return _followed(at, service, measured=(header(simulation), blocks), speed=speed, tell=tell)


def header(simulation: CtSimulation) -> Scan:
    """Return the header, with what the console adds: the body part and the range that was planned."""
    z, beyond = simulation.head["z_mm"], _OVERRANGE * simulation.exam.feed_mm
    planned = (float(z[0]) + beyond, float(z[-1]) - beyond)
    return replace(
        simulation.scan,
        protocol_name="chest_helical",
        study=Study(description="Virtual chest", body_part="CHEST"),
        user_parameters=dict(zip(PLANNED, planned, strict=True)),
    )


def warm_up() -> None:
    """Put a small scan through every room: no patient waits for a compiler or an import."""
    small = gantry(n_rows=8, centre=(3.5, 45.75), n_channels=92, pitch_mm=(2.1894, 10.2864), views_per_rotation=96)
    simulation = CtSimulation(CtExam(ct=small, turns=3, feed_mm=6.0))
    work = Run(simulation.scan, Library()[_PROTOCOL].with_changes({"ct.helical.matrix": 32}))
    work.open()
    series = series_of(simulation.scan, "warm-up")
    for image in chain(chain.from_iterable(map(work.feed, simulation.projections())), work.close()):
        series.instances(image)


def _simulated(simulation: CtSimulation, tell: Tell) -> list[Projections]:
    blocks, told = list[Projections](), time.monotonic()
    n, exam = len(simulation.head), simulation.exam
    for block in simulation.projections(block=_BLOCK):
        blocks.append(block)
        if time.monotonic() - told > 2.0:
            told = time.monotonic()
            tell(f"simulated {block.head['view'][-1] + 1} of {n} views")
    tell(
        f"{n} views of {exam.ct.n_rows} x {exam.ct.n_channels} elements, {exam.turns:g} rotations of "
        f"{exam.ct.rotation_s or 0.5:g} s, the table moves {exam.feed_mm:g} mm in each"
    )
    return blocks


def _followed(
    place: House, service: Service, *, measured: tuple[Scan, Sequence[Projections]], speed: float, tell: Tell
) -> Outcome:
    """Let the gantry turn until all slices are in the archive."""
    console = _Console(service, new_job(), tell)
    machine = Gantry(*measured, speed=speed, on_end=console.still)
    machine.start()
    tell(f"the gantry turns; status page {place.page}")
    try:
        service.house.take(console.job, machine.box, source="virtual CT scanner", peer=console)
    finally:
        machine.stop()
    row = delivered(place, console.job)
    answered = [
        moments.archived_s[_NAME]
        for moments in service.house.timeline.of(console.job, service.console.deliveries(console.job))
        if _NAME in moments.archived_s
    ]
    row["latency_ms"][LAST_SLICE] = percentiles([1e3 * (max(answered) - machine.ended_s)] if answered else [])
    return outcome(place, row, scan=measured[0], verdicts=console.verdicts, troubles=console.troubles)


class Gantry(threading.Thread):
    """Delivers views when they are due, whether or not anyone keeps up.

    Parameters
    ----------
    scan
        The header.
    blocks
        All views.
    speed
        Times the pace that the views' own times tell.
    on_end
        Told when the last view has been delivered.
    """

    def __init__(
        self, scan: Scan, blocks: Sequence[Projections], *, speed: float, on_end: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(name="gantry", daemon=True)
        self.box: Mailbox[Incoming] = Mailbox(0)
        """What the scanner says."""
        self.ended_s = 0.0
        """When the last view was delivered; time.monotonic() [s]."""
        self._scan, self._blocks, self._speed = scan, blocks, speed
        self._on_end, self._stopping = on_end, threading.Event()

    def run(self) -> None:
        """Turn once through the scan."""
        self.box.put(ConfigFile(AUTO))
        self.box.put(self._scan)
        start = time.monotonic()
        for block in self._blocks:
            due = start + float(block.head["time_s"][-1]) / self._speed
            if self._stopping.wait(max(0.0, due - time.monotonic())):
                break
            self.box.put(replace(block, received_s=time.monotonic()))
        self.ended_s = time.monotonic()
        self.box.put(Close())
        self.box.close()
        self._on_end()

    def stop(self) -> None:
        """Stand still, and wait until it does."""
        self._stopping.set()
        self.box.discard()
        self.join()


class _Console:
    """Who hears of the scan: the person who watches the demonstration."""

    unreturned = 0

    def __init__(self, service: Service, job: str, tell: Tell) -> None:
        self.job, self.verdicts, self.troubles = job, dict[Verdict, None](), list[str]()
        self._service, self._tell = service, tell

    def still(self) -> None:
        """Tell that the gantry stands still."""
        self._tell(f"the gantry stands still; {self._archived()} slices are in the archive")

    def image(self, image: Image, sent: Callable[[], None] | None = None) -> None:
        """Tell of a slice."""
        self.verdicts |= dict.fromkeys(image.verdicts)
        n = image.position.slice + 1
        if n % _TOLD == 0:
            waited_ms = 1e3 * (time.monotonic() - image.last_readout_s)
            place = f"slice {n} at z = {image.grid.origin_mm[2]:.0f} mm"
            self._tell(f"{place}: made {waited_ms:.0f} ms after its last view; {self._archived()} in the archive")

    def text(self, level: str, line: str) -> None:
        """Tell what is said."""
        self._tell(f"{level}: {line}")
        if level == "ERROR":
            self.troubles.append(line)

    def _archived(self) -> int:
        return sum(d.sent_at is not None for d in self._service.console.deliveries(self.job))
