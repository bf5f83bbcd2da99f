"""The journal's file: damage is an error, a crash forgets nothing, and random steps agree with a model."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from acquisition.errors import DeliveryError, StorageFullError
from integration.delivery.database import Database
from integration.delivery.journal import Journal
from integration.delivery.states import DELIVERY_STEPS, DeliveryState
from tests.integration.delivery_samples import Clock, new_job, put, uid

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not a database at all" * 1000),
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
        lambda path: path.write_bytes(b"\0" * path.stat().st_size),
        lambda path: path.write_bytes(path.read_bytes()[:100] + random.Random(1).randbytes(path.stat().st_size - 100)),
    ],
)
def test_a_damaged_file_is_an_error_and_left_as_it_is(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "journal.sqlite"
    with Journal(path) as journal:
        journal.open_job(new_job("job"))
        for i in range(50):
            put(journal, i)
    damage(path)  # type: ignore[operator]
    before = path.read_bytes()
    with pytest.raises(DeliveryError, match=r"expected an intact journal.*Move it aside"):
        Journal(path)
    assert path.read_bytes() == before


def test_another_program_s_database_is_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE cats (name TEXT)")
    connection.close()
    with pytest.raises(DeliveryError, match="a database of another program"):
        Journal(path)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    Journal(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(DeliveryError, match="expected schema version 1, got 99"):
        Journal(path)


def test_it_is_synchronous_and_logs_ahead(tmp_path: Path) -> None:
    database = Database(tmp_path / "j.sqlite")
    assert database.rows("PRAGMA journal_mode")[0][0] == "wal"
    assert database.rows("PRAGMA synchronous")[0][0] == 2
    database.close()


def test_a_full_disk_is_said_and_leaves_the_journal_usable(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.sqlite") as journal:
        journal.open_job(new_job("job"))
        journal._db.rows("PRAGMA max_page_count = 1")
        pages = journal._db.rows("PRAGMA page_count")[0][0]
        with pytest.raises(StorageFullError, match=r"full.*Free disk space"):
            for i in range(5000):
                put(journal, i)
        journal._db.rows(f"PRAGMA max_page_count = {pages + 1000}")
        done = len(journal.deliveries())
        assert put(journal, 9999)
        assert len(journal.deliveries()) == done + 1


def test_two_processes_may_make_it_at_once(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "j.sqlite"
    opened: list[Journal] = []
    threads = [threading.Thread(target=lambda: opened.append(Journal(path))) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(opened) == 6
    for j in opened:
        j.close()


_QUEUER = """
import sys, pathlib
from integration.delivery.journal import Journal
from tests.integration.delivery_samples import instance, new_job
journal = Journal(pathlib.Path(sys.argv[1]))
journal.open_job(new_job("job"))
for i in range(100000):
    journal.queue(instance(i, f"/{i}", b"x"), ["pacs", "ws"])
    print(i, flush=True)
"""


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_any_moment_what_was_acknowledged_is_there(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "j.sqlite"
    with subprocess.Popen([sys.executable, "-c", _QUEUER, path], stdout=subprocess.PIPE, cwd=ROOT, text=True) as queuer:
        assert queuer.stdout
        lines = [queuer.stdout.readline()]
        time.sleep(random.Random(seed).uniform(0.05, 0.3))
        os.kill(queuer.pid, signal.SIGKILL)
        lines += queuer.stdout.readlines()
    acknowledged = [int(line) for line in lines if line.endswith("\n")]
    with Journal(path) as journal:
        found = journal.deliveries()
        assert {uid(i) for i in acknowledged} <= {d.sop_uid for d in found}
        assert len(found) == 2 * len({d.sop_uid for d in found})  # an image with all its destinations, or not at all


class JournalMachine(RuleBasedStateMachine):
    """Random steps against a model in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.temporary = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.path = Path(self.temporary.name) / "j.sqlite"
        self.journal = Journal(self.path, clock=self.clock)
        self.journal.open_job(new_job("job"))
        self.model: dict[tuple[str, str], DeliveryState] = {}
        self.removed: set[str] = set()

    @rule(i=st.integers(0, 4), where=st.sets(st.sampled_from(["a", "b"]), min_size=1))
    def queue(self, i: int, where: set[str]) -> None:
        if uid(i) not in self.removed:
            put(self.journal, i, *where)
            for w in where:
                self.model.setdefault((uid(i), w), DeliveryState.QUEUED)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), then=st.sampled_from(list(DeliveryState)))
    def step(self, data: st.DataObject, then: DeliveryState) -> None:
        key = data.draw(st.sampled_from(sorted(self.model)))
        (d,) = [d for d in self.journal.deliveries() if (d.sop_uid, d.destination) == key]
        actions = {
            DeliveryState.QUEUED: lambda: self.journal.mark_retry(d, "e", delay_s=1),
            DeliveryState.SENT: lambda: self.journal.mark_sent(d, "e"),
            DeliveryState.COMMITTED: lambda: self.journal.mark_committed(d, "e"),
            DeliveryState.DEAD: lambda: self.journal.mark_dead(d, "e"),
        }
        if then in DELIVERY_STEPS[self.model[key]]:
            actions[then]()
            self.model[key] = then
        else:
            with pytest.raises(DeliveryError, match="journal, delivery"):
                actions[then]()

    @rule(where=st.sampled_from(["a", "b", None]))
    def resend(self, where: str | None) -> None:
        dead = [k for k, s in self.model.items() if s is DeliveryState.DEAD and where in (None, k[1])]
        assert self.journal.resend(destination=where) == len(dead)
        self.model |= dict.fromkeys(dead, DeliveryState.QUEUED)

    @rule()
    def sweep(self) -> None:
        for i in self.journal.spent():
            self.journal.mark_removed(i.sop_uid)
            self.removed.add(i.sop_uid)

    @rule()
    def crash(self) -> None:
        self.journal.close()
        self.journal = Journal(self.path, clock=self.clock)
        self.journal.release_claims()

    @rule(seconds=st.integers(1, 500))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule(where=st.sampled_from(["a", "b"]))
    def claim(self, where: str) -> None:
        for d in self.journal.claim(where, 2):
            assert self.model[d.sop_uid, where] is DeliveryState.QUEUED

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert {(d.sop_uid, d.destination): d.state for d in self.journal.deliveries()} == self.model

    @invariant()
    def only_what_arrived_everywhere_may_leave_the_spool(self) -> None:
        for gone in self.removed | {i.sop_uid for i in self.journal.spent()}:
            assert {s for (u, _), s in self.model.items() if u == gone} == {DeliveryState.COMMITTED}

    def teardown(self) -> None:
        self.journal.close()
        self.temporary.cleanup()


TestJournalMachine = JournalMachine.TestCase
TestJournalMachine.settings = settings(
    max_examples=12, stateful_step_count=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
