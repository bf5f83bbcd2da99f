"""What the demonstration's scanners share: their pace, and a scan that comes from within the process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from acquisition.items import VIEW_HEAD, Events, Image, Projections, Waveform
from acquisition.scan import Scan
from acquisition.sources.mrd_wire import Close, ConfigFile
from acquisition.sources.phantom.pet import PetSimulation
from acquisition.sources.phantom.pet_exam import PetExam, gantry
from acquisition.sources.phantom.pet_objects import cylinder
from integration.delivery.states import JobState
from integration.demo_feed import Gantry, Measured, due_s
from integration.doors.incoming import Data, Incoming
from integration.doors.mailbox import Mailbox
from integration.house import new_job
from integration.protocol import Library
from integration.rooms import rooms
from integration.service import Service
from integration.session import Nobody
from tests.integration.doors_samples import N_READOUTS, plan, serving, simulation


def views(n_blocks: int, length: int, step_s: float) -> list[Projections]:
    """Blocks of empty views, `step_s` apart."""
    blocks = []
    for k in range(n_blocks):
        head = np.zeros(length, VIEW_HEAD)
        head["time_s"] = (k * length + np.arange(length)) * step_s
        blocks.append(Projections(head=head, data=np.zeros((length, 1, 1), np.float32)))
    return blocks


def measured(scan: Scan, items: Sequence[Data]) -> Measured:
    return Measured(source="", scan=scan, items=items)


def test_the_gantry_keeps_its_pace_even_if_nobody_listens() -> None:
    scan = Scan(uid="s", modality="CT")
    ended: list[float] = []
    machine = Gantry(measured(scan, views(5, 4, 0.02)), speed=2.0, on_end=lambda: ended.append(time.monotonic()))
    start = time.monotonic()
    machine.start()
    machine.join()
    config, header, *blocks, close = list(machine.box)
    assert (config, header, close) == (ConfigFile("auto"), scan, Close())
    due = start + (4 * np.arange(5) + 3) * 0.01
    late = np.array([b.received_s for b in blocks if isinstance(b, Projections)]) - due
    assert len(late) == 5 and late.min() > -1e-3 and late.max() < 0.1
    assert blocks[-1].received_s <= machine.ended_s <= ended[0]  # type: ignore[union-attr]


def test_what_is_known_before_the_scan_comes_before_it() -> None:
    wave = Waveform(id=1, time_stamp=0, sample_time_us=1.0, data=np.zeros((1, 1), np.uint32))
    scan, late = Scan(uid="s", modality="PT"), views(1, 1, 0.0)
    machine = Gantry(Measured(source="", scan=scan, items=[wave, *late], lead_s=2.0), speed=2.0)
    start = time.monotonic()
    machine.start()
    *_, first = islice(machine.box, 3)
    assert first is wave and time.monotonic() - start < 0.8
    machine.join()
    assert machine.started_s - start == pytest.approx(1.0, abs=0.2) and machine.ended_s >= machine.started_s


def test_the_gantry_stops_when_it_is_told() -> None:
    machine = Gantry(measured(Scan(uid="s", modality="CT"), views(2, 1, 1000.0)), speed=1.0)
    machine.start()
    start = time.monotonic()
    machine.stop()
    assert time.monotonic() - start < 1 and not machine.is_alive()
    assert list(machine.box) == []


def test_items_are_due_when_their_last_data_are_measured() -> None:
    empty = np.zeros((0, 2), np.int32)
    assert due_s(Events(start_s=3.0, stop_s=3.5, prompts=empty, delayeds=empty)) == 3.5
    assert due_s(views(1, 4, 0.5)[0]) == 1.5


class Watching(Nobody):
    """A peer that remembers which slices came."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def image(self, image: Image, sent: Callable[[], None] | None = None) -> None:
        self.seen.append(image.position.slice)


def test_a_scan_from_within_the_process_is_treated_like_any_other(tmp_path: Path) -> None:
    box: Mailbox[Incoming] = Mailbox(0)
    scan, peer, job = simulation().scan, Watching(), new_job()
    with serving(tmp_path) as service:
        ended: list[object] = []

        def take() -> None:
            ended.append(service.house.take(job, box, source="in here", peer=peer))

        thread = threading.Thread(target=take)
        thread.start()
        for message in (ConfigFile("auto"), scan, *simulation().readouts()):
            box.put(message)
        while not (rows := service.house.live()) or rows[0]["readouts"] != N_READOUTS:
            time.sleep(0.01)
        assert rows[0]["job"] == job
        box.put(Close())
        thread.join(10)
        row = service.console.job(job)
        assert row is not None and ended == [JobState.COMPLETE]
        assert (row.source, row.raw_path, row.state) == ("in here", "", JobState.COMPLETE)
        assert peer.seen == [0, 1, 2] and service.house.live() == []
        assert service.house.take(new_job(), iter([ConfigFile("none"), scan]), source="", peer=peer) is JobState.FAILED


def test_events_are_counted_and_what_they_make_is_kept_when_the_scanner_goes_away(tmp_path: Path) -> None:
    small = gantry(n_rings=2, n_crystals=48, ring_pitch_mm=40.0)
    exam = PetExam(pet=small, duration_s=1.0, scatter="none", randoms="none")
    measured = PetSimulation(exam, cylinder(radius_mm=60.0, length_mm=60.0, bq_per_ml=2e3))
    job, blocks = new_job(), list(measured.events())
    with Service(plan(tmp_path), rooms(Library())) as service:
        messages = iter([ConfigFile("pet_preview"), measured.scan, measured.normalisation, *blocks])
        assert service.house.take(job, messages, source="", peer=Nobody()) is JobState.INTERRUPTED
        row = service.console.job(job)
        assert row is not None and f"the end after {sum(map(len, blocks))} readouts" in row.reason
        assert len(service.spool.sweep(())) == 19
