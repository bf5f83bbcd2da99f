"""Spool files as they go over the wire: checked against the journal, split after the file meta group (PS3.10)."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import ImplicitVRLittleEndian

from integration.delivery.link import PermanentError
from integration.delivery.rows import Delivery
from integration.delivery.spool import digest

_META = 144
"""Preamble, prefix and the element that holds the length of the rest of group 0002 [bytes]."""
_LARGEST_META = 1 << 16


@dataclass(frozen=True, slots=True)
class Stored:
    """A DICOM file, split."""

    sop_class: str
    """SOPClassUID."""
    sop_uid: str
    """SOPInstanceUID."""
    transfer_syntax: str
    """TransferSyntaxUID."""
    data: bytes | memoryview
    """The data set, encoded."""


def split(data: bytes, name: str) -> Stored:
    """Split a Part 10 file; the data set is not decoded.

    Raises
    ------
    PermanentError
        It is no such file.
    """
    try:
        if data[128:140] != b"DICM\x02\x00\x00\x00UL\x04\x00":
            raise ValueError("no Part 10 header")
        end = _META + min(struct.unpack_from("<L", data, 140)[0], _LARGEST_META)
        meta = dcmread(io.BytesIO(data[:end])).file_meta
        return Stored(
            str(meta.MediaStorageSOPClassUID),
            str(meta.MediaStorageSOPInstanceUID),
            str(meta.TransferSyntaxUID),
            memoryview(data)[end:],
        )
    except (ValueError, AttributeError, KeyError, struct.error, EOFError, InvalidDicomError) as error:
        raise PermanentError(name, expected="a DICOM file with its meta header", got=str(error)) from error


def load(delivery: Delivery) -> Stored:
    """Read one image from the spool and make sure that it is what the journal says.

    Raises
    ------
    PermanentError
        The file is missing, changed, or of another UID.
    """
    name = f"image {delivery.sop_uid}"
    try:
        data = Path(delivery.path).read_bytes()
    except OSError as error:
        raise PermanentError(name, expected="its file in the spool", got=str(error)) from error
    if digest(data) != delivery.sha256:
        action = "Reconstruct the scan again from its raw data"
        raise PermanentError(name, expected="the bytes that were spooled", got="a damaged file", action=action)
    stored = split(data, name)
    if stored.sop_uid != delivery.sop_uid:
        raise PermanentError(name, expected="its own UID in the file", got=stored.sop_uid)
    return stored


def transfer_syntax(path: str) -> str:
    """Return the transfer syntax of a file; empty if that cannot be said (`load` then says why)."""
    try:
        with Path(path).open("rb") as file:
            return split(file.read(_META + _LARGEST_META), path).transfer_syntax
    except (OSError, PermanentError):
        return ""


def to_implicit(stored: Stored) -> Stored:
    """Encode an explicit little endian data set implicitly, for archives that accept the default syntax only."""
    dataset = read_dataset(io.BytesIO(stored.data), False, True)
    return Stored(stored.sop_class, stored.sop_uid, str(ImplicitVRLittleEndian), encode(dataset))


def encode(dataset: Dataset) -> bytes:
    """Encode a data set in implicit VR little endian, the syntax that all DICOM software shares."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = True, True
    write_dataset(buffer, dataset)
    return buffer.getvalue()
