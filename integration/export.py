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
from integration.dicom.enhanced_ct import enhanced_ct
from integration.dicom.mr import MrSeries
from integration.dicom.pet import PetSeries

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
    """

    def __init__(
        self, spool: Spool, journal: Journal, *, destinations: Sequence[Destination], scan: Scan, job: str
    ) -> None:
        self._spool, self._journal, self._scan, self._job = spool, journal, scan, job
        whole = [d.name for d in destinations if scan.modality == "CT" and d.ct_objects == "enhanced"]
        self._all, self._whole = [d.name for d in destinations], whole
        self._series = series_of(scan, job)
        self._kept: dict[str, list[tuple[Image, list[Instance]]]] = {}

    def send(self, image: Image) -> Receipt:
        """Write, then queue: what lies in the spool unqueued is found again at the next start.

        Raises
        ------
        StorageFullError
            The disk is nearly full.
        """
        made = self._series.instances(image)
        later = self._whole if image.unit == "HU" else []
        rows = [self._queue(instance, [name for name in self._all if name not in later]) for instance in made]
        if later:
            self._kept.setdefault(image.output, []).append((image, rows))
        return _receipt(made, [Path(row.path) for row in rows])

    def finish(self) -> None:
        """The scan is over: queue what is one object per series; slices that cannot be one go as they are.

        Raises
        ------
        StorageFullError
            The disk is nearly full.
        """
        kept, self._kept = self._kept, {}
        for output, pairs in kept.items():
            try:
                self._queue(enhanced_ct(self._scan, self._job, [image for image, _ in pairs]), self._whole)
            except DataError as error:
                _LOG.warning("scan %s job %s: %s goes slice by slice: %s", self._scan.uid, self._job, output, error)
                for _, rows in pairs:
                    for row in rows:
                        self._journal.queue(row, self._whole)

    def _queue(self, made: DicomInstance, destinations: Sequence[str]) -> Instance:
        path = self._spool.write(made.sop_instance_uid, made.data)
        row = Instance(
            sop_uid=made.sop_instance_uid,
            job=self._job,
            series_uid=made.series_uid,
            study_uid=made.study_uid,
            sop_class=made.sop_class_uid,
            path=str(path),
            sha256=digest(made.data),
            size=len(made.data),
            description=made.description,
        )
        self._journal.queue(row, destinations)
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
