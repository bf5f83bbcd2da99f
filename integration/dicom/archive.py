"""The embedded archive: ``python -m integration.dicom.archive --dir DIR``.

A storage SCP that keeps each object as a file, says Success only when the disk has it, and vouches for it
(storage commitment) only after reading it back. Meant for the demonstration, for tests and for a small site's
spool of last resort; it offers no query. PS3.4 annexes A, B, J.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import DeflatedExplicitVRLittleEndian
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, _config, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import ThreadedAssociationServer

from acquisition.errors import DeliveryError, IsocenterError, SetupError
from integration.delivery.link import PermanentError
from integration.delivery.spool import Spool, digest, sync_directory, write_durably
from integration.dicom.commit import NO_SUCH_OBJECT, PROCESSING_FAILURE, PUSH_INSTANCE, PUSH_MODEL, make_report
from integration.dicom.fastsocket import serve
from integration.dicom.part10 import split

LOG = logging.getLogger(__name__)

SUCCESS, NO_SUCH_ACTION, CLASS_CONFLICT = 0x0000, 0x0123, 0x0119
OUT_OF_RESOURCES, MISMATCH, CANNOT_UNDERSTAND, DIFFERENT_BYTES = 0xA700, 0xA900, 0xC000, 0xC001
_SAFE = re.compile(r"[^A-Za-z0-9._-]")
_LONGEST_NAME = 64
_LOCKS = 32
_ALL_KEPT, _SOME_FAILED = 1, 2
_TAGS = ["SOPClassUID", "SOPInstanceUID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID"]


class Folder:
    """The archive's files: ``<patient or study>/<series>/<instance>.dcm``.

    Parameters
    ----------
    directory
        Made if it is not there.
    reserve_bytes
        Space that is left free on the disk.
    """

    def __init__(self, directory: Path, *, reserve_bytes: int = 1 << 28) -> None:
        self.directory = directory
        self._disk = Spool(directory, reserve_bytes=reserve_bytes)
        self._paths = {p.stem: p for p in directory.rglob("*.dcm")}
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    def store(self, sop_class: str, sop_uid: str, data: bytes) -> tuple[int, str]:
        """Keep one Part 10 file; return the C-STORE status and a comment."""
        try:
            dataset = dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=list(_TAGS))
        except (InvalidDicomError, ValueError, KeyError, AttributeError, EOFError, NotImplementedError) as error:
            return CANNOT_UNDERSTAND, f"unreadable: {error}"
        if (dataset.get("SOPClassUID"), dataset.get("SOPInstanceUID")) != (sop_class, sop_uid):
            return MISMATCH, "data set and command name different objects"
        if not re.fullmatch(r"[0-9.]{1,64}", sop_uid):
            return MISMATCH, "SOP instance UID is no UID"
        with self._locks[hash(sop_uid) % _LOCKS]:
            return self._keep(self._path(dataset), data)

    def vouch(self, sop_class: str, sop_uid: str) -> int | None:
        """Read an object back; return None if it is whole, or the reason why it cannot be vouched for."""
        if (path := self._paths.get(sop_uid)) is None:
            return NO_SUCH_OBJECT
        try:
            stored = split(path.read_bytes(), path.name)
            dcmread(path)
        except FileNotFoundError:
            return NO_SUCH_OBJECT
        except (OSError, PermanentError, InvalidDicomError, ValueError, KeyError, AttributeError, EOFError) as error:
            LOG.error("%s cannot be read back: %s", sop_uid, error)
            return PROCESSING_FAILURE
        if stored.sop_uid != sop_uid:
            return PROCESSING_FAILURE
        return None if stored.sop_class == sop_class else CLASS_CONFLICT

    def _path(self, dataset: Dataset) -> Path:
        uid = str(dataset.SOPInstanceUID)
        first = str(dataset.get("PatientID") or dataset.get("StudyInstanceUID") or "unknown")
        series = str(dataset.get("SeriesInstanceUID") or "unknown")
        return self._paths.get(uid) or self.directory / safe_name(first) / safe_name(series) / f"{uid}.dcm"

    def _keep(self, path: Path, data: bytes) -> tuple[int, str]:
        if path.exists():
            if path.read_bytes() == data:
                return SUCCESS, ""
            LOG.error("%s came again with other bytes (sha256 %s); refused", path.stem, digest(data))
            return DIFFERENT_BYTES, "another object of this SOP instance UID is kept"
        try:
            self._disk.require(len(data))
            new = [p for p in (path.parent, path.parent.parent) if not p.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, data)
            for folder in new:
                sync_directory(folder.parent)
        except (DeliveryError, OSError) as error:
            LOG.error("%s not taken: %s", path.stem, error)
            return OUT_OF_RESOURCES, "archive is out of disk space"
        self._paths[path.stem] = path
        return SUCCESS, ""


class Archive:
    """A DICOM server around a `Folder`; `start`, then `stop`.

    Parameters
    ----------
    folder
        Where objects are kept.
    ae_title
        Our AE title; associations that call another one are rejected.
    """

    def __init__(self, folder: Folder, ae_title: str = "ISOARCHIVE") -> None:
        self.folder = folder
        self._ae = AE(ae_title=ae_title)
        self._ae.require_called_aet = True
        self._ae.maximum_associations, self._ae.maximum_pdu_size = 32, 1 << 17
        self._ae.network_timeout, self._ae.acse_timeout = 300, 5
        syntaxes = [s for s in ALL_TRANSFER_SYNTAXES if s != DeflatedExplicitVRLittleEndian]
        for context in AllStoragePresentationContexts:
            self._ae.add_supported_context(str(context.abstract_syntax), syntaxes)
        self._ae.add_supported_context(Verification)
        self._ae.add_supported_context(PUSH_MODEL)
        self._due: dict[Association, Dataset] = {}
        self._server: ThreadedAssociationServer | None = None

    def start(self, host: str, port: int) -> int:
        """Listen; return the port (a free one if `port` is 0).

        Raises
        ------
        SetupError
            The port is taken.
        """
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._action), (evt.EVT_DIMSE_SENT, self._sent)]
        try:
            self._server = serve(self._ae, (host, port), handlers)
        except OSError as error:
            raise SetupError(f"archive at {host}:{port}", expected="a free port", got=str(error)) from error
        return int(self._server.server_address[1])

    def stop(self) -> None:
        """End all associations and stop listening."""
        self._ae.shutdown()

    def _store(self, event: evt.Event) -> Dataset:
        request: Any = event.request
        status = Dataset()
        data = event.encoded_dataset()
        status.Status, comment = self.folder.store(
            str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID), data
        )
        if comment:
            status.ErrorComment = comment[:64]
        return status

    def _action(self, event: evt.Event) -> tuple[int, None]:
        """Take a commitment request; the report follows the response (PS3.4 J.3.3)."""
        if event.action_type != 1:
            return NO_SUCH_ACTION, None
        request = event.action_information
        kept: dict[str, str] = {}
        failed: dict[str, tuple[str, int]] = {}
        for item in request.ReferencedSOPSequence:
            sop_class, uid = str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID)
            if (reason := self.folder.vouch(sop_class, uid)) is None:
                kept[uid] = sop_class
            else:
                failed[uid] = (sop_class, reason)
        self._due[event.assoc] = make_report(str(request.TransactionUID), kept, failed)
        return SUCCESS, None

    def _sent(self, event: evt.Event) -> None:
        if type(event.message).__name__ == "N_ACTION_RSP" and (report := self._due.pop(event.assoc, None)):
            threading.Thread(target=_report, args=(event.assoc, report), name="report", daemon=True).start()


def safe_name(text: str) -> str:
    """Return `text` as one path component: no separators, no leading dot; changed names stay distinct by a hash."""
    name = _SAFE.sub("_", text.strip()).lstrip(".")[:_LONGEST_NAME]
    if name == text and name:
        return name
    return f"{name or 'unnamed'}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM; return the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=options.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    _config.LOG_HANDLER_LEVEL = "none"
    stopping = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        archive = Archive(Folder(options.dir, reserve_bytes=options.reserve_mb << 20), options.ae_title)
        port = archive.start(options.host, options.port)
    except (IsocenterError, OSError) as error:
        LOG.critical("%s", error)
        return 1
    if options.ready_file:
        write_durably(options.ready_file, json.dumps({"pid": os.getpid(), "port": port}).encode())
    LOG.info("archive %s listens at %s:%d, keeps objects in %s", options.ae_title, options.host, port, options.dir)
    parent = os.getppid()
    while not stopping.wait(0.5) and not (options.exit_with_parent and os.getppid() != parent):
        pass
    archive.stop()
    return 0


def _report(association: Association, report: Dataset) -> None:
    event_type = _SOME_FAILED if "FailedSOPSequence" in report else _ALL_KEPT
    try:
        association.send_n_event_report(report, event_type, PUSH_MODEL, PUSH_INSTANCE)
    except (RuntimeError, ValueError) as error:  # gone meanwhile: it will ask again
        LOG.warning("storage commitment report %s not delivered: %s", report.TransactionUID, error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m integration.dicom.archive", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="folder for the objects")
    parser.add_argument("--port", type=int, default=11112, help="0: a free port, see --ready-file")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--ae-title", default="ISOARCHIVE")
    parser.add_argument("--ready-file", type=Path, help="JSON with pid and port, written when listening")
    parser.add_argument("--reserve-mb", type=int, default=256, help="disk space that is left free [MiB]")
    parser.add_argument("--exit-with-parent", action="store_true", help="stop when the process that started it is gone")
    parser.add_argument("--log-level", default="INFO")
    return parser


if __name__ == "__main__":
    sys.exit(main())
