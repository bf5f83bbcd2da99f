"""More voxels for the eye: Fourier interpolation of images, with the grid that fits exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from acquisition.errors import ConfigError
from acquisition.geometry import Grid
from acquisition.items import Image, Item, Kind
from acquisition.scan import Scan
from kernels.registry import kernel

_MOST = 4096  # voxels along an axis: DICOM and viewers go no further


@dataclass(kw_only=True)
class Interpolate:
    """Zero-fill the transform of each image in plane: the same values at the same places, and values between them.

    Voxel n // 2 stays where it is in the patient. A magnitude is clipped at zero, where interpolation rings below it; a
    phase is interpolated as a unit phasor. Interpolation adds no information and neighbouring voxels share noise.
    Where the matrix is known beforehand, the header's reconSpace does the same earlier and cheaper.
    """

    factor: float = 2.0
    """Voxels for each voxel along x and y."""
    voxel_mm: float = 0.0
    """Largest voxel side in plane [mm], taken instead of `factor`; 0 uses `factor`."""

    def __post_init__(self) -> None:
        if not 1 <= self.factor <= 8:
            raise ConfigError("image.interpolate factor", expected="1 to 8", got=str(self.factor))
        if not self.voxel_mm >= 0:
            raise ConfigError("image.interpolate voxel_mm", expected="0 or more", got=str(self.voxel_mm))

    def open(self, scan: Scan) -> None:
        """Nothing to prepare."""

    def feed(self, item: Item) -> Iterator[Item]:
        """Interpolate images; other items pass."""
        yield self._finer(item) if isinstance(item, Image) else item

    def close(self) -> Iterator[Item]:
        """Nothing is left to do."""
        return iter(())

    def _finer(self, image: Image) -> Image:
        sizes = self._size(image.grid, 1), self._size(image.grid, 2)
        if sizes == image.data.shape[-2:]:
            return image
        note = f"{image.data.shape[-1]} x {image.data.shape[-2]} to {sizes[1]} x {sizes[0]} voxels, Fourier"
        notes = {**image.provenance.notes, "interpolation": note}
        return replace(
            image,
            data=interpolated(image.data, sizes, image.kind),
            grid=refined(refined(image.grid, 1, sizes[0]), 2, sizes[1]),
            provenance=replace(image.provenance, notes=notes),
        )

    def _size(self, grid: Grid, axis: int) -> int:
        n = grid.shape[axis]
        factor = grid.spacing_mm[axis] / self.voxel_mm if self.voxel_mm else self.factor
        return min(max(n, int(np.ceil(n * factor - 1e-6))), max(n, _MOST))


def interpolated(data: np.ndarray, sizes: tuple[int, int], kind: Kind) -> np.ndarray:
    """Return images (..., y, x) on a finer grid of the same field of view, by zero-filling their transform.

    Parameters
    ----------
    data
        Values; voxel n // 2 keeps its place.
    sizes
        New (y, x).
    kind
        Magnitudes come out without negative values, phases [rad] are interpolated as phasors.
    """
    values = np.exp(1j * data) if kind is Kind.PHASE else data
    fine = _padded(torch.from_numpy(np.ascontiguousarray(values)).to(torch.complex64), sizes)
    if kind is Kind.PHASE:
        return fine.angle().numpy()
    if kind is Kind.COMPLEX:
        return fine.numpy()
    real = fine.real.clamp_min(0) if kind is Kind.MAGNITUDE and bool((data >= 0).all()) else fine.real
    return real.contiguous().numpy()


def refined(grid: Grid, axis: int, size: int) -> Grid:
    """Return the grid with `size` voxels along an axis (0 = z, 1 = y, 2 = x), voxel n // 2 staying in its place."""
    n = grid.shape[axis]
    first = [0.0, 0.0, 0.0]
    first[axis] = n // 2 - (size // 2) * n / size
    shape, spacing = list(grid.shape), list(grid.spacing_mm)
    shape[axis], spacing[axis] = size, spacing[axis] * n / size
    return replace(
        grid,
        shape=(shape[0], shape[1], shape[2]),
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
        origin_mm=grid.world(first),
    )


def _padded(image: Tensor, sizes: tuple[int, int]) -> Tensor:
    """Zero-fill the transform of (..., y, x); amplitudes stay."""
    for axis, size in zip((image.ndim - 2, image.ndim - 1), sizes, strict=True):
        n = image.shape[axis]
        if n != size:
            wide = kernel("resize", "cpu")(kernel("centred_fft", "cpu")(image, (axis,)), size, axis)
            image = kernel("centred_ifft", "cpu")(wide, (axis,)) * (size / n) ** 0.5
    return image
