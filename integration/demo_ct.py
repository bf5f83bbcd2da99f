"""The CT part of the demonstration: slices reach the archive while the virtual gantry still turns.

Views come from within the process, or through the service's raw stream; see `demo_feed`.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain

import torch

from acquisition.items import Image, Projections
from acquisition.scan import Scan, Study
from acquisition.sources.phantom.ct import CtExam, CtSimulation, gantry
from acquisition.sources.phantom.ct_faults import CtFaults
from acquisition.sources.phantom.ct_people import person
from integration.demo import House, Outcome, outcome
from integration.demo_feed import Measured, Tell, follow, serving
from integration.export import series_of
from integration.protocol import Library
from integration.runner import Run
from integration.settings import default_threads
from integration.timeline import percentiles
from kernels.memory import keep_memory
from recon.ct.checks import PLANNED

LAST_SLICE = "last slice"
"""Station: from the last view of the scan to the archive's answer to its last slice."""
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
    measured = Measured(source="virtual CT scanner", scan=header(simulation), items=blocks)
    with serving(place, "service-ct") as (at, service):
        found = follow(at, service, measured, speed=speed, tell=tell, watch=_slice)
    answered = found.answered_s()
    found.row["latency_ms"][LAST_SLICE] = percentiles([1e3 * (max(answered) - found.ended_s)] if answered else [])
    return outcome(place, found.row, scan=measured.scan, verdicts=found.verdicts, troubles=found.troubles)


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


def _slice(image: Image, n_archived: int) -> str:
    """Tell of every few slices."""
    n = image.position.slice + 1
    if n % _TOLD:
        return ""
    waited_ms = 1e3 * (time.monotonic() - image.last_readout_s)
    place = f"slice {n} at z = {image.grid.origin_mm[2]:.0f} mm"
    return f"{place}: made {waited_ms:.0f} ms after its last view; {n_archived} in the archive"
