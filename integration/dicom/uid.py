"""UIDs that follow from what they name: the same job makes the same UIDs again, so a replay stores nothing twice.

Every UID is ``2.25.`` and the decimal form of a UUID (PS3.5 B.2) whose bits are the SHA-256 of a namespaced
name. Nothing of the patient can be read from it.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid

from acquisition.scan import Scan

_NAMESPACE = "isocenter.dicom.1"
"""Changing it changes every UID we make."""
_VALID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")


def is_uid(text: str | None) -> bool:
    """Return whether `text` is a UID by PS3.5: digits and points, no leading zeros, at most 64 characters."""
    return bool(text) and len(text or "") <= 64 and _VALID.fullmatch(text or "") is not None


def uid_of(*names: str | int) -> str:
    """Return the UID that belongs to a list of names; the first says what kind of thing it is."""
    text = json.dumps([_NAMESPACE, *names])
    digest = hashlib.sha256(text.encode()).digest()[:16]
    return f"2.25.{uuid.UUID(bytes=digest, version=5).int}"


def instance_uid(job: str, output: str, index: int) -> str:
    """SOPInstanceUID of image `index` of one series."""
    return uid_of("instance", job, output, index)


def series_uid(job: str, output: str) -> str:
    """SeriesInstanceUID: always new, never one of the scanner's own series."""
    return uid_of("series", job, output)


def study_uid(scan: Scan, job: str) -> str:
    """StudyInstanceUID: the scan's own; else one that the scans of one order of one patient share.

    A wrong merge is worse than a split study: unless the scan names the patient and the order (accession
    number, or study id with its date), the study is the job's alone.
    """
    study, patient = scan.study, scan.patient
    if study.instance_uid and is_uid(study.instance_uid):
        return study.instance_uid
    if patient.id and study.accession_number:
        return uid_of("study", patient.id, "accession", study.accession_number)
    if patient.id and study.id and study.date:
        return uid_of("study", patient.id, "study", study.id, study.date)
    return uid_of("study of job", job, scan.uid)


def frame_of_reference_uid(scan: Scan, job: str) -> str:
    """FrameOfReferenceUID: the scan's own, else one of the job's alone (nobody says that the patient lay still)."""
    given = scan.study.frame_of_reference_uid
    return given if given and is_uid(given) else uid_of("frame of reference", job, scan.uid)


def device_uid(name: str) -> str:
    """DeviceUID of the computer called `name`."""
    return uid_of("device", name)
