"""What is told of exams: who, what, how far, what was found; from the journal, the running sessions and the gallery."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import TYPE_CHECKING, Any

from acquisition.scan import Scan
from acquisition.verdict import Level
from integration.delivery.rows import Job

if TYPE_CHECKING:
    from integration.service import Service
    from integration.session import Session

MOST = 200
"""Exams in one answer."""
_LOOPS = ("slice", "contrast", "phase", "repetition", "set", "average")
_RANK = {level.value: rank for rank, level in enumerate(Level)}

Finding = dict[str, Any]
"""A verdict as JSON, with the pictures that carry it."""


class Exams:
    """Exams of one service, for people.

    Parameters
    ----------
    service
        Whose journal, sessions and gallery are read.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    def rows(self, limit: int, only: str | None = None) -> list[dict[str, Any]]:
        """Return the latest exams, newest first, or one; those that have only a header come before all others."""
        journal = self._service.console
        live = {s.job: s for s in self._service.house.sessions() if only in (None, s.job)}
        delivered, images = journal.progress.deliveries(limit, only), journal.progress.images(limit, only)
        answers = journal.progress.answers(limit, only)
        known = journal.jobs(limit) if only is None else [j for j in [journal.job(only)] if j is not None]
        begun = {job.job for job in known}
        opening = [_opening(s) for s in live.values() if s.job not in begun and s.scan is not None]
        return [
            self._row(job, delivered.get(job.job, {}), images.get(job.job, 0), live.get(job.job))
            | {"answer": answers.get(job.job)}
            for job in [*opening, *known][:limit]
        ]

    def row(self, name: str) -> dict[str, Any] | None:
        """Return one exam, None if it is unknown."""
        found = self.rows(1, name)
        return found[0] if found else None

    def findings(self, name: str) -> list[Finding] | None:
        """Return what was found, the most severe first, each with the pictures that carry it; None: unknown exam."""
        job, live = self._job(name)
        return None if job is None else self._findings(job, live)

    def _job(self, name: str) -> tuple[Job | None, Session | None]:
        live = next((s for s in self._service.house.sessions() if s.job == name), None)
        job = self._service.console.job(name)
        return (_opening(live) if job is None and live is not None and live.scan is not None else job), live

    def _findings(self, job: Job, live: Session | None) -> list[Finding]:
        found: dict[tuple[str, str, str], Finding] = {}
        told = [v.as_dict() for v in self._service.house.found(job.job)] if live else job.verdicts
        for verdict in told:
            found.setdefault(_key(verdict), dict(verdict) | {"pictures": [], "times": 0})
        for carried in self._service.house.gallery.findings(job.job):
            row = carried.verdict.as_dict()
            kept = found.setdefault(_key(row), dict(row))
            pictures = [{"output": output, "number": number} for output, number in carried.pictures]
            kept |= {"pictures": pictures, "times": carried.times}
        return sorted(found.values(), key=lambda row: -_RANK[row["level"]])

    def _row(
        self, job: Job, delivered: Mapping[str, Mapping[str, int]], images: int, live: Session | None
    ) -> dict[str, Any]:
        scan = live.scan if live and live.scan else self._service.house.gallery.scan(job.job)
        findings = self._findings(job, live)
        return {
            "job": job.job,
            "scan": job.scan_uid,
            "modality": job.modality,
            "protocol": job.protocol,
            "source": job.source,
            "state": job.state.value if live is None or live.begun else "OPENING",
            "reason": job.reason,
            "opened_at": job.opened_at or None,
            "finished_at": job.finished_at,
            "patient": _patient(scan),
            "series": _series(scan),
            "images": max(images, live.images if live else 0),
            "progress": _progress(scan, live),
            "level": findings[0]["level"] if findings else Level.PASS.value,
            "findings": sum(row["level"] != Level.PASS for row in findings),
            "delivered": delivered,
        }


def expected_readouts(scan: Scan) -> int | None:
    """Return how many readouts the header of an MR scan promises; None where that cannot be told."""
    if scan.mr is None:
        return None
    total = 0.0
    for encoding in scan.mr.encodings:
        lines = prod(encoding.limit(name).maximum + 1 for name in ("k1", "k2"))
        total += (
            lines * prod(encoding.limit(name).maximum + 1 for name in _LOOPS) / max(1.0, prod(encoding.acceleration))
        )
    return round(total) or None


def _opening(session: Session) -> Job:
    """Return the row of a scan whose first readout has not come yet."""
    assert session.scan is not None
    scan = session.scan
    return Job(job=session.job, scan_uid=scan.uid, modality=scan.modality, protocol=session.protocol)


def _key(verdict: Mapping[str, object]) -> tuple[str, str, str]:
    return str(verdict["check"]), str(verdict["level"]), str(verdict["advice"])


def _patient(scan: Scan | None) -> dict[str, str | None]:
    """Return who it is; empty when the scan is no longer in memory: the journal holds no patient data."""
    if scan is None:
        return {}
    return {"name": scan.patient.name, "id": scan.patient.id, "birth_date": scan.patient.birth_date}


def _series(scan: Scan | None) -> dict[str, Any]:
    if scan is None:
        return {}
    study = scan.study
    return {
        "name": scan.protocol_name,
        "number": study.series_number,
        "body_part": study.body_part,
        "study": study.description,
        "study_uid": study.instance_uid,
    }


def _progress(scan: Scan | None, live: Session | None) -> dict[str, float | int | None] | None:
    """Return how far a running scan has come; the part is None where the header does not tell how long it is."""
    if live is None:
        return None
    expected = expected_readouts(scan) if scan else None
    part = min(1.0, live.readouts / expected) if expected else None
    return {"readouts": live.readouts, "images": live.images, "part": None if part is None else round(part, 3)}


def grouped(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the exams by patient and study, in the order of their newest exam."""
    found: dict[tuple[object, ...], dict[str, Any]] = {}
    for row in rows:
        names = ("id", "name", "birth_date")  # an id alone does not make two people one
        key = (*(row["patient"].get(name) for name in names), row["series"].get("study_uid"))
        group = found.setdefault(key, {"patient": row["patient"], "study": row["series"].get("study"), "exams": []})
        group["exams"].append(row)
    return list(found.values())
