"""Where a slice lies, in DICOM's words: image plane module and phase encoding direction (PS3.3 C.7.6.2, C.8.3.1)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from acquisition.errors import DataError
from acquisition.geometry import Grid, Vector
from acquisition.scan import Encoding
from acquisition.verdict import Level, Verdict
from integration.dicom.text import Elements

_SKEW_SEEN = 1e-4
_SKEW_MENDED = 1e-9
_CARTESIAN = ("cartesian", "epi")


def check_grid(grid: Grid, shape: tuple[int, ...], *, where: str) -> None:
    """Make sure that `grid` fits an array (z, y, x) and DICOM.

    Raises
    ------
    DataError
        It does not.
    """
    lengths = (*grid.spacing_mm, grid.thickness_mm)
    numbers = np.array([*grid.origin_mm, *grid.x_dir, *grid.y_dir, *grid.z_dir, *lengths])
    rules = (
        (f"the grid's shape {grid.shape}", f"an array {shape}", shape == grid.shape),
        ("1 to 65535 rows and columns", f"an array {shape}", min(shape) > 0 and max(shape[-2:]) <= 0xFFFF),
        ("finite positions and directions", str(numbers.tolist()), bool(np.isfinite(numbers).all())),
        ("positive voxel sizes", str(lengths), min(lengths) > 0),
    )
    for expected, got, fine in rules:
        if not fine:
            raise DataError(where, expected=expected, got=got, action="check the geometry in the scanner's header")


def rectangular(grid: Grid) -> tuple[Grid, tuple[Verdict, ...]]:
    """Return the grid with unit in-plane directions at a right angle, each slice's centre kept.

    Both directions turn by half the error. DICOM allows no other planes; a FLAG says so where it can be seen.
    """
    x, y = (np.asarray(d, float) / np.linalg.norm(d) for d in (grid.x_dir, grid.y_dir))
    skew = abs(float(x @ y))
    along, across = (x + y) / np.linalg.norm(x + y), (x - y) / np.linalg.norm(x - y)
    if skew > _SKEW_MENDED:
        x, y = (along + across) / math.sqrt(2), (along - across) / math.sqrt(2)
    _, ny, nx = grid.shape
    corner = np.asarray(grid.plane(0).centre_mm)
    corner = corner - x * grid.spacing_mm[2] * (nx - 1) / 2 - y * grid.spacing_mm[1] * (ny - 1) / 2
    fixed = replace(grid, x_dir=_vector(x), y_dir=_vector(y), origin_mm=_vector(corner))
    if skew <= _SKEW_SEEN:
        return fixed, ()
    verdict = Verdict(
        check="dicom.plane",
        level=Level.FLAG,
        advice="Rows and columns of this image are not at a right angle; positions at its edge are not exact.",
        value=math.degrees(math.asin(min(1.0, skew))),
        limit=math.degrees(math.asin(_SKEW_SEEN)),
        unit="deg",
        evidence=f"read direction {grid.x_dir}, phase direction {grid.y_dir}",
    )
    return fixed, (verdict,)


def plane_elements(grid: Grid) -> Elements:
    """Return what all slices of a grid have in common."""
    dz, dy, dx = grid.spacing_mm
    return {
        "Rows": grid.shape[1],
        "Columns": grid.shape[2],
        "PixelSpacing": (dy, dx),
        "ImageOrientationPatient": (*map(_tidy, grid.x_dir), *map(_tidy, grid.y_dir)),
        "SliceThickness": grid.thickness_mm,
        "SpacingBetweenSlices": dz,
    }


def slice_elements(grid: Grid, z: int) -> Elements:
    """Return position and location of slice `z`; the location grows along rows cross columns."""
    corner = grid.world((z, 0, 0))
    location = float(np.dot(corner, grid.normal))
    return {"ImagePositionPatient": tuple(map(_tidy, corner)), "SliceLocation": _tidy(location)}


def encoding_elements(encoding: Encoding, *, measured: Grid, shown: Grid) -> Elements:
    """Return matrix and direction of phase encoding, which the turn for display may exchange.

    Parameters
    ----------
    encoding
        Gives the measured matrix, from which readout and phase oversampling are taken out.
    measured
        Grid as reconstructed: x along the readout, y along the phase encoding.
    shown
        Grid as written.
    """
    if encoding.trajectory not in _CARTESIAN:
        return {}
    columns = abs(float(np.dot(measured.y_dir, shown.y_dir))) > 0.5
    n_phase, n_read = (
        min(0xFFFF, round(encoding.matrix[axis] * encoding.recon_fov_mm[axis] / encoding.fov_mm[axis]))
        for axis in (1, 2)
    )
    matrix = (0, n_read, n_phase, 0) if columns else (n_read, 0, 0, n_phase)
    return {"AcquisitionMatrix": matrix, "InPlanePhaseEncodingDirection": "COL" if columns else "ROW"}


def _tidy(value: float) -> float:
    """Round what is only the rounding of a zero (and make it not negative)."""
    return 0.0 if abs(value) < 1e-10 else float(value)


def _vector(values: np.ndarray) -> Vector:
    x, y, z = (float(v) for v in values)
    return (x, y, z)
