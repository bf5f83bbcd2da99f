"""Files of MRD raw data: ISMRMRD HDF5 and recorded streams, by their first bytes."""

from __future__ import annotations

from pathlib import Path

from acquisition.sources.mrd_hdf5 import read_hdf5, read_images
from acquisition.sources.mrd_hdf5_write import write, write_images
from acquisition.sources.mrd_raw import RawFile, RawItem, reading
from acquisition.sources.mrd_recording import read_recording

__all__ = ["HDF5_MAGIC", "RawFile", "RawItem", "read", "read_images", "write", "write_images"]

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


def read(path: Path | str) -> RawFile:
    """Open an ISMRMRD HDF5 file or a recorded MRD stream.

    Raises
    ------
    FileFormatError
        The file is neither, or damaged.
    HeaderError
        Its header is not usable.
    """
    path = Path(path)
    with reading(path, "file"), path.open("rb") as file:
        first = file.read(len(HDF5_MAGIC))
    return read_hdf5(path) if first == HDF5_MAGIC else read_recording(path)
