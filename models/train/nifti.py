"""Read the NIfTI-1 files that training data comes in, as arrays (z, y, x) in LPS order.

Format: https://nifti.nimh.nih.gov/nifti-1 (nifti1.h). Only what the data sets use: one file, gzip or not, three
dimensions, axes parallel to the patient's.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import FileFormatError

_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 512: "u2", 768: "u4"}
"""NIfTI's number of a data type -> numpy's name."""
_HEADER = 348


def read_nifti(path: Path) -> tuple[NDArray, tuple[float, float, float]]:
    """Return the voxels (z, y, x), +z superior, +y posterior, +x left, and their spacing (z, y, x) [mm].

    Raises
    ------
    FileFormatError
        The file is no NIfTI-1, is cut short, has another type or number of dimensions, or axes that are oblique.
    """
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    order = _byte_order(path, raw)
    dims = struct.unpack_from(f"{order}8h", raw, 40)
    code = struct.unpack_from(f"{order}h", raw, 70)[0]
    offset, slope, intercept = struct.unpack_from(f"{order}3f", raw, 108)
    if code not in _TYPES or dims[0] < 3 or any(n != 1 for n in dims[4 : dims[0] + 1]):
        got = f"type {code}, shape {dims[1 : dims[0] + 1]}"
        raise FileFormatError(str(path), expected="a volume of numbers", got=got, action="convert it")
    kind = np.dtype(f"{order}{_TYPES[code]}")
    count = int(np.prod(dims[1:4]))
    if len(raw) < int(offset) + count * kind.itemsize:
        raise FileFormatError(str(path), expected=f"{count} voxels", got="a shorter file", action="copy it again")
    voxels = np.frombuffer(raw, kind, count, int(offset)).reshape(dims[1:4], order="F")
    spacing = struct.unpack_from(f"{order}3f", raw, 80)
    voxels, spacing = _turned(path, voxels, spacing, _directions(raw, order))
    if slope not in (0.0, 1.0) or intercept != 0:
        voxels = voxels * (slope or 1.0) + intercept
    return np.ascontiguousarray(voxels.astype(voxels.dtype.newbyteorder("="))), spacing


def _byte_order(path: Path, raw: bytes) -> str:
    for order in "<>":
        if len(raw) >= _HEADER and struct.unpack_from(f"{order}i", raw, 0)[0] == _HEADER and raw[344:347] == b"n+1":
            return order
    raise FileFormatError(str(path), expected="NIfTI-1 in one file", got=repr(raw[344:348]), action="convert it")


def _directions(raw: bytes, order: str) -> NDArray[np.float64]:
    """Return the directions of the file's three axes in RAS (columns): sform, else qform, else RAS itself."""
    qform, sform = struct.unpack_from(f"{order}2h", raw, 252)
    if sform > 0:
        return np.array(struct.unpack_from(f"{order}12f", raw, 280)).reshape(3, 4)[:, :3]
    if qform <= 0:
        return np.eye(3)
    b, c, d = struct.unpack_from(f"{order}3f", raw, 256)
    a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    turn = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    turn[:, 2] *= -1 if struct.unpack_from(f"{order}f", raw, 76)[0] < 0 else 1
    return turn


def _turned(
    path: Path, voxels: NDArray, spacing: tuple[float, ...], directions: NDArray[np.float64]
) -> tuple[NDArray, tuple[float, float, float]]:
    """Permute and flip the file's axes (i, j, k) to (z, y, x) in LPS."""
    unit = directions / np.maximum(np.linalg.norm(directions, axis=0), 1e-12)
    axes = np.abs(unit).argmax(axis=1)  # which file axis runs along R, A, S
    if sorted(axes.tolist()) != [0, 1, 2] or np.abs(unit).max(axis=1).min() < 0.99:
        raise FileFormatError(
            str(path), expected="axes along the patient's", got=np.round(unit, 2).tolist().__repr__(), action="resample"
        )
    out = voxels.transpose(axes[2], axes[1], axes[0])
    signs = [unit[2, axes[2]] > 0, unit[1, axes[1]] < 0, unit[0, axes[0]] < 0]
    out = out[tuple(slice(None) if keep else slice(None, None, -1) for keep in signs)]
    return out, (spacing[axes[2]], spacing[axes[1]], spacing[axes[0]])
