"""The journal's rows, as frozen records."""

from __future__ import annotations

from dataclasses import dataclass, field

from integration.delivery.states import DeliveryState, JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One scan that came in."""

    job: str
    """Our identifier; unique."""
    scan_uid: str
    """The scan's own identifier."""
    modality: str
    """MR, CT or PT."""
    protocol: str
    """Name of the protocol that reconstructs it."""
    source: str = ""
    """Who sent it: host and port, or a file."""
    raw_path: str = ""
    """Where its raw data is kept; empty: nowhere."""
    state: JobState = JobState.RECEIVING
    """How far it has come."""
    reason: str = ""
    """Why it was interrupted or failed."""
    opened_at: float = 0.0
    """When it began [s since 1970]; set by the journal."""
    finished_at: float | None = None
    """When it ended [s since 1970]."""
    verdicts: tuple[dict[str, object], ...] = field(default=())
    """Findings, each as `Verdict.as_dict` gives it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One DICOM object in the spool."""

    sop_uid: str
    """SOPInstanceUID."""
    job: str
    """The job that made it."""
    series_uid: str
    """SeriesInstanceUID."""
    study_uid: str
    """StudyInstanceUID."""
    sop_class: str
    """SOPClassUID."""
    path: str
    """The file in the spool."""
    sha256: str
    """Hexadecimal digest of the file."""
    size: int
    """Length of the file [bytes]."""
    description: str = ""
    """Series description, for people."""
    created: float = 0.0
    """When it was queued first [s since 1970]; set by the journal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One image's way to one destination."""

    sop_uid: str
    """SOPInstanceUID."""
    destination: str
    """Name of the destination."""
    state: DeliveryState
    """How far it has come."""
    attempts: int
    """Failed attempts so far."""
    next_attempt: float
    """Not to be tried before [s since 1970]."""
    last_error: str
    """Why the last attempt failed; empty: none did."""
    evidence: str
    """What the state rests on: `store-status`, `commitment`, ..."""
    commit_attempts: int
    """Storage commitment requests made for it."""
    queued_at: float
    """[s since 1970]."""
    sent_at: float | None
    """When the archive answered Success [s since 1970]."""
    committed_at: float | None
    """When it was vouched for [s since 1970]."""
    job: str
    """The job that made the image."""
    series_uid: str
    """SeriesInstanceUID."""
    sop_class: str
    """SOPClassUID."""
    path: str
    """The file in the spool."""
    sha256: str
    """Hexadecimal digest of the file."""
    description: str
    """Series description, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationStatus:
    """How one destination fares."""

    name: str
    """Name of the destination."""
    counts: dict[str, int]
    """Images by delivery state."""
    down_since: float | None = None
    """Since when it does not answer [s since 1970]; None: it does."""
    last_error: str = ""
    """What it answered, or did not, last time."""
