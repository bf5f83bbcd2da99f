"""Which voxels a PET image has, and how its grid lies in the patient."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from acquisition.ct_geometry import patient_axes
from acquisition.errors import ConfigError, DataError
from acquisition.geometry import Grid
from acquisition.scan import PetHeader, Scan

_AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
_MOST_VOXELS = 1 << 28


@dataclass(kw_only=True)
class VoxelOptions:
    """Which voxels a protocol asks for; 0 leaves the choice to the scanner."""

    voxel_mm: float = 4.0
    """Size of the voxels along x and y [mm]."""
    slice_mm: float = 0.0
    """Distance and thickness of slices [mm]; 0: half the distance of rings."""
    fov_mm: float = 0.0
    """Field of view along x and y [mm]; 0: the square within the rings, at most 600."""


def gantry_grid(pet: PetHeader, wanted: VoxelOptions) -> Grid:
    """Return the voxels in the gantry, one in the middle of the rings' axis.

    Raises
    ------
    ConfigError
        A size is impossible.
    """
    fov = wanted.fov_mm or min(600.0, np.sqrt(2) * pet.radius_mm)
    dz = wanted.slice_mm or pet.ring_pitch_mm / 2
    if wanted.voxel_mm <= 0 or dz < 0 or not wanted.voxel_mm <= fov <= 2 * pet.radius_mm:
        raise ConfigError(
            "PET voxels",
            expected=f"sizes above 0 and a field of view up to {2 * pet.radius_mm:g} mm",
            got=f"voxels of {wanted.voxel_mm:g} mm, slices of {dz:g} mm, {fov:g} mm",
        )
    n, nz = 2 * int(fov / wanted.voxel_mm / 2) + 1, max(1, round((pet.n_rings * pet.ring_pitch_mm) / dz) - 1)
    if n * n * nz > _MOST_VOXELS:
        raise ConfigError("PET voxels", expected=f"at most {_MOST_VOXELS}", got=f"{nz} x {n} x {n}")
    spacing = (dz, wanted.voxel_mm, wanted.voxel_mm)
    return Grid.from_centre((0.0, 0.0, 0.0), shape=(nz, n, n), spacing_mm=spacing, directions=_AXES)


def in_patient(grid: Grid, scan: Scan) -> Grid:
    """Return the grid of the gantry as it lies in the patient."""
    axes = patient_axes(scan.patient.position)
    x, y, z = (np.asarray(grid.origin_mm) @ np.array(axes)).tolist()
    return replace(grid, origin_mm=(x, y, z), x_dir=axes[0], y_dir=axes[1], z_dir=axes[2])


def at_table(grid: Grid, shift_mm: float) -> Grid:
    """Return a grid of the gantry as it lies in the patient whom the table has carried `shift_mm` along the rings."""
    x, y, z = grid.origin_mm
    return replace(grid, origin_mm=(x, y, z - shift_mm))


def in_gantry(grid: Grid, position: str | None) -> Grid:
    """Return a grid that lies in the patient along the axes of the gantry as it lies in the gantry.

    Raises
    ------
    DataError
        It lies along other axes.
    """
    axes = np.array(patient_axes(position))
    if not np.allclose((grid.x_dir, grid.y_dir, grid.z_dir), axes, atol=1e-6):
        raise DataError(
            "PET grid",
            expected=f"axes of the gantry, for a patient who lies {position or 'HFS'}",
            got=f"{grid.x_dir}, {grid.y_dir}, {grid.z_dir}",
            action="bring the map to these axes first, as pet.attenuation does",
        )
    x, y, z = (axes @ np.asarray(grid.origin_mm)).tolist()
    return replace(grid, origin_mm=(x, y, z), x_dir=_AXES[0], y_dir=_AXES[1], z_dir=_AXES[2])


def inside(grid: Grid) -> Tensor:
    """Return which voxels lie within the circle of the field of view, (1, y, x)."""
    _, ny, nx = grid.shape
    y, x = (np.arange(n) - (n - 1) / 2 for n in (ny, nx))
    return torch.from_numpy((y[:, None] / (ny / 2)) ** 2 + (x[None, :] / (nx / 2)) ** 2 <= 1)[None]
