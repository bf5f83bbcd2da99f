"""DICOM-CT-PD: a folder with one DICOM object per view, the line integrals of a clinical CT scanner.

Chen et al., Med Phys 2015;42:6964, DOI 10.1118/1.4935406; Moen et al., Med Phys 2021;48:902, DOI 10.1002/mp.14594.
Headers are read at once, pixels when they are asked for, both by several threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from acquisition.errors import DataError, FileFormatError
from acquisition.items import Projections
from acquisition.scan import CtHeader
from acquisition.sources.ctpd_header import ct_header, scan_of, view_heads
from acquisition.sources.ctpd_tags import TAGS, Tags
from acquisition.sources.mrd_raw import BLOCK_BYTES, RawFile, RawItem, reading

_THREADS = 8
_BLOCKS_AHEAD = 2  # read before they are asked for
_SUFFIXES = ("", ".dcm", ".ima")
_CONSTANT = [
    "SeriesInstanceUID",
    "Rows",
    "Columns",
    "BitsAllocated",
    "PixelRepresentation",
    "NumberofDetectorRows",
    "NumberofDetectorColumns",
    "DetectorElementTransverseSpacing",
    "DetectorElementAxialSpacing",
    "DetectorFocalCenterRadialDistance",
    "ConstantRadialDistance",
    "DetectorCentralElement",
    "NumberofSourceAngularSteps",
]
"""The same in all views, or they do not belong together."""
_PER_VIEW: dict[str, float | None] = {
    "DetectorFocalCenterAngularPosition": None,
    "DetectorFocalCenterAxialPosition": None,
    "SourceAngularPositionShift": 0.0,
    "SourceAxialPositionShift": 0.0,
    "SourceRadialDistanceShift": 0.0,
    "RescaleSlope": None,
    "RescaleIntercept": None,
    "XRayTubeCurrent": 0.0,
}
"""What differs from view to view, and what it is where it is missing; None: it must be there."""
_NAMES = ("InstanceNumber", *_CONSTANT, *_PER_VIEW, "PhotonStatistics")
_WANTED: list[Any] = [TAGS[name][0] if name in TAGS else name for name in _NAMES]
_SAMPLES = {0: np.dtype("<u2"), 1: np.dtype("<i2")}


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """What one file says of its view."""

    path: Path
    """The file."""
    number: int
    """InstanceNumber."""
    values: dict[str, float]
    """Those of `_PER_VIEW`."""
    photons: tuple[float, ...]
    """PhotonStatistics: one per channel, one for all, or none."""
    constants: tuple[Any, ...]
    """Those of `_CONSTANT`, as they stand in the file."""


def is_ctpd(folder: Path) -> bool:
    """Return whether the first DICOM object in a folder is a view of this format."""
    first = next(iter(_files(folder)), None)
    if first is None:
        return False
    try:
        return TAGS["DetectorFocalCenterAngularPosition"][0] in dcmread(first, stop_before_pixels=True)
    except (InvalidDicomError, OSError):
        return False


def read_ctpd(folder: Path) -> RawFile:
    """Open a folder of views; its items are `Projections` of line integrals in the order of InstanceNumber.

    Raises
    ------
    FileFormatError
        A file cannot be read, or holds no line integrals.
    HeaderError
        A tag is missing, not finite, or says what cannot be reconstructed.
    DataError
        Views are missing, doubled, of mixed sizes, or not evenly spaced.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        views = sorted(pool.map(_view, _files(folder)), key=lambda v: v.number)
    where = f"folder {folder.name}"
    if not views:
        raise FileFormatError(where, expected="DICOM-CT-PD views", got="no files")
    _check_together(views)
    _check_complete(views, where)
    tags = Tags(_dataset(views[0].path, stop_before_pixels=True), f"file {views[0].path.name}")
    columns = {name: np.array([v.values[name] for v in views]) for name in _PER_VIEW}
    head = view_heads(columns, int(tags.number("NumberofSourceAngularSteps")), where=where)
    ct = ct_header(tags, head)
    head["time_s"] = head["view"] * ((ct.rotation_s or 0.0) / ct.views_per_rotation)
    read = _reader(tags, ct)
    photons = _photons(views, ct, where)
    scan = scan_of(tags, ct, len(views))
    return RawFile(path=folder, format="DICOM-CT-PD", scan=scan, source=lambda: _items(views, head, photons, read))


def _files(folder: Path) -> list[Path]:
    named = (p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES and p.name[0] != "." and p.name != "DICOMDIR")
    return sorted(p for p in named if p.is_file())


def _dataset(path: Path, **options: Any) -> Dataset:
    """Read a file.

    Raises
    ------
    FileFormatError
        It is no DICOM object.
    """
    with reading(path, "DICOM object"):
        try:
            return dcmread(path, **options)
        except InvalidDicomError as error:
            raise OSError(str(error)) from error


def _view(path: Path) -> _View:
    tags = Tags(_dataset(path, stop_before_pixels=True, specific_tags=_WANTED), f"file {path.name}")
    n_photons = len(tags.values("PhotonStatistics"))
    return _View(
        path=path,
        number=int(tags.number("InstanceNumber")),
        values={name: tags.number(name, default) for name, default in _PER_VIEW.items()},
        photons=tags.numbers("PhotonStatistics", n_photons),
        constants=tuple(map(tags.raw, _CONSTANT)),
    )


def _check_together(views: Sequence[_View]) -> None:
    first = views[0]
    for view in views:
        if view.constants == first.constants:
            continue
        tags, others = (Tags(_dataset(v.path, stop_before_pixels=True), v.path.name) for v in (first, view))
        for name in _CONSTANT:
            if tags.values(name) != others.values(name):
                raise DataError(
                    f"file {view.path.name}: {name}",
                    expected=f"{_listed(tags.values(name))}, as in {first.path.name}",
                    got=_listed(others.values(name)),
                    action="put each scan into a folder of its own",
                )


def _check_complete(views: Sequence[_View], where: str) -> None:
    numbers = [v.number for v in views]
    missing = sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers))
    twice = sorted({a for a, b in pairwise(numbers) if a == b})
    if missing or twice:
        raise DataError(
            where,
            expected=f"every InstanceNumber from {numbers[0]} to {numbers[-1]} once",
            got=f"{len(missing)} missing: {_listed(missing)}; {len(twice)} doubled: {_listed(twice)}",
            action="copy the folder again",
        )


def _listed(values: Sequence[Any]) -> str:
    return (", ".join(map(str, values[:5])) + (" ..." if len(values) > 5 else "")) or "none"


def _photons(views: Sequence[_View], ct: CtHeader, where: str) -> NDArray[np.float32] | None:
    """Return the photons of the unattenuated beam (view, channel), if the files tell them."""
    sizes = {len(v.photons) for v in views}
    if sizes == {0}:
        return None
    if len(sizes) > 1 or not sizes <= {1, ct.n_channels}:
        expected = f"1 or {ct.n_channels} values in every view"
        raise DataError(f"{where}: PhotonStatistics", expected=expected, got=_listed(sorted(sizes)))
    values = np.array([v.photons for v in views], np.float32)
    return np.ascontiguousarray(np.broadcast_to(values, (len(views), ct.n_channels)))


def _reader(tags: Tags, ct: CtHeader) -> Callable[[_View], NDArray[np.float32]]:
    """Return what reads the line integrals (row, channel) of a view; images may have channels as rows.

    Raises
    ------
    FileFormatError
        The pixels are no 16-bit integers of the detector's size.
    """
    size = (ct.n_channels, ct.n_rows)
    stored = (int(tags.number("Rows")), int(tags.number("Columns")))
    if stored not in (size, size[::-1]) or tags.number("BitsAllocated") != 16:
        raise FileFormatError(
            f"{tags.where}: Rows, Columns, BitsAllocated",
            expected=f"{size[0]} x {size[1]} or the other way round, 16",
            got=f"{stored[0]} x {stored[1]}, {tags.text('BitsAllocated')}",
        )
    dtype = _SAMPLES[int(tags.number("PixelRepresentation", 0))]

    def read(view: _View) -> NDArray[np.float32]:
        dataset = _dataset(view.path, specific_tags=["PixelData"])
        pixels = dataset.get("PixelData", b"")
        syntax = dataset.file_meta.get("TransferSyntaxUID")
        n_bytes = 2 * size[0] * size[1]
        if len(pixels) < n_bytes or syntax is None or syntax.is_compressed or not syntax.is_little_endian:
            raise FileFormatError(
                f"file {view.path.name}: PixelData",
                expected=f"{n_bytes} bytes, uncompressed, little endian",
                got=f"{len(pixels)} bytes, {syntax.name if syntax else 'no transfer syntax'}",
                action="copy the file again, or decompress it",
            )
        values = np.frombuffer(pixels[:n_bytes], dtype).reshape(stored).astype(np.float32)
        values = values.T if stored == size else values
        slope, intercept = np.float32(view.values["RescaleSlope"]), np.float32(view.values["RescaleIntercept"])
        return np.ascontiguousarray(values * slope + intercept)

    return read


def _items(
    views: Sequence[_View],
    head: NDArray[np.void],
    photons: NDArray[np.float32] | None,
    read: Callable[[_View], NDArray[np.float32]],
) -> Iterator[RawItem]:
    """Yield blocks of views, the next ones being read meanwhile."""
    first = read(views[0])
    size = max(1, BLOCK_BYTES // first.nbytes)
    with ThreadPoolExecutor(_THREADS) as pool:
        starts = range(0, len(views), size)
        ahead = deque([pool.submit(read, v) for v in views[s : s + size]] for s in starts[:_BLOCKS_AHEAD])
        for number, start in enumerate(starts):
            data = np.stack([task.result() for task in ahead.popleft()])
            for later in starts[number + _BLOCKS_AHEAD : number + _BLOCKS_AHEAD + 1]:
                ahead.append([pool.submit(read, v) for v in views[later : later + size]])
            part = slice(start, start + len(data))
            own = None if photons is None else photons[part]
            yield Projections(head=head[part], data=data, domain="lines", photons=own)
