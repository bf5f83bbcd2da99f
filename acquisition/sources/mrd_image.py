"""MRD images: our `Image` to the bytes of message 1022 and back.

Geometry. MRD's ``position`` is the centre of the field of view, as is `Grid.centre_mm`; ``read_dir``,
``phase_dir``, ``slice_dir`` are our ``x_dir``, ``y_dir``, ``z_dir``; ``field_of_view`` is (x, y, z) [mm].
Of one slice MRD knows only the thickness, so the distance to its neighbour travels as an attribute.

What the contract has no field for (flags, physiology, user values) is kept as the attribute `ORIGINAL_HEADER`
and goes out again, so an image that passes through keeps what its maker wrote.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import DataError, MessageError
from acquisition.geometry import Grid, Vector
from acquisition.items import Enhancement, Image, Kind, Position, Provenance
from acquisition.sources.mrd_meta import read_meta, write_meta
from acquisition.verdict import Level, Verdict, worst

IMAGE_HEAD = np.dtype(
    [
        ("version", "<u2"),
        ("data_type", "<u2"),
        ("flags", "<u8"),
        ("measurement_uid", "<u4"),
        ("matrix_size", "<u2", (3,)),
        ("field_of_view", "<f4", (3,)),
        ("channels", "<u2"),
        ("position", "<f4", (3,)),
        ("read_dir", "<f4", (3,)),
        ("phase_dir", "<f4", (3,)),
        ("slice_dir", "<f4", (3,)),
        ("patient_table_position", "<f4", (3,)),
        *((name, "<u2") for name in ("average", "slice", "contrast", "phase", "repetition", "set")),
        ("acquisition_time_stamp", "<u4"),
        ("physiology_time_stamp", "<u4", (3,)),
        ("image_type", "<u2"),
        ("image_index", "<u2"),
        ("image_series_index", "<u2"),
        ("user_int", "<i4", (8,)),
        ("user_float", "<f4", (8,)),
        ("attribute_string_len", "<u4"),
    ]
)
"""Image header, packed, 198 bytes; the field names are those of ISMRMRD files."""

DATA_TYPES: dict[int, np.dtype] = {
    number: np.dtype(code)
    for number, code in enumerate(("<u2", "<i2", "<u4", "<i4", "<f4", "<f8", "<c8", "<c16"), start=1)
}
"""MRD's numbers of the voxel types."""

ORIGINAL_HEADER = "MrdImageHeader"
"""Attribute (base64) with the 198 bytes an image came with; never sent as an attribute."""

_IMAGE_TYPES = {1: Kind.MAGNITUDE, 2: Kind.PHASE, 3: Kind.REAL, 4: Kind.IMAGINARY, 5: Kind.COMPLEX}
_TYPE_OF_KIND = {kind: number for number, kind in _IMAGE_TYPES.items()}
_RGB = 6
_OUTPUT, _UNIT = "IsocenterOutput", "IsocenterUnit"
_THICKNESS, _SPACING = "IsocenterThickness_mm", "IsocenterSliceDistance_mm"
_PROVENANCE, _VERDICTS = "IsocenterProvenance", "IsocenterVerdicts"


def encode_image(
    image: Image, *, series_index: int | None = None, image_index: int | None = None
) -> list[bytes | memoryview]:
    """Return the bytes of message 1022 in pieces; the voxels are not copied where they are contiguous.

    Parameters
    ----------
    image
        Data (z, y, x) or (channel, z, y, x) of one of `DATA_TYPES`.
    series_index, image_index
        Numbers of the series and of the image in it; those it came with, or 1, when absent.

    Raises
    ------
    DataError
        MRD 1 has no such voxel type or shape, or an attribute cannot be written as XML.
    """
    head, attributes, data = image_parts(image, series_index=series_index, image_index=image_index)
    length = struct.pack("<Q", len(attributes))
    return [struct.pack("<H", 1022) + head.tobytes() + length + attributes, data.data.cast("B")]


def image_parts(
    image: Image, *, series_index: int | None = None, image_index: int | None = None
) -> tuple[NDArray[np.void], bytes, NDArray]:
    """Return header record (1,), attribute XML and contiguous data (channel, z, y, x) of `image`."""
    data, data_type = _voxels(image)
    attributes = write_meta(_attributes_out(image))
    head = _original_head(image)
    head["version"] = 1
    head["data_type"] = data_type
    head["channels"], head["matrix_size"] = data.shape[0], data.shape[:0:-1]
    _put_geometry(head, image)
    for name in ("average", "slice", "contrast", "phase", "repetition", "set"):
        head[name] = getattr(image.position, name)
    head["acquisition_time_stamp"] = image.time_stamp
    is_rgb = head["image_type"][0] == _RGB and image.kind is Kind.MAGNITUDE and data.dtype == np.uint16
    head["image_type"] = _RGB if is_rgb and data.shape[0] == 3 else _TYPE_OF_KIND[image.kind]
    for name, index in (("image_series_index", series_index), ("image_index", image_index)):
        if index is not None or ORIGINAL_HEADER not in image.attributes:
            head[name] = 1 if index is None else index
    head["attribute_string_len"] = len(attributes)
    return head, attributes, data


def decode_image(head: NDArray[np.void], attributes: bytes, data: NDArray) -> Image:
    """Build an `Image` from an MRD header record, its attribute XML and its voxels.

    Parameters
    ----------
    head
        One record of `IMAGE_HEAD`, shape (1,).
    attributes
        Attribute XML, may be empty, may end with NUL.
    data
        Voxels (channel, z, y, x); kept, not copied.

    Raises
    ------
    MessageError
        The attributes are not what they should be, or an axis has no voxels.
    DataError
        The directions are not perpendicular.
    """
    meta = read_meta(attributes)
    verdicts = _read_json(_VERDICTS, meta.pop(_VERDICTS, "[]"), _verdicts)
    provenance = _read_json(_PROVENANCE, meta.pop(_PROVENANCE, "{}"), _provenance)
    grid, geometry = _grid(head, data.shape[1:], thickness=meta.pop(_THICKNESS, None), spacing=meta.pop(_SPACING, None))
    kind, component = _kind(int(head["image_type"][0]), data.dtype)
    output = meta.pop(_OUTPUT, f"series {int(head['image_series_index'][0])}")
    unit = meta.pop(_UNIT, "a.u.")
    meta[ORIGINAL_HEADER] = base64.b64encode(head.tobytes()).decode()
    counters = {name: int(head[name][0]) for name in ("average", "slice", "contrast", "phase", "repetition", "set")}
    return Image(
        data=data[0] if data.shape[0] == 1 else data,
        grid=grid,
        unit=unit,
        kind=kind,
        output=output,
        position=Position(**counters),
        provenance=provenance,
        verdicts=(*verdicts, *geometry, *component),
        time_stamp=int(head["acquisition_time_stamp"][0]),
        table_position_mm=_vector(head["patient_table_position"][0]),
        attributes=meta,
    )


def _voxels(image: Image) -> tuple[NDArray, int]:
    data = image.data
    numbers = {dtype: number for number, dtype in DATA_TYPES.items()}
    little = data.dtype.newbyteorder("<")
    if little not in numbers:
        raise DataError(
            f"image {image.output}",
            expected="voxels of " + ", ".join(d.name for d in numbers),
            got=data.dtype.name,
            action="convert the image before it is sent",
        )
    if data.ndim not in (3, 4) or data.shape[-3:] != image.grid.shape or max(data.shape) > 0xFFFF or not data.size:
        raise DataError(
            f"image {image.output}",
            expected=f"(z, y, x) or (channel, z, y, x) with the grid's {image.grid.shape}, 1 ... 65535 each",
            got=f"shape {data.shape}",
            action="send one image per frame",
        )
    four = data.reshape((1, *data.shape)) if data.ndim == 3 else data
    return np.ascontiguousarray(four, dtype=little), numbers[little]


def _original_head(image: Image) -> NDArray[np.void]:
    raw = image.attributes.get(ORIGINAL_HEADER, "")
    try:
        kept = base64.b64decode(raw, validate=True)
    except binascii.Error:
        kept = b"\0"
    if raw and len(kept) != IMAGE_HEAD.itemsize:
        raise DataError(
            f"image {image.output}, attribute {ORIGINAL_HEADER}",
            expected=f"{IMAGE_HEAD.itemsize} bytes in base64",
            got=f"{len(raw)} characters",
            action="leave the attribute as the decoder made it, or take it away",
        )
    return np.frombuffer(kept, IMAGE_HEAD).copy() if raw else np.zeros(1, IMAGE_HEAD)


def _put_geometry(head: NDArray[np.void], image: Image) -> None:
    grid = image.grid
    fov = [n * step for n, step in zip(grid.shape, grid.spacing_mm, strict=True)]
    if grid.shape[0] == 1:
        fov[0] = grid.thickness_mm
    head["field_of_view"] = fov[::-1]
    head["position"] = grid.centre_mm
    head["read_dir"], head["phase_dir"], head["slice_dir"] = grid.x_dir, grid.y_dir, grid.z_dir
    head["patient_table_position"] = image.table_position_mm


def _attributes_out(image: Image) -> dict[str, str]:
    grid = image.grid
    quantitative = image.unit != "a.u."
    out = {"DataRole": "Quantitative" if quantitative else "Image", "SeriesDescription": image.output}
    remarks = [v.advice for v in image.verdicts if v.level is not Level.PASS]
    if remarks:
        out["ImageComments"] = f"{worst(image.verdicts)}: " + " ".join(remarks)
    out |= {name: value for name, value in image.attributes.items() if name != ORIGINAL_HEADER}
    out |= {"ImageRowDir": _numbers(grid.x_dir), "ImageColumnDir": _numbers(grid.y_dir)}
    out |= {"ImageSliceNormDir": _numbers(grid.z_dir), _OUTPUT: image.output, _UNIT: image.unit}
    if grid.thickness_mm != grid.spacing_mm[0]:
        out[_SPACING if grid.shape[0] == 1 else _THICKNESS] = repr(
            grid.spacing_mm[0] if grid.shape[0] == 1 else grid.thickness_mm
        )
    if image.verdicts:
        out[_VERDICTS] = json.dumps([v.as_dict() for v in image.verdicts], ensure_ascii=False)
    if image.provenance != Provenance():
        out[_PROVENANCE] = json.dumps(asdict(image.provenance) | {"notes": dict(image.provenance.notes)})
    return out


def _numbers(vector: Vector) -> str:
    return "\\".join(f"{value:.18f}" for value in vector)


def _grid(
    head: NDArray[np.void], shape: tuple[int, ...], *, thickness: str | None, spacing: str | None
) -> tuple[Grid, list[Verdict]]:
    verdicts = []
    fov = np.asarray(head["field_of_view"][0], float)[::-1]
    if not (np.isfinite(fov).all() and (fov > 0).all()):
        verdicts.append(_assumed("field of view", f"{fov[::-1].tolist()} mm", "1 mm voxels"))
        fov = np.asarray(shape, float)
    directions = [np.asarray(head[name][0], float) for name in ("read_dir", "phase_dir", "slice_dir")]
    if not any(d.any() for d in directions):
        verdicts.append(_assumed("directions", "zeros", "an axial image"))
        directions = list(np.eye(3))
    steps = fov / np.asarray(shape)
    slice_thickness = steps[0]
    if shape[0] == 1 and spacing is not None:
        steps[0] = _length(_SPACING, spacing)
    elif thickness is not None:
        slice_thickness = _length(_THICKNESS, thickness)
    grid = Grid.from_centre(
        head["position"][0],
        shape=(shape[0], shape[1], shape[2]),
        spacing_mm=_vector(steps),
        directions=directions,
        thickness_mm=float(slice_thickness),
    )
    return grid, verdicts


def _assumed(what: str, came: str, taken: str) -> Verdict:
    return Verdict(
        check="mri.image_header",
        level=Level.FLAG,
        advice=f"The image came without a usable {what}; {taken} assumed: do not measure or plan on it.",
        evidence=f"{what} in the MRD image header: {came}",
    )


def _kind(image_type: int, dtype: np.dtype) -> tuple[Kind, list[Verdict]]:
    kind = _IMAGE_TYPES.get(image_type, Kind.MAGNITUDE)
    is_complex = dtype.kind == "c"
    known = image_type in _IMAGE_TYPES and is_complex == (kind is Kind.COMPLEX)
    if known or (image_type == 0 and not is_complex):
        return kind, []
    taken = Kind.COMPLEX if is_complex else Kind.MAGNITUDE if kind is Kind.COMPLEX else kind
    return taken, [
        Verdict(
            check="mri.image_type",
            level=Level.FLAG,
            advice=f"The image does not say clearly what its values are; taken as {taken}.",
            evidence=f"MRD image type {image_type} with {dtype.name} voxels",
        )
    ]


def _length(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not (np.isfinite(value) and value > 0):
        raise MessageError(f"image attribute {name}", expected="a length in mm", got=repr(text[:40]))
    return value


def _read_json(name: str, text: str, build: Any) -> Any:
    try:
        return build(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise MessageError(
            f"image attribute {name}", expected="the JSON this software writes", got=f"{text[:60]!r} ({error})"
        ) from error


def _verdicts(rows: list[dict]) -> tuple[Verdict, ...]:
    for row in rows:
        for name, value in row.items():
            if not isinstance(value, (int, float, type(None)) if name in ("value", "limit") else str):
                raise TypeError(f"{name} is {type(value).__name__}")
    return tuple(Verdict(**(row | {"level": Level(row["level"])})) for row in rows)


def _provenance(row: dict) -> Provenance:
    network = row.get("network")
    rebuilt = {"steps": tuple(row.get("steps", ())), "notes": dict(row.get("notes", {}))}
    return Provenance(**(row | rebuilt | {"network": network and Enhancement(**network)}))


def _vector(values: NDArray) -> Vector:
    x, y, z = (float(v) for v in values)
    return (x, y, z)
