"""Projections of a stack of slices: maximum for vessels that shine, minimum for those that are dark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ConfigError, DataError
from acquisition.geometry import Grid
from acquisition.items import Image, Item, Kind, Position
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from recon.series import frame_of, stacked

DIRECTIONS = {"through": -3, "vertical": -2, "horizontal": -1}
"""Axis that is projected: through the slices, along y, along x."""


@dataclass(kw_only=True)
class Projection:
    """Gather the slices of an output and give projections of them when the scan ends; the slices pass as they come.

    Outputs are named ``mip_through``, ``minip_through`` and so on. A `thickness_mm` above 0 gives thin slabs through
    the slices, each half overlapping the next.
    """

    mode: str = "max"
    """max or min."""
    directions: tuple[str, ...] = ("through", "vertical", "horizontal")
    """through, vertical, horizontal."""
    thickness_mm: float = 0.0
    """Thickness of a slab [mm]; 0 projects the whole stack."""
    source: str = "conventional"
    """Output that is projected."""

    def __post_init__(self) -> None:
        if self.mode not in ("max", "min") or not set(self.directions) <= set(DIRECTIONS) or self.thickness_mm < 0:
            raise ConfigError(
                "image.projection",
                expected=f"mode max or min, directions of {', '.join(DIRECTIONS)}, thickness_mm 0 or more",
                got=f"{self.mode}, {self.directions}, {self.thickness_mm}",
            )

    def open(self, scan: Scan) -> None:
        """Forget the scan before."""
        self._slices: dict[Position, list[Image]] = {}

    def feed(self, item: Item) -> Iterator[Item]:
        """Pass everything on; keep the slices."""
        if isinstance(item, Image) and item.output == self.source and item.kind is not Kind.COMPLEX:
            self._slices.setdefault(frame_of(item.position), []).append(item)
        yield item

    def close(self) -> Iterator[Item]:
        """Give the projections of each frame."""
        for images in self._slices.values():
            try:
                volume = stacked(images)
            except DataError as error:
                yield Verdict(
                    check="image.projection", level=Level.FLAG, advice="No projection was made.", evidence=str(error)
                )
                continue
            for direction in self.directions:
                yield from self._projected(volume, direction)

    def _projected(self, volume: Image, direction: str) -> Iterator[Image]:
        name = f"{'mip' if self.mode == 'max' else 'minip'}_{direction}"
        axis = DIRECTIONS[direction]
        slabs = [(0, volume.data.shape[-3])]
        if direction == "through" and self.thickness_mm > 0:
            n = max(1, round(self.thickness_mm / volume.grid.spacing_mm[0]))
            name = f"{name}_{self.thickness_mm:g}mm"
            slabs = [(s, min(s + n, volume.data.shape[-3])) for s in range(0, volume.data.shape[-3], max(1, n // 2))]
        for index, (start, stop) in enumerate(slabs):
            part = volume.data[..., start:stop, :, :] if axis == -3 else volume.data
            flat = np.expand_dims(part.max(axis=axis) if self.mode == "max" else part.min(axis=axis), axis)
            data, grid = _flattened(flat, volume.grid, axis, (start, stop))
            yield replace(volume, data=data, grid=grid, output=name, position=replace(volume.position, slice=index))


def _flattened(data: NDArray, grid: Grid, axis: int, slab: tuple[int, int]) -> tuple[NDArray, Grid]:
    """Return the projection as one slice (1, y, x) and its grid: as thick as what was projected, in its middle."""
    nz, ny, nx = grid.shape
    dz, dy, dx = grid.spacing_mm
    if axis == -3:
        middle = (slab[0] + slab[1] - 1) / 2
        thick = (slab[1] - slab[0]) * dz
        flat = replace(grid, shape=(1, ny, nx), spacing_mm=(thick, dy, dx), thickness_mm=thick)
        return data, replace(flat, origin_mm=grid.world((middle, 0, 0)))
    if axis == -2:  # (z, 1, x): rows are slices
        turned = replace(grid, shape=(1, nz, nx), spacing_mm=(ny * dy, dz, dx), thickness_mm=ny * dy)
        turned = replace(turned, y_dir=grid.z_dir, z_dir=tuple(-v for v in grid.y_dir))  # type: ignore[arg-type]
        return np.swapaxes(data, -3, -2), replace(turned, origin_mm=grid.world((0, (ny - 1) / 2, 0)))
    turned = replace(grid, shape=(1, nz, ny), spacing_mm=(nx * dx, dz, dy), thickness_mm=nx * dx)
    turned = replace(turned, x_dir=grid.y_dir, y_dir=grid.z_dir, z_dir=grid.x_dir)
    return np.moveaxis(data, -1, -3), replace(turned, origin_mm=grid.world((0, 0, (nx - 1) / 2)))
