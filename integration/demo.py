"""The demonstration: an archive, the service and a virtual scanner as three processes, as in a hospital."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acquisition.errors import SetupError
from acquisition.scan import Scan
from acquisition.sources.phantom.exam import MriExam, demo_exam
from acquisition.sources.phantom.mri import Simulation
from acquisition.verdict import Verdict
from integration.doors.mrd_client import Arrival, MrdClient
from integration.doors.request import AUTO

if TYPE_CHECKING:
    from integration.service import Service

ARCHIVE = "ISOARCHIVE"
_START_S, _STOP_S, _DELIVERY_S, _LOOK_S = 60.0, 15.0, 60.0, 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """A running service and its archive."""

    mrd_port: int
    """Port for scanners."""
    http_port: int
    """Port of the status page."""
    archive: Path
    """Folder of the archive's DICOM files."""
    archive_port: int
    """Port of the archive."""
    service: Service | None = None
    """The service, where it runs in this process and takes all exams."""
    mri_protocol: str = ""
    """What the MRI exam asks for; empty: the router chooses."""

    @property
    def page(self) -> str:
        """Address of the status page."""
        return f"http://127.0.0.1:{self.http_port}"

    def ask(self, path: str) -> Any:
        """Return what the status page says at `path`."""
        with urllib.request.urlopen(f"{self.page}/{path}", timeout=10) as answer:
            return json.load(answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One exam of the demonstration, at its end."""

    modality: str
    """DICOM modality."""
    series: str
    """The scanner's name of it."""
    images: int
    """Images in the archive."""
    latency_ms: dict[str, dict[str, float]]
    """Percentiles after an image's last readout or view [ms], by station."""
    verdicts: list[dict[str, object]]
    """What was found."""
    dicom_dir: str
    """Folder of its DICOM files."""
    troubles: list[str]
    """Why it did not work out; empty when it did."""


@contextmanager
def house(folder: Path) -> Iterator[House]:
    """Start archive and service on free ports of the loopback; stop both at the end.

    Raises
    ------
    SetupError
        One of them does not start; its log says why.
    """
    with ExitStack() as stack:
        port = stack.enter_context(archive(folder))
        module = ["integration", "serve", "--mrd-port", "0", "--http-port", "0", "--data", str(folder / "service")]
        ready = stack.enter_context(running(folder, "service", [*module, "--archive", f"127.0.0.1:{port}:{ARCHIVE}"]))
        yield House(
            mrd_port=ready["mrd_port"],
            http_port=ready["http_port"],
            archive=folder / "archive",
            archive_port=port,
        )


@contextmanager
def archive(folder: Path) -> Iterator[int]:
    """Start an archive on a free port of the loopback, its files in `folder`; give the port.

    Raises
    ------
    SetupError
        It does not start; its log says why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    module = ["integration.dicom.archive", "--dir", str(folder / "archive"), "--port", "0", "--exit-with-parent"]
    with running(folder, "archive", module) as ready:
        yield ready["port"]


@contextmanager
def running(folder: Path, name: str, module: Sequence[str]) -> Iterator[dict[str, int]]:
    """Run ``python -m MODULE`` until the end; give what it wrote when it was ready."""
    ready, log = folder / f"{name}.ready", folder / f"{name}.log"
    ready.unlink(missing_ok=True)
    with log.open("wb") as output:
        command = [sys.executable, "-m", *module, "--ready-file", str(ready)]
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        yield _await_ready(process, ready, log)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_ready(process: subprocess.Popen[bytes], ready: Path, log: Path) -> dict[str, int]:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        if ready.exists():
            found: dict[str, int] = json.loads(ready.read_text())
            return found
        time.sleep(_LOOK_S)
    lines = log.read_text(errors="replace").strip().splitlines()
    raise SetupError(
        log.stem,
        expected=f"to be ready within {_START_S:.0f} s",
        got=lines[-1] if lines else "silence",
        action=f"see {log}",
    )


def mri_exam(
    place: House, *, exam: MriExam | None = None, speed: float = 1.0, tell: Callable[[str], None] = lambda line: None
) -> Outcome:
    """Stream one MRI exam at the scanner's pace and follow its images into the archive.

    Parameters
    ----------
    place
        The service.
    exam
        What is measured; the demonstration's brain when None.
    speed
        Times the scanner's pace.
    tell
        Told one line for each thing that happens.
    """
    simulation = Simulation(exam or demo_exam())
    tell("the virtual scanner measures a head")
    readouts = list(simulation.readouts())  # all before the first is sent: the scanner must not be what is slow
    scan, n = simulation.scan, len(readouts)
    seconds = n * simulation.exam.tr_s / speed
    tell(f"{scan.protocol_name}: {n} readouts of {scan.equipment.n_coils} coils, {seconds:.0f} s")
    before = {row["job"] for row in place.ask("exams")["exams"]}
    with MrdClient("127.0.0.1", place.mrd_port, on_event=lambda event: tell(_line(event))) as client:
        answer = client.send(scan, readouts, config=place.mri_protocol or AUTO, speed=speed)
    jobs = [row["job"] for row in place.ask("exams")["exams"] if row["job"] not in before]
    row: Any = delivered(place, jobs[0]) if jobs else {"deliveries": [], "verdicts": [], "latency_ms": {}}
    found = [verdict for image in answer.images for verdict in image.verdicts]
    return outcome(place, row, scan=scan, verdicts=found, troubles=answer.troubles())


def outcome(
    place: House, row: Any, *, scan: Scan, verdicts: Iterable[Verdict], troubles: Sequence[str] = ()
) -> Outcome:
    """Put together what became of an exam.

    Parameters
    ----------
    place
        Where its archive is.
    row
        What the status page says of it.
    scan
        Its header.
    verdicts
        Findings that belong to single images.
    troubles
        What has gone wrong so far.
    """
    uids = {d["sop_uid"] for d in row["deliveries"] if d["state"] in ("SENT", "COMMITTED")}
    lost = len({d["sop_uid"] for d in row["deliveries"]}) - len(uids)
    found: dict[tuple[object, ...], dict[str, object]] = {}
    for verdict in [*(v.as_dict() for v in verdicts), *row["verdicts"]]:
        found.setdefault((verdict["check"], verdict["level"], verdict["advice"]), dict(verdict))
    return Outcome(
        modality=scan.modality,
        series=scan.protocol_name or "",
        images=len(uids),
        latency_ms=row["latency_ms"],
        verdicts=list(found.values()),
        dicom_dir=str(folder_of(place, uids)),
        troubles=[*troubles, *([f"{lost} images did not reach the archive"] if lost or not uids else [])],
    )


def folder_of(place: House, sop_uids: Collection[str]) -> Path:
    """Return the archive's folder of some objects, the first where there are several; its own where it has none."""
    folders = {path.parent for path in place.archive.rglob("*.dcm") if path.stem in sop_uids}
    return min(folders, default=place.archive)


def delivered(place: House, job: str) -> Any:
    """Wait until every image of a job is at its destination, or will not be."""
    deadline = time.monotonic() + _DELIVERY_S
    while True:
        row = place.ask(f"exams/{job}")
        waiting = [d for d in row["deliveries"] if d["state"] in ("QUEUED", "SENT")]
        if (row["finished_at"] and row["deliveries"] and not waiting) or time.monotonic() > deadline:
            return row
        time.sleep(_LOOK_S)


def _line(event: str | Arrival) -> str:
    if isinstance(event, str):
        return event
    after = "" if event.latency_ms is None else f", {event.latency_ms:.0f} ms after its last readout"
    return f"slice {event.image.position.slice} is back at the scanner{after}"
