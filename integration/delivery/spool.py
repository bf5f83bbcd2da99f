"""The spool: each image as one DICOM file on disk, from the moment it exists until every archive has it.

A file's name holds the SOP instance UID and the first digits of its SHA-256, so that no write ever replaces
another image's bytes, and a file can be traced without the journal.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Collection
from pathlib import Path

from acquisition.errors import DeliveryError, StorageFullError

LOG = logging.getLogger(__name__)

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_STALE_S = 60.0
_FULL = (errno.ENOSPC, errno.EDQUOT)


def digest(data: bytes) -> str:
    """Return the SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


class Spool:
    """A folder of DICOM Part 10 files that have not yet arrived everywhere.

    Parameters
    ----------
    directory
        Made if it is not there.
    reserve_bytes
        Space that is left free on the disk: below it nothing more is taken.
    """

    def __init__(self, directory: Path, *, reserve_bytes: int = 1 << 30) -> None:
        self.directory, self.reserve_bytes = directory, reserve_bytes
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def free_bytes(self) -> int:
        """Space on the spool's disk that we may use [bytes]."""
        disk = os.statvfs(self.directory)
        return disk.f_bavail * disk.f_frsize

    def require(self, n_bytes: int) -> None:
        """Make sure that `n_bytes` fit above the reserve; call it before a scan is accepted.

        Raises
        ------
        StorageFullError
            They do not.
        """
        if (free := self.free_bytes) - n_bytes < self.reserve_bytes:
            raise StorageFullError(
                f"spool {self.directory}",
                expected=f"{(n_bytes + self.reserve_bytes) / 1e6:.0f} MB free",
                got=f"{free / 1e6:.0f} MB",
                action="Free disk space, or bring the archives back so that the spool can empty",
            )

    def write(self, sop_uid: str, data: bytes) -> Path:
        """Keep one DICOM file; when this returns it survives a power cut.

        Parameters
        ----------
        sop_uid
            SOPInstanceUID of the file.
        data
            The whole Part 10 file.

        Returns
        -------
        Path
            Where it lies. Writing the same bytes again returns the same path.

        Raises
        ------
        StorageFullError
            The disk is at its reserve; nothing was written.
        DeliveryError
            The UID is none, or the disk failed.
        """
        path = self.directory / f"{_checked(sop_uid)}.{digest(data)[:16]}.dcm"
        if path.exists():
            return path
        self.require(len(data))
        try:
            write_durably(path, data)
        except OSError as error:
            kind = StorageFullError if error.errno in _FULL else DeliveryError
            raise kind(f"spool {path}", got=str(error), action="Check the disk") from error
        return path

    def remove(self, path: Path) -> None:
        """Delete a file that every destination has; a file already gone is no error."""
        if path.parent.resolve() != self.directory.resolve():
            raise DeliveryError(f"spool {self.directory}", expected="a file of this spool", got=str(path))
        path.unlink(missing_ok=True)

    def sweep(self, known: Collection[str]) -> list[Path]:
        """Return the images that no journal row names; what was half written by a dead process is removed.

        Parameters
        ----------
        known
            Paths that the journal names, as text.

        Returns
        -------
        list of Path
            Orphans: whole images, written just before a crash. They are kept; queue or report them.
        """
        limit = time.time() - _STALE_S
        for scratch in self.directory.glob(".*.tmp"):
            if scratch.stat().st_mtime < limit:
                LOG.warning("spool: removed the half written %s", scratch.name)
                scratch.unlink(missing_ok=True)
        names = {Path(p).name for p in known}
        return sorted(p for p in self.directory.glob("*.dcm") if p.name not in names)


def sop_uid_of(path: Path) -> str:
    """Return the SOPInstanceUID that a spool file's name holds."""
    return path.name.rsplit(".", 2)[0]


def write_durably(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all, and wait until the disk has it.

    Raises
    ------
    OSError
        The disk refused; `path` is as it was.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with scratch.open("wb") as file:
            file.write(data)
            file.flush()
            os.fdatasync(file.fileno())
        scratch.replace(path)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _checked(uid: str) -> str:
    if len(uid) > 64 or not _UID.fullmatch(uid):
        raise DeliveryError("spool", expected="a DICOM UID", got=repr(uid[:80]))
    return uid
