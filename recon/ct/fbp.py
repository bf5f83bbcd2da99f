"""Filtered backprojection of axial and helical CT: slices in HU, each as soon as its last view is in.

`Helical` is the weighted filtered backprojection of Stierstorfer et al. (Phys Med Biol 2004;49:2209,
DOI 10.1088/0031-9155/49/11/007); `Axial` is the same with the table at rest. Views are held only as long as a slice
needs them, so memory follows the pitch, not the length of the scan.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from acquisition.ct_geometry import checked, fan_angles, field_radius_mm, row_pitch_iso_mm
from acquisition.errors import DataError, HeaderError, ReconError
from acquisition.items import Image, Item, Projections
from acquisition.scan import Scan
from kernels.ct_tile import LANES
from recon.ct.extend import at_edge, truncation
from recon.ct.kernel import kernel_name, modulation
from recon.ct.parallel import CHUNK, ParallelViews
from recon.ct.rays import SHIFTS, Path, rays_of, shifts_of
from recon.ct.slices import SlicePlan, Wanted, planned

_LOG = logging.getLogger(__name__)
_BATCH = 16  # slices that are backprojected together, at most
_WELL_USED = 0.9  # part of the planes computed that must be new ones for a batch to be worth its work
_MOST_TURNS = 8  # held at once; a slower table than this is no helical scan


@dataclass(kw_only=True)
class _Parallel(Wanted):
    """What both have in common: the slices wanted, the views in order, the ring of parallel views."""

    def open(self, scan: Scan) -> None:
        """Check the geometry and plan the slices.

        Raises
        ------
        HeaderError
            Not a CT scan of this kind, or a geometry that this Step cannot use.
        """
        ct = checked(scan.require_ct(), f"scan {scan.uid}")
        if ct.mode != self._mode() or ct.views_per_rotation % 2:
            raise HeaderError(
                f"scan {scan.uid}: CT geometry",
                expected=f"{self._mode()}, an even number of views per rotation",
                got=f"{ct.mode}, {ct.views_per_rotation} views",
                action="choose the protocol for this kind of scan",
            )
        modulation(self.kernel)
        self._uid, self._ct = scan.uid, ct
        self._plan = planned(scan, ct, self, radius_mm=field_radius_mm(ct))
        self._views: ParallelViews | None = None
        self._waiting: list[tuple[NDArray[np.void], NDArray[np.float32]]] = []
        self._edge, self._n_made, self._received_s = 0.0, 0, 0.0
        self._arrivals: list[tuple[int, float]] = []

    def feed(self, item: Item) -> Iterator[Item]:
        """Take views; give the slices that are ready. Everything else passes.

        Raises
        ------
        DataError
            The views are no line integrals, or not evenly spaced along the path.
        """
        if not isinstance(item, Projections) or item.head["flags"].any():
            yield item
            return
        self._check(item)
        self._received_s = item.received_s
        self._edge = max(self._edge, at_edge(item.data[..., [0, -1]]))
        for start in range(0, len(item), CHUNK):
            yield from self._take(item.head[start : start + CHUNK], item.data[start : start + CHUNK])

    def close(self) -> Iterator[Item]:
        """Give the rest.

        Raises
        ------
        ReconError
            The scan was too short for a single slice.
        """
        yield from self._finish()
        if not self._n_made:
            raise ReconError(
                f"scan {self._uid}",
                expected="views of half a turn and the fan for at least one slice",
                got="fewer",
                action="check whether the scan was cut short",
            )
        _LOG.info("scan %s: %d slices", self._uid, self._n_made)

    def _mode(self) -> str:
        raise NotImplementedError

    def _ready(self, views: ParallelViews, *, last: int | None) -> Iterator[Image]:
        raise NotImplementedError

    def _started(self, path: Path) -> ParallelViews:
        raise NotImplementedError

    def _check(self, item: Projections) -> None:
        where, ct = f"scan {self._uid}: views", self._ct
        if item.domain != "lines":
            raise DataError(where, expected="line integrals", got=item.domain, action="put ct.air before this step")
        if item.data.shape[1:] != (ct.n_rows, ct.n_channels):
            raise DataError(where, expected=f"{ct.n_rows} x {ct.n_channels} elements", got=str(item.data.shape[1:]))

    def _take(self, head: NDArray[np.void], data: NDArray[np.float32]) -> Iterator[Image]:
        """Take at most `CHUNK` views."""
        if self._views is None:
            self._waiting.append((head.copy(), data.copy()))
            if sum(len(h) for h, _ in self._waiting) < CHUNK:
                return
            waiting, self._waiting = self._waiting, []
            head = np.concatenate([h for h, _ in waiting])
            data = np.concatenate([d for _, d in waiting])
            self._fans = self._path(head)
            self._views = self._started(self._fans)
        views = self._views
        for part in (slice(0, CHUNK), slice(CHUNK, None)):
            if len(head[part]):
                self._follows(views, head[part])
                views.put(data[part])
                self._arrivals.append((views.n_fans, self._received_s))
                while views.sort():
                    yield from self._ready(views, last=None)

    def _finish(self) -> Iterator[Image]:
        views, self._views = self._views, None
        if views is None:
            return
        while views.sort(at_least=1):
            yield from self._ready(views, last=None)
        yield from self._ready(views, last=views.stop - 1)

    def _path(self, head: NDArray[np.void]) -> Path:
        n, shifts = len(head) - 1, shifts_of(head, f"scan {self._uid}: views")
        if self._ct.views_per_rotation % (2 * len(shifts)):
            raise DataError(
                f"scan {self._uid}: views per rotation",
                expected=f"a multiple of {2 * len(shifts)} for a focal spot with {len(shifts)} positions",
                got=str(self._ct.views_per_rotation),
            )
        sign = 1.0 if head["angle_rad"][-1] > head["angle_rad"][0] else -1.0
        return Path(
            angle_rad=float(head["angle_rad"][0]),
            angle_step_rad=sign * 2 * np.pi / self._ct.views_per_rotation,
            z_mm=float(head["z_mm"][0]),
            z_step_mm=float(head["z_mm"][-1] - head["z_mm"][0]) / n,
            shifts=shifts,
        )

    def _follows(self, views: ParallelViews, head: NDArray[np.void]) -> None:
        path, number = self._fans, views.n_fans + np.arange(len(head))
        turned = np.abs(head["angle_rad"] - path.angle_rad - number * path.angle_step_rad).max()
        moved = np.abs(head["z_mm"] - path.z_mm - number * path.z_step_mm).max()
        if turned > abs(path.angle_step_rad) / 4 or moved > row_pitch_iso_mm(self._ct) / 2:
            raise DataError(
                f"scan {self._uid}: view {int(head['view'][0])} and {len(head) - 1} after it",
                expected="evenly spaced views, none missing",
                got=f"{np.rad2deg(turned):.3f} degrees and {moved:.3f} mm off the path",
                action="check for lost views",
            )
        pattern = np.array(path.shifts)[number % len(path.shifts)]
        if any(not np.allclose(head[name], pattern[:, k], rtol=1e-3, atol=1e-6) for k, name in enumerate(SHIFTS)):
            raise DataError(
                f"scan {self._uid}: view {int(head['view'][0])} and {len(head) - 1} after it",
                expected=f"a focal spot that flies as in the first {len(path.shifts)} views",
                got="another shift",
            )

    def _slices(self, views: ParallelViews, z_mm: list[float], span: tuple[int, int]) -> Iterator[Image]:
        """Reconstruct evenly spaced slices from the parallel views of `span`."""
        plan = self._plan
        made = plan.stacked(z_mm, lambda zs: views.planes(*span, place=(plan.xs, plan.ys, zs)))
        for mu_slice, z in zip(made, z_mm, strict=True):
            image = plan.image(mu_slice, z, self._n_made, kernel=kernel_name(self.kernel))
            self._n_made += 1
            image = replace(image, last_readout_s=self._measured_s(views, z))
            yield image.with_verdicts(truncation(self._edge, hu="estimates" if self.extend_mm else "wrong"))

    def _measured_s(self, views: ParallelViews, z_mm: float) -> float:
        """Return when the last view that the slice at `z_mm` needs was received; time.monotonic() [s]."""
        return self._received_s


@dataclass(kw_only=True)
class Axial(_Parallel):
    """Filtered backprojection of rotations with the table at rest (any number of table positions).

    A full turn, or any part of it from half a turn plus the fan angle up. A full turn is a closed circle: its first
    views follow its last, so that all rays are used twice, not only those that parallel views of one pass contain.
    """

    def open(self, scan: Scan) -> None:
        """Check the geometry, plan the slices, and make room for the views that close the circle."""
        super().open(scan)
        per_rad = self._ct.views_per_rotation / (2 * np.pi)
        self._n_first = 2 * int(np.ceil(np.abs(fan_angles(self._ct)).max() * per_rad)) + CHUNK
        self._first: list[NDArray[np.float32]] = []

    def feed(self, item: Item) -> Iterator[Item]:
        """Take views; give the slices of a table position when the next one begins. Everything else passes."""
        if not isinstance(item, Projections) or item.head["flags"].any() or not len(item):
            yield from super().feed(item)
            return
        jumps = np.abs(np.diff(item.head["z_mm"])) > row_pitch_iso_mm(self._ct) / 2
        for part in np.split(np.arange(len(item)), np.flatnonzero(jumps) + 1):
            block = replace(item, head=item.head[part], data=item.data[part])
            views = self._views
            if views is not None and abs(block.head["z_mm"][0] - views.path.z_mm) > row_pitch_iso_mm(self._ct) / 2:
                yield from self._finish()
            yield from super().feed(block)

    def _take(self, head: NDArray[np.void], data: NDArray[np.float32]) -> Iterator[Image]:
        """Take at most `CHUNK` views; remember the first of a table position."""
        self._first += [view.copy() for view in data[: max(self._n_first - len(self._first), 0)]]
        yield from super()._take(head, data)

    def _finish(self) -> Iterator[Image]:
        """Close the circle, and give the slices."""
        views, per_turn, first = self._views, self._ct.views_per_rotation, self._first
        self._first = []
        if views is not None and views.n_fans >= per_turn:
            again = 2 * views.ahead * len(self._fans.shifts)
            for start in range(views.n_fans - per_turn, again, CHUNK):
                views.put(np.array(first[start : min(start + CHUNK, again)]))
                while views.sort():
                    pass  # slices come when all is in
        yield from super()._finish()

    def _mode(self) -> str:
        return "axial"

    def _path(self, head: NDArray[np.void]) -> Path:
        return replace(super()._path(head), z_step_mm=0.0)

    def _started(self, path: Path) -> ParallelViews:
        capacity = 2 * self._ct.views_per_rotation // len(path.shifts)
        return ParallelViews(self._ct, path, kernel=self.kernel, capacity=capacity, extend_mm=self.extend_mm)

    def _ready(self, views: ParallelViews, *, last: int | None) -> Iterator[Image]:
        """Give the slices between the first and the last detector row, once all views of the position are in."""
        if last is None:
            return
        half = views.half
        n_views = last + 1 - views.first
        if n_views < half:
            raise ReconError(
                f"scan {self._uid}: table position {views.path.z_mm:.1f} mm",
                expected=f"half a turn and the fan angle: {half + 2 * views.ahead} views",
                got=f"{views.n_views}",
                action="check whether the rotation was cut short",
            )
        first = last + 1 - (n_views // half * half if n_views < len(views.ring) else len(views.ring) // half * half)
        span = self._ct.n_rows * row_pitch_iso_mm(self._ct)
        n = max(1, int(np.floor((span - self._plan.thickness_mm) / self._plan.increment_mm + 1e-6)) + 1)
        middle = ((self._ct.n_rows - 1) / 2 - self._ct.centre[0]) * row_pitch_iso_mm(self._ct)
        offsets = (np.arange(n) - (n - 1) / 2) * self._plan.increment_mm
        z = (views.path.z_mm + middle + offsets).tolist()
        for start in range(0, n, _BATCH):
            yield from self._slices(views, z[start : start + _BATCH], (first, last))


@dataclass(kw_only=True)
class Helical(_Parallel):
    """Weighted filtered backprojection of a helical scan, slice by slice while the gantry turns."""

    def _mode(self) -> str:
        return "helical"

    def _started(self, path: Path) -> ParallelViews:
        ct, plan, per_turn = self._ct, self._plan, self._ct.views_per_rotation // len(path.shifts)
        step = abs(path.parallel.z_step_mm)
        height = ct.n_rows * ct.pitch_mm[0] / ct.source_detector_mm / 2
        reach = height * (ct.source_isocentre_mm + plan.radius_mm) + plan.thickness_mm / 2
        self._next_mm: float | None = None
        if step * _MOST_TURNS / 2 * per_turn < reach:
            raise DataError(
                f"scan {self._uid}: table",
                expected=f"a moving table, at least {2 * reach / _MOST_TURNS:.2f} mm per rotation",
                got=f"{step * per_turn:.3f} mm per rotation",
                action="choose the axial protocol",
            )
        if step * per_turn / 2 > 2 * height * (ct.source_isocentre_mm - plan.radius_mm):
            raise DataError(
                f"scan {self._uid}: pitch",
                expected=f"a feed of at most {4 * height * (ct.source_isocentre_mm - plan.radius_mm):.1f} mm per turn "
                f"for a field of view of {2 * plan.radius_mm:.0f} mm",
                got=f"{step * per_turn:.1f} mm",
                action="choose a smaller fov_mm",
            )
        half = per_turn // 2
        ahead = int(np.ceil(np.abs(rays_of(ct, path).later).max() / len(path.shifts))) + 1
        self._reach = max(int(np.ceil(reach / step)) + ahead, half // 2 + 1)
        inner = height * ct.source_isocentre_mm + plan.thickness_mm / 2
        self._needed = max(int(np.ceil(inner / step)), half // 2 + 1)
        self._together = together(plan)
        batch = int(np.ceil((self._together - 1) * plan.increment_mm / step))
        capacity = 2 * self._reach + batch + CHUNK
        return ParallelViews(ct, path, kernel=self.kernel, capacity=capacity, extend_mm=self.extend_mm)

    def _ready(self, views: ParallelViews, *, last: int | None) -> Iterator[Image]:
        """Give the next batches whose views are in; at the end of the scan, all that half a turn covers."""
        path, plan = views.path, self._plan
        sign = 1.0 if path.z_step_mm > 0 else -1.0
        if self._next_mm is None:
            self._next_mm = path.z_mm + (views.first + self._needed) * path.z_step_mm
        after = self._reach if last is None else self._needed
        latest = path.z_mm + (views.stop - 1 - after) * path.z_step_mm
        while True:
            count = int(np.floor(sign * (latest - self._next_mm) / plan.increment_mm + 1e-9)) + 1
            if count < (self._together if last is None else 1):
                return
            z = [self._next_mm + sign * k * plan.increment_mm for k in range(min(count, self._together))]
            ends = sorted((zz - path.z_mm) / path.z_step_mm for zz in (z[0], z[-1]))
            first = max(int(np.floor(ends[0])) - self._reach, views.first, views.stop - len(views.ring))
            span = (first, min(int(np.ceil(ends[1])) + self._reach, views.stop - 1))
            images = list(self._slices(views, sorted(z), span))
            yield from images if sign > 0 else _in_order_of_time(images)
            self._next_mm = z[-1] + sign * plan.increment_mm

    def _measured_s(self, views: ParallelViews, z_mm: float) -> float:
        ends = int(np.ceil((z_mm - views.path.z_mm) / views.path.z_step_mm)) + self._reach + views.ahead
        needed = min((ends + 1) * len(self._fans.shifts), views.n_fans)
        return self._arrivals[bisect_left(self._arrivals, (needed, -np.inf))][1]


def together(plan: SlicePlan) -> int:
    """Return how many slices to backproject together: as few as fill the planes that are computed abreast."""
    if not plan.stride:
        return 1
    for n in range(1, _BATCH):
        planes = (n - 1) * plan.stride + plan.n_planes
        if n * plan.stride >= _WELL_USED * LANES * np.ceil(planes / LANES):
            return n
    return _BATCH


def _in_order_of_time(images: list[Image]) -> list[Image]:
    """Return a batch of a table that moves along -z, the first measured first, with the counters to match."""
    counters = [i.position for i in images]
    return [replace(i, position=c) for i, c in zip(reversed(images), counters, strict=True)]
