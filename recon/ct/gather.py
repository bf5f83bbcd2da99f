"""All views of a table position, or of a helical scan, and the voxels that their rays run through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from acquisition.ct_geometry import fan_angles, focal_spots, row_heights_mm, row_pitch_iso_mm
from acquisition.errors import ConfigError, DataError, ReconError
from acquisition.geometry import Grid
from acquisition.items import Image, Projections
from acquisition.scan import CtHeader
from recon.ct.rays import WIDEST
from recon.ct.slices import SlicePlan

_MOST_BYTES = 4 << 30
_MOST_PIXELS = 1536  # along x or y of the volume that is reconstructed


class TablePositions:
    """Collects views; gives those of one table position when the next one begins, those of a helical scan at its end.

    Parameters
    ----------
    uid
        The scan's, for messages.
    ct
        The scanner.
    """

    def __init__(self, uid: str, ct: CtHeader) -> None:
        self._uid, self._ct = uid, ct
        self._blocks: list[Projections] = []

    def put(self, item: Projections) -> Iterator[Projections]:
        """Take views of the patient; give the position that they end.

        Raises
        ------
        DataError
            They are no line integrals, of another size, or too many to hold.
        """
        where, shape = f"scan {self._uid}: views", (self._ct.n_rows, self._ct.n_channels)
        if item.domain != "lines":
            raise DataError(where, expected="line integrals", got=item.domain, action="put ct.air before this step")
        if item.data.shape[1:] != shape:
            raise DataError(where, expected=f"{shape[0]} x {shape[1]} elements", got=str(item.data.shape[1:]))
        away = np.abs(np.diff(item.head["z_mm"])) > row_pitch_iso_mm(self._ct) / 2
        jumps = np.flatnonzero(away & (self._ct.mode == "axial")) + 1
        for part in np.split(np.arange(len(item)), jumps):
            photons = None if item.photons is None else item.photons[part].copy()
            block = replace(item, head=item.head[part].copy(), data=item.data[part].copy(), photons=photons)
            if self._moved(block):
                yield from self.rest()
            self._blocks.append(block)
        held = sum(b.data.nbytes for b in self._blocks)
        if held > _MOST_BYTES:
            got = f"{held >> 20} MiB and more to come"
            action = "reconstruct long scans by ct.helical"
            raise DataError(where, expected=f"at most {_MOST_BYTES >> 20} MiB at once", got=got, action=action)

    def rest(self) -> Iterator[Projections]:
        """Give what has been collected, if anything."""
        blocks, self._blocks = [b for b in self._blocks if len(b)], []
        if blocks:
            head, data = np.concatenate([b.head for b in blocks]), np.concatenate([b.data for b in blocks])
            told = [b.photons for b in blocks if b.photons is not None]
            photons = np.concatenate(told) if len(told) == len(blocks) else None
            yield replace(blocks[-1], head=head, data=data, photons=photons)

    def _moved(self, block: Projections) -> bool:
        held = [b for b in self._blocks if len(b)]
        if self._ct.mode == "helical" or not held or not len(block):
            return False
        return abs(block.head["z_mm"][0] - held[0].head["z_mm"][0]) > row_pitch_iso_mm(self._ct) / 2


def heights_mm(ct: CtHeader, plan: SlicePlan, head: NDArray[np.void]) -> list[float]:
    """Return z of the slices that views measure completely, in the order of the table's motion [mm].

    Axial: between the first and the last row at the axis. Helical: where every pixel is seen over half a turn and the
    fan.

    Raises
    ------
    ReconError
        A helical scan is too short for a single slice.
    """
    if ct.mode == "axial":
        span = ct.n_rows * row_pitch_iso_mm(ct)
        n = max(1, int(np.floor((span - plan.thickness_mm) / plan.increment_mm + 1e-6)) + 1)
        middle = head["z_mm"][0] + ((ct.n_rows - 1) / 2 - ct.centre[0]) * row_pitch_iso_mm(ct)
        return [float(middle + (k - (n - 1) / 2) * plan.increment_mm) for k in range(n)]
    way = float(head["z_mm"][-1] - head["z_mm"][0])
    turn = abs(way) * 2 * np.pi / max(abs(float(head["angle_rad"][-1] - head["angle_rad"][0])), 1e-9)
    inner = ct.n_rows * row_pitch_iso_mm(ct) / 2 * (1 - plan.radius_mm / ct.source_isocentre_mm)
    margin = max(0.0, turn * (0.5 + np.ptp(fan_angles(ct)) / (2 * np.pi)) - inner)
    n = int(np.floor((abs(way) - 2 * margin) / plan.increment_mm + 1e-6)) + 1
    if n < 1:
        expected = f"a way of {2 * margin:.1f} mm along the table"
        raise ReconError("helical slices", expected=expected, got=f"{abs(way):.1f} mm", action="measure a longer scan")
    start = head["z_mm"][0] + np.sign(way) * ((abs(way) - (n - 1) * plan.increment_mm) / 2)
    return [float(start + np.sign(way) * k * plan.increment_mm) for k in range(n)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """The voxels that the rays of some views run through; the slices' pixels are a part of its raster."""

    grid: Grid
    """Where they are in the gantry."""
    corner: tuple[int, int]
    """Index (y, x) of the slices' first pixel."""

    def image(self, mu: NDArray[np.float32], plan: SlicePlan, z_mm: float, index: int) -> Image:
        """Return the slice at `z_mm` of attenuation `mu` (z, y, x) [1/mm], in HU."""
        y, x = self.corner
        mu = mu[:, y : y + len(plan.ys), x : x + len(plan.xs)]
        centres = self.grid.origin_mm[2] + np.arange(len(mu)) * self.grid.spacing_mm[0]
        reach = (self.grid.spacing_mm[0] + plan.thickness_mm) / 2
        shares = np.clip(reach - np.abs(centres - z_mm), 0, min(self.grid.spacing_mm[0], plan.thickness_mm))
        if not shares.any():
            shares[np.abs(centres - z_mm).argmin()] = 1
        shares = (shares / shares.sum()).astype(np.float32)
        return plan.image(np.tensordot(shares, mu, 1), z_mm, index)


def reach_mm(ct: CtHeader) -> float:
    """Return the radius around the axis that half a turn and the fan see on one side at least [mm]."""
    return ct.source_isocentre_mm * float(np.sin(np.abs(fan_angles(ct)[[0, -1]]).max()))


def support_mm(ct: CtHeader, plan: SlicePlan, *, wanted_mm: float, least_mm: float) -> float:
    """Return the radius in which there are voxels [mm]: `wanted_mm` beyond the reach if they fit, `least_mm` anyway."""
    reach, step = reach_mm(ct), float(plan.xs[1] - plan.xs[0])
    most = min(WIDEST * ct.source_isocentre_mm, (_MOST_PIXELS / 2 - 1) * step)
    return max(min(reach + wanted_mm, most), reach + least_mm)


def surrounding(ct: CtHeader, plan: SlicePlan, head: NDArray[np.void], *, radius_mm: float) -> Volume:
    """Return voxels of the slices' pixel size around what the rays of some views meet within a radius of the axis.

    Raises
    ------
    ConfigError
        The pixels are so small that the volume is huge.
    """
    radius, step = radius_mm, float(plan.xs[1] - plan.xs[0])
    before = [max(0, int(np.ceil((axis[0] + radius) / step - 0.5))) for axis in (plan.ys, plan.xs)]
    after = [max(0, int(np.ceil((radius - axis[-1]) / step - 0.5))) for axis in (plan.ys, plan.xs)]
    ny, nx = (n + len(axis) for n, axis in zip(np.add(before, after), (plan.ys, plan.xs), strict=True))
    if max(ny, nx) > _MOST_PIXELS:
        raise ConfigError(
            "CT voxels",
            expected=f"at most {_MOST_PIXELS} pixels across a field of {2 * radius:.0f} mm",
            got=f"{max(ny, nx)} pixels of {step:.3f} mm",
            action="choose a smaller matrix or a larger fov_mm",
        )
    dz = plan.thickness_mm / plan.n_planes
    wide = (ct.source_isocentre_mm + radius) / ct.source_detector_mm
    rows, z = row_heights_mm(ct), focal_spots(ct, head)[:, 2]
    low, high = z.min() + wide * min(rows[0], 0), z.max() + wide * max(rows[-1], 0)
    first = heights_mm(ct, plan, head)[0] + (0.5 / plan.n_planes - 0.5) * plan.thickness_mm
    below, above = int(np.floor((low - first) / dz + 1e-6)), int(np.ceil((high - first) / dz - 1e-6))
    grid = Grid(
        shape=(max(above - below + 1, 1), int(ny), int(nx)),
        spacing_mm=(dz, step, step),
        origin_mm=(
            float(plan.xs[0] - before[1] * step),
            float(plan.ys[0] - before[0] * step),
            float(first + below * dz),
        ),
        x_dir=(1.0, 0.0, 0.0),
        y_dir=(0.0, 1.0, 0.0),
        z_dir=(0.0, 0.0, 1.0),
        thickness_mm=dz,
    )
    return Volume(grid=grid, corner=(before[0], before[1]))
