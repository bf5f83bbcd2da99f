"""BART's format: what it holds arrives in its place, and what is damaged is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from acquisition.errors import FileFormatError
from acquisition.sources import open_raw
from acquisition.sources.cfl import IRREGULAR


def written(folder: Path, array: NDArray, dims: str | None = None) -> Path:
    base = folder / "ksp"
    shape = " ".join(map(str, array.shape)) if dims is None else dims
    base.with_suffix(".hdr").write_text(f"# Dimensions\n{shape}\n# Command\n")
    array.astype(np.complex64).ravel(order="F").tofile(base.with_suffix(".cfl"))
    return base.with_suffix(".cfl")


def kspace(*shape: int) -> NDArray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


@pytest.mark.parametrize("name", ["ksp.cfl", "ksp.hdr", "ksp"])
def test_each_sample_arrives_in_its_place(tmp_path: Path, name: str) -> None:
    array = kspace(6, 5, 4, 3)
    array[:, 2, 1] = 0
    written(tmp_path, array)
    raw = open_raw(tmp_path / name)
    encoding = raw.scan.require_mr().encodings[0]
    assert encoding.matrix == (4, 5, 6)
    found = np.zeros_like(array)
    for block in raw.items():
        for head, data in zip(block.head, block.data, strict=True):
            found[:, head["k1"], head["k2"]] = data.T
    assert np.array_equal(found, array)
    assert sum(len(b) for b in raw.items()) == 5 * 4 - 1


@pytest.mark.parametrize(
    ("mask", "irregular"),
    [
        (lambda k1, k2: True, 0),
        (lambda k1, k2: k1 % 2 == 0 or 14 <= k1 < 26, 0),
        (lambda k1, k2: (k1 * 7 + k2 * 3) % 5 == 0, 1),
        (lambda k1, k2: k1 in (0, 1, 5, 6, 11, 19, 20, 21, 33), 1),
    ],
)
def test_irregular_sampling_is_seen(tmp_path: Path, mask, irregular: int) -> None:
    array = kspace(1, 40, 8, 2)
    for k1 in range(40):
        for k2 in range(8):
            if not mask(k1, k2):
                array[:, k1, k2] = 0
    assert open_raw(written(tmp_path, array)).scan.user_parameters[IRREGULAR] == irregular


def test_the_same_file_is_the_same_scan(tmp_path: Path) -> None:
    path = written(tmp_path, kspace(1, 8, 8, 2))
    assert open_raw(path).scan.uid == open_raw(path).scan.uid


def test_what_the_format_does_not_say_is_flagged(tmp_path: Path) -> None:
    (verdict,) = open_raw(written(tmp_path, kspace(1, 8, 8, 2))).scan.verdicts
    assert "no voxel size, orientation or patient" in verdict.advice


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ("1 8 8 4", "expected 2048 bytes for dimensions 1 8 8 4, got 1024 bytes"),
        ("1 8 8 2 3", "read, phase 1, phase 2, coil"),
        ("1 8 x", "a BART header"),
        ("", "positive dimensions"),
        ("0 8 8 2", "positive dimensions"),
        ("99999 99999 99999 9", "positive dimensions"),
    ],
)
def test_a_wrong_header_is_named(tmp_path: Path, dims: str, message: str) -> None:
    path = written(tmp_path, kspace(1, 8, 8, 2), dims)
    with pytest.raises(FileFormatError, match=message):
        open_raw(path)


def test_a_missing_half_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, kspace(1, 8, 8, 2))
    path.with_suffix(".hdr").rename(tmp_path / "other.hdr")
    with pytest.raises(FileFormatError, match=r"ksp\.hdr"):
        open_raw(path)
    (tmp_path / "other.hdr").rename(path.with_suffix(".hdr"))
    path.unlink()
    with pytest.raises(FileFormatError, match=r"ksp\.cfl"):
        open_raw(path.with_suffix(".hdr"))


def test_zeros_are_no_kspace(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="only zeros"):
        open_raw(written(tmp_path, np.zeros((1, 8, 8, 2))))


def test_samples_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    array = kspace(1, 8, 8, 2)
    array[0, 3, 3, 1] = complex("nan")
    array[0, 4, 3, 1] = complex("inf")
    with pytest.raises(FileFormatError, match="2 of 128 NaN or infinite"):
        open_raw(written(tmp_path, array))
