"""The branch of a protocol that has networks, run beside the scan: the conventional branch never waits for it.

The protocol is cut before its first network. What comes to the cut goes on at once through the rest of the Steps
without the networks, and a copy goes to a worker, through all of them; the images of networks that it gives come back
when they are there, or are left out when they are late.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace

from acquisition.errors import IsocenterError
from acquisition.items import Image, Item
from acquisition.scan import Scan
from acquisition.stream import Step
from acquisition.verdict import Level, Verdict
from integration.doors.request import Request
from integration.protocol import Protocol
from integration.schedule.pool import NEVER, LateError, Pool
from integration.schedule.worker import Done, Work

LOG = logging.getLogger(__name__)
NETWORK = "model."
"""How the names of Steps with a network begin."""
RAW = {"model.unrolled"}
"""Networks that take raw data; they stay where they are."""


def cut_at(protocol: Protocol) -> int | None:
    """Return which Step is the first with a network on images; None: there is none."""
    return next((number for number, name in enumerate(protocol.step_names) if _is_network(name)), None)


def _is_network(name: str) -> bool:
    return name.startswith(NETWORK) and name not in RAW


@dataclass(slots=True)
class _Flying:
    """Work of which the result is waited for."""

    future: Future[Done]
    deadline_s: float
    last_readout_s: float
    images: int
    finished_s: float = NEVER

    def finished(self, future: Future[Done]) -> None:
        """Note when the result came."""
        self.finished_s = time.monotonic()


class Aside:
    """The networks of one scan.

    Parameters
    ----------
    pool
        Who runs them.
    protocol
        The whole protocol.
    cut
        Its first Step with a network.
    job
        Our name for the scan.
    request
        How urgent the scan is, and how long its networks may take.
    """

    def __init__(self, pool: Pool, protocol: Protocol, cut: int, *, job: str, request: Request) -> None:
        self._pool, self._names, self._cut, self._job = pool, protocol.step_names, cut, job
        self._urgency, self._deadline_s = request.urgency, request.network_deadline_s
        self._steps = json.dumps([[name, values] for name, values in protocol.steps[cut:]])
        self._flying: deque[_Flying] = deque()
        self._missed: Counter[str] = Counter()
        self.verdicts: list[Verdict] = []

    def around(self, steps: list[Step]) -> list[Step]:
        """Return the conventional branch: the Steps without networks, and where they were, what feeds us."""
        rest = zip(self._names[self._cut :], steps[self._cut :], strict=True)
        return [*steps[: self._cut], _Tap(self), *(step for name, step in rest if not _is_network(name))]

    def open(self, scan: Scan) -> None:
        """Let the worker make ready while the scan begins."""
        folder = "" if scan.companions is None else str(scan.companions)
        self._work = Work(job=self._job, scan=replace(scan, verdicts=()), companions=folder, steps=self._steps)
        self._pool.submit(self._work, urgency=self._urgency)

    def feed(self, image: Image) -> None:
        """Hand an image over; never waits."""
        deadline = NEVER if self._deadline_s is None else time.monotonic() + self._deadline_s
        self._submit(replace(self._work, images=(image,)), deadline, image.last_readout_s)

    def ready(self) -> Iterator[Image]:
        """Give what is there now, in the order of the scan."""
        while self._flying and (self._flying[0].future.done() or time.monotonic() > self._flying[0].deadline_s):
            yield from self._taken()

    def close(self) -> Iterator[Image]:
        """The scan is over and its conventional images are out: wait for the rest, each until its deadline."""
        last = max((f.deadline_s for f in self._flying), default=time.monotonic() + (self._deadline_s or 0.0))
        self._submit(replace(self._work, close=True), NEVER if self._deadline_s is None else last, 0.0)
        while self._flying:
            first = self._flying[0]
            left = None if first.deadline_s == NEVER else max(0.0, first.deadline_s - time.monotonic())
            wait([first.future], timeout=left)
            yield from self._taken()
        self.verdicts += [_left_out(why, n) for why, n in self._missed.items() if n]

    def _submit(self, work: Work, deadline_s: float, last_readout_s: float) -> None:
        flying = _Flying(
            self._pool.submit(work, urgency=self._urgency, deadline_s=deadline_s),
            deadline_s,
            last_readout_s,
            len(work.images),
        )
        flying.future.add_done_callback(flying.finished)
        self._flying.append(flying)

    def _taken(self) -> Iterator[Image]:
        """Take the oldest result, or note why there is none."""
        first = self._flying.popleft()
        if not first.future.done() or first.finished_s > first.deadline_s:
            self._missed["was later than the scan allows"] += first.images
            return
        try:
            done = first.future.result()
        except IsocenterError as error:
            late = isinstance(error, LateError)
            LOG.error("job %s: networks: %s", self._job, error)
            self._missed["was later than the scan allows" if late else "was lost with its worker"] += first.images
            return
        if done.error:
            LOG.error("job %s: networks: %s", self._job, done.error)
            self._missed["could not be made"] += first.images
        self.verdicts += done.verdicts
        for image in done.images:
            if image.provenance.network is not None:  # the others go through the conventional branch, too
                yield replace(image, last_readout_s=first.last_readout_s)


class _Tap:
    """A Step that shows images to the networks and passes everything on."""

    def __init__(self, aside: Aside) -> None:
        self._aside = aside

    def open(self, scan: Scan) -> None:
        """Let the worker make ready."""
        self._aside.open(scan)

    def feed(self, item: Item) -> Iterable[Item]:
        """Show an image, pass it on."""
        if isinstance(item, Image):
            self._aside.feed(item)
        return (item,)

    def close(self) -> Iterable[Item]:
        """Nothing is kept."""
        return ()


def beside(pool: Pool | None, protocol: Protocol, *, job: str, request: Request) -> Aside | None:
    """Return the networks of a scan; None where a protocol has none, or nobody runs them beside it."""
    cut = cut_at(protocol)
    return None if pool is None or cut is None else Aside(pool, protocol, cut, job=job, request=request)


def _left_out(why: str, n: int) -> Verdict:
    return Verdict(
        check="network.left_out",
        level=Level.FLAG,
        advice=f"A network's image {why} and was left out {n} times; the conventional images are complete.",
        value=float(n),
        unit="images",
    )
