"""Scheduling: the conventional branch never waits, urgency and deadlines decide, a dead worker costs one attempt."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acquisition.errors import ConfigError, ReconError
from acquisition.items import Image, Item, Position
from acquisition.scan import Scan
from acquisition.stream import Step
from integration import steps
from integration.doors.request import Request, Urgency, from_text
from integration.protocol import Protocol
from integration.runner import Run
from integration.schedule.aside import Aside, beside, cut_at
from integration.schedule.pool import LateError, Pool
from integration.schedule.worker import Work
from tests.integration.doors_samples import EXAM
from tests.integration.schedule_samples import PLACE, STEP, main
from tests.integration.stream_samples import mr
from tests.models.samples import card_folder
from tests.models.samples import image as model_image
from tests.models.samples import scan as model_scan

SCAN = mr()[0]
GRID = replace(EXAM.grid.plane(0), shape=(1, 4, 4))


def image(n: int = 0) -> Image:
    return Image(data=np.full((1, 4, 4), n + 1, np.float32), grid=GRID, position=Position(slice=n), last_readout_s=5.0)


def protocol(**parameters: Any) -> Protocol:
    """Something before the network, and something behind it."""
    return Protocol(
        name="p",
        modality="MR",
        description="",
        steps=(("image.gibbs", {}), (STEP, parameters), ("check.image", {})),
    )


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(steps.STEPS, STEP, PLACE)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    made = Pool(target=main)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def own_pool() -> Iterator[Callable[..., Pool]]:
    made: list[Pool] = []

    def make(**options: Any) -> Pool:
        made.append(Pool(target=main, **options))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def work(job: str, *, images: int = 1, **parameters: Any) -> Work:
    rows = json.dumps([[STEP, parameters]])
    return Work(job=job, scan=replace(SCAN, uid=job), steps=rows, images=tuple(image(n) for n in range(images)))


def run(pool: Pool | None, job: str, request: Request | None = None, **parameters: Any) -> Run:
    made = protocol(**parameters)
    aside = beside(pool, made, job=job, request=request or Request(protocol="p"))
    started = Run(SCAN, made, aside)
    started.open()
    return started


def test_a_worker_does_what_the_step_does_here(pool: Pool) -> None:
    found = {}
    for name, where in (("here", None), ("there", pool)):
        started = run(where, "same")
        images = [i for n in range(3) for i in started.feed(image(n))]
        images += started.close()
        found[name] = images
        assert sum(i.output == "enhanced" for i in images) == 3
        assert [v.value for v in started.verdicts if v.check == "model.test"] == [3.0]
        assert {i.last_readout_s for i in images} == {5.0}
    for output in ("conventional", "enhanced"):
        here, there = ([i for i in found[name] if i.output == output] for name in ("here", "there"))
        for one, other in zip(here, there, strict=True):
            assert one.data.tobytes() == other.data.tobytes() and one.data.dtype == other.data.dtype
            assert one.provenance == other.provenance and one.verdicts == other.verdicts
            assert one.position == other.position and one.grid == other.grid


def test_the_conventional_branch_never_waits_for_a_network(pool: Pool) -> None:
    started = run(pool, "slow", seconds=0.7)
    begin = time.monotonic()
    first = [i for n in range(2) for i in started.feed(image(n))]
    rest = started.close()
    assert [i.output for i in first] == ["conventional"] * 2 and time.monotonic() - begin < 0.5
    late = list(rest)
    assert [i.output for i in late] == ["enhanced"] * 2 and time.monotonic() - begin > 1.4
    assert [v.level.value for v in started.verdicts if v.check == "network.left_out"] == []


def test_a_network_that_is_late_is_left_out_and_said(pool: Pool) -> None:
    started = run(pool, "late", Request(protocol="p", network_deadline_s=0.2), seconds=0.8)
    begin = time.monotonic()
    images = [i for n in range(2) for i in started.feed(image(n))]
    images += started.close()
    assert time.monotonic() - begin < 0.7
    assert [i.output for i in images] == ["conventional"] * 2
    (told,) = [v for v in started.verdicts if v.check == "network.left_out"]
    assert told.value == 2.0 and "later than the scan allows" in told.advice


def test_a_network_in_time_is_kept(pool: Pool) -> None:
    started = run(pool, "in time", Request(protocol="p", network_deadline_s=20.0))
    images = [*started.feed(image()), *started.close()]
    assert [i.output for i in images] == ["conventional", "enhanced"]
    assert "network.left_out" not in [v.check for v in started.verdicts]


def test_the_urgent_go_first_and_of_those_the_one_with_the_earliest_deadline(pool: Pool, tmp_path: Path) -> None:
    log, soon = str(tmp_path / "log"), time.monotonic() + 60
    first = pool.submit(work("first", log=log, seconds=0.4))
    time.sleep(0.1)  # it has begun
    rows = [
        ("batch", Urgency.BATCH, soon),
        ("inline later", Urgency.INLINE, soon + 2),
        ("inline sooner", Urgency.INLINE, soon + 1),
        ("inline any time", Urgency.INLINE, float("inf")),
        ("localizer", Urgency.INTERACTIVE, float("inf")),
    ]
    futures = [first, *(pool.submit(work(n, log=log), urgency=u, deadline_s=d) for n, u, d in rows)]
    for future in futures:
        future.result(20)
    order = Path(log).read_text().splitlines()
    assert order == ["first", "localizer", "inline sooner", "inline later", "inline any time", "batch"]


def test_what_is_late_before_it_begins_is_not_begun(pool: Pool, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    busy = pool.submit(work("busy", seconds=0.5))
    time.sleep(0.1)  # it has begun
    late = pool.submit(work("late", log=log), deadline_s=time.monotonic() + 0.05)
    with pytest.raises(LateError, match="its turn before the deadline"):
        late.result(10)
    assert busy.result(10).images and not Path(log).exists()


def test_a_worker_that_dies_is_replaced_and_its_work_tried_once_more(
    own_pool: Callable[..., Pool], tmp_path: Path
) -> None:
    pool = own_pool()
    assert pool.submit(work("a")).result(30).images
    (before,) = pool.pids
    done = pool.submit(work("b", die=str(tmp_path / "once"))).result(30)
    assert [i.output for i in done.images] == ["conventional", "enhanced"] and (tmp_path / "once").stat().st_size == 2
    assert pool.pids != [before]
    with pytest.raises(ReconError, match="got it died 2 times"):
        pool.submit(work("c", die=str(tmp_path / "ever"), deaths=9)).result(30)
    assert (tmp_path / "ever").stat().st_size == 2
    assert pool.submit(work("d")).result(30).images


def test_a_scan_whose_worker_dies_keeps_its_conventional_images(own_pool: Callable[..., Pool], tmp_path: Path) -> None:
    started = run(own_pool(), "x", die=str(tmp_path / "ever"), deaths=9)
    images = [*started.feed(image()), *started.close()]
    assert [i.output for i in images] == ["conventional"]
    (told,) = [v for v in started.verdicts if v.check == "network.left_out"]
    assert "lost with its worker" in told.advice


def test_a_worker_that_hangs_is_taken_for_dead(own_pool: Callable[..., Pool]) -> None:
    pool = own_pool(longest_s=0.5)
    pool.start()
    with pytest.raises(ReconError, match="died 2 times"):
        pool.submit(work("hangs", seconds=60.0)).result(60)


def test_a_failure_that_is_foreseen_costs_no_worker(pool: Pool) -> None:
    pids = pool.pids
    done = pool.submit(work("fails", fail=True)).result(20)
    assert "network: got planted" in done.error and not done.images and pool.pids == pids


def test_a_pool_that_stops_leaves_nobody_waiting() -> None:
    pool = Pool(target=main)
    futures = [pool.submit(work("a", seconds=30.0)) for _ in range(3)]
    time.sleep(0.1)
    pool.stop()
    for future in (*futures, pool.submit(work("b"))):
        with pytest.raises(ReconError):
            future.result(5)
    assert pool.pids == []


def test_a_protocol_is_cut_before_its_first_network_on_images() -> None:
    made = protocol()
    assert cut_at(made) == 1
    assert cut_at(Protocol(name="p", modality="MR", description="", steps=made.steps[:1])) is None
    raw = Protocol(name="p", modality="MR", description="", steps=(("model.unrolled", {}), ("check.image", {})))
    assert cut_at(raw) is None  # it takes raw data: it stays where it is
    assert beside(None, made, job="", request=Request(protocol="p")) is None


class Marks:
    """A Step that remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[Item] = []

    def open(self, scan: Scan) -> None:
        pass

    def feed(self, item: Item) -> list[Item]:
        self.seen.append(item)
        return [item]

    def close(self) -> list[Item]:
        return []


def test_the_conventional_branch_has_all_steps_but_the_networks(pool: Pool) -> None:
    one, network, other = Marks(), Marks(), Marks()
    branch: list[Step] = [one, network, other]
    aside = Aside(pool, protocol(), 1, job="j", request=Request(protocol="p"))
    around = aside.around(branch)
    assert around[0] is one and around[2] is other and len(around) == 3 and network not in around


def test_urgency_and_deadline_come_with_the_request() -> None:
    asked = from_text('{"protocol": "p", "urgency": "interactive", "network_deadline_s": 3}')
    assert (asked.urgency, asked.network_deadline_s) == (Urgency.INTERACTIVE, 3)
    plain = from_text('{"protocol": "p"}')
    assert (plain.urgency, plain.network_deadline_s) == (Urgency.INLINE, None)
    console = from_text('{"parameters": {"config": "p", "urgency": "batch", "networkdeadline": "3"}}')
    assert (console.urgency, console.network_deadline_s, console.unused) == (Urgency.BATCH, 3, ())
    none = from_text('{"parameters": {"config": "p", "networkdeadline": "none"}}')
    assert (none.urgency, none.network_deadline_s, none.unused) == (Urgency.INLINE, None, ())
    for wrong, match in (
        ('{"protocol": "p", "urgency": "now"}', "urgency: expected one of interactive, inline, batch"),
        ('{"protocol": "p", "network_deadline_s": -1}', "network_deadline_s: expected seconds"),
        ('{"protocol": "p", "network_deadline_s": "soon"}', "network_deadline_s: expected seconds"),
    ):
        with pytest.raises(ConfigError, match=match):
            from_text(wrong)


def test_a_real_network_gives_beside_the_scan_what_it_gives_in_it(pool: Pool, tmp_path: Path) -> None:
    card = {"card": str(card_folder(tmp_path)), "engine": "torch", "strength": 1.0}
    made = Protocol(name="p", modality="MR", description="", steps=(("model.denoise", card),))
    found = []
    for where in (None, pool):
        started = Run(model_scan(), made, beside(where, made, job="real", request=Request(protocol="p")))
        started.open()
        images = [i for k in range(2) for i in started.feed(model_image(position=Position(slice=k)))]
        found.append([*images, *started.close()])
        assert "network.left_out" not in [v.check for v in started.verdicts]
    here, there = (sorted(images, key=lambda i: (i.output, i.position.slice)) for images in found)
    assert [i.output for i in there] == [i.output for i in here]
    assert {i.output for i in here} == {"conventional", "denoised", "denoised_uncertainty"}
    for one, other in zip(here, there, strict=True):
        np.testing.assert_allclose(one.data, other.data, atol=1e-4 * np.abs(one.data).max())
        assert one.provenance == other.provenance and one.attributes == other.attributes
        assert [v.check for v in one.verdicts] == [v.check for v in other.verdicts]
