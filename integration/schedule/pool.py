"""Warm workers and their queues: interactive before inline before batch, the earliest deadline first.

A scan stays with one worker, whose Steps remember its images. What has begun is finished: urgency counts from image to
image. A worker that dies, or is silent for too long, is replaced and its work tried once more; work whose deadline has
passed is not begun.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from acquisition.errors import ReconError
from integration.doors.request import Urgency
from integration.schedule import worker
from integration.schedule.worker import Done, Work

LOG = logging.getLogger(__name__)

NEVER = float("inf")
"""A deadline that nothing misses; time.monotonic() [s]."""
_RANKS = {urgency: rank for rank, urgency in enumerate(Urgency)}
_ATTEMPTS = 2
_LOOK_S = 0.05


Target = Callable[[Connection, Mapping[str, str]], None]
"""What a worker process runs: its connection, and variables of the environment."""


class LateError(ReconError):
    """It was not done in time."""


@dataclass(order=True, slots=True)
class _Task:
    """Work in a queue; the order is that in which it is done."""

    rank: int
    deadline_s: float
    number: int
    work: Work = field(compare=False)
    future: Future[Done] = field(compare=False)
    attempts: int = field(default=0, compare=False)


class Pool:
    """Worker processes that run networks.

    Parameters
    ----------
    workers
        How many; one per device.
    longest_s
        A worker that takes longer for one piece of work is taken for dead [s].
    target
        What a worker runs.
    """

    def __init__(self, workers: int = 1, *, longest_s: float = 120.0, target: Target = worker.main) -> None:
        self._lanes = [_Lane(f"network-{n}", longest_s, target) for n in range(workers)]
        self._of_job: dict[str, _Lane] = {}
        self._numbers, self._lock = itertools.count(), threading.Lock()

    def start(self) -> None:
        """Start the workers now, so that the first scan finds them warm."""
        for lane in self._lanes:
            lane.start()

    def submit(self, work: Work, *, urgency: Urgency = Urgency.INLINE, deadline_s: float = NEVER) -> Future[Done]:
        """Queue work; never waits.

        Parameters
        ----------
        work
            What to do.
        urgency
            What it is for.
        deadline_s
            When it must be done; time.monotonic() [s]. What is not begun by then ends with LateError.
        """
        with self._lock:
            lane = self._of_job.get(work.job) or min(self._lanes, key=lambda lane: lane.load)
            self._of_job[work.job] = lane
            if work.close:
                del self._of_job[work.job]
            task = _Task(_RANKS[urgency], deadline_s, next(self._numbers), work, Future())
        lane.start()
        lane.put(task)
        return task.future

    def stop(self) -> None:
        """End the workers; what waits ends with an error."""
        for lane in self._lanes:
            lane.stop()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that live."""
        return [lane.process.pid for lane in self._lanes if lane.process is not None and lane.process.pid is not None]


class _Lane:
    """One worker, its queue, and the thread between them."""

    def __init__(self, name: str, longest_s: float, target: Target) -> None:
        self.process: BaseProcess | None = None
        self._name, self._longest_s, self._target = name, longest_s, target
        self._queue: list[_Task] = []
        self._changed, self._stopping = threading.Condition(), False
        self._connection: Connection | None = None
        self._thread: threading.Thread | None = None

    @property
    def load(self) -> int:
        """Work that waits."""
        return len(self._queue)

    def start(self) -> None:
        """Start the thread, and with it the worker; once."""
        with self._changed:
            if self._thread is None and not self._stopping:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def put(self, task: _Task) -> None:
        """Queue a task."""
        with self._changed:
            if not self._stopping:
                heapq.heappush(self._queue, task)
                self._changed.notify()
                return
        task.future.set_exception(_lost("the service stops"))

    def stop(self) -> None:
        """End the worker and what waits for it."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._fail("the service stops")
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._ensure()
            except OSError as error:  # no memory, no process: what waits goes without
                LOG.exception("%s: cannot be started", self._name)
                self._fail(str(error))
            task = self._next()
            if task is None or self.process is None:
                if task is not None:
                    task.future.set_exception(_lost("it cannot be started"))
                continue
            if time.monotonic() > task.deadline_s:
                task.future.set_exception(_late())
                continue
            self._do(task)
        self._end()

    def _fail(self, why: str) -> None:
        with self._changed:
            left, self._queue = self._queue, []
        for task in left:
            task.future.set_exception(_lost(why))

    def _next(self) -> _Task | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._stopping, _LOOK_S * 20)
            return heapq.heappop(self._queue) if self._queue else None

    def _do(self, task: _Task) -> None:
        task.attempts += 1
        try:
            done = self._asked(task.work)
        except (EOFError, OSError, TimeoutError) as error:
            self._end()
            if self._stopping or task.attempts >= _ATTEMPTS:
                LOG.error("%s: job %s given up after %d attempts: %s", self._name, task.work.job, task.attempts, error)
                task.future.set_exception(_lost(f"it died {task.attempts} times"))
                return
            LOG.warning("%s: died at job %s (%s); a new one tries again", self._name, task.work.job, error)
            with self._changed:
                heapq.heappush(self._queue, task)
            return
        task.future.set_result(done)

    def _asked(self, work: Work) -> Done:
        connection = self._connection
        assert connection is not None
        worker.send(connection, work)
        deadline = time.monotonic() + self._longest_s
        while not connection.poll(_LOOK_S):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer within {self._longest_s:.0f} s")
            if self._stopping:
                raise OSError("the service stops")
        done: Done = worker.receive(connection, Done)
        return done

    def _ensure(self) -> None:
        """Have a living worker."""
        if (self.process is not None and self.process.is_alive()) or self._stopping:
            return
        self._end()
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        environment = {k: v for k, v in os.environ.items() if k.startswith(("CUDA", "OMP", "ISOCENTER"))}
        process = context.Process(target=self._target, args=(theirs, environment), name=self._name, daemon=True)
        process.start()
        theirs.close()
        self.process, self._connection = process, ours

    def _end(self) -> None:
        process, connection = self.process, self._connection
        if process is not None and process.is_alive():
            process.kill()
        if process is not None:
            process.join()
        if connection is not None:
            connection.close()
        self.process = self._connection = None


def _lost(got: str) -> ReconError:
    return ReconError("network worker", expected="an answer", got=got, action="the conventional image has gone out")


def _late() -> LateError:
    return LateError("network worker", expected="its turn before the deadline", got="none")
