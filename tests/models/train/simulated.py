"""A head of a few shells as a label map, so that the simulator's tests need no data."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from models.train.anatomy import Plane, random_plane
from models.train.labels import Head, head_of, tissues_of
from models.train.mr import MrSpec

SMALL = MrSpec(matrix=(48, 48), n_coils=4, fov_mm=(100.0, 110.0), thickness_mm=(2.0, 3.0))


def label_map(n: int = 96) -> NDArray[np.int16]:
    """FreeSurfer numbers (z, y, x): skin, soft tissue, skull, CSF, cortex, white matter and unequal ventricles."""
    z, y, x = (np.indices((n, n, n)) - (n - 1) / 2) / (n / 2)
    radius = np.sqrt((z / 0.9) ** 2 + (y / 0.92) ** 2 + (x / 0.75) ** 2)
    labels = np.zeros((n, n, n), np.int16)
    for limit, number in ((1, 511), (0.95, 507), (0.86, 515), (0.8, 24), (0.74, 3), (0.66, 2)):
        labels[radius < limit] = number
    labels[(radius < 0.74) & (x > 0)] += np.where(labels[(radius < 0.74) & (x > 0)] == 3, 39, 39).astype(np.int16)
    labels[(z / 0.2) ** 2 + ((y + 0.05) / 0.3) ** 2 + ((x - 0.12) / 0.06) ** 2 < 1] = 4
    labels[(z / 0.22) ** 2 + ((y + 0.05) / 0.34) ** 2 + ((x + 0.13) / 0.09) ** 2 < 1] = 43
    labels[((z + 0.1) / 0.05) ** 2 + ((y - 0.1) / 0.05) ** 2 + ((x - 0.3) / 0.05) ** 2 < 1] = 514
    return labels


@lru_cache(maxsize=1)
def small_head() -> Head:
    """The head of that map."""
    return head_of("small", tissues_of(label_map(), seed=1))


def axial_plane(cells: int = 72, fov_mm: float = 104.0, seed: int = 3, thickness_mm: float = 2.0) -> Plane:
    """A slice near the middle of the head."""
    plane = random_plane(
        small_head(),
        (cells, cells),
        fov_mm / cells,
        rng=np.random.default_rng(seed),
        thickness_mm=thickness_mm,
        orientation="axial",
    )
    plane.centre_mm[0] = 0.0
    return plane
