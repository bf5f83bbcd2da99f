"""Readers and writers of raw data: streams, files, virtual scanners."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from acquisition.errors import FileFormatError
from acquisition.sources.cfl import is_cfl, read_cfl
from acquisition.sources.ctpd import is_ctpd, read_ctpd
from acquisition.sources.interfile import read_interfile
from acquisition.sources.interfile_header import is_interfile
from acquisition.sources.mrd_file import HDF5_MAGIC
from acquisition.sources.mrd_hdf5 import read_hdf5
from acquisition.sources.mrd_raw import RawFile, RawItem, reading
from acquisition.sources.mrd_recording import read_recording
from acquisition.sources.mrd_wire import MessageId
from acquisition.sources.petsird import is_petsird, read_petsird

__all__ = ["FORMATS", "Format", "RawFile", "RawItem", "open_raw"]


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of raw data file that we read."""

    name: str
    """In the reader's words."""
    fits: Callable[[bytes], bool]
    """Whether a file with these first bytes may be one."""
    read: Callable[[Path], RawFile]
    """Opens it."""


def _is_hdf5(first: bytes) -> bool:
    return first.startswith(HDF5_MAGIC)


def _is_mrd_stream(first: bytes) -> bool:
    """A recording begins with a config, a text or the header: a small number, then a plausible length or name."""
    if len(first) < 6:
        return False
    number, length = struct.unpack_from("<HI", first)
    if number == MessageId.CONFIG_FILE:
        name = first[2:].split(b"\0", 1)[0]
        return len(name) > 0 and name.isascii() and name.decode().isprintable()
    return number in (MessageId.CONFIG_TEXT, MessageId.HEADER, MessageId.TEXT) and 0 < length < 1 << 25


FORMATS: tuple[Format, ...] = (
    Format("ISMRMRD HDF5", _is_hdf5, read_hdf5),
    Format("MRD stream", _is_mrd_stream, read_recording),
    Format("PETSIRD", is_petsird, read_petsird),
    Format("Interfile header of list-mode", is_interfile, read_interfile),
)
"""What `open_raw` reads, asked in this order."""

_FOREIGN: tuple[tuple[int, bytes, str], ...] = (
    (128, b"DICM", "DICOM (images; of DICOM-CT-PD views name the folder)"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"MATLAB 7.3", "MATLAB 7.3"),
    (0, b"MATLAB 5.0", "MATLAB 5"),
    (0, b"\x93NUMPY", "NumPy array"),
    (0, b"<?xml", "XML text"),
    (344, b"n+1\0", "NIfTI (images, not raw data)"),
    (0, b"\0\0\0\0", "perhaps Siemens twix"),
)
"""Formats often mistaken for ours: offset, bytes, name."""


def open_raw(path: Path | str) -> RawFile:
    """Open a file of raw data, whatever its name, by its first bytes; or a folder of DICOM-CT-PD views.

    Parameters
    ----------
    path
        The file or folder.

    Returns
    -------
    RawFile
        Its scan, and its items when asked for.

    Raises
    ------
    FileFormatError
        It is of no kind that we read, or damaged.
    HeaderError
        Its header is not usable.
    DataError
        The views of a folder do not fit together.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    if is_cfl(path) and not is_interfile(_first_bytes(path) if path.is_file() else b""):
        return read_cfl(path)
    first = _first_bytes(path)
    for kind in FORMATS:
        if kind.fits(first):
            return kind.read(path)
    raise FileFormatError(
        f"file {path.name}",
        expected=" or ".join(kind.name for kind in FORMATS),
        got=_found(first),
        action="convert it, for Siemens twix with siemens_to_ismrmrd",
    )


def _first_bytes(path: Path) -> bytes:
    with reading(path, "file"), path.open("rb") as file:
        return file.read(1024)


def _open_folder(path: Path) -> RawFile:
    if is_ctpd(path):
        return read_ctpd(path)
    raise FileFormatError(
        f"folder {path.name}",
        expected="DICOM-CT-PD, one DICOM object per view",
        got="other files, or none",
        action="name the folder that holds the views themselves, or a file",
    )


def _found(first: bytes) -> str:
    if not first:
        return "an empty file"
    names = (name for offset, magic, name in _FOREIGN if first[offset:].startswith(magic))
    return next(names, f"unknown first bytes {first[:8].hex(' ')}")
