"""Samples of an ISMRMRD file straight from where HDF5 put them, one read per readout into its final place.

HDF5 keeps values of variable length in global heap collections and hands each out in memory of its own; with
a conversion behind it that is three copies of every sample, all into fresh pages (2,000 readouts/s of 512 x 32
measured, where one read into reused memory gives ten times that). A record on disk holds only the length, the
address of a collection and the number of an object in it (HDF5 file format specification, III.E and IV.B)::

    collection  "GCOL", version 1, 3 reserved, size u64, then objects
    object      number u16, references u16, 4 reserved, size u64, data padded to 8; number 0 is free space

Everything is held against the collection's and the file's size before it is used. Files stored in any other
way (compressed, with a user block ...) are left to the library: `open_heap` returns None.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from acquisition.errors import FileFormatError

_REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("number", "<u4")])
_FIRST_READ = 4096
_KEPT_COLLECTIONS = 256


class Heap:
    """Reads records and their values of variable length from one plain data set.

    Parameters
    ----------
    path
        The HDF5 file.
    dtype
        One record as it lies in the file, references in place of values of variable length.
    rows_per_chunk
        Records in one chunk.
    chunks
        Byte offset of each chunk, in the order of the records.
    """

    def __init__(self, path: Path, dtype: np.dtype, *, rows_per_chunk: int, chunks: list[int]) -> None:
        self._name, self._dtype = path.name, dtype
        self._rows_per_chunk, self._chunks = rows_per_chunk, chunks
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        self._size = os.fstat(self._descriptor).st_size
        self._collections: dict[int, dict[int, tuple[int, int]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._descriptor)

    def records(self, begin: int, end: int) -> NDArray[np.void]:
        """Return records [begin, end) with their references.

        Raises
        ------
        FileFormatError
            They lie beyond the end of the file.
        """
        out = np.empty(end - begin, self._dtype)
        row = begin
        while row < end:
            chunk, within = divmod(row, self._rows_per_chunk)
            last = min(end, (chunk + 1) * self._rows_per_chunk)
            self._read(out[row - begin : last - begin], self._chunks[chunk] + within * self._dtype.itemsize)
            row = last
        return out

    def values(self, references: NDArray[np.void], size: int) -> NDArray[np.float32]:
        """Return the float32 values that `references` (n,) point to, shape (n, size).

        Raises
        ------
        FileFormatError
            One has another length, or its reference leads nowhere.
        """
        out = np.empty((len(references), size), "<f4")
        wrong = np.unique(references["length"][references["length"] != size])
        if len(wrong):
            raise self._damaged(f"{size} numbers as the headers say", f"{wrong[:5].tolist()}")
        if size:
            addresses, numbers = references["address"].tolist(), references["number"].tolist()
            for row, address, number in zip(out, addresses, numbers, strict=True):
                self._read(row, self._locate(address, number, 4 * size))
        return out

    def _locate(self, address: int, number: int, size: int) -> int:
        """Return the byte offset of an object of at least `size` bytes."""
        objects = self._collections.get(address)
        if objects is None:
            if len(self._collections) >= _KEPT_COLLECTIONS:
                self._collections.clear()
            objects = self._collections[address] = self._collection(address)
        offset, held = objects.get(number, (0, -1))
        if held < size:
            raise self._damaged(f"{size} bytes in heap object {number} at {address}", "none" if held < 0 else str(held))
        return offset

    def _collection(self, address: int) -> dict[int, tuple[int, int]]:
        """Return where the objects of a collection are: number -> (byte offset, size)."""
        start = self._peek(address, min(_FIRST_READ, self._size - address))
        signature, version, length = struct.unpack_from("<4sB3xQ", start) if len(start) >= 16 else (b"", 0, 0)
        if signature != b"GCOL" or version != 1 or not 16 <= length <= self._size - address:
            raise self._damaged(f"a heap collection at {address}", repr(start[:16]))
        objects: dict[int, tuple[int, int]] = {}
        at = 16
        while at + 16 <= length:
            head = start[at : at + 16] if at + 16 <= len(start) else self._peek(address + at, 16)
            number, held = struct.unpack("<H6xQ", head)
            if number == 0:
                break
            if held > length - at - 16:
                raise self._damaged(f"at most {length - at - 16} bytes in heap object {number}", str(held))
            objects[number] = (address + at + 16, held)
            at += 16 + (held + 7) // 8 * 8
        return objects

    def _peek(self, offset: int, size: int) -> bytes:
        if not 0 <= offset <= self._size - size or size < 0:
            raise self._damaged(f"an address below {self._size}", str(offset))
        return os.pread(self._descriptor, size, offset)

    def _read(self, target: NDArray, offset: int) -> None:
        view = target.view(np.uint8).data
        if not 0 <= offset <= self._size - len(view) or os.preadv(self._descriptor, [view], offset) != len(view):
            raise self._damaged(f"{len(view)} bytes at {offset}", f"a file of {self._size}")

    def _damaged(self, expected: str, got: str) -> FileFormatError:
        action = "the file is damaged; copy or convert it again"
        return FileFormatError(f"file {self._name}, samples", expected=expected, got=got, action=action)


def open_heap(path: Path, data: h5py.Dataset, *, head: np.dtype) -> Heap | None:
    """Return a reader for `data`, or None where it is not stored in the plain way.

    Parameters
    ----------
    path
        The file of `data`.
    data
        Records with the members head, data and perhaps traj.
    head
        Layout that the member ``head`` must have on disk.
    """
    dtype = _record_dtype(data.id.get_type(), head)
    plan = data.file.id.get_create_plist()
    chunks = _chunks(data)
    if dtype is None or chunks is None or plan.get_userblock() or plan.get_sizes() != (8, 8):
        return None
    return Heap(path, dtype, rows_per_chunk=data.chunks[0] if data.chunks else len(data), chunks=chunks)


def _record_dtype(record: Any, head: np.dtype) -> np.dtype | None:
    """Return a record as it lies on disk; None where a member is not what ISMRMRD writes."""
    names, formats, offsets = [], [], []
    for index in range(record.get_nmembers()):
        member, name = record.get_member_type(index), record.get_member_name(index).decode()
        is_floats = isinstance(member, h5py.h5t.TypeVlenID) and member.get_super().dtype == np.dtype("<f4")
        is_head = name == "head" and not member.detect_class(h5py.h5t.VLEN) and member.dtype == head
        if not (is_floats or is_head):
            return None
        names.append(name)
        formats.append(_REFERENCE if is_floats else head)
        offsets.append(record.get_member_offset(index))
    if not {"head", "data"} <= set(names):
        return None
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": record.get_size()})


def _chunks(data: h5py.Dataset) -> list[int] | None:
    """Return the byte offset of every chunk in order; None where chunks are missing, filtered or elsewhere."""
    if data.external or data.is_virtual or data.ndim != 1:
        return None
    if data.chunks is None:
        offset = data.id.get_offset()
        return None if offset is None else [offset]
    found: list[Any] = []
    data.id.chunk_iter(found.append)
    found.sort(key=lambda chunk: chunk.chunk_offset)
    wanted = range(0, len(data), data.chunks[0])
    plain = all(chunk.filter_mask == 0 and chunk.size == found[0].size for chunk in found)
    if (
        [chunk.chunk_offset[0] for chunk in found] != list(wanted)
        or not plain
        or data.id.get_create_plist().get_nfilters()
    ):
        return None
    return [chunk.byte_offset for chunk in found]
