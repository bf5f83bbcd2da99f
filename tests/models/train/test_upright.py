from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from acquisition.errors import DataError
from models.train.upright import read_upright


def written(
    path: Path, voxels: np.ndarray, sform: np.ndarray, *, order: str = "<", code: int = 4, scale: float = 0.0
) -> Path:
    """Write (i, j, k) voxels with directions (3, 3) in RAS."""
    head = bytearray(352)
    struct.pack_into(f"{order}i", head, 0, 348)
    struct.pack_into(f"{order}8h", head, 40, 3, *voxels.shape, 1, 1, 1, 1)
    struct.pack_into(f"{order}h", head, 70, code)
    struct.pack_into(f"{order}4f", head, 76, 1, *np.linalg.norm(sform, axis=0))
    struct.pack_into(f"{order}3f", head, 108, 352, scale, 0)
    struct.pack_into(f"{order}2h", head, 252, 0, 1)
    struct.pack_into(f"{order}12f", head, 280, *np.concatenate([sform, np.zeros((3, 1))], 1).ravel())
    head[344:348] = b"n+1\0"
    raw = bytes(head) + voxels.astype(np.dtype("i2").newbyteorder(order)).tobytes(order="F")
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", ["a.nii", "a.nii.gz"])
def test_voxels_come_in_lps_order(tmp_path: Path, order: str, suffix: str) -> None:
    # FreeSurfer's axes: i to the left, j to the feet, k to the front; one voxel marks left, front and top
    voxels = np.zeros((3, 4, 5), np.int16)
    voxels[2, 0, 4] = 7
    sform = np.array([[-2.0, 0, 0], [0, 0, 1], [0, -3, 0]])
    array, spacing = read_upright(written(tmp_path / suffix, voxels, sform, order=order))
    assert array.shape == (4, 5, 3)
    assert spacing == pytest.approx((3, 1, 2))
    assert array[3, 0, 2] == 7  # superior is the last z, anterior the first y, left the last x
    assert array.sum() == 7


def test_a_scale_is_applied(tmp_path: Path) -> None:
    array, _ = read_upright(written(tmp_path / "a.nii", np.full((2, 2, 2), 3, np.int16), np.eye(3), scale=0.5))
    assert array == pytest.approx(1.5)


def test_oblique_axes_are_refused(tmp_path: Path) -> None:
    c, s = np.cos(0.3), np.sin(0.3)
    sform = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    with pytest.raises(DataError, match="axes along the patient's"):
        read_upright(written(tmp_path / "a.nii", np.zeros((2, 2, 2), np.int16), sform))
