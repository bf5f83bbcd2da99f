"""What a job and a delivery can be, and which step may follow which.

::

    job        RECEIVING ──> COMPLETE
                   ├───────> INTERRUPTED ──> RECEIVING      (the scanner went away; replay from the raw file)
                   └───────> FAILED ───────> RECEIVING

    delivery   QUEUED ──> SENT ──> COMMITTED                (the archive said Success; it vouches for the image)
                 ^  ^      │  │
                 │  └──────┘  └───> DEAD                    (it did not vouch: send again, a bounded number of times)
                 └── DEAD <── QUEUED                        (permanent failure, or too many attempts; resend revives)
"""

from __future__ import annotations

from enum import StrEnum

from acquisition.errors import DeliveryError


class JobState(StrEnum):
    """How far one scan has come."""

    RECEIVING = "RECEIVING"
    COMPLETE = "COMPLETE"
    INTERRUPTED = "INTERRUPTED"
    FAILED = "FAILED"


class DeliveryState(StrEnum):
    """How far one image has come on its way to one destination."""

    QUEUED = "QUEUED"
    SENT = "SENT"
    COMMITTED = "COMMITTED"
    DEAD = "DEAD"


JOB_STEPS: dict[JobState, frozenset[JobState]] = {
    JobState.RECEIVING: frozenset({JobState.COMPLETE, JobState.INTERRUPTED, JobState.FAILED}),
    JobState.INTERRUPTED: frozenset({JobState.RECEIVING}),
    JobState.FAILED: frozenset({JobState.RECEIVING}),
    JobState.COMPLETE: frozenset(),
}

DELIVERY_STEPS: dict[DeliveryState, frozenset[DeliveryState]] = {
    DeliveryState.QUEUED: frozenset({DeliveryState.SENT, DeliveryState.DEAD, DeliveryState.QUEUED}),
    DeliveryState.SENT: frozenset({DeliveryState.COMMITTED, DeliveryState.DEAD, DeliveryState.QUEUED}),
    DeliveryState.DEAD: frozenset({DeliveryState.QUEUED}),
    DeliveryState.COMMITTED: frozenset(),
}


def require_job_step(job: str, now: JobState, then: JobState) -> None:
    """Raise DeliveryError unless a job may go from `now` to `then`; staying is allowed."""
    if then is not now and then not in JOB_STEPS[now]:
        raise _illegal(f"job {job}", now, sorted(JOB_STEPS[now]), then)


def require_delivery_step(delivery: str, now: DeliveryState, then: DeliveryState) -> None:
    """Raise DeliveryError unless a delivery may go from `now` to `then`."""
    if then not in DELIVERY_STEPS[now]:
        raise _illegal(f"delivery {delivery}", now, sorted(DELIVERY_STEPS[now]), then)


def _illegal(what: str, now: str, allowed: list[JobState] | list[DeliveryState], then: str) -> DeliveryError:
    return DeliveryError(f"journal, {what} is {now}", expected=" or ".join(allowed) or "no further step", got=then)
