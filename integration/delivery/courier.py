"""The courier: carries what is queued for one destination, over a few associations that stay open.

Each destination has its own courier with its own threads, so that a dead one holds up no other. A courier
knows no DICOM; it is given links.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence

from acquisition.errors import DeliveryError
from integration.delivery.destination import Destination
from integration.delivery.journal import Journal
from integration.delivery.link import (
    BrokenLinkError,
    CommitmentReport,
    Connector,
    Link,
    PermanentError,
    TransientError,
    UnreachableError,
    describe,
)
from integration.delivery.retry import Breaker, backoff_s
from integration.delivery.rows import Delivery

LOG = logging.getLogger(__name__)

POLL_S = 0.5
"""How often a courier looks for work that nobody told it of [s]."""
_BATCH = 8
_COMMIT_BATCH = 256
_COMMIT_GATHER_S = 0.02
_COMMIT_WAIT_S = 3.0
_SILENT_REQUESTS = 3
_IDLE_S = 60.0
_CROWDED_S = 30.0


class Courier:
    """Delivers to one destination until stopped.

    Parameters
    ----------
    destination
        Where to.
    journal
        Says what is due, and is told what was done.
    connect
        Opens associations.
    on_committed
        Called when images may have become spent.
    """

    def __init__(
        self, destination: Destination, *, journal: Journal, connect: Connector, on_committed: Callable[[], None]
    ) -> None:
        self.destination, self.journal, self.connect = destination, journal, connect
        self.breaker, self.stopping = Breaker(destination), threading.Event()
        self.crowded_until = self.expecting_until = 0.0
        self._on_committed = on_committed
        stores = [_StoreWorker(self) for _ in range(destination.associations)]
        self._workers: list[_Worker] = [*stores, _CommitWorker(self)]

    def start(self) -> None:
        """Begin."""
        for worker in self._workers:
            worker.start()

    def wake(self) -> None:
        """Say that there may be work."""
        for worker in self._workers:
            worker.awake.set()

    def expect(self) -> None:
        """Say that images will come soon: have an association open by then."""
        self.expecting_until = time.monotonic() + _IDLE_S
        self.wake()

    def stop(self, timeout_s: float) -> None:
        """Finish the image in hand, part from the archive, end."""
        self.stopping.set()
        self.wake()
        deadline = time.monotonic() + timeout_s
        for worker in self._workers:
            worker.join(max(0.0, deadline - time.monotonic()))

    def settle(self, report: CommitmentReport) -> None:
        """Write down what the archive vouches for, and send again what it does not."""
        with self.journal.transaction():
            for d in self.journal.of_transaction(report.transaction_uid):
                if d.destination != self.destination.name:
                    continue
                if d.sop_uid in report.kept:
                    self.journal.mark_committed(d, "commitment")
                elif d.sop_uid in report.failed:
                    self.retry(d, f"the archive does not vouch for it: {describe([report.failed[d.sop_uid]])}")
        self.committed()

    def committed(self) -> None:
        """Pass on that images may have become spent."""
        self._on_committed()

    def retry(self, delivery: Delivery, error: str) -> None:
        """Try again later, or give up after the last attempt."""
        failures = delivery.attempts + 1
        if failures >= self.destination.max_attempts:
            self.journal.mark_dead(delivery, f"{error} (attempt {failures}, the last)")
            LOG.error("image %s to %s: dead letter: %s", delivery.sop_uid, self.destination.name, error)
            return
        self.journal.mark_retry(delivery, error, delay_s=backoff_s(self.destination, failures))

    def refused(self, worker: _Worker, error: UnreachableError) -> None:
        """No association was to be had: an outage, unless another worker has one; then the archive wants fewer."""
        if all(w.link is None for w in self._workers if w is not worker):
            self.outage(error)
            return
        LOG.info("%s takes no further association now: %s", self.destination.name, error)
        self.crowded_until = worker.paused_until = time.monotonic() + _CROWDED_S

    def outage(self, error: UnreachableError) -> None:
        """Leave the archive alone for a while; what has waited for too long becomes dead letters."""
        self.breaker.unreachable()
        down_s = self.journal.note_down(self.destination.name, str(error))
        LOG.warning(
            "%s is down (%.0f s), next try in %.1f s: %s", self.destination.name, down_s, self.breaker.wait_s, error
        )
        if down_s >= self.destination.max_outage_s:
            n = self.journal.bury(
                self.destination.name, f"down for {down_s:.0f} s: {error}", self.destination.max_outage_s
            )
            if n:
                LOG.error("%s: %d dead letters", self.destination.name, n)


class _Worker(threading.Thread):
    """One association and the thread that drives it."""

    def __init__(self, courier: Courier, name: str) -> None:
        super().__init__(name=f"{name}-{courier.destination.name}", daemon=True)
        self.courier, self.awake = courier, threading.Event()
        self.link: Link | None = None
        self.paused_until, self._used_at = 0.0, 0.0

    def run(self) -> None:
        """Work until the courier stops."""
        while not self.courier.stopping.is_set():
            self.awake.clear()
            try:
                busy = self.work()
            except DeliveryError:  # the journal: full or locked disk; what is not written down is tried again
                LOG.exception("%s: cannot go on for now", self.name)
                self.drop()
                busy = not self.courier.stopping.wait(1.0)
            if not busy:
                self._rest()
        if self.link is not None:
            self.link.close()

    def work(self) -> bool:
        """Do what is due; return whether there was anything."""
        raise NotImplementedError

    def open(self, deliveries: Sequence[Delivery] = ()) -> Link:
        """Return the open link, or a new one if there is none that is alive and carries `deliveries`."""
        if self.link is not None and not self.link.alive:
            self.drop()
        if self.link is not None and not all(self.link.carries(d) for d in deliveries):
            self.link.close()
            self.link = None
        if self.link is None:
            self.link = self.courier.connect(self.courier.destination, deliveries)
        self._used_at = time.monotonic()
        return self.link

    def drop(self) -> None:
        """Abandon the link, if there is one."""
        if self.link is not None:
            self.link.abort()
            self.link = None

    def _rest(self) -> None:
        now = time.monotonic()
        limit_s = POLL_S if now < self.courier.crowded_until else _IDLE_S
        if self.link is not None and now - self._used_at > limit_s:
            self.link.close()
            self.link = None
        self.awake.wait(POLL_S)


class _StoreWorker(_Worker):
    """Sends images."""

    def __init__(self, courier: Courier) -> None:
        super().__init__(courier, "store")

    def work(self) -> bool:
        """Send a few images, or find out whether the archive is back."""
        courier = self.courier
        if not courier.breaker.closed:
            return courier.breaker.probe() and self._probe()
        if not self._ready():
            return False
        batch = deque(courier.journal.claim(courier.destination.name, _BATCH))
        if not batch:
            return False
        try:
            while batch and courier.breaker.closed and not courier.stopping.is_set():
                link = self.open(batch)
                self._store(link, batch[0])
                batch.popleft()
        except UnreachableError as error:
            courier.refused(self, error)
        finally:
            courier.journal.unclaim(batch)
        return True

    def _ready(self) -> bool:
        """Have an open association before images are claimed: another worker may take them meanwhile."""
        if self.link is not None and self.link.alive:
            return True
        now, courier = time.monotonic(), self.courier
        if now < self.paused_until:
            return False
        if now > courier.expecting_until and not courier.journal.due(courier.destination.name):
            return False
        try:
            self.open()
        except UnreachableError as error:
            courier.refused(self, error)
        return self.link is not None

    def _probe(self) -> bool:
        courier = self.courier
        try:
            self.open().echo()
        except UnreachableError as error:
            courier.outage(error)
        except TransientError as error:
            self.drop()
            courier.outage(UnreachableError(courier.destination.name, got=str(error)))
        else:
            courier.breaker.healthy()
            courier.journal.note_up(courier.destination.name)
            courier.wake()
        return True

    def _store(self, link: Link, delivery: Delivery) -> None:
        courier = self.courier
        try:
            evidence = link.store(delivery)
        except PermanentError as error:
            LOG.error("image %s to %s: dead letter: %s", delivery.sop_uid, courier.destination.name, error)
            courier.journal.mark_dead(delivery, str(error))
        except TransientError as error:
            LOG.warning("image %s to %s: %s", delivery.sop_uid, courier.destination.name, error)
            if isinstance(error, BrokenLinkError):
                self.drop()
            courier.retry(delivery, str(error))
            courier.breaker.failed()
        else:
            self._stored(link, delivery, evidence)

    def _stored(self, link: Link, delivery: Delivery, evidence: str) -> None:
        courier = self.courier
        wanted = courier.destination.commitment
        final = wanted == "off" or (wanted == "auto" and not link.offers_commitment)
        with courier.journal.transaction():
            courier.journal.mark_sent(delivery, evidence)
            if final:
                courier.journal.mark_committed(delivery, evidence)
        if courier.breaker.stored():
            courier.journal.note_up(courier.destination.name)
        if final:
            courier.committed()
        else:
            courier.wake()


class _CommitWorker(_Worker):
    """Asks the archive to vouch for what it took."""

    def __init__(self, courier: Courier) -> None:
        super().__init__(courier, "commit")

    def work(self) -> bool:
        """Hear late reports; ask for commitment of what was sent."""
        courier = self.courier
        try:
            if self.link is not None and (report := self.link.await_report(0.0)):
                courier.settle(report)
        except BrokenLinkError:
            self.drop()
        if not courier.breaker.closed or not courier.journal.awaiting_commitment(courier.destination.name, 1):
            return False
        courier.stopping.wait(_COMMIT_GATHER_S)
        rows = self._still_wanted(courier.journal.awaiting_commitment(courier.destination.name, _COMMIT_BATCH))
        if rows:
            self._request(rows)
        return True

    def _still_wanted(self, rows: list[Delivery]) -> list[Delivery]:
        """Where the settings allow it, take the store's Success for good: `off`, or `auto` and no answer ever."""
        if self.courier.destination.commitment == "require":
            return rows
        if self.courier.destination.commitment == "off":
            self._accept(rows, "commitment switched off")
            return []
        silent = [d for d in rows if d.commit_attempts >= _SILENT_REQUESTS]
        self._accept(silent, "commitment unanswered")
        return [d for d in rows if d.commit_attempts < _SILENT_REQUESTS]

    def _accept(self, rows: list[Delivery], why: str) -> None:
        if not rows:
            return
        LOG.warning("%s: %d images rest on the store's status alone: %s", self.courier.destination.name, len(rows), why)
        with self.courier.journal.transaction():
            for d in rows:
                self.courier.journal.mark_committed(d, f"{d.evidence}, {why}")
        self.courier.committed()

    def _request(self, rows: list[Delivery]) -> None:
        courier = self.courier
        uid = f"2.25.{uuid.uuid4().int}"
        wait_s = courier.destination.commit_timeout_s
        try:
            link = self.open()
            if not link.offers_commitment and courier.destination.commitment == "auto":
                self._accept(rows, "no commitment offered")
                return
            # Written down first: the report may come on another association before the request's response.
            courier.journal.note_request(rows, uid, again_after_s=wait_s)
            link.request_commitment(uid, rows)
            self._await(link, uid)
        except UnreachableError as error:
            courier.refused(self, error)
            courier.journal.note_refusal(rows, str(error), again_after_s=courier.destination.backoff_first_s)
        except TransientError as error:
            LOG.warning("%s: storage commitment: %s", courier.destination.name, error)
            if isinstance(error, BrokenLinkError):
                self.drop()
            failures = max(d.commit_attempts for d in rows) + 1
            courier.journal.note_refusal(rows, str(error), again_after_s=backoff_s(courier.destination, failures))

    def _await(self, link: Link, uid: str) -> None:
        """Wait a moment for the report; one that comes later is heard between requests, or at our door."""
        deadline = time.monotonic() + min(_COMMIT_WAIT_S, self.courier.destination.commit_timeout_s)
        while time.monotonic() < deadline and not self.courier.stopping.is_set():
            if report := link.await_report(0.05):
                self.courier.settle(report)
            if not self.courier.journal.of_transaction(uid):
                return
