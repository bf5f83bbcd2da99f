"""NIfTI-1 images (``.nii``, ``.nii.gz``): one volume, where it lies in the patient.

The format's axes are right, anterior, superior; x and y change sign on the way to LPS. The array comes as stored, last
axis first: (z, y, x). Of the two places a file may tell, sform goes first, as the format advises.

References
----------
R. W. Cox et al., NIfTI-1 data format, https://nifti.nimh.nih.gov/nifti-1 (nifti1.h).
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import DataError, FileFormatError
from acquisition.geometry import Grid, Vector
from acquisition.items import Image
from acquisition.sources.mrd_raw import reading

_SIZE = 348
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}
"""datatype codes."""
_LARGEST = 1 << 31
_LPS = np.array([-1.0, -1.0, 1.0])


def is_nifti(path: Path) -> bool:
    """Return whether a file is named like one."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def read_nifti(path: Path, *, unit: str = "a.u.") -> Image:
    """Read a volume.

    Parameters
    ----------
    path
        The file.
    unit
        What its values are; the format does not say.

    Raises
    ------
    FileFormatError
        It is no NIfTI-1 file of one volume, or it is cut.
    DataError
        Its axes are not perpendicular, or it does not say where they lie.
    """
    with reading(path, "NIfTI file"):
        opener = gzip.open if path.name.lower().endswith(".gz") else Path.open
        with opener(path, "rb") as file:
            data = file.read(_LARGEST)
    if len(data) < _SIZE or data[344:348] != b"n+1\0":
        raise _unfit(path, "a NIfTI-1 file, header and voxels in one", repr(data[344:348]))
    order = "<" if np.frombuffer(data, "<i4", 1)[0] == _SIZE else ">"
    dim = np.frombuffer(data, f"{order}i2", 8, 40)
    kind = int(np.frombuffer(data, f"{order}i2", 1, 70)[0])
    if not 3 <= dim[0] <= 7 or (dim[4 : dim[0] + 1] > 1).any() or (dim[1:4] < 1).any() or kind not in _TYPES:
        raise _unfit(path, "one volume of numbers", f"sizes {dim[1 : dim[0] + 1].tolist()}, type {kind}")
    nx, ny, nz = (int(n) for n in dim[1:4])
    offset, slope, intercept = (float(v) for v in np.frombuffer(data, f"{order}f4", 3, 108))
    dtype = np.dtype(order + _TYPES[kind])
    if len(data) < int(offset) + nx * ny * nz * dtype.itemsize:
        raise _unfit(path, f"{nx} x {ny} x {nz} voxels of {dtype.name}", f"{len(data)} bytes")
    values = np.frombuffer(data, dtype, nx * ny * nz, int(offset)).reshape(nz, ny, nx).astype(np.float32)
    if slope not in (0.0, 1.0) or intercept != 0:
        values = values * np.float32(slope or 1.0) + np.float32(intercept)
    return Image(data=values, grid=_grid(path, data, order, (nz, ny, nx)), unit=unit)


def _grid(path: Path, data: bytes, order: str, shape: tuple[int, int, int]) -> Grid:
    qform, sform = (int(v) for v in np.frombuffer(data, f"{order}i2", 2, 252))
    if sform > 0:
        matrix = np.frombuffer(data, f"{order}f4", 12, 280).reshape(3, 4).astype(float)
    elif qform > 0:
        matrix = _from_quaternion(data, order)
    else:
        raise DataError(
            f"file {path.name}",
            expected="sform or qform",
            got="neither",
            action="write it with its place",
        )
    matrix = matrix * _LPS[:, None]
    spacing = np.linalg.norm(matrix[:, :3], axis=0)
    axes = matrix[:, :3] / np.maximum(spacing, 1e-9)
    if spacing.min() <= 0 or np.abs(axes.T @ axes - np.eye(3)).max() > 1e-3:
        raise DataError(
            f"file {path.name}",
            expected="perpendicular axes of positive spacing",
            got=f"spacing {spacing.tolist()} mm",
            action="resample it to a grid without shear",
        )
    dx, dy, dz = spacing.tolist()
    directions = [_vector(axes[:, i]) for i in range(3)]
    return Grid(
        shape=shape,
        spacing_mm=(dz, dy, dx),
        origin_mm=_vector(matrix[:, 3]),
        x_dir=directions[0],
        y_dir=directions[1],
        z_dir=directions[2],
        thickness_mm=dz,
    )


def _from_quaternion(data: bytes, order: str) -> NDArray[np.float64]:
    """Return the matrix (3, 4) of qform."""
    b, c, d, x, y, z = (float(v) for v in np.frombuffer(data, f"{order}f4", 6, 256))
    pixdim = np.frombuffer(data, f"{order}f4", 4, 76).astype(float)
    a = np.sqrt(max(1 - b * b - c * c - d * d, 0.0))
    turn = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
    )
    steps = pixdim[1:4] * [1, 1, -1 if pixdim[0] < 0 else 1]
    return np.column_stack([turn * steps, [x, y, z]])


def _unfit(path: Path, expected: str, got: str) -> FileFormatError:
    return FileFormatError(f"file {path.name}", expected=expected, got=got, action="convert it, or copy it again")


def _vector(values: NDArray[np.float64]) -> Vector:
    x, y, z = (float(v) for v in values)
    return (x, y, z)
