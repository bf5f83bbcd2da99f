"""NIfTI: numbers, scaling and places, in both byte orders, packed or not; files that are none."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from acquisition.errors import DataError, FileFormatError
from acquisition.sources.nifti import is_nifti, read_nifti


def nifti(
    path: Path, data: np.ndarray, matrix: np.ndarray, *, order: str = "<", form: str = "sform", scale: float = 1.0
) -> Path:
    """Write voxels (z, y, x) whose index (x, y, z) the matrix (3, 4) takes to RAS [mm]."""
    codes = {"u1": 2, "i2": 4, "f4": 16, "f8": 64}
    header = bytearray(352)
    struct.pack_into(f"{order}i", header, 0, 348)
    struct.pack_into(f"{order}8h", header, 40, 3, *data.shape[::-1], 1, 1, 1, 1)
    struct.pack_into(f"{order}2h", header, 70, codes[data.dtype.str[1:]], 8 * data.dtype.itemsize)
    steps = np.linalg.norm(matrix[:, :3], axis=0)
    struct.pack_into(f"{order}4f", header, 76, 1.0, *steps)
    struct.pack_into(f"{order}3f", header, 108, 352.0, scale, -3.0 if scale != 1 else 0.0)
    struct.pack_into(f"{order}2h", header, 252, form == "qform", form == "sform")
    if form == "sform":
        struct.pack_into(f"{order}12f", header, 280, *matrix.ravel())
    else:  # a turn of 90 degrees about z
        struct.pack_into(f"{order}6f", header, 256, 0.0, 0.0, np.sqrt(0.5), *matrix[:, 3])
    header[344:348] = b"n+1\0"
    content = bytes(header) + data.astype(data.dtype.newbyteorder(order)).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


TURNED = np.array([[0.0, -3.0, 0.0, 10.0], [2.0, 0.0, 0.0, 20.0], [0.0, 0.0, 4.0, 30.0]])


@pytest.mark.parametrize("form", ["sform", "qform"])
@pytest.mark.parametrize(("order", "name", "kind"), [("<", "a.nii", "i2"), (">", "a.nii.gz", "f4")])
def test_each_voxel_lies_where_the_file_says(tmp_path: Path, form: str, order: str, name: str, kind: str) -> None:
    data = np.arange(24, dtype=kind).reshape(2, 3, 4)
    image = read_nifti(nifti(tmp_path / name, data, TURNED, order=order, form=form), unit="HU")
    np.testing.assert_array_equal(image.data, data)
    assert image.unit == "HU" and image.grid.spacing_mm == pytest.approx((4, 3, 2))
    ras = TURNED @ [3, 2, 1, 1]
    np.testing.assert_allclose(image.grid.world((1, 2, 3)), ras * [-1, -1, 1], atol=1e-5)
    assert is_nifti(tmp_path / name) and not is_nifti(tmp_path / "a.hv")


def test_values_are_scaled(tmp_path: Path) -> None:
    data = np.arange(8, dtype="i2").reshape(2, 2, 2)
    image = read_nifti(nifti(tmp_path / "a.nii", data, TURNED, scale=0.5))
    np.testing.assert_allclose(image.data, 0.5 * data - 3)


@pytest.mark.parametrize(
    ("at", "what", "error", "message"),
    [
        (344, b"ni1\0", FileFormatError, "expected a NIfTI-1 file, header and voxels in one"),
        (40, struct.pack("<h", 9), FileFormatError, "expected one volume of numbers"),
        (70, struct.pack("<h", 128), FileFormatError, r"sizes \[4, 3, 2\], type 128"),
        (42, struct.pack("<h", 400), FileFormatError, "expected 400 x 3 x 2 voxels of int16"),
        (254, struct.pack("<h", 0), DataError, "expected sform or qform, got neither"),
        (284, struct.pack("<f", 3.0), DataError, "perpendicular axes"),
    ],
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, at: int, what: bytes, error: type[Exception], message: str
) -> None:
    matrix = np.diag([2.0, 3.0, 4.0, 1.0])[:3]
    path = nifti(tmp_path / "a.nii", np.zeros((2, 3, 4), "i2"), matrix)
    content = bytearray(path.read_bytes())
    content[at : at + len(what)] = what
    path.write_bytes(content)
    with pytest.raises(error, match=message):
        read_nifti(path)


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"no archive")
    with pytest.raises(FileFormatError, match="NIfTI file"):
        read_nifti(path)
