"""What the delivery tests share: small DICOM files, a filled data folder, links that fail on demand."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from integration.delivery.destination import Destination
from integration.delivery.journal import Journal
from integration.delivery.link import BrokenLinkError, CommitmentReport, UnreachableError
from integration.delivery.rows import Delivery, Instance, Job
from integration.delivery.spool import Spool, digest

MR = "1.2.840.10008.5.1.4.1.1.4"


def uid(index: int) -> str:
    return f"2.25.77{index:06d}"


def dicom(index: int, *, size: int = 32, sop_class: str = MR, patient: str = "P1") -> bytes:
    """A small but whole DICOM file."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = sop_class
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = uid(index)
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID = "1.2.3.4"
    ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = patient, "Test^Only", "", "O"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = "2.25.1", "2.25.2", "MR"
    ds.StudyDate = ds.StudyTime = ds.ReferringPhysicianName = ds.StudyID = ds.AccessionNumber = ""
    ds.SeriesNumber, ds.InstanceNumber = 1, index
    ds.Rows = ds.Columns = size
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation, ds.SamplesPerPixel, ds.PhotometricInterpretation = 15, 0, 1, "MONOCHROME2"
    ds.PixelData = np.random.default_rng(index).integers(0, 4096, (size, size), np.uint16).tobytes()
    ds["PixelData"].VR = "OW"
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def instance(index: int, path: Path | str, data: bytes, *, job: str = "job", sop_class: str = MR) -> Instance:
    return Instance(
        sop_uid=uid(index),
        job=job,
        series_uid="2.25.2",
        study_uid="2.25.1",
        sop_class=sop_class,
        path=str(path),
        sha256=digest(data),
        size=len(data),
    )


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def new_job(name: str) -> Job:
    return Job(job=name, scan_uid=f"scan-{name}", modality="MR", protocol="p", source="test", raw_path="/raw")


def put(journal: Journal, index: int, *destinations: str, name: str = "job", data: bytes = b"x") -> bool:
    """Queue an image that has no file."""
    return journal.queue(instance(index, f"/spool/{index}.dcm", data, job=name), destinations or ("pacs",))


class Box:
    """A data folder with a spool, a journal and one open job."""

    def __init__(self, data: Path, job: str = "job") -> None:
        self.data, self.job = data, job
        self.spool = Spool(data / "spool", reserve_bytes=0)
        self.journal = Journal(data / "journal.sqlite")
        if self.journal.job(job) is None:
            self.journal.open_job(Job(job=job, scan_uid="scan", modality="MR", protocol="p"))

    def put(self, indices: Iterable[int], destinations: Sequence[str], **options: object) -> None:
        for i in indices:
            data = dicom(i, **options)  # type: ignore[arg-type]
            sop_class = str(options.get("sop_class", MR))
            row = instance(i, self.spool.write(uid(i), data), data, job=self.job, sop_class=sop_class)
            self.journal.queue(row, destinations)

    def counts(self, destination: str) -> dict[str, int]:
        """Non-zero counts by state."""
        status = self.journal.status().get(destination)
        return {k: n for k, n in status.counts.items() if n} if status else {}

    def spooled(self) -> list[str]:
        return sorted(p.name for p in self.spool.directory.glob("*.dcm"))


def until(condition: Callable[[], object], timeout_s: float = 15.0, what: str = "") -> None:
    """Wait until `condition()` is true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"did not happen within {timeout_s:g} s {what}"
        time.sleep(0.01)


def settled(timeout_s: float = 5.0) -> None:
    """Let the threads of pynetdicom's servers here end by themselves: aborting them races with their own end."""
    deadline = time.monotonic() + timeout_s
    while any("AcceptorThread" in t.name for t in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)


def destination(name: str = "pacs", port: int = 1, **changes: object) -> Destination:
    """A destination with little patience."""
    usual: dict[str, object] = {
        "name": name,
        "host": "127.0.0.1",
        "port": port,
        "ae_title": "ISOARCHIVE",
        "timeout_s": 2.0,
        "backoff_first_s": 0.02,
        "backoff_max_s": 0.2,
        "commit_timeout_s": 5.0,
    }
    return Destination.model_validate(usual | changes)


class FakeArchive:
    """An archive without a network: what it holds, and what goes wrong with it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.kept: dict[str, int] = {}
        self.requests: list[list[str]] = []
        self.up = True
        self.commitment = False
        self.reports = True
        self.forgets: set[str] = set()
        self.max_links = 99
        self.links: list[FakeLink] = []
        self.opened = 0
        self.faults: dict[str, list[Exception]] = {}

    def connect(self, destination: Destination, deliveries: Iterable[Delivery] = ()) -> FakeLink:
        with self.lock:
            self.links = [link for link in self.links if link.open]
            if not self.up:
                raise UnreachableError(destination.name, got="connection refused")
            if len(self.links) >= self.max_links:
                raise UnreachableError(destination.name, got="silence")
            self.opened += 1
            self.links.append(FakeLink(self))
            return self.links[-1]


class FakeLink:
    """One association with a `FakeArchive`."""

    def __init__(self, archive: FakeArchive) -> None:
        self.archive, self.open = archive, True
        self.waiting: list[CommitmentReport] = []

    @property
    def offers_commitment(self) -> bool:
        return self.archive.commitment

    @property
    def alive(self) -> bool:
        return self.open and self.archive.up

    def carries(self, delivery: Delivery) -> bool:
        return True

    def echo(self) -> None:
        if not self.archive.up:
            raise BrokenLinkError("echo", got="closed")

    def store(self, delivery: Delivery) -> str:
        with self.archive.lock:
            if not self.archive.up:
                raise BrokenLinkError("store", got="closed")
            if self.archive.faults.get(delivery.sop_uid):
                raise self.archive.faults[delivery.sop_uid].pop(0)
            self.archive.kept[delivery.sop_uid] = self.archive.kept.get(delivery.sop_uid, 0) + 1
        return "store-status"

    def request_commitment(self, transaction_uid: str, deliveries: Sequence[Delivery]) -> None:
        wanted = [d.sop_uid for d in deliveries]
        self.archive.requests.append(wanted)
        failed = {u: 0x0112 for u in wanted if u in self.archive.forgets or u not in self.archive.kept}
        report = CommitmentReport(
            transaction_uid=transaction_uid, kept=frozenset(set(wanted) - set(failed)), failed=failed
        )
        if self.archive.reports:
            self.waiting.append(report)

    def await_report(self, timeout_s: float) -> CommitmentReport | None:
        if self.waiting:
            return self.waiting.pop(0)
        time.sleep(min(timeout_s, 0.01))
        return None

    def close(self) -> None:
        self.open = False

    def abort(self) -> None:
        self.open = False
