"""Reads MR, CT and PET series: grid and real values; those of others by their rescale values, one image per object."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from acquisition.errors import DataError, FileFormatError
from acquisition.geometry import Grid, Vector
from acquisition.items import Image, Kind, Position
from integration.dicom.ct import RESCALE_TYPES
from integration.dicom.pet import UNITS

Source = bytes | Path | str
_MODALITIES = ("CT", "MR", "PT")
_UNITS = {rescale: unit for unit, rescale in RESCALE_TYPES.items()}
_PET_UNITS = {units: unit for unit, units in UNITS.items()}
_KINDS = {"M": Kind.MAGNITUDE, "P": Kind.PHASE, "R": Kind.REAL, "I": Kind.IMAGINARY}
_NEEDED = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "PixelData")
_TOLD = ("KVP", "StudyInstanceUID", "RepetitionTime", "EchoTime", "InversionTime", "FlipAngle", "SyntheticData")
_EVEN_MM = 1e-2


def read_image(sources: Source | Iterable[Source]) -> Image:
    """Read the objects of one frame.

    Parameters
    ----------
    sources
        Part 10 files or their bytes, in any order.

    Raises
    ------
    FileFormatError
        Something is no DICOM file.
    DataError
        There is not exactly one frame, or its slices are no regular grid.
    """
    images = read_images(sources)
    if len(images) != 1:
        outputs = ", ".join(sorted({i.attributes["SeriesDescription"] for i in images})) or "nothing"
        raise DataError(
            "DICOM objects", expected="one frame", got=f"{len(images)}: {outputs}", action="use read_images"
        )
    return images[0]


def read_images(sources: Source | Iterable[Source]) -> list[Image]:
    """Read objects and sort them into frames, each a volume; series by number, frames as they were numbered.

    Objects of one series and orientation that lie at the same place are different frames. z grows with
    InstanceNumber where that runs along the normal, else along the normal.
    """
    many = [sources] if isinstance(sources, bytes | Path | str) else list(sources)
    datasets = [_read(source) for source in many]
    stacks: dict[tuple, list[Dataset]] = defaultdict(list)
    for dataset in sorted(datasets, key=_order):
        key = (str(dataset.SeriesInstanceUID), tuple(dataset.ImageOrientationPatient), dataset.Rows, dataset.Columns)
        stacks[key].append(dataset)
    return [_image(frame) for stack in stacks.values() for frame in _frames(stack)]


def _read(source: Source) -> Dataset:
    name = "DICOM bytes" if isinstance(source, bytes) else str(source)
    try:
        dataset = dcmread(io.BytesIO(source) if isinstance(source, bytes) else source)
    except InvalidDicomError as error:
        raise FileFormatError(name, expected="a DICOM file", got=str(error)) from error
    missing = [k for k in _NEEDED if k not in dataset]
    if missing or dataset.Modality not in _MODALITIES:
        got = f"modality {dataset.get('Modality')} without {', '.join(missing) or 'nothing'}"
        raise FileFormatError(name, expected="a CT, MR or PET image, one slice per object", got=got)
    return dataset


def _order(dataset: Dataset) -> tuple[int, str, int]:
    return int(dataset.get("SeriesNumber") or 0), str(dataset.SeriesInstanceUID), int(dataset.InstanceNumber)


def _frames(stack: list[Dataset]) -> list[list[Dataset]]:
    frames: list[list[Dataset]] = []
    seen: dict[tuple, int] = defaultdict(int)
    for dataset in stack:
        place = tuple(np.round(np.asarray(dataset.ImagePositionPatient, float), 4))
        if seen[place] == len(frames):
            frames.append([])
        frames[seen[place]].append(dataset)
        seen[place] += 1
    return frames


def _image(frame: list[Dataset]) -> Image:
    frame, grid = _stack(frame)
    first = frame[0]
    unit, kind = _unit(first), next((k for k in first.get("ImageType", ()) if k in _KINDS), "M")
    return Image(
        data=np.stack([_values(d) for d in frame]),
        grid=grid,
        unit=unit,
        kind=_KINDS[kind],
        position=Position(
            contrast=int(first.get("EchoNumbers", 1)) - 1,
            repetition=int(first.get("TemporalPositionIdentifier", 1)) - 1,
        ),
        attributes={
            "Modality": str(first.Modality),
            "SeriesDescription": str(first.get("SeriesDescription", "")),
            "ImageComments": str(first.get("ImageComments", "")),
            "Manufacturer": str(first.get("Manufacturer", "")),
            **{name: str(first.get(name) or "") for name in _TOLD},
        },
    )


def _unit(dataset: Dataset) -> str:
    if "RealWorldValueMappingSequence" in dataset:
        return str(dataset.RealWorldValueMappingSequence[0].LUTExplanation).rsplit(" ", 1)[1].strip("[]")
    if dataset.Modality == "PT":
        return _PET_UNITS.get(str(dataset.get("Units")), "a.u.")
    return _UNITS.get(dataset.get("RescaleType", "HU"), "a.u.") if dataset.Modality == "CT" else "a.u."


def _values(dataset: Dataset) -> NDArray[np.float64]:
    if "RealWorldValueMappingSequence" not in dataset:
        slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
        return np.asarray(dataset.pixel_array * slope + intercept, float)
    mapping = dataset.RealWorldValueMappingSequence[0]
    return dataset.pixel_array * float(mapping.RealWorldValueSlope) + float(mapping.RealWorldValueIntercept)


def _stack(frame: list[Dataset]) -> tuple[list[Dataset], Grid]:
    x_dir, y_dir = np.asarray(frame[0].ImageOrientationPatient, float).reshape(2, 3)
    places = np.array([d.ImagePositionPatient for d in frame], float)
    along = places @ np.cross(x_dir, y_dir)
    if np.any(np.diff(along) > 0) and np.any(np.diff(along) < 0):
        order = np.argsort(along)
        frame, places = [frame[i] for i in order], places[order]
    step = np.cross(x_dir, y_dir) * float(frame[0].get("SpacingBetweenSlices") or frame[0].SliceThickness)
    if len(frame) > 1:
        step = (places[-1] - places[0]) / (len(frame) - 1)
        worst = float(np.abs(places - places[0] - np.outer(np.arange(len(frame)), step)).max())
        if worst > _EVEN_MM:
            raise DataError("DICOM slices", expected="equal distances", got=f"one {worst:.3g} mm off")
    spacing = float(np.linalg.norm(step))
    dy, dx = (float(v) for v in frame[0].PixelSpacing)
    grid = Grid(
        shape=(len(frame), int(frame[0].Rows), int(frame[0].Columns)),
        spacing_mm=(spacing, dy, dx),
        origin_mm=_vector(places[0]),
        x_dir=_vector(x_dir),
        y_dir=_vector(y_dir),
        z_dir=_vector(step / spacing),
        thickness_mm=float(frame[0].SliceThickness),
    )
    return frame, grid


def _vector(values: NDArray) -> Vector:
    x, y, z = (float(v) for v in values)
    return (x, y, z)
