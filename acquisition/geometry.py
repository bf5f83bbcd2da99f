"""Where the voxels are: a regular grid in patient coordinates (LPS, mm).

Convention. Arrays are ``(..., z, y, x)``. ``x_dir`` is the unit vector of growing x index (DICOM's row
cosine), ``y_dir`` that of growing y index (DICOM's column cosine), ``z_dir`` that of growing z index.
MRD's ``position`` is the centre of the slab; DICOM's ImagePositionPatient is the centre of the first voxel:
``origin = centre - sum_i dir_i * spacing_i * (n_i - 1) / 2`` (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from acquisition.errors import DataError

Vector = tuple[float, float, float]

# The standard way a radiologist looks at each plane: (x index grows towards, y index grows towards), LPS.
_DISPLAY: dict[int, tuple[Vector, Vector]] = {
    2: ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),  # axial: left on the right, posterior down
    1: ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),  # coronal: left on the right, feet down
    0: ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),  # sagittal: posterior on the right, feet down
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A regular, right- or left-handed voxel grid in patient space."""

    shape: tuple[int, int, int]
    """Number of voxels (z, y, x)."""
    spacing_mm: Vector
    """Distance of neighbouring voxel centres (z, y, x) [mm]."""
    origin_mm: Vector
    """Centre of voxel (0, 0, 0), LPS [mm]."""
    x_dir: Vector
    """Unit vector of growing x index, LPS."""
    y_dir: Vector
    """Unit vector of growing y index, LPS."""
    z_dir: Vector
    """Unit vector of growing z index, LPS."""
    thickness_mm: float
    """Slice thickness along ``z_dir`` [mm]; equals the z spacing where slices touch."""

    @classmethod
    def from_centre(
        cls,
        centre_mm: ArrayLike,
        *,
        shape: tuple[int, int, int],
        spacing_mm: Vector,
        directions: Sequence[ArrayLike],
        thickness_mm: float | None = None,
    ) -> Grid:
        """Build the grid around the centre of its field of view.

        Parameters
        ----------
        centre_mm
            Centre of the field of view, LPS [mm], shape (3,).
        shape, spacing_mm
            Voxels and voxel size [mm], both (z, y, x).
        directions
            ``(x_dir, y_dir, z_dir)``, each (3,); normalised here.
        thickness_mm
            Slice thickness [mm]; the z spacing when absent.

        Raises
        ------
        DataError
            A direction has no length, or two directions are not perpendicular (more than 0.5 degrees off).
        """
        x_dir, y_dir, z_dir = (_unit(d) for d in directions)
        for name, dot in (("x,y", x_dir @ y_dir), ("x,z", x_dir @ z_dir), ("y,z", y_dir @ z_dir)):
            if abs(dot) > np.sin(np.deg2rad(0.5)):
                raise DataError(
                    f"grid directions {name}",
                    expected="perpendicular vectors",
                    got=f"cosine {dot:.4f}",
                    action="check read_dir, phase_dir and slice_dir of the readouts",
                )
        steps = np.stack([z_dir * spacing_mm[0], y_dir * spacing_mm[1], x_dir * spacing_mm[2]])
        origin = np.asarray(centre_mm, float) - ((np.asarray(shape) - 1) / 2) @ steps
        return cls(
            shape=shape,
            spacing_mm=spacing_mm,
            origin_mm=_vector(origin),
            x_dir=_vector(x_dir),
            y_dir=_vector(y_dir),
            z_dir=_vector(z_dir),
            thickness_mm=spacing_mm[0] if thickness_mm is None else thickness_mm,
        )

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4) matrix from homogeneous voxel index (x, y, z, 1) to LPS [mm]."""
        matrix = np.eye(4)
        columns = zip((self.x_dir, self.y_dir, self.z_dir), reversed(self.spacing_mm), strict=True)
        matrix[:3, :3] = np.stack([np.asarray(d) * s for d, s in columns], axis=1)
        matrix[:3, 3] = self.origin_mm
        return matrix

    @property
    def centre_mm(self) -> Vector:
        """Centre of the field of view, LPS [mm]."""
        return self.world([(n - 1) / 2 for n in self.shape])

    @property
    def normal(self) -> Vector:
        """``x_dir`` cross ``y_dir``: DICOM's slice normal (``z_dir`` may point the other way)."""
        return _vector(np.cross(self.x_dir, self.y_dir))

    def world(self, index_zyx: ArrayLike) -> Vector:
        """Return the LPS position [mm] of a (fractional) voxel index (z, y, x)."""
        z, y, x = np.asarray(index_zyx, float)
        return _vector((self.affine @ [x, y, z, 1.0])[:3])

    def plane(self, z: int) -> Grid:
        """Return the one-slice grid of slice `z`."""
        return replace(self, shape=(1, *self.shape[1:]), origin_mm=self.world((z, 0, 0)))

    def flipped(self, axis: int) -> Grid:
        """Return the grid that fits the array after ``np.flip(array, axis)``; axis 0 = z, 1 = y, 2 = x."""
        first = [0, 0, 0]
        first[axis] = self.shape[axis] - 1
        directions = [self.z_dir, self.y_dir, self.x_dir]
        directions[axis] = _vector(-np.asarray(directions[axis]))
        z_dir, y_dir, x_dir = directions
        return replace(self, origin_mm=self.world(first), x_dir=x_dir, y_dir=y_dir, z_dir=z_dir)

    def rolled(self) -> Grid:
        """Return the grid of the same voxels with axes (z, y, x) renamed (x, z, y): data ``permute(2, 0, 1)``."""
        (nz, ny, nx), (dz, dy, dx) = self.shape, self.spacing_mm
        turned = {"x_dir": self.y_dir, "y_dir": self.z_dir, "z_dir": self.x_dir}
        return replace(self, shape=(nx, nz, ny), spacing_mm=(dx, dz, dy), thickness_mm=dx, **turned)

    def transposed(self) -> Grid:
        """Return the grid that fits the array after its y and x axes are exchanged."""
        (nz, ny, nx), (dz, dy, dx) = self.shape, self.spacing_mm
        return replace(self, shape=(nz, nx, ny), spacing_mm=(dz, dx, dy), x_dir=self.y_dir, y_dir=self.x_dir)


def display_orientation(data: NDArray, grid: Grid) -> tuple[NDArray, Grid]:
    """Turn slices the way a radiologist looks at them, without touching a voxel's place in the patient.

    Axial: left on the right, posterior down. Coronal: left on the right, feet down. Sagittal: posterior on
    the right, feet down. Oblique planes take the nearest of the three. Only flips and an exchange of the two
    in-plane axes are made, so no value is interpolated.

    Parameters
    ----------
    data
        Array (..., z, y, x).
    grid
        Its grid.

    Returns
    -------
    tuple
        The turned view of `data` and the grid that fits it.
    """
    towards_x, towards_y = _DISPLAY[int(np.argmax(np.abs(grid.normal)))]
    if abs(np.dot(grid.x_dir, towards_x)) < abs(np.dot(grid.y_dir, towards_x)):
        data, grid = np.swapaxes(data, -1, -2), grid.transposed()
    if np.dot(grid.x_dir, towards_x) < 0:
        data, grid = np.flip(data, -1), grid.flipped(2)
    if np.dot(grid.y_dir, towards_y) < 0:
        data, grid = np.flip(data, -2), grid.flipped(1)
    return data, grid


def _unit(vector: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(vector, float)
    length = float(np.linalg.norm(array))
    if not np.isfinite(length) or length < 1e-6:
        raise DataError(
            "grid direction", expected="a unit vector", got=str(array.tolist()), action="check the readout directions"
        )
    return array / length


def _vector(array: ArrayLike) -> Vector:
    x, y, z = (float(v) for v in np.asarray(array, float))
    return (x, y, z)
