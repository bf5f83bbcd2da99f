"""The courier, without a network: what it does when archives misbehave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from acquisition.errors import StorageFullError
from integration.delivery import courier as module
from integration.delivery.courier import Courier
from integration.delivery.destination import Destination
from integration.delivery.link import BrokenLinkError, PermanentError, TransientError
from integration.delivery.rows import Delivery
from tests.integration.delivery_samples import Box, FakeArchive, destination, uid, until

Start = Callable[..., Courier]


@pytest.fixture(autouse=True)
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.02)
    monkeypatch.setattr(module, "_CROWDED_S", 0.3)
    monkeypatch.setattr(module, "_COMMIT_WAIT_S", 0.2)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    yield box
    box.journal.close()


@pytest.fixture
def archive() -> FakeArchive:
    return FakeArchive()


@pytest.fixture
def start(box: Box) -> Iterator[Start]:
    running: list[Courier] = []

    def begin(archive: FakeArchive, where: Destination | None = None) -> Courier:
        where = where or destination()
        courier = Courier(where, journal=box.journal, connect=archive.connect, on_committed=lambda: None)
        running.append(courier)
        courier.start()
        return courier

    yield begin
    for courier in running:
        courier.stop(5)
    assert all(not w.is_alive() for c in running for w in c._workers)


def errors(box: Box) -> dict[str, str]:
    return {d.sop_uid: d.last_error for d in box.journal.deliveries()}


def test_everything_queued_arrives_once_over_few_associations(box: Box, archive: FakeArchive, start: Start) -> None:
    box.put(range(40), ["pacs"])
    start(archive)
    until(lambda: box.counts("pacs") == {"COMMITTED": 40})
    assert archive.kept == {uid(i): 1 for i in range(40)}
    assert archive.opened <= 2
    assert {d.evidence for d in box.journal.deliveries()} == {"store-status"}


def test_associations_stay_open_between_images(box: Box, archive: FakeArchive, start: Start) -> None:
    courier = start(archive)
    for i in range(10):
        box.put([i], ["pacs"])
        courier.wake()
        until(lambda n=i: box.counts("pacs") == {"COMMITTED": n + 1})
    assert archive.opened <= 2
    courier.stop(5)
    assert not any(link.open for link in archive.links)


def test_an_association_is_open_before_the_first_image_when_a_scan_is_announced(
    box: Box, archive: FakeArchive, start: Start
) -> None:
    courier = start(archive)
    assert archive.opened == 0
    courier.expect()
    until(lambda: archive.opened >= 1)
    opened = archive.opened
    box.put([0], ["pacs"])
    courier.wake()
    until(lambda: box.counts("pacs") == {"COMMITTED": 1})
    assert archive.opened <= max(opened, 2)


def test_a_dead_destination_blocks_no_other(box: Box, archive: FakeArchive, start: Start) -> None:
    dead = FakeArchive()
    dead.up = False
    start(dead, destination("dead"))
    start(archive)
    box.put(range(20), ["dead", "pacs"])
    until(lambda: box.counts("pacs") == {"COMMITTED": 20})
    assert box.counts("dead") == {"QUEUED": 20}
    assert "connection refused" in box.journal.status()["dead"].last_error
    dead.up = True
    until(lambda: box.counts("dead") == {"COMMITTED": 20})
    assert box.journal.status()["dead"].down_since is None


def test_an_outage_costs_no_image_an_attempt(box: Box, archive: FakeArchive, start: Start) -> None:
    archive.up = False
    box.put(range(3), ["pacs"])
    courier = start(archive)
    until(lambda: courier.breaker._failures >= 5)
    assert {d.attempts for d in box.journal.deliveries()} == {0}


def test_an_outage_that_lasts_too_long_ends_in_dead_letters_that_can_be_resent(
    box: Box, archive: FakeArchive, start: Start
) -> None:
    archive.up = False
    box.put(range(3), ["pacs"])
    courier = start(archive, destination(max_outage_s=0.2))
    until(lambda: box.counts("pacs") == {"DEAD": 3})
    assert all("down for" in e and "connection refused" in e for e in errors(box).values())
    archive.up = True
    assert box.journal.resend(destination="pacs") == 3
    courier.breaker.probe_soon()
    until(lambda: box.counts("pacs") == {"COMMITTED": 3})


def test_a_permanent_failure_is_a_dead_letter_at_once_and_the_rest_goes_on(
    box: Box, archive: FakeArchive, start: Start
) -> None:
    archive.faults[uid(1)] = [PermanentError("image", got="status 0xA900")]
    box.put(range(4), ["pacs"])
    start(archive)
    until(lambda: box.counts("pacs") == {"COMMITTED": 3, "DEAD": 1})
    assert "0xA900" in errors(box)[uid(1)]


@pytest.mark.parametrize("error", [TransientError("image", got="0xA700"), BrokenLinkError("image", got="aborted")])
def test_transient_failures_are_tried_again(box: Box, archive: FakeArchive, start: Start, error: Exception) -> None:
    archive.faults[uid(1)] = [error, error]
    box.put(range(3), ["pacs"])
    start(archive)
    until(lambda: box.counts("pacs") == {"COMMITTED": 3})
    assert {d.sop_uid: d.attempts for d in box.journal.deliveries()} == {uid(0): 0, uid(1): 2, uid(2): 0}


def test_attempts_are_bounded_then_a_dead_letter_then_resend(box: Box, archive: FakeArchive, start: Start) -> None:
    archive.faults[uid(0)] = [TransientError("image", got="0xA700")] * 3
    box.put([0], ["pacs"])
    start(archive, destination(max_attempts=3))
    until(lambda: box.counts("pacs") == {"DEAD": 1})
    assert "0xA700" in errors(box)[uid(0)]
    assert "attempt 3, the last" in errors(box)[uid(0)]
    assert box.spooled()
    box.journal.resend()
    until(lambda: box.counts("pacs") == {"COMMITTED": 1})


def test_an_archive_that_takes_one_association_only_gets_all_over_it(
    box: Box, archive: FakeArchive, start: Start
) -> None:
    archive.max_links = 1
    box.put(range(30), ["pacs"])
    courier = start(archive, destination(associations=3))
    until(lambda: box.counts("pacs") == {"COMMITTED": 30})
    assert courier.breaker.closed
    assert box.journal.status()["pacs"].down_since is None


def test_an_association_that_ended_while_idle_is_replaced(box: Box, archive: FakeArchive, start: Start) -> None:
    courier = start(archive, destination(associations=1))
    box.put([0], ["pacs"])
    until(lambda: box.counts("pacs") == {"COMMITTED": 1})
    archive.links[0].open = False
    box.put([1], ["pacs"])
    courier.wake()
    until(lambda: box.counts("pacs") == {"COMMITTED": 2})
    assert {d.attempts for d in box.journal.deliveries()} == {0}


def test_a_journal_that_cannot_be_written_stops_nothing_for_good(
    box: Box, archive: FakeArchive, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = box.journal.mark_sent, [1, 2]

    def mark_sent(delivery: Delivery, evidence: str) -> None:
        if failures:
            failures.pop()
            raise StorageFullError("journal", got="database or disk is full")
        real(delivery, evidence)

    monkeypatch.setattr(box.journal, "mark_sent", mark_sent)
    box.put([0], ["pacs"])
    start(archive)
    until(lambda: box.counts("pacs") == {"COMMITTED": 1})
    assert archive.kept[uid(0)] == 3, "sent again, and the archive keeps one"


# Storage commitment


def test_where_commitment_is_offered_it_is_the_evidence(box: Box, archive: FakeArchive, start: Start) -> None:
    archive.commitment = True
    box.put(range(30), ["pacs"])
    start(archive)
    until(lambda: box.counts("pacs") == {"COMMITTED": 30})
    assert {d.evidence for d in box.journal.deliveries()} == {"commitment"}
    assert len(archive.requests) < 30, "requests name many images"


def test_what_the_archive_forgot_is_sent_again(box: Box, archive: FakeArchive, start: Start) -> None:
    archive.commitment = True
    archive.forgets = {uid(1)}
    box.put(range(3), ["pacs"])
    start(archive)
    until(lambda: box.counts("pacs") == {"COMMITTED": 2, "QUEUED": 1})
    assert "does not vouch for it: 0x0112" in errors(box)[uid(1)]
    archive.forgets = set()
    until(lambda: box.counts("pacs") == {"COMMITTED": 3})
    assert archive.kept[uid(1)] >= 2


def test_what_it_forgets_for_ever_is_a_dead_letter(box: Box, archive: FakeArchive, start: Start) -> None:
    archive.commitment = True
    archive.forgets = {uid(0)}
    box.put([0], ["pacs"])
    start(archive, destination(max_attempts=3))
    until(lambda: box.counts("pacs") == {"DEAD": 1})
    assert archive.kept[uid(0)] == 3
    assert box.spooled()


def test_off_never_asks(box: Box, archive: FakeArchive, start: Start) -> None:
    archive.commitment = True
    box.put(range(3), ["pacs"])
    start(archive, destination(commitment="off"))
    until(lambda: box.counts("pacs") == {"COMMITTED": 3})
    assert archive.requests == []


def test_require_stays_sent_until_vouched_for(box: Box, archive: FakeArchive, start: Start) -> None:
    archive.commitment, archive.reports = True, False
    box.put([0], ["pacs"])
    start(archive, destination(commitment="require", commit_timeout_s=0.1))
    until(lambda: len(archive.requests) > 4)
    assert box.counts("pacs") == {"SENT": 1}
    archive.reports = True
    until(lambda: box.counts("pacs") == {"COMMITTED": 1})


def test_auto_takes_the_store_for_good_when_requests_are_never_answered(
    box: Box, archive: FakeArchive, start: Start
) -> None:
    archive.commitment, archive.reports = True, False
    box.put([0], ["pacs"])
    start(archive, destination(commit_timeout_s=0.1))
    until(lambda: box.counts("pacs") == {"COMMITTED": 1})
    assert len(archive.requests) == 3
    assert box.journal.deliveries()[0].evidence == "store-status, commitment unanswered"


def test_sent_images_are_settled_when_commitment_is_switched_off(box: Box, archive: FakeArchive, start: Start) -> None:
    box.put([0], ["pacs"])
    box.journal.mark_sent(box.journal.deliveries()[0], "store-status")
    start(archive, destination(commitment="off"))
    until(lambda: box.counts("pacs") == {"COMMITTED": 1})
    assert "switched off" in box.journal.deliveries()[0].evidence


def test_a_late_report_is_heard(box: Box, archive: FakeArchive, start: Start) -> None:
    archive.commitment, archive.reports = True, False
    box.put([0], ["pacs"])
    courier = start(archive, destination(commitment="require"))
    until(lambda: archive.requests)
    (transaction,) = {r["transaction_uid"] for r in box.journal._db.rows("SELECT transaction_uid FROM deliveries")}
    report = module.CommitmentReport(transaction_uid=transaction, kept=frozenset({uid(0)}), failed={})
    archive.links[-1].waiting.append(report)
    until(lambda: box.counts("pacs") == {"COMMITTED": 1})
    courier.settle(report)
    assert box.counts("pacs") == {"COMMITTED": 1}, "a report that comes twice changes nothing"
