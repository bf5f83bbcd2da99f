"""The journal: every legal step, no illegal one, and nothing forgotten by a crash."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from acquisition.errors import DeliveryError
from acquisition.verdict import Level, Verdict
from integration.delivery.journal import Journal
from integration.delivery.rows import Delivery
from integration.delivery.states import DELIVERY_STEPS, JOB_STEPS, DeliveryState, JobState, require_delivery_step
from tests.integration.delivery_samples import Clock, instance, new_job, put, uid

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def journal(tmp_path: Path, clock: Clock) -> Journal:
    with Journal(tmp_path / "journal.sqlite", clock=clock) as journal:
        journal.open_job(new_job("job"))
        yield journal


def one(journal: Journal) -> Delivery:
    (found,) = journal.deliveries()
    return found


# Jobs


def test_a_job_from_open_to_complete(journal: Journal, clock: Clock) -> None:
    assert [j.job for j in journal.unfinished_jobs()] == ["job"]
    clock.now = 1005.0
    verdict = Verdict(check="mri.noise", level=Level.FLAG, advice="Look.", value=2.0)
    journal.finish_job("job", JobState.COMPLETE, verdicts=[verdict])
    found = journal.job("job")
    assert found is not None
    assert (found.state, found.opened_at, found.finished_at, found.raw_path) == (JobState.COMPLETE, 1000, 1005, "/raw")
    assert found.verdicts == (verdict.as_dict(),)
    assert journal.unfinished_jobs() == []


def test_an_interrupted_job_may_be_replayed(journal: Journal) -> None:
    journal.finish_job("job", JobState.INTERRUPTED, reason="the scanner went away")
    assert journal.job("job").reason == "the scanner went away"  # type: ignore[union-attr]
    journal.open_job(new_job("job"))
    assert [j.state for j in journal.unfinished_jobs()] == [JobState.RECEIVING]
    journal.finish_job("job", JobState.COMPLETE)


def test_illegal_job_steps_raise(journal: Journal) -> None:
    journal.finish_job("job", JobState.COMPLETE)
    with pytest.raises(DeliveryError, match="job job is COMPLETE: expected no further step, got FAILED"):
        journal.finish_job("job", JobState.FAILED)
    with pytest.raises(DeliveryError, match="got RECEIVING"):
        journal.open_job(new_job("job"))
    with pytest.raises(DeliveryError, match="expected a job that was opened"):
        journal.finish_job("nobody", JobState.COMPLETE)


# Queue


def test_queueing_twice_changes_nothing_and_may_add_destinations(journal: Journal) -> None:
    assert put(journal, 1, "pacs")
    journal.mark_sent(one(journal), "store-status")
    assert not put(journal, 1, "pacs", "workstation")
    assert {d.destination: d.state for d in journal.deliveries()} == {"pacs": "SENT", "workstation": "QUEUED"}


def test_a_replay_with_other_bytes_keeps_the_first_and_says_so(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    put(journal, 1)
    before = journal.instance(uid(1))
    assert not put(journal, 1, data=b"other")
    assert journal.instance(uid(1)) == before
    assert "made again with other bytes" in caplog.text


def test_two_jobs_may_not_make_the_same_uid(journal: Journal) -> None:
    put(journal, 1)
    journal.open_job(new_job("second"))
    with pytest.raises(DeliveryError, match="the only maker of this UID, job job, got job second"):
        put(journal, 1, "other", name="second")
    assert [d.destination for d in journal.deliveries()] == ["pacs"]


def test_an_image_of_no_job_is_refused_whole(journal: Journal) -> None:
    with pytest.raises(DeliveryError, match="FOREIGN KEY"):
        put(journal, 1, name="nobody")
    assert journal.instance(uid(1)) is None


# Claims


def test_claims_are_oldest_first_and_exclusive(journal: Journal, clock: Clock) -> None:
    for i in (3, 1, 2):
        clock.now += 1
        put(journal, i)
    first, second = journal.claim("pacs", 2), journal.claim("pacs", 2)
    assert [d.sop_uid for d in first + second] == [uid(3), uid(1), uid(2)]
    assert journal.claim("pacs", 2) == []
    journal.unclaim(first[1:])
    assert [d.sop_uid for d in journal.claim("pacs", 9)] == [uid(1)]


def test_a_claim_lapses_and_a_new_sender_frees_all(journal: Journal, clock: Clock) -> None:
    put(journal, 1)
    assert journal.claim("pacs", 1)
    assert not journal.due("pacs")
    journal.release_claims()
    assert journal.claim("pacs", 1)
    clock.now += 301
    assert journal.claim("pacs", 1)


def test_after_a_clock_jump_nothing_waits_for_years(journal: Journal, clock: Clock) -> None:
    put(journal, 1)
    journal.mark_retry(one(journal), "full", delay_s=1e8)
    clock.now -= 900
    journal.release_claims(longest_wait_s=60)
    clock.now += 61
    assert journal.due("pacs")


def test_a_new_sender_asks_for_commitment_again_at_once(journal: Journal) -> None:
    put(journal, 1)
    journal.mark_sent(one(journal), "store-status")
    journal.note_request(journal.awaiting_commitment("pacs", 9), "2.25.9", again_after_s=60)
    assert journal.awaiting_commitment("pacs", 9) == []
    journal.release_claims()
    assert len(journal.awaiting_commitment("pacs", 9)) == 1


def test_threads_never_claim_the_same_image(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with Journal(path) as one_connection, Journal(path) as another:
        one_connection.open_job(new_job("job"))
        for i in range(60):
            put(one_connection, i)
        taken: list[str] = []

        def work(journal: Journal) -> None:
            while batch := journal.claim("pacs", 4):
                taken.extend(d.sop_uid for d in batch)

        threads = [threading.Thread(target=work, args=(j,)) for j in (one_connection, another) * 2]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert sorted(taken) == [uid(i) for i in range(60)]


# Steps


def test_the_way_of_an_image(journal: Journal, clock: Clock) -> None:
    put(journal, 1)
    journal.mark_retry(one(journal), "A700", delay_s=5)
    assert not journal.due("pacs")
    clock.now += 5
    (claimed,) = journal.claim("pacs", 1)
    assert (claimed.attempts, claimed.last_error) == (1, "A700")
    journal.mark_sent(claimed, "store-status")
    assert journal.spent() == []
    journal.note_request([claimed], "2.25.9", again_after_s=60)
    assert [d.sop_uid for d in journal.of_transaction("2.25.9")] == [uid(1)]
    journal.mark_committed(claimed, "commitment")
    d = one(journal)
    assert (d.state, d.evidence, d.sent_at, d.committed_at, d.last_error) == ("COMMITTED", "commitment", 1005, 1005, "")
    assert [i.sop_uid for i in journal.spent()] == [uid(1)]
    journal.mark_removed(uid(1))
    assert journal.spent() == journal.spooled() == []


@pytest.mark.parametrize("now", list(DeliveryState))
@pytest.mark.parametrize("then", list(DeliveryState))
def test_the_table_of_steps_is_the_journal_s_behaviour(
    journal: Journal, now: DeliveryState, then: DeliveryState
) -> None:
    put(journal, 1)
    reach(journal, now)
    if then in DELIVERY_STEPS[now]:
        go(journal, then)
        assert one(journal).state is then
    elif now is DeliveryState.DEAD or then is not DeliveryState.QUEUED:
        with pytest.raises(DeliveryError, match=f"is {now}: expected .*got {then}"):
            go(journal, then)
        assert one(journal).state is now
    with pytest.raises(DeliveryError) if then not in DELIVERY_STEPS[now] else _nothing():
        require_delivery_step("x", now, then)


class _nothing:  # noqa: N801
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def reach(journal: Journal, state: DeliveryState) -> None:
    for step in {
        DeliveryState.QUEUED: [],
        DeliveryState.SENT: [DeliveryState.SENT],
        DeliveryState.COMMITTED: [DeliveryState.SENT, DeliveryState.COMMITTED],
        DeliveryState.DEAD: [DeliveryState.DEAD],
    }[state]:
        go(journal, step)


def go(journal: Journal, then: DeliveryState) -> None:
    d = one(journal)
    if then is DeliveryState.QUEUED and d.state is DeliveryState.DEAD:
        journal.resend()
    else:
        {
            DeliveryState.QUEUED: lambda: journal.mark_retry(d, "e", delay_s=0),
            DeliveryState.SENT: lambda: journal.mark_sent(d, "e"),
            DeliveryState.COMMITTED: lambda: journal.mark_committed(d, "e"),
            DeliveryState.DEAD: lambda: journal.mark_dead(d, "e"),
        }[then]()


def test_committed_is_final_and_complete_is_final() -> None:
    assert DELIVERY_STEPS[DeliveryState.COMMITTED] == frozenset()
    assert JOB_STEPS[JobState.COMPLETE] == frozenset()


def test_a_delivery_that_was_never_queued_cannot_be_marked(journal: Journal, tmp_path: Path) -> None:
    put(journal, 1)
    stranger = Delivery(**{f: getattr(one(journal), f) for f in Delivery.__slots__} | {"destination": "mars"})
    with pytest.raises(DeliveryError, match="to mars: expected a queued delivery, got none"):
        journal.mark_sent(stranger, "e")


def test_spent_waits_for_every_destination(journal: Journal) -> None:
    put(journal, 1, "pacs", "workstation")
    for d in journal.deliveries():
        assert journal.spent() == []
        journal.mark_sent(d, "e")
        journal.mark_committed(d, "e")
    assert len(journal.spent()) == 1


def test_an_image_without_destination_stays_in_the_spool(journal: Journal) -> None:
    journal.queue(instance(1, "/spool/1.dcm", b"x"), [])
    assert journal.spent() == []
    assert journal.spooled() == ["/spool/1.dcm"]


def test_resend_takes_dead_letters_only_and_only_those_named(journal: Journal) -> None:
    journal.open_job(new_job("b"))
    put(journal, 1, "pacs", "ws")
    put(journal, 2, "pacs", name="b")
    put(journal, 3, "pacs")
    for d in journal.deliveries():
        if d.sop_uid != uid(3):
            journal.mark_dead(d, "gave up")
    assert journal.resend(destination="ws") == 1
    assert journal.resend(job="b") == 1
    assert journal.resend(sop_uid=uid(3)) == 0
    assert journal.resend() == 1
    assert {d.state for d in journal.deliveries()} == {DeliveryState.QUEUED}
    assert {d.attempts for d in journal.deliveries()} == {0}


def test_an_outage_is_remembered_and_what_waited_too_long_is_buried(journal: Journal, clock: Clock) -> None:
    put(journal, 1)
    assert journal.note_down("pacs", "refused") == 0
    clock.now += 100
    put(journal, 2)
    assert journal.note_down("pacs", "silence") == 100
    status = journal.status()["pacs"]
    assert (status.down_since, status.last_error) == (1000, "silence")
    assert journal.bury("pacs", "down for 100 s", 100) == 1
    assert {d.sop_uid: d.state for d in journal.deliveries()} == {uid(1): "DEAD", uid(2): "QUEUED"}
    journal.note_up("pacs")
    assert journal.status()["pacs"].down_since is None
    assert journal.status()["pacs"].counts == {"QUEUED": 1, "SENT": 0, "COMMITTED": 0, "DEAD": 1}


def test_commitment_is_asked_again_only_after_its_time(journal: Journal, clock: Clock) -> None:
    put(journal, 1)
    journal.mark_sent(one(journal), "e")
    (d,) = journal.awaiting_commitment("pacs", 9)
    journal.note_request([d], "2.25.9", again_after_s=60)
    assert journal.awaiting_commitment("pacs", 9) == []
    clock.now += 60
    (again,) = journal.awaiting_commitment("pacs", 9)
    assert again.commit_attempts == 1
    journal.mark_retry(again, "0x0112", delay_s=0)
    assert journal.of_transaction("2.25.9") == []


def test_a_transaction_is_all_or_nothing(journal: Journal) -> None:
    put(journal, 1)
    with pytest.raises(ZeroDivisionError), journal.transaction():
        journal.mark_sent(one(journal), "e")
        _ = 1 / 0
    assert one(journal).state is DeliveryState.QUEUED
