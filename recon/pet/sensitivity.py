"""How well the scanner sees each voxel, over all its lines of response; and what the patient lets through of each.

Where there are more lines than `MOST_LINES`, one of every k is taken, its place among the k drawn from a golden-ratio
sequence, and counted k times; the sum is then made on voxels twice as wide, because it varies slowly across the axis;
the image's notes say k. The result is kept for the same scanner, voxels, normalisation and attenuation.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from torch import Tensor

from acquisition.errors import DataError
from acquisition.geometry import Grid
from acquisition.items import Image
from acquisition.pet import PER_MM
from acquisition.pet_geometry import detectors_mm
from acquisition.pet_norm import Normalisation
from acquisition.scan import PetHeader
from recon.pet.project import LineProjector, Pairs

MOST_LINES = 4_000_000
_CHUNK = 1 << 20
_KEPT = 4
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True, slots=True, eq=False)
class Attenuation:
    """What the patient absorbs at 511 keV."""

    mu_per_mm: NDArray[np.float32]
    """Attenuation (z, y, x) [1/mm]."""
    grid: Grid
    """Its voxels, in the gantry."""

    def factors(self, pet: PetHeader, pairs: Pairs) -> NDArray[np.float32]:
        """Return the part of photon pairs that gets through on each line (line,)."""
        lines: NDArray[np.float32] = LineProjector(pet, self.grid, pairs)(torch.from_numpy(self.mu_per_mm)).numpy()
        return np.exp(-lines)


def attenuation_of(image: Image) -> Attenuation:
    """Return an image of attenuation, whose grid is that of the gantry, as `Attenuation`.

    Raises
    ------
    DataError
        Its unit is neither 1/mm nor 1/cm, or a value is no number of 0 or more.
    """
    if image.unit not in PER_MM:
        raise DataError(f"attenuation image {image.output}", expected="unit 1/mm or 1/cm", got=image.unit)
    mu = np.asarray(image.data, np.float32).reshape(image.grid.shape) * np.float32(PER_MM[image.unit])
    if not np.isfinite(mu).all() or mu.min(initial=0.0) < 0:
        raise DataError(f"attenuation image {image.output}", expected="numbers of 0 or more", got="others")
    return Attenuation(np.ascontiguousarray(mu), image.grid)


@dataclass(frozen=True, slots=True, eq=False)
class LineModel:
    """The multiplicative factors of every line of response."""

    pet: PetHeader
    """The scanner."""
    normalisation: Normalisation
    """How well each line counts."""
    attenuation: Attenuation | None = None
    """What the patient absorbs; None: nothing."""

    def factors(self, pairs: Pairs) -> NDArray[np.float32]:
        """Return efficiency times attenuation of each line (line,)."""
        found = self.normalisation.efficiency(pairs)
        return found if self.attenuation is None else found * self.attenuation.factors(self.pet, pairs)


@dataclass(frozen=True, slots=True, eq=False)
class Sensitivity:
    """The transposed projector of all lines' factors."""

    image: Tensor
    """Sum over lines of factor times weight of the voxel (z, y, x) [mm]."""
    stride: int
    """One of so many lines was taken."""


class SensitivityCache:
    """The latest few sensitivities, shared by the Steps of a process."""

    def __init__(self) -> None:
        self._lock, self._kept = Lock(), OrderedDict[str, Sensitivity]()

    def get(self, model: LineModel, grid: Grid, *, most_lines: int = MOST_LINES) -> Sensitivity:
        """Return the sensitivity of `model` on `grid`, made anew where it is not kept."""
        key = _key(model, grid, most_lines)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = sensitivity(model, grid, most_lines=most_lines)
            self._kept.move_to_end(key)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return self._kept[key]


CACHE = SensitivityCache()


def sensitivity(model: LineModel, grid: Grid, *, most_lines: int = MOST_LINES) -> Sensitivity:
    """Return how well each voxel is seen over all lines, or over a part of them that stands for all."""
    reach, stride, used = _reach(grid), 1, grid
    total: Tensor | None = None
    for pairs, stride in lines_of(model.pet, reach_mm=reach, most_lines=most_lines):
        if total is None:
            used = _wider(grid) if stride > 1 else grid
            total = torch.zeros(used.shape)
        factors = model.factors(pairs)
        use = factors > 0
        total += LineProjector(model.pet, used, pairs[use]).adjoint(torch.from_numpy(factors[use]))
    if total is None:
        return Sensitivity(torch.zeros(grid.shape), 1)
    return Sensitivity(_narrowed(total * float(stride), used, grid), stride)


def _wider(grid: Grid) -> Grid:
    """Return a grid of voxels twice as wide along x and y that covers another one."""
    nz, ny, nx = grid.shape
    dz, dy, dx = grid.spacing_mm
    return Grid.from_centre(
        grid.centre_mm,
        shape=(nz, ny // 2 + 2, nx // 2 + 2),
        spacing_mm=(dz, 2 * dy, 2 * dx),
        directions=(grid.x_dir, grid.y_dir, grid.z_dir),
    )


def _narrowed(total: Tensor, used: Grid, grid: Grid) -> Tensor:
    """Return a sensitivity on the grid that is wanted."""
    if used == grid:
        return total
    axes = [np.arange(grid.shape[0], dtype=float)]
    for axis in (1, 2):
        first = (grid.origin_mm[2 - axis] - used.origin_mm[2 - axis]) / used.spacing_mm[axis]
        axes.append(first + np.arange(grid.shape[axis]) * grid.spacing_mm[axis] / used.spacing_mm[axis])
    share = np.prod(grid.spacing_mm) / np.prod(used.spacing_mm)
    found = map_coordinates(total.numpy(), np.meshgrid(*axes, indexing="ij"), order=1, mode="nearest")
    return torch.from_numpy((found * share).astype(np.float32))


def lines_of(pet: PetHeader, *, reach_mm: float, most_lines: int) -> Iterator[tuple[Pairs, int]]:
    """Yield the lines that pass the axis within `reach_mm`, in parts, and of how many each one stands for.

    A line runs from the detector of smaller crystal to that of larger crystal, in any rings in coincidence.
    """
    place = detectors_mm(pet).reshape(pet.n_rings, pet.n_crystals, 3)[0]
    one, other = np.triu_indices(pet.n_crystals, 1)
    a, b = place[one], place[other]
    length = np.maximum(np.hypot(*(b - a)[:, :2].T), 1e-9)
    near = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / length <= reach_mm
    one, other = one[near], other[near]
    rings = np.stack(np.meshgrid(*2 * (np.arange(pet.n_rings),), indexing="ij"), -1).reshape(-1, 2)
    if pet.max_ring_difference is not None:
        rings = rings[np.abs(np.diff(rings, axis=1)[:, 0]) <= pet.max_ring_difference]
    n = len(one) * len(rings)
    stride = max(1, -(-n // most_lines))
    for start in range(0, n // stride, _CHUNK):
        number = np.arange(start, min(start + _CHUNK, n // stride), dtype=np.int64)
        ring, line = np.divmod(number * stride + (stride * (number * _GOLDEN % 1)).astype(np.int64), len(one))
        pair = rings[ring] * pet.n_crystals + np.stack([one[line], other[line]], -1)
        yield np.ascontiguousarray(pair, np.int32), stride


def _reach(grid: Grid) -> float:
    _, ny, nx = grid.shape
    _, dy, dx = grid.spacing_mm
    x, y, _ = grid.centre_mm
    return float(np.hypot(abs(x) + (nx + 1) * dx / 2, abs(y) + (ny + 1) * dy / 2))


def _key(model: LineModel, grid: Grid, most_lines: int) -> str:
    parts = [repr((model.pet, grid, most_lines)).encode()]
    parts += [detectors_mm(model.pet).tobytes(), model.normalisation.key()]
    if model.attenuation is not None:
        parts += [repr(model.attenuation.grid).encode(), model.attenuation.mu_per_mm.tobytes()]
    return hashlib.sha256(b"|".join(parts)).hexdigest()
