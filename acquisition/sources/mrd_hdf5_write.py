"""ISMRMRD HDF5 files, written so that the reference library reads them.

A file appears under its name only when it is complete. Images go to one group per (output, shape, voxel type),
because a data set cannot change its shape.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from acquisition.errors import DataError, DeliveryError, InputError
from acquisition.items import Image, Readouts, Waveform
from acquisition.scan import Scan
from acquisition.sources.mrd_hdf5 import file_head_dtype, waveform_file_dtype
from acquisition.sources.mrd_header import parse_header
from acquisition.sources.mrd_header_write import write_header
from acquisition.sources.mrd_image import IMAGE_HEAD, image_parts
from acquisition.sources.mrd_raw import RawItem
from acquisition.sources.mrd_wire import check_readouts, waveform_head

GROUP = "dataset"
_RESERVED = ("data", "xml", "waveforms")


def write(path: Path | str, scan: Scan, *, items: Iterable[RawItem]) -> None:
    """Write a scan to an ISMRMRD HDF5 file.

    Parameters
    ----------
    path
        Where to; an existing file is replaced at the end.
    scan
        Its original header text is kept where it still says what the scan says.
    items
        Readouts in k-space, waveforms, images; each kind keeps its order.

    Raises
    ------
    DataError
        An item cannot be written.
    DeliveryError
        The file cannot be written.
    """
    with _new_file(Path(path)) as file:
        writer = _Writer(file.create_group(GROUP))
        writer.header(scan)
        for item in items:
            writer.item(item)


def write_images(path: Path | str, images: Iterable[Image], *, scan: Scan | None = None) -> None:
    """Write images to an ISMRMRD HDF5 file, groups named after their output, with the scan's header if given.

    Raises
    ------
    DataError
        An image cannot be said in MRD.
    DeliveryError
        The file cannot be written.
    """
    with _new_file(Path(path)) as file:
        writer = _Writer(file.create_group(GROUP))
        if scan is not None:
            writer.header(scan)
        for image in images:
            writer.image(image)


class _Writer:
    """Appends items to one group."""

    def __init__(self, group: h5py.Group) -> None:
        self._group = group
        self._images: dict[tuple, h5py.Group] = {}
        self._series: dict[str, int] = {}

    def header(self, scan: Scan) -> None:
        text = self._group.create_dataset("xml", shape=(1,), dtype=h5py.special_dtype(vlen=bytes))
        text[0] = _header_text(scan).encode()

    def item(self, item: RawItem) -> None:
        match item:
            case Readouts():
                self.readouts(item)
            case Waveform():
                self.waveform(item)
            case Image():
                self.image(item)
            case _:
                raise DataError("item to write", expected="Readouts, Waveform or Image", got=type(item).__name__)

    def readouts(self, block: Readouts) -> None:
        check_readouts(block)
        n = len(block)
        floats = h5py.special_dtype(vlen=np.dtype("float32"))
        rows = np.empty(n, [("head", file_head_dtype()), ("traj", floats), ("data", floats)])
        rows["head"] = np.ascontiguousarray(block.head).view(file_head_dtype())
        samples = np.ascontiguousarray(block.data, "<c8").reshape(n, -1).view("<f4")
        traj = np.empty((n, 0), "<f4") if block.traj is None else block.traj.reshape(n, -1).astype("<f4", copy=False)
        for i in range(n):
            rows["data"][i], rows["traj"][i] = samples[i], traj[i]
        _append(self._group, "data", rows)

    def waveform(self, waveform: Waveform) -> None:
        samples = h5py.special_dtype(vlen=np.dtype("uint32"))
        row = np.empty(1, [("head", waveform_file_dtype()), ("data", samples)])
        row["head"] = waveform_head(waveform).view(waveform_file_dtype())
        row["data"][0] = np.ascontiguousarray(waveform.data, "<u4").reshape(-1)
        _append(self._group, "waveforms", row)

    def image(self, image: Image) -> None:
        series = self._series.setdefault(image.output, len(self._series) + 1)
        group = self._image_group((image.output, image.data.shape, image.data.dtype.str))
        index = len(group["header"]) + 1 if "header" in group else 1
        head, attributes, data = image_parts(image, series_index=series, image_index=index)
        text = np.empty(1, h5py.special_dtype(vlen=str))
        text[0] = attributes.decode()
        if data.dtype.kind == "c":
            part = data.real.dtype.newbyteorder("<")
            data = data.view(np.dtype([("real", part), ("imag", part)]))
        _append(group, "header", head.astype(IMAGE_HEAD))
        _append(group, "attributes", text)
        _append(group, "data", data[None])

    def _image_group(self, key: tuple) -> h5py.Group:
        if key not in self._images:
            stem = re.sub(r"[^\w.-]+", "_", key[0]).strip(".") or "image"
            names = (stem if i == 1 else f"{stem}_{i}" for i in range(1, len(self._images) + len(_RESERVED) + 2))
            free = next(name for name in names if name not in self._group and name not in _RESERVED)
            self._images[key] = self._group.create_group(free)
        return self._images[key]


def _append(group: h5py.Group, name: str, rows: np.ndarray) -> None:
    """Append `rows` along the first axis of a growing data set."""
    if name not in group:
        chunk = 1 if rows.ndim > 1 else 64
        shape, most = (0, *rows.shape[1:]), (None, *rows.shape[1:])
        group.create_dataset(name, shape=shape, maxshape=most, chunks=(chunk, *rows.shape[1:]), dtype=rows.dtype)
    data = group[name]
    begin = len(data)
    data.resize(begin + len(rows), axis=0)
    data[begin:] = rows


def _header_text(scan: Scan) -> str:
    """Return the header as it came where it still means `scan`, else a new one."""
    if scan.header:
        try:
            if parse_header(scan.header) == scan:
                return scan.header
        except InputError:
            pass
    return write_header(scan)


@contextmanager
def _new_file(path: Path) -> Iterator[Any]:
    part = path.with_name(f".{path.name}.part")
    try:
        with h5py.File(part, "w") as file:
            yield file
        part.replace(path)
    except OSError as error:
        raise DeliveryError(
            f"file {path}", expected="to write it", got=str(error), action="check the folder and the free space"
        ) from error
    finally:
        part.unlink(missing_ok=True)
