"""Volumes of training data as arrays (z, y, x) along the patient's axes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import DataError
from acquisition.sources.nifti import read_nifti

_STRAIGHT = 0.99  # cosine between an axis and the patient's


def read_upright(path: Path) -> tuple[NDArray[np.float32], tuple[float, float, float]]:
    """Return voxels (z, y, x), +z superior, +y posterior, +x left, of a NIfTI file, and their spacing (z, y, x) [mm].

    Raises
    ------
    FileFormatError, DataError
        The file cannot be read (`read_nifti`), or its axes are oblique.
    """
    image = read_nifti(path)
    axes = np.array([image.grid.z_dir, image.grid.y_dir, image.grid.x_dir])[:, ::-1]  # array axis, patient's (z, y, x)
    along = np.abs(axes).argmax(axis=0)
    if sorted(along.tolist()) != [0, 1, 2] or np.abs(axes).max(axis=1).min() < _STRAIGHT:
        raise DataError(
            f"file {path.name}",
            expected="axes along the patient's",
            got=np.round(axes, 2).tolist().__repr__(),
            action="resample it",
        )
    turned = image.data.transpose(along)
    turned = turned[tuple(slice(None, None, 1 if axes[along[k], k] > 0 else -1) for k in range(3))]
    dz, dy, dx = (image.grid.spacing_mm[a] for a in along)
    return np.ascontiguousarray(turned), (dz, dy, dx)
