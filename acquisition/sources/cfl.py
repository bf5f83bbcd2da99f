"""BART's own format: a text header with the dimensions, and complex64 samples, the first dimension fastest.

Dimensions are read, phase 1, phase 2, coil (then others, which must be 1). k-space without samples that were measured
is zero there: such lines are left out. The format knows no patient and no geometry, and says nothing of them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import FileFormatError
from acquisition.items import READOUT_HEAD, Flag, Readouts
from acquisition.scan import Encoding, Equipment, Limits, MrHeader, Scan
from acquisition.sources.mrd_raw import BLOCK_BYTES, RawFile, RawItem
from acquisition.verdict import Level, Verdict

IRREGULAR = "irregular_sampling"
"""User parameter: 1 where the measured lines follow no lattice, so that the router finds a fitting protocol."""
_LARGEST = 1 << 36
_COIL = 3


def is_cfl(path: Path) -> bool:
    """Return whether a path names a pair of .cfl and .hdr files (either of the two, or their common name)."""
    return path.suffix in (".cfl", ".hdr") or path.with_name(path.name + ".cfl").is_file()


def read_cfl(path: Path) -> RawFile:
    """Open Cartesian k-space in BART's format.

    Parameters
    ----------
    path
        The .cfl or the .hdr file, or their common name.

    Raises
    ------
    FileFormatError
        One of the two is missing, the sizes contradict each other, samples are not finite, or it is no Cartesian
        k-space.
    """
    base = path.with_suffix("") if path.suffix in (".cfl", ".hdr") else path
    data_path, header_path = base.with_name(base.name + ".cfl"), base.with_name(base.name + ".hdr")
    dims = _dimensions(header_path)
    samples = _samples(data_path, dims)
    measured = np.any(samples != 0, axis=(0, 1))
    if not measured.any():
        raise FileFormatError(f"file {data_path.name}", expected="k-space", got="only zeros")
    if not np.isfinite(np.abs(samples).sum(dtype=np.float64)):
        n_broken = int(np.count_nonzero(~np.isfinite(samples)))
        raise FileFormatError(
            f"file {data_path.name}",
            expected="finite samples",
            got=f"{n_broken} of {samples.size} NaN or infinite",
            action="export the raw data again",
        )
    scan = _scan(data_path, samples.shape, measured)
    return RawFile(path=data_path, format="BART cfl", scan=scan, source=lambda: _readouts(samples, measured))


def _dimensions(path: Path) -> tuple[int, ...]:
    """Return the dimensions of the header, without the ones at the end."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
        dims = tuple(int(word) for word in lines[1].split())
    except (OSError, UnicodeDecodeError, IndexError, ValueError) as error:
        raise FileFormatError(
            f"file {path.name}", expected="a BART header with the dimensions in its second line", got=str(error)
        ) from error
    if not dims or min(dims) < 1 or math.prod(dims) > _LARGEST:
        raise FileFormatError(f"file {path.name}", expected="positive dimensions", got=str(dims))
    if any(n > 1 for n in dims[_COIL + 1 :]):
        raise FileFormatError(
            f"file {path.name}",
            expected="k-space with dimensions read, phase 1, phase 2, coil",
            got=str(dims),
            action="extract one frame with `bart slice`",
        )
    return (*dims, *(1,) * (_COIL + 1 - len(dims)))[: _COIL + 1]


def _samples(path: Path, dims: tuple[int, ...]) -> NDArray[np.complex64]:
    """Map the samples as (coil, k0, k2, k1)."""
    expected = 8 * math.prod(dims)
    try:
        size = path.stat().st_size
        if size != expected:
            raise FileFormatError(
                f"file {path.name}",
                expected=f"{expected} bytes for dimensions {' '.join(map(str, dims))}",
                got=f"{size} bytes",
                action="copy the file again",
            )
        mapped = np.memmap(path, dtype="<c8", mode="r", shape=dims, order="F")
    except OSError as error:
        raise FileFormatError(f"file {path.name}", expected="a readable file", got=str(error)) from error
    return np.asarray(mapped).transpose(3, 0, 2, 1)


def _scan(path: Path, shape: tuple[int, ...], measured: NDArray[np.bool_]) -> Scan:
    n_coils, n0, n2, n1 = shape
    matrix = (n2, n1, n0)
    voxels = tuple(float(n) for n in matrix)
    limits = {"k1": Limits(0, n1 - 1, n1 // 2), "k2": Limits(0, n2 - 1, n2 // 2)}
    encoding = Encoding(
        matrix=matrix,
        fov_mm=voxels,  # type: ignore[arg-type]
        recon_matrix=matrix,
        recon_fov_mm=voxels,  # type: ignore[arg-type]
        limits=limits,
        calibration_mode="embedded",
    )
    digest = hashlib.sha256(f"{path.name} {shape} {path.stat().st_size}".encode() + measured.tobytes()).hexdigest()
    return Scan(
        uid=f"cfl-{digest[:16]}",
        modality="MR",
        protocol_name=path.stem,
        equipment=Equipment(n_coils=n_coils),
        user_parameters={IRREGULAR: float(_is_irregular(measured))},
        mr=MrHeader(encodings=(encoding,)),
        verdicts=(
            Verdict(
                check="mri.header",
                level=Level.FLAG,
                advice="The file tells no voxel size, orientation or patient: sizes are in voxels, 1 mm each.",
                evidence=f"{path.name}, {measured.mean():.1%} of the lines measured",
            ),
        ),
    )


def _is_irregular(measured: NDArray[np.bool_]) -> bool:
    """Return whether the lines follow no lattice along k1 alone: whole columns of k2, every R-th of them."""
    columns, rows = np.atleast_1d(measured.any(axis=0)), np.atleast_1d(measured.any(axis=1))
    if not measured[np.ix_(rows, columns)].all():
        return True
    outside = np.flatnonzero(columns[: max(2, len(columns) // 4)])
    return len(np.unique(np.diff(outside))) > 1 or not rows.all()


def _readouts(samples: NDArray[np.complex64], measured: NDArray[np.bool_]) -> Iterator[RawItem]:
    """Yield the measured lines, k2 slowest."""
    n_coils, n0 = samples.shape[:2]
    places = np.argwhere(measured)
    size = max(1, BLOCK_BYTES // (8 * n_coils * n0))
    for start in range(0, len(places), size):
        k2, k1 = places[start : start + size].T
        head = np.zeros(len(k1), READOUT_HEAD)
        head["version"], head["n_samples"], head["n_coils"], head["available_coils"] = 1, n0, n_coils, n_coils
        head["center_sample"], head["k1"], head["k2"] = n0 // 2, k1, k2
        head["scan_counter"] = start + np.arange(len(k1))
        if n0 == 1:  # a slice across the readout: shown as it is stored
            head["read_dir"], head["phase_dir"], head["slice_dir"] = (0, 0, 1), (1, 0, 0), (0, 1, 0)
        if start + size >= len(places):
            head["flags"][-1] = int(Flag.LAST_IN_SLICE | Flag.LAST_IN_MEASUREMENT)
        data = np.ascontiguousarray(samples[:, :, k2, k1].transpose(2, 0, 1), np.complex64)
        yield Readouts(head=head, data=data)
