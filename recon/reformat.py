"""Volumes cut along other planes: each voxel from its neighbours in the patient's coordinates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from acquisition.errors import ConfigError, DataError
from acquisition.geometry import Grid, Vector
from acquisition.items import Image, Item, Kind, Position
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from recon.series import frame_of, stacked

PLANES: dict[str, tuple[Vector, Vector, Vector]] = {
    "axial": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "coronal": ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0)),
    "sagittal": ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0), (-1.0, 0.0, 0.0)),
}
"""Directions of growing x, y and slice index, LPS; as radiologists look at them."""

_ALONG = 0.94
"""Cosine of 20 degrees: a stack that is nearer than that to a plane is that plane already."""


@dataclass(kw_only=True)
class Reformat:
    """Gather the slices of an output and give axial, coronal and sagittal cuts when the scan ends.

    The plane that the slices lie in already is left out. Outputs are named ``mpr_coronal`` and so on; values between
    voxels are linear, outside the stack they are 0. Slices that are thicker than the voxels are wide give coarse cuts:
    beyond `flag_ratio` a FLAG says so.
    """

    planes: tuple[str, ...] = ("axial", "coronal", "sagittal")
    """axial, coronal, sagittal."""
    thickness_mm: float = 0.0
    """Distance and thickness of the new slices [mm]; 0 takes the smallest side of a voxel."""
    source: str = "conventional"
    """Output that is cut."""
    flag_ratio: float = 3.0
    """Longest over shortest side of the measured voxels from which cuts are marked."""

    def __post_init__(self) -> None:
        for name, fine, expected in (
            ("planes", bool(self.planes) and set(self.planes) <= set(PLANES), ", ".join(PLANES)),
            ("thickness_mm", self.thickness_mm >= 0, "0 or more"),
            ("flag_ratio", self.flag_ratio >= 1, "at least 1"),
        ):
            if not fine:
                raise ConfigError(f"image.mpr {name}", expected=expected, got=str(getattr(self, name)))

    def open(self, scan: Scan) -> None:
        """Forget the scan before."""
        self._slices: dict[Position, list[Image]] = {}

    def feed(self, item: Item) -> Iterator[Item]:
        """Pass everything on; keep the slices."""
        if isinstance(item, Image) and item.output == self.source and item.kind is not Kind.COMPLEX:
            self._slices.setdefault(frame_of(item.position), []).append(item)
        yield item

    def close(self) -> Iterator[Item]:
        """Give the cuts of each frame."""
        for images in self._slices.values():
            try:
                volume = stacked(images)
            except DataError as error:
                yield Verdict(check="image.mpr", level=Level.FLAG, advice="No cuts were made.", evidence=str(error))
                continue
            if volume.data.shape[-3] > 1:
                yield from self._cuts(volume)

    def _cuts(self, volume: Image) -> Iterator[Image]:
        spacing = volume.grid.spacing_mm
        side, ratio = min(spacing), max(spacing) / min(spacing)
        told = Verdict(
            check="image.mpr",
            level=Level.FLAG if ratio > self.flag_ratio else Level.PASS,
            advice="Cuts from thick slices are coarse." if ratio > self.flag_ratio else "Cut from the measured voxels.",
            value=ratio,
            limit=self.flag_ratio,
            evidence="voxel {:.2f} x {:.2f} x {:.2f} mm".format(*spacing),
        )
        for name in self.planes:
            if abs(np.dot(PLANES[name][2], volume.grid.z_dir)) > _ALONG:
                continue
            grid = enclosing(volume.grid, PLANES[name], (self.thickness_mm or side, side, side))
            data = resampled(volume.data.reshape(volume.grid.shape), volume.grid, grid)
            yield replace(
                volume,
                data=data,
                grid=grid,
                output=f"mpr_{name}",
                verdicts=(*volume.verdicts, told),
                position=replace(volume.position, slice=0),
            )


def enclosing(grid: Grid, directions: tuple[Vector, Vector, Vector], spacing_mm: Vector) -> Grid:
    """Return the smallest grid along `directions` that holds all of `grid`, around the same centre."""
    reach = np.asarray(grid.shape) * np.asarray(grid.spacing_mm) / 2
    own = np.stack([grid.z_dir, grid.y_dir, grid.x_dir])
    sizes = [float(np.abs(own @ np.asarray(d)) @ reach) * 2 for d in reversed(directions)]
    shape = [max(1, int(np.ceil(size / step - 1e-6))) for size, step in zip(sizes, spacing_mm, strict=True)]
    return Grid.from_centre(
        grid.centre_mm, shape=(shape[0], shape[1], shape[2]), spacing_mm=spacing_mm, directions=directions
    )


def resampled(data: NDArray, grid: Grid, to: Grid, *, order: int = 1) -> NDArray[np.float32]:
    """Return the values of (z, y, x) at the voxels of another grid; 0 outside.

    Parameters
    ----------
    data
        Values on `grid`.
    grid, to
        Where they are and where they are wanted.
    order
        1: linear, 3: cubic splines.
    """
    matrix = np.linalg.inv(grid.affine) @ to.affine  # index (x, y, z, 1) of `to` -> of `grid`
    out = np.empty(to.shape, np.float32)
    y, x = np.indices(to.shape[1:], dtype=np.float64)
    for z in range(to.shape[0]):
        places = [matrix[r, 0] * x + matrix[r, 1] * y + (matrix[r, 2] * z + matrix[r, 3]) for r in (2, 1, 0)]
        places = [np.round(p, 6) for p in places]  # a voxel's own centre must not fall outside by rounding
        out[z] = map_coordinates(data, places, order=order, mode="constant", output=np.float32, prefilter=order > 1)
    return out
