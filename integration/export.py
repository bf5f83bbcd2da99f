"""Images out: as DICOM files into a folder, or into the spool and on to the archives."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from acquisition.errors import ConfigError, DataError
from acquisition.items import Image
from acquisition.scan import Scan
from acquisition.verdict import Verdict
from integration.delivery.destination import Destination
from integration.delivery.journal import Journal
from integration.delivery.rows import Instance
from integration.delivery.spool import Spool, digest, write_durably
from integration.dicom.common import DicomInstance
from integration.dicom.ct import CtSeries
from integration.dicom.document import Reference
from integration.dicom.enhanced_ct import enhanced_ct
from integration.dicom.mr import MrSeries
from integration.dicom.pet import PetSeries
from integration.dicom.report import Findings, report
from integration.gate import Findings as Worst
from integration.gate import decide, holds

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What became of one image."""

    sop_uids: tuple[str, ...]
    """SOPInstanceUIDs, one per slice."""
    series_uids: tuple[str, ...]
    """Their SeriesInstanceUIDs."""
    paths: tuple[Path, ...]
    """Their files."""
    verdicts: tuple[Verdict, ...] = ()
    """What was found while they were made."""


class Exporter(Protocol):
    """Takes the images of one scan."""

    def send(self, image: Image) -> Receipt:
        """Hand over one image; when it returns, the image is safe."""


class Series(Protocol):
    """Makes the DICOM objects of one scan."""

    def instances(self, image: Image) -> Sequence[DicomInstance]:
        """Return one object per slice."""


MAKERS: dict[str, Callable[[Scan, str], Series]] = {"CT": CtSeries, "MR": MrSeries, "PT": PetSeries}
"""By modality."""


def series_of(scan: Scan, job: str) -> Series:
    """Return the maker of DICOM objects for `scan`.

    Raises
    ------
    ConfigError
        There is none for its modality.
    """
    if scan.modality not in MAKERS:
        raise ConfigError(f"scan {scan.uid}", expected=f"modality {' or '.join(MAKERS)}", got=scan.modality)
    return MAKERS[scan.modality](scan, job)


class FolderExporter:
    """DICOM files in a folder, one sub-folder per series; the same job writes the same files again.

    Parameters
    ----------
    folder
        Made if it is not there.
    scan, job
        What is exported, and the identifier its UIDs are made of.
    """

    def __init__(self, folder: Path, scan: Scan, *, job: str) -> None:
        self.folder, self._series = folder, series_of(scan, job)
        self._names: dict[str, str] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def send(self, image: Image) -> Receipt:
        """Write one file per slice, each whole or not at all."""
        made = self._series.instances(image)
        return _receipt(made, [self._write(instance) for instance in made])

    def _write(self, instance: DicomInstance) -> Path:
        if instance.series_uid not in self._names:
            name = _file_name(instance.description)
            again = sum(1 for taken in self._names.values() if taken.split("~")[0] == name)
            self._names[instance.series_uid] = f"{name}~{again + 1}" if again else name
        folder = self.folder / self._names[instance.series_uid]
        folder.mkdir(exist_ok=True)
        path = folder / f"{instance.index:05d}.dcm"
        write_durably(path, instance.data)
        return path


class SpoolExporter:
    """Files in the spool, queued in the journal for every destination.

    Parameters
    ----------
    spool, journal
        Where they wait.
    destinations
        The archives. One that takes Enhanced CT gets one object for each series in HU, when the scan is over.
    scan, job
        What is exported.
    reports
        Folder for the scan's report, of which an answer is made later; None: it is not kept.
    """

    def __init__(
        self,
        spool: Spool,
        journal: Journal,
        *,
        destinations: Sequence[Destination],
        scan: Scan,
        job: str,
        reports: Path | None = None,
    ) -> None:
        self._spool, self._journal, self._scan, self._job, self._reports = spool, journal, scan, job, reports
        self._reported = [d.name for d in destinations if d.verdicts == "report"]
        self._sent: list[Reference] = []
        whole = [d.name for d in destinations if scan.modality == "CT" and d.ct_objects == "enhanced"]
        self._all, self._whole = [d.name for d in destinations], whole
        self._series = series_of(scan, job)
        self._kept: dict[str, list[tuple[Image, list[Instance]]]] = {}

    def send(self, image: Image) -> Receipt:
        """Write, then queue: what lies in the spool unqueued is found again at the next start.

        An image that the gate holds waits in the spool for a person's answer.

        Raises
        ------
        StorageFullError
            The disk is nearly full.
        """
        made = self._series.instances(image)
        if holds(image):
            return _receipt(made, [self._wait(instance) for instance in made])
        self._sent += [Reference(m.sop_class_uid, m.sop_instance_uid, m.series_uid) for m in made]
        later = self._whole if image.unit == "HU" else []
        rows = [self._queue(instance, [name for name in self._all if name not in later]) for instance in made]
        if later:
            self._kept.setdefault(image.output, []).append((image, rows))
        return _receipt(made, [Path(row.path) for row in rows])

    def finish(self, verdicts: Sequence[Verdict] = ()) -> None:
        """The scan is over: queue what is one object per series, and the report of all that was found.

        Slices that cannot be one object go as they are.

        Raises
        ------
        StorageFullError
            The disk is nearly full.
        """
        self._finish_series()
        if self._sent:
            self._report(verdicts)

    def _finish_series(self) -> None:
        kept, self._kept = self._kept, {}
        for output, pairs in kept.items():
            try:
                self._queue(enhanced_ct(self._scan, self._job, [image for image, _ in pairs]), self._whole)
            except DataError as error:
                _LOG.warning("scan %s job %s: %s goes slice by slice: %s", self._scan.uid, self._job, output, error)
                for _, rows in pairs:
                    for row in rows:
                        self._journal.queue(row, self._whole)

    def _report(self, verdicts: Sequence[Verdict]) -> None:
        made = report_of(self._scan, self._job, verdicts, self._sent)
        if self._reports is not None:
            self._reports.mkdir(parents=True, exist_ok=True)
            write_durably(self._reports / f"{self._job}.dcm", made.data)
        if self._reported:
            self._queue(made, self._reported)

    def _wait(self, made: DicomInstance) -> Path:
        """Keep an object that goes nowhere until somebody accepts it."""
        row = self._queue(made, [])
        if not self._journal.answers.of(self._job):  # a scan that is played again: the answer stands
            self._journal.answers.hold(row.sop_uid, self._job)
        return Path(row.path)

    def _queue(self, made: DicomInstance, destinations: Sequence[str]) -> Instance:
        return queued(made, self._job, spool=self._spool, journal=self._journal, destinations=destinations)


def report_of(scan: Scan, job: str, verdicts: Sequence[Verdict], images: Sequence[Reference]) -> DicomInstance:
    """Return the report of a scan's verdicts, the gate's decision first."""
    decision = decide(verdicts)
    first = Verdict(check="decision", level=decision.level, advice=decision.text)
    return report(scan, job, Findings(decision=first, verdicts=Worst(verdicts).worst(), images=images))


def queued(made: DicomInstance, job: str, *, spool: Spool, journal: Journal, destinations: Sequence[str]) -> Instance:
    """Write an object into the spool and queue it; return its row in the journal.

    Raises
    ------
    StorageFullError
        The disk is nearly full.
    """
    path = spool.write(made.sop_instance_uid, made.data)
    row = Instance(
        sop_uid=made.sop_instance_uid,
        job=job,
        series_uid=made.series_uid,
        study_uid=made.study_uid,
        sop_class=made.sop_class_uid,
        path=str(path),
        sha256=digest(made.data),
        size=len(made.data),
        description=made.description,
    )
    journal.queue(row, destinations)
    return row


def _receipt(made: Sequence[DicomInstance], paths: Sequence[Path]) -> Receipt:
    return Receipt(
        sop_uids=tuple(m.sop_instance_uid for m in made),
        series_uids=tuple(dict.fromkeys(m.series_uid for m in made)),
        paths=tuple(paths),
        verdicts=tuple(dict.fromkeys(v for m in made for v in m.verdicts)),
    )


def _file_name(description: str) -> str:
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in description).strip("._")
    return kept[:64] or "series"
