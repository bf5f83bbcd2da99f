"""ISMRMRD HDF5 files, read in bulk.

One record per acquisition with samples of variable length; the reference library opens the data set anew for
every readout. Here records are read a few thousand at a time, their heads say where runs of equal shape lie, and
the samples of a run go straight into the block that is handed out (`mrd_heap`). Files stored in an unusual way are
read through the library, a few dozen records at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from acquisition.errors import FileFormatError
from acquisition.items import COUNTERS, READOUT_HEAD, Image, Readouts, Waveform
from acquisition.sources.mrd_frame import decode_waveform, measure_acquisition
from acquisition.sources.mrd_header import parse_header
from acquisition.sources.mrd_heap import Heap, open_heap
from acquisition.sources.mrd_image import IMAGE_HEAD, decode_image
from acquisition.sources.mrd_limits import StreamLimits, check_claim
from acquisition.sources.mrd_raw import BLOCK_BYTES, RawFile, RawItem, reading
from acquisition.sources.mrd_wire import WAVEFORM_HEAD

FORMAT = "ISMRMRD HDF5"
FILE_COUNTERS = np.dtype(
    [
        ("kspace_encode_step_1", "<u2"),
        ("kspace_encode_step_2", "<u2"),
        *((name, "<u2") for name in COUNTERS[2:]),
        ("user", "<u2", (8,)),
    ]
)
"""The counters as they are nested in a file's acquisition header."""

_FILE_NAMES = {
    "time_stamp": "acquisition_time_stamp",
    "n_samples": "number_of_samples",
    "available_coils": "available_channels",
    "n_coils": "active_channels",
    "encoding": "encoding_space_ref",
    "traj_dims": "trajectory_dimensions",
    "dwell_us": "sample_time_us",
    "table_position": "patient_table_position",
}
_WAVEFORM_FILE_NAMES = {"n_samples": "number_of_samples", "n_channels": "channels", "id": "waveform_id"}
_RECORDS_AT_ONCE, _LIBRARY_RECORDS_AT_ONCE = 4096, 32


def file_head_dtype() -> np.dtype:
    """Return the acquisition header as ISMRMRD files name and nest it; the bytes are those of `READOUT_HEAD`."""
    names = [n for n in READOUT_HEAD.names or () if n not in (*COUNTERS, "user_counters")]
    fields: list[Any] = [(_FILE_NAMES.get(name, name), READOUT_HEAD[name]) for name in names]
    return np.dtype([*fields[:-2], ("idx", FILE_COUNTERS), *fields[-2:]])


def waveform_file_dtype() -> np.dtype:
    """Return the waveform header with the names ISMRMRD files use."""
    names = WAVEFORM_HEAD.names or ()
    return np.dtype([(_WAVEFORM_FILE_NAMES.get(n, n), WAVEFORM_HEAD[n]) for n in names], align=True)


def read_hdf5(path: Path, *, group: str | None = None, limits: StreamLimits | None = None) -> RawFile:
    """Open an ISMRMRD HDF5 file.

    Parameters
    ----------
    path
        The file.
    group
        Name of the measurement's group; needed where a file holds more than one.
    limits
        What a readout, waveform or image may claim.

    Raises
    ------
    FileFormatError
        It is damaged, holds no ISMRMRD header, or more than one and none was named.
    HeaderError
        The header is not usable.
    """
    with reading(path, FORMAT), h5py.File(path, "r") as file:
        group = _choose_group(path, file, group)
        text = file[group]["xml"][()]
        xml = text.flat[0] if isinstance(text, np.ndarray) else text
        header = xml.decode("utf-8") if isinstance(xml, bytes) else str(xml)
    source = partial(_items, path, group, limits=limits or StreamLimits())
    return RawFile(path=path, format=FORMAT, scan=parse_header(header), source=source)


def read_images(path: Path, *, limits: StreamLimits | None = None) -> Iterator[Image]:
    """Yield all images of an HDF5 file, whatever groups they are in.

    Raises
    ------
    FileFormatError
        The file is damaged.
    """
    with reading(path, FORMAT), h5py.File(path, "r") as file:
        for name in _groups(file, ("header", "data")):
            yield from _images(file[name], limits or StreamLimits())


def _groups(file: h5py.File, members: tuple[str, ...]) -> list[str]:
    found = [file.name] if all(m in file for m in members) else []

    def look(name: str, node: Any) -> None:
        if isinstance(node, h5py.Group) and all(m in node for m in members):
            found.append(f"/{name}")

    file.visititems(look)
    return found


def _choose_group(path: Path, file: h5py.File, wanted: str | None) -> str:
    found = _groups(file, ("xml", "data")) or _groups(file, ("xml",))
    if wanted is not None:
        found = [name for name in found if name.strip("/") == wanted.strip("/")]
    if len(found) == 1:
        return found[0]
    raise FileFormatError(
        f"file {path.name}",
        expected="one group with an ISMRMRD header (xml)" + (f" named {wanted}" if wanted else ""),
        got=", ".join(found) or "none among " + ", ".join(list(file)[:10]),
        action="name the group to read" if found else "check that this is ISMRMRD raw data",
    )


def _items(path: Path, group: str, *, limits: StreamLimits) -> Iterator[RawItem]:
    with reading(path, FORMAT), h5py.File(path, "r") as file:
        node = file[group]
        if "data" in node:
            yield from _acquisitions(path, node["data"], limits)
        if "waveforms" in node:
            yield from _waveforms(path, node["waveforms"], limits)
        for name in node:
            if isinstance(node[name], h5py.Group) and "header" in node[name] and "data" in node[name]:
                yield from _images(node[name], limits)


class _Library:
    """Reads acquisitions through the HDF5 library, however they are stored."""

    def __init__(self, path: Path, data: h5py.Dataset) -> None:
        self._name, self._data = path.name, data

    def __enter__(self) -> _Library:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def records(self, begin: int, end: int) -> NDArray[np.void]:
        """Return heads and values of variable length of records [begin, end)."""
        return self._data[begin:end]

    def values(self, rows: NDArray[np.object_], size: int) -> NDArray[np.float32]:
        """Return rows of variable length as one array (n, size) of float32."""
        parts = [row.view("<f4") if row.dtype == np.complex64 else row for row in rows]
        if wrong := {len(part) for part in parts} - {size}:
            raise FileFormatError(
                f"file {self._name}, samples",
                expected=f"{size} numbers as the headers say",
                got=f"{sorted(wrong)[:5]}",
                action="the file is damaged; copy or convert it again",
            )
        out = np.empty((len(parts), size), "<f4")
        np.concatenate(parts, out=out.reshape(-1), casting="same_kind")
        return out


def _acquisitions(path: Path, data: h5py.Dataset, limits: StreamLimits) -> Iterator[Readouts]:
    with open_heap(path, data, head=file_head_dtype()) or _Library(path, data) as source:
        at_once = _RECORDS_AT_ONCE if isinstance(source, Heap) else _LIBRARY_RECORDS_AT_ONCE
        for begin in range(0, len(data), at_once):
            records = source.records(begin, min(begin + at_once, len(data)))
            heads = _heads(records["head"])
            for rows, sizes in _blocks(heads, limits):
                yield _block(source, records[rows], head=heads[rows], sizes=sizes)


def _blocks(heads: NDArray[np.void], limits: StreamLimits) -> Iterator[tuple[slice, tuple[int, int]]]:
    """Yield runs of equal shape, no longer than a block, with their bytes per readout (trajectory, samples)."""
    shapes = np.stack([heads[name] for name in ("n_samples", "n_coils", "traj_dims")], axis=1)
    changes = np.flatnonzero((shapes[1:] != shapes[:-1]).any(axis=1)) + 1
    for first, last in pairwise([0, *changes.tolist(), len(heads)]):
        samples, coils, dims = (int(n) for n in shapes[first])
        sizes = measure_acquisition(samples, coils, dims=dims, limits=limits)
        step = max(1, BLOCK_BYTES // max(1, sum(sizes)))
        for row in range(first, last, step):
            yield slice(row, min(row + step, last)), sizes


def _block(
    source: Heap | _Library, records: NDArray[np.void], *, head: NDArray[np.void], sizes: tuple[int, int]
) -> Readouts:
    n, samples = len(head), int(head["n_samples"][0])
    data = source.values(records["data"], sizes[1] // 4)
    traj = source.values(records["traj"], sizes[0] // 4).reshape(n, samples, -1) if sizes[0] else None
    return Readouts(head=head, data=data.view("<c8").reshape(n, int(head["n_coils"][0]), samples), traj=traj)


def _heads(heads: NDArray[np.void]) -> NDArray[np.void]:
    """Return the file's acquisition headers as `READOUT_HEAD`, by bytes where the layout is the usual one."""
    if heads.dtype == file_head_dtype():
        return np.ascontiguousarray(heads).view(READOUT_HEAD)
    out = np.zeros(len(heads), READOUT_HEAD)
    for name in READOUT_HEAD.names or ():
        if name not in (*COUNTERS, "user_counters"):
            out[name] = heads[_FILE_NAMES.get(name, name)]
    for ours, theirs in zip((*COUNTERS, "user_counters"), FILE_COUNTERS.names or (), strict=True):
        out[ours] = heads["idx"][theirs]
    return out


def _waveforms(path: Path, data: h5py.Dataset, limits: StreamLimits) -> Iterator[Waveform]:
    for index in range(len(data)):
        row = data[index]
        head = np.zeros(1, WAVEFORM_HEAD)
        for name in WAVEFORM_HEAD.names or ():
            head[name] = row["head"][_WAVEFORM_FILE_NAMES.get(name, name)]
        size = int(head["n_channels"][0]) * int(head["n_samples"][0])
        check_claim("waveform", 4 * size, limit=limits.waveform_bytes, unit="bytes")
        samples = np.asarray(row["data"])
        if samples.size != size:
            raise FileFormatError(
                f"file {path.name}, waveform {index}", expected=f"{size} samples", got=str(samples.size)
            )
        yield decode_waveform(head, samples.astype("<u4", copy=False))


def _images(group: h5py.Group, limits: StreamLimits) -> Iterator[Image]:
    heads, data = group["header"], group["data"]
    attributes = group.get("attributes")
    for index in range(len(heads)):
        size = int(np.prod(data.shape[1:], dtype=object)) * data.dtype.itemsize
        check_claim("image", size, limit=limits.image_bytes, unit="bytes", detail=f"shape {data.shape[1:]}")
        head = np.zeros(1, IMAGE_HEAD)
        for name in IMAGE_HEAD.names or ():
            head[name] = heads[index][name]
        text = attributes[index] if attributes is not None else b""
        voxels = _plain(data[index])
        yield decode_image(head, text.encode() if isinstance(text, str) else bytes(text), voxels)


def _plain(voxels: NDArray) -> NDArray:
    """Return pairs of real and imaginary parts as complex numbers, (channel, z, y, x)."""
    if voxels.dtype.names is not None:
        voxels = voxels.view("<c8" if voxels.dtype.itemsize == 8 else "<c16")
    return voxels.reshape((1,) * (4 - voxels.ndim) + voxels.shape)
