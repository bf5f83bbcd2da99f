"""After a crash: images that lie in the spool although no journal row names them are queued, never deleted."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from pydicom import dcmread

from integration.delivery.journal import Journal
from integration.delivery.link import PermanentError
from integration.delivery.rows import Instance, Job
from integration.delivery.spool import Spool, digest, sync_directory
from integration.delivery.states import JobState
from integration.dicom.part10 import split

LOG = logging.getLogger(__name__)

RECOVERED = "recovered"
"""Job under which such images are queued."""
SET_ASIDE = "set-aside"
"""Folder in the spool for files that cannot be queued; a person may look at them."""


def recover(spool: Spool, journal: Journal, destinations: Sequence[str]) -> list[Instance]:
    """Queue the spool's orphans for `destinations`; return them.

    Call it when the service starts, after unfinished jobs have been replayed: a replay makes most orphans its own.
    A file that is unreadable, or whose UID the journal knows with other bytes, is moved to ``set-aside`` and logged.
    """
    found = []
    for path in spool.sweep(journal.spooled()):
        try:
            instance = describe(path)
        except PermanentError as error:
            _set_aside(path, str(error))
            continue
        if (known := journal.instance(instance.sop_uid)) is not None and known.sha256 != instance.sha256:
            _set_aside(path, f"job {known.job} has made this image again")
        elif known is not None:
            _set_aside(path, f"job {known.job} has delivered this image already")
        else:
            _open(journal)
            journal.queue(instance, destinations)
            found.append(instance)
            LOG.warning("job %s: image %s was in the spool only; queued", RECOVERED, instance.sop_uid)
    return found


def describe(path: Path, job: str = RECOVERED) -> Instance:
    """Read from a DICOM file what the journal needs to know of it.

    Raises
    ------
    PermanentError
        It is no readable DICOM file.
    """
    data = path.read_bytes()
    stored = split(data, path.name)
    dataset = dcmread(path, stop_before_pixels=True, specific_tags=["StudyInstanceUID", "SeriesInstanceUID"])
    return Instance(
        sop_uid=stored.sop_uid,
        job=job,
        series_uid=str(dataset.get("SeriesInstanceUID", "")),
        study_uid=str(dataset.get("StudyInstanceUID", "")),
        sop_class=stored.sop_class,
        path=str(path),
        sha256=digest(data),
        size=len(data),
    )


def _open(journal: Journal) -> None:
    if journal.job(RECOVERED) is None:
        journal.open_job(Job(job=RECOVERED, scan_uid="", modality="", protocol="", source="spool"))
        journal.finish_job(RECOVERED, JobState.COMPLETE, reason="images found in the spool after a crash")


def _set_aside(path: Path, reason: str) -> None:
    folder = path.parent / SET_ASIDE
    folder.mkdir(exist_ok=True)
    path.replace(folder / path.name)
    sync_directory(folder)
    LOG.error("spool file %s set aside: %s", path.name, reason)
