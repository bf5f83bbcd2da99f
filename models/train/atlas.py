"""Where every voxel of a labelled head lies in the MNI template, and where its landmarks are.

The head's labels are made an image in the template's own brightness, then registered: affine, and diffeomorphic demons
(Vercauteren et al., NeuroImage 2009;45:S61, DOI 10.1016/j.neuroimage.2008.10.040). AC and PC are those that experts set
in the template (AFIDs, CC BY 4.0, DOI 10.1002/hbm.24693). MNI ICBM 152 template: Fonov et al., NeuroImage 2011;54:313,
DOI 10.1016/j.neuroimage.2010.07.033. Places of the template are LPS here, its x as in a patient: left is positive.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.train.labels import Head

F32 = NDArray[np.float32]
Floats = NDArray[np.float64]

STEP = 4
"""Voxels of the head between two samples of the map."""


@dataclass(frozen=True, slots=True, eq=False)
class Atlas:
    """The map of one head."""

    name: str
    """Of the head."""
    map_mm: F32
    """Template place (LPS x, y, z) [mm] of every `STEP`-th voxel, shape (3, z, y, x)."""
    landmarks: dict[str, Floats]
    """Voxels (z, y, x) of the head's landmarks."""

    def coordinates(self, voxels: Floats) -> F32:
        """Return the template place [mm] of voxels (n, 3) of the head; linear beyond the map's edge is not known."""
        at = np.moveaxis(voxels / STEP, -1, 0)
        found = [ndimage.map_coordinates(m, at, order=1, mode="nearest") for m in self.map_mm]
        return np.stack(found, axis=-1).astype(np.float32)


def load_atlas(head: Head, cache: Path) -> Atlas:
    """Return a head's map from the cache.

    Raises
    ------
    FileNotFoundError
        It was not made yet.
    """
    with np.load(cache / f"head_{head.name}_atlas.npz") as file:
        marks = {name.removeprefix("mark_"): file[name] for name in file.files if name.startswith("mark_")}
        return Atlas(head.name, file["map_mm"], marks)


def keep(atlas: Atlas, cache: Path) -> None:
    """Write a head's map into the cache, whole or not at all."""
    part = cache / f"head_{atlas.name}_atlas.{os.getpid()}.part"
    with part.open("wb") as out:
        np.savez(out, map_mm=atlas.map_mm, **{f"mark_{k}": v for k, v in atlas.landmarks.items()})
    part.replace(cache / f"head_{atlas.name}_atlas.npz")
