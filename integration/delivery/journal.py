"""The journal: which scans came in, which images they made, and how far each has come to each destination.

Every step is one durable transaction, checked against the tables in `states`; what was promised before a crash
is found again after it. Several processes may hold a journal on the same file.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, fields
from pathlib import Path

from acquisition.errors import DeliveryError
from acquisition.verdict import Verdict
from integration.delivery.answers import Answers
from integration.delivery.database import Database
from integration.delivery.progress import Progress
from integration.delivery.rows import Delivery, DestinationStatus, Instance, Job
from integration.delivery.states import DeliveryState, JobState, require_delivery_step, require_job_step

LOG = logging.getLogger(__name__)

_LEASE_S = 300.0
_SELECT = """SELECT d.sop_uid, destination, state, attempts, next_attempt, last_error, evidence, commit_attempts,
    queued_at, sent_at, committed_at, i.job, i.series_uid, i.sop_class, i.path, i.sha256, i.description
    FROM deliveries d JOIN images i ON i.sop_uid = d.sop_uid """
_ORDER = " ORDER BY queued_at, d.rowid"
_DUE = "WHERE destination = :d AND state = :queued AND next_attempt <= :now AND lease_until <= :now"
_UPDATE = "UPDATE deliveries SET lease_until = 0, "
_KEY = " WHERE sop_uid = :sop_uid AND destination = :destination"


class Journal:
    """The durable record of scans, images and deliveries.

    Parameters
    ----------
    path
        The SQLite file; made if it is not there.
    clock
        Returns the time [s since 1970].

    Raises
    ------
    DeliveryError
        The file is damaged or not a journal. It is never replaced by a new one.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._db, self._clock = Database(path), clock
        self.progress = Progress(self._db)
        self.answers = Answers(self._db, clock)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def transaction(self) -> AbstractContextManager[None]:
        """Make all steps inside it durable together."""
        return self._db.transaction()

    # Jobs

    def open_job(self, job: Job) -> None:
        """Record that a scan has begun. A job known as interrupted or failed goes back to RECEIVING (replay)."""
        row = asdict(job) | {"state": JobState.RECEIVING, "opened_at": self._clock(), "verdicts": "[]"}
        with self.transaction():
            if (known := self.job(job.job)) is not None:
                require_job_step(job.job, known.state, JobState.RECEIVING)
                self._db.change(
                    "UPDATE jobs SET state = :state, reason = '', finished_at = NULL WHERE job = :job",
                    {"job": job.job, "state": JobState.RECEIVING},
                )
                return
            self._db.change(_insert("jobs", row), row)

    def finish_job(self, job: str, state: JobState, *, reason: str = "", verdicts: Iterable[Verdict] = ()) -> None:
        """Record how a scan ended."""
        with self.transaction():
            if (known := self.job(job)) is None:
                raise DeliveryError(f"journal, job {job}", expected="a job that was opened", got="none")
            require_job_step(job, known.state, state)
            self._db.change(
                "UPDATE jobs SET state = :state, reason = :reason, finished_at = :now, verdicts = :verdicts"
                " WHERE job = :job",
                {
                    "job": job,
                    "state": state,
                    "reason": reason,
                    "now": self._clock(),
                    "verdicts": json.dumps([v.as_dict() for v in verdicts]),
                },
            )

    def job(self, job: str) -> Job | None:
        """Return one job, or None if it is unknown."""
        found = self._jobs("WHERE job = :job", job=job)
        return found[0] if found else None

    def jobs(self, limit: int = 100) -> list[Job]:
        """Return the latest jobs, newest first."""
        return self._jobs("ORDER BY opened_at DESC LIMIT :limit", limit=limit)

    def unfinished_jobs(self) -> list[Job]:
        """Return the jobs that were RECEIVING, e.g. when the service was killed."""
        return self._jobs("WHERE state = :state ORDER BY opened_at", state=JobState.RECEIVING)

    def _jobs(self, where: str, **parameters: object) -> list[Job]:
        return [_job(r) for r in self._db.rows(f"SELECT * FROM jobs {where}", parameters)]

    # Images in

    def queue(self, instance: Instance, destinations: Sequence[str]) -> bool:
        """Record an image that lies in the spool, and where it shall go, in one transaction.

        Queueing it again (a replay after a crash) keeps what is recorded and adds destinations that are new.

        Returns
        -------
        bool
            True if the image was not known.

        Raises
        ------
        DeliveryError
            Another job has already made an image of this UID.
        """
        now = self._clock()
        with self.transaction():
            if (known := self.instance(instance.sop_uid)) is None:
                row = asdict(instance) | {"created": now}
                self._db.change(_insert("images", row), row)
            elif known.job != instance.job:
                raise DeliveryError(
                    f"journal, image {instance.sop_uid}",
                    expected=f"the only maker of this UID, job {known.job}",
                    got=f"job {instance.job}",
                    action="UIDs must differ between jobs",
                )
            elif known.sha256 != instance.sha256:
                LOG.warning("job %s: image %s made again with other bytes; the first is kept", known.job, known.sop_uid)
            for destination in destinations:
                self._db.change(
                    "INSERT OR IGNORE INTO deliveries (sop_uid, destination, state, next_attempt, queued_at)"
                    " VALUES (:sop_uid, :destination, :state, :now, :now)",
                    {
                        "sop_uid": instance.sop_uid,
                        "destination": destination,
                        "state": DeliveryState.QUEUED,
                        "now": now,
                    },
                )
        return known is None

    def instance(self, sop_uid: str) -> Instance | None:
        """Return one image's row, or None if it is unknown."""
        columns = ", ".join(f.name for f in fields(Instance))
        found = self._db.rows(f"SELECT {columns} FROM images WHERE sop_uid = :uid", {"uid": sop_uid})
        return Instance(**dict(found[0])) if found else None

    def spooled(self) -> list[str]:
        """Return the paths of all images whose file has not been removed, for `Spool.sweep`."""
        return [r["path"] for r in self._db.rows("SELECT path FROM images WHERE removed_at IS NULL")]

    def spent(self, limit: int = 256) -> list[Instance]:
        """Return images that every one of their destinations has COMMITTED and whose file is still there."""
        columns = ", ".join(f.name for f in fields(Instance))
        rows = self._db.rows(
            f"""SELECT {columns} FROM images i WHERE removed_at IS NULL
                AND EXISTS (SELECT 1 FROM deliveries d WHERE d.sop_uid = i.sop_uid)
                AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.sop_uid = i.sop_uid AND d.state != :done)
                LIMIT :limit""",
            {"done": DeliveryState.COMMITTED, "limit": limit},
        )
        return [Instance(**dict(r)) for r in rows]

    def mark_removed(self, sop_uid: str) -> None:
        """Record that an image's file has left the spool."""
        self._db.change(
            "UPDATE images SET removed_at = :now WHERE sop_uid = :uid", {"uid": sop_uid, "now": self._clock()}
        )

    # Deliveries

    def due(self, destination: str) -> bool:
        """Whether an image waits for a destination that nobody has claimed."""
        return bool(self._db.rows(f"SELECT 1 FROM deliveries {_DUE} LIMIT 1", self._due(destination)))

    def claim(self, destination: str, n: int) -> list[Delivery]:
        """Take up to `n` images that are due, oldest first; no other worker gets them until they are marked."""
        if not self.due(destination):
            return []
        with self.transaction():
            parameters = self._due(destination) | {"n": n}
            taken = [_delivery(r) for r in self._db.rows(f"{_SELECT} {_DUE} {_ORDER} LIMIT :n", parameters)]
            until = self._clock() + _LEASE_S
            for d in taken:
                self._db.change(f"UPDATE deliveries SET lease_until = :until {_KEY}", _key(d) | {"until": until})
        return taken

    def _due(self, destination: str) -> dict[str, object]:
        return {"d": destination, "queued": DeliveryState.QUEUED, "now": self._clock()}

    def unclaim(self, deliveries: Iterable[Delivery]) -> None:
        """Give back what was claimed and not tried."""
        with self.transaction():
            for d in deliveries:
                self._db.change(f"UPDATE deliveries SET lease_until = 0 {_KEY}", _key(d))

    def release_claims(self, longest_wait_s: float = 900.0) -> None:
        """Free all that a dead sender was at: its claims, and its commitment requests (they are made again).

        Nothing waits longer than `longest_wait_s` from now, whatever the clock said when the wait was set.
        """
        with self.transaction():
            wait = f"{_UPDATE} next_attempt = min(next_attempt, :latest) WHERE state = :state"
            now = self._clock()
            self._db.change(wait, {"latest": now + longest_wait_s, "state": DeliveryState.QUEUED})
            self._db.change(wait, {"latest": now, "state": DeliveryState.SENT})

    def mark_sent(self, delivery: Delivery, evidence: str) -> None:
        """The archive answered Success."""
        self._step(
            delivery, DeliveryState.SENT, "sent_at = :now, next_attempt = :now, evidence = :evidence", evidence=evidence
        )

    def mark_committed(self, delivery: Delivery, evidence: str) -> None:
        """The archive vouches for the image (or, with evidence `store-status`, we take its Success for that)."""
        changes = "committed_at = :now, evidence = :evidence, last_error = ''"
        self._step(delivery, DeliveryState.COMMITTED, changes, evidence=evidence)

    def mark_retry(self, delivery: Delivery, error: str, *, delay_s: float) -> None:
        """An attempt failed; try again after `delay_s`."""
        changes = "attempts = attempts + 1, last_error = :error, next_attempt = :now + :delay, transaction_uid = ''"
        self._step(delivery, DeliveryState.QUEUED, changes, error=error, delay=delay_s)

    def mark_dead(self, delivery: Delivery, reason: str) -> None:
        """Give up: a dead letter, kept and shown until someone resends it."""
        self._step(delivery, DeliveryState.DEAD, "attempts = attempts + 1, last_error = :reason", reason=reason)

    def bury(self, destination: str, reason: str, older_than_s: float) -> int:
        """Make dead letters of what has been queued for so long for a destination that is down; return how many."""
        return self._db.change(
            f"""{_UPDATE} state = :dead, last_error = :reason
                WHERE destination = :d AND state = :queued AND queued_at <= :now - :age""",
            {
                "d": destination,
                "reason": reason,
                "dead": DeliveryState.DEAD,
                "queued": DeliveryState.QUEUED,
                "now": self._clock(),
                "age": older_than_s,
            },
        )

    def resend(self, *, destination: str | None = None, job: str | None = None, sop_uid: str | None = None) -> int:
        """Queue dead letters again, all or the ones named; return how many."""
        return self._db.change(
            f"""{_UPDATE} state = :queued, attempts = 0, commit_attempts = 0, next_attempt = :now, queued_at = :now
                WHERE state = :dead AND (:d IS NULL OR destination = :d) AND (:uid IS NULL OR sop_uid = :uid)
                AND (:job IS NULL OR sop_uid IN (SELECT sop_uid FROM images WHERE job = :job))""",
            {
                "queued": DeliveryState.QUEUED,
                "dead": DeliveryState.DEAD,
                "now": self._clock(),
                "d": destination,
                "uid": sop_uid,
                "job": job,
            },
        )

    def deliveries(self, job: str | None = None, *, state: DeliveryState | None = None) -> list[Delivery]:
        """Return the deliveries of one job, or of all, in the order they were queued."""
        where = "WHERE (:job IS NULL OR i.job = :job) AND (:state IS NULL OR d.state = :state)"
        return [_delivery(r) for r in self._db.rows(f"{_SELECT} {where} {_ORDER}", {"job": job, "state": state})]

    def _step(self, delivery: Delivery, then: DeliveryState, changes: str, **parameters: object) -> None:
        with self.transaction():
            found = self._db.rows(f"SELECT state FROM deliveries {_KEY}", _key(delivery))
            name = f"{delivery.sop_uid} to {delivery.destination}"
            if not found:
                raise DeliveryError(f"journal, delivery {name}", expected="a queued delivery", got="none")
            require_delivery_step(name, DeliveryState(found[0]["state"]), then)
            values = _key(delivery) | parameters | {"then": then, "now": self._clock()}
            self._db.change(f"{_UPDATE} state = :then, {changes} {_KEY}", values)

    # Storage commitment

    def awaiting_commitment(self, destination: str, n: int) -> list[Delivery]:
        """Return SENT images whose commitment is to be asked for now, for the first time or again."""
        where = "WHERE destination = :d AND state = :sent AND next_attempt <= :now"
        parameters = {"d": destination, "sent": DeliveryState.SENT, "now": self._clock(), "n": n}
        return [_delivery(r) for r in self._db.rows(f"{_SELECT} {where} {_ORDER} LIMIT :n", parameters)]

    def note_request(self, deliveries: Iterable[Delivery], transaction_uid: str, *, again_after_s: float) -> None:
        """Record that commitment was asked for; ask again if nothing is heard for `again_after_s`."""
        with self.transaction():
            for d in deliveries:
                self._db.change(
                    f"""UPDATE deliveries SET transaction_uid = :t, commit_attempts = commit_attempts + 1,
                        next_attempt = :next {_KEY} AND state = 'SENT'""",
                    _key(d) | {"t": transaction_uid, "next": self._clock() + again_after_s},
                )

    def note_refusal(self, deliveries: Iterable[Delivery], error: str, *, again_after_s: float) -> None:
        """Record that a commitment request failed, and when to ask again."""
        with self.transaction():
            for d in deliveries:
                self._db.change(
                    f"UPDATE deliveries SET last_error = :error, next_attempt = :next {_KEY} AND state = 'SENT'",
                    _key(d) | {"error": error, "next": self._clock() + again_after_s},
                )

    def of_transaction(self, transaction_uid: str) -> list[Delivery]:
        """Return the SENT images that one commitment request was about."""
        where = "WHERE transaction_uid = :t AND transaction_uid != '' AND state = 'SENT'"
        return [_delivery(r) for r in self._db.rows(f"{_SELECT} {where} {_ORDER}", {"t": transaction_uid})]

    # Destinations

    def note_up(self, destination: str) -> None:
        """The destination answers."""
        self._db.change("DELETE FROM outages WHERE destination = :d", {"d": destination})

    def note_down(self, destination: str, error: str) -> float:
        """The destination does not answer; return for how long it has not [s]."""
        self._db.change(
            """INSERT INTO outages VALUES (:d, :now, :error)
               ON CONFLICT (destination) DO UPDATE SET last_error = excluded.last_error""",
            {"d": destination, "error": error, "now": self._clock()},
        )
        return (
            self._clock() - self._db.rows("SELECT since FROM outages WHERE destination = :d", {"d": destination})[0][0]
        )

    def status(self) -> dict[str, DestinationStatus]:
        """Return for each destination how many images are in which state, and whether it answers."""
        counts: dict[str, dict[str, int]] = {}
        for r in self._db.rows("SELECT destination, state, count(*) AS n FROM deliveries GROUP BY destination, state"):
            counts.setdefault(r["destination"], {s.value: 0 for s in DeliveryState})[r["state"]] = r["n"]
        down = {r["destination"]: r for r in self._db.rows("SELECT * FROM outages")}
        return {
            name: DestinationStatus(
                name=name,
                counts=counts.get(name, {s.value: 0 for s in DeliveryState}),
                down_since=down[name]["since"] if name in down else None,
                last_error=down[name]["last_error"] if name in down else "",
            )
            for name in sorted(counts.keys() | down.keys())
        }


def _insert(table: str, row: dict[str, object]) -> str:
    return f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(f':{k}' for k in row)})"


def _key(delivery: Delivery) -> dict[str, object]:
    return {"sop_uid": delivery.sop_uid, "destination": delivery.destination}


def _job(row: sqlite3.Row) -> Job:
    return Job(**dict(row) | {"state": JobState(row["state"]), "verdicts": tuple(json.loads(row["verdicts"]))})


def _delivery(row: sqlite3.Row) -> Delivery:
    return Delivery(**dict(row) | {"state": DeliveryState(row["state"])})
