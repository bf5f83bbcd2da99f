"""Several positions of the table: the images of all of them joined into one volume.

The table carries the patient along the axis of the rings, so each position shows another part, and neighbours overlap.
Each is reconstructed alone, from its own events, time and decay. A voxel that several have seen is their mean, weighted
by the counts that each expects from it per unit of activity: sensitivity times time. Towards the end of the rings this
weight falls to nothing, so there is no seam.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from acquisition.geometry import Grid
from acquisition.items import Image
from acquisition.verdict import Level, Verdict

_WHOLE = 1e-3  # of a slice: nearer than this a slice is taken as it is
_DIFFERENT = 0.15
_CORE = 0.2  # of the greatest weight: slices that both positions see well


@dataclass(frozen=True, slots=True, eq=False)
class BedImage:
    """What one position of the table shows."""

    image: Image
    """Its image, in the patient."""
    weight: NDArray[np.float32]
    """Counts expected of each voxel per unit of activity (z, y, x)."""


def joined(parts: Iterable[BedImage]) -> Iterator[Image]:
    """Yield one image for each frame and output, of all positions together, in the order in which they came."""
    groups: dict[tuple[object, ...], list[BedImage]] = {}
    for part in parts:
        groups.setdefault((part.image.output, part.image.position), []).append(part)
    for group in groups.values():
        yield _joined(group)


def _joined(parts: list[BedImage]) -> Image:
    grid = _around([p.image.grid for p in parts])
    total, weights = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.float32)
    main, most = np.zeros(grid.shape[0], int), np.zeros(grid.shape[0])
    for n, part in enumerate(parts):
        at = _slices(part.image.grid, grid)
        weight = _along(part.weight, at)
        total += _along(part.weight * part.image.data, at)
        weights += weight
        heavy = _per_slice(weight)
        main, most = np.where(heavy > most, n, main), np.maximum(heavy, most)
    first = parts[0].image
    verdicts = dict.fromkeys(v for p in parts for v in p.image.verdicts)
    image = replace(
        first,
        data=np.where(weights > 0, total / np.where(weights > 0, weights, 1), 0).astype(np.float32),
        grid=grid,
        verdicts=(*verdicts, *_checked(parts)),
        last_readout_s=max(p.image.last_readout_s for p in parts),
        attributes=_attributes(parts, main),
    )
    return image


def _around(grids: list[Grid]) -> Grid:
    """Return the slices of the first grid continued as far as the others reach."""
    first = grids[0]
    dz, axis = first.spacing_mm[0], np.asarray(first.z_dir)
    ends = [(np.subtract(g.origin_mm, first.origin_mm) @ axis) / dz for g in grids]
    low = int(np.ceil(min(ends) - _WHOLE))
    high = int(np.floor(max(end + g.shape[0] - 1 for end, g in zip(ends, grids, strict=True)) + _WHOLE))
    return replace(first, shape=(high - low + 1, *first.shape[1:]), origin_mm=first.world((low, 0, 0)))


def _slices(own: Grid, grid: Grid) -> NDArray[np.float64]:
    """Return which slice of a position each slice of the whole is, a fraction; beyond its ends nan."""
    away = np.subtract(grid.origin_mm, own.origin_mm) @ np.asarray(own.z_dir) / own.spacing_mm[0]
    at = away + np.arange(grid.shape[0])
    whole = np.abs(at - np.round(at)) < _WHOLE
    at = np.where(whole, np.round(at), at)
    return np.where((at >= 0) & (at <= own.shape[0] - 1), at, np.nan)


def _along(values: NDArray[np.float32], at: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return slices at fractions of the slices of a volume, straight between them; 0 where there are none."""
    inside = np.isfinite(at)
    low = np.floor(np.where(inside, at, 0)).astype(int)
    high = np.minimum(low + 1, len(values) - 1)
    part = (np.where(inside, at, 0) - low).astype(np.float32)[:, None, None]
    found = values[low] * (1 - part) + values[high] * part
    return np.where(inside[:, None, None], found, np.float32(0))


def _attributes(parts: list[BedImage], main: NDArray[np.int_]) -> dict[str, str]:
    """Return what the image tells: as the first position, but of each slice the time of the one that shows it best."""
    told = [dict(p.image.attributes) for p in parts]
    spans = [f"{t['frame_start_s']}:{t['frame_stop_s']}" for t in told]
    words = [t["corrected"].split() for t in told]
    return told[0] | {
        "frame_start_s": min((t["frame_start_s"] for t in told), key=float),
        "frame_stop_s": max((t["frame_stop_s"] for t in told), key=float),
        "slice_frames": " ".join(spans[n] for n in main.tolist()),
        "corrected": " ".join(w for w in words[0] if all(w in other for other in words)),
        "quantitative": "yes" if all(t["quantitative"] == "yes" for t in told) else "no",
        "n_beds": str(len(parts)),
    }


def _checked(parts: list[BedImage]) -> tuple[Verdict, ...]:
    """Return a finding on how well neighbours agree where they overlap."""
    axis = np.asarray(parts[0].image.grid.z_dir)
    ordered = sorted(parts, key=lambda p: float(np.asarray(p.image.grid.origin_mm) @ axis))
    found = [_difference(one, other) for one, other in pairwise(ordered)]
    if any(value is None for value in found):
        verdict = Verdict(
            check="pet.beds",
            level=Level.FLAG,
            advice="Positions of the table do not overlap: slices between them are missing.",
            value=float(sum(value is None for value in found)),
            unit="gaps",
        )
        return (verdict,)
    worst = max(value for value in found if value is not None) if found else 0.0
    bad = worst > _DIFFERENT
    verdict = Verdict(
        check="pet.beds",
        level=Level.FLAG if bad else Level.PASS,
        advice="Positions of the table differ where they overlap: has the patient moved between them?"
        if bad
        else "Positions of the table agree where they overlap.",
        value=100 * worst,
        limit=100 * _DIFFERENT,
        unit="%",
        evidence=f"{len(parts)} positions",
    )
    return (verdict,)


def _difference(one: BedImage, other: BedImage) -> float | None:
    """Return by which part the activity of both differs in the slices that both see well; None: they share none.

    Whole slices are compared: through the air beside a patient most counts come, but no activity is there.
    """
    at = _slices(other.image.grid, one.image.grid)
    if not np.isfinite(at).any():
        return None
    weight = np.sqrt(_per_slice(one.weight) * _per_slice(_along(other.weight, at)))
    weight = np.where(weight > _CORE * weight.max(), weight, 0)
    sums = [float(weight @ _per_slice(data)) for data in (one.image.data, _along(other.image.data, at))]
    return abs(sums[0] - sums[1]) / max(sum(sums) / 2, 1e-30)


def _per_slice(values: NDArray[np.float32]) -> NDArray[np.float64]:
    return values.sum(axis=(1, 2), dtype=float)
