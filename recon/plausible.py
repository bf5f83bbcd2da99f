"""Look before you quantify: does what is seen fit the anatomy and the modality? ``check.centre``, ``check.plausible``.

Neither is about artefacts: a wrong body part, a wrong scale, another patient's weight, an object half outside the field
of view make numbers wrong while the images look well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ConfigError
from acquisition.verdict import Level, Verdict
from recon import quality
from recon.planes import LookingAtImages, Plane
from recon.quality import Parts

_AIR_HU = -500.0
_FLESH_HU = (-200.0, 200.0)
_SPECIFIC = (0.05, 8.0)  # of the mean activity, as SUV: outside it dose, weight or scale are wrong
_LARGEST_MM = {
    "HEAD": (100.0, 340.0),
    "BRAIN": (100.0, 340.0),
    "SKULL": (100.0, 340.0),
    "NECK": (60.0, 550.0),
    "CHEST": (150.0, 700.0),
    "ABDOMEN": (150.0, 700.0),
    "PELVIS": (150.0, 700.0),
    "KNEE": (60.0, 400.0),
    "ANKLE": (50.0, 400.0),
    "WRIST": (30.0, 300.0),
    "HAND": (30.0, 300.0),
}
"""Least and largest extent of the object within a slice [mm], by DICOM body part: small child to large adult."""
_LITRES = {"HEAD": 9.0, "BRAIN": 9.0, "SKULL": 9.0, "KNEE": 12.0, "ANKLE": 8.0, "WRIST": 5.0, "HAND": 5.0}
"""Largest volume of the object [L], where one part of the body is meant."""
Seen = list[tuple[Plane, NDArray[np.bool_]]]


@dataclass(kw_only=True)
class CheckCentre(LookingAtImages):
    """Does the patient lie in the middle of the field of view? Said of the images, whatever the modality."""

    limit: float = 0.18
    """Distance of the object's middle from that of the field of view, part of its shorter side."""

    def __post_init__(self) -> None:
        if not 0 < self.limit < 1:
            raise ConfigError("check.centre limit", expected="a number above 0, below 1", got=str(self.limit))

    def _judged(self) -> Iterator[Verdict]:
        seen = _objects(self._planes.middle, self._scan.modality)
        if not seen:
            return
        offsets = np.array([_offset_mm(plane, inside) for plane, inside in seen])
        away = np.median(offsets, axis=0)
        grid = seen[0][0].grid
        side = min(n * s for n, s in zip(grid.shape[1:], grid.spacing_mm[1:], strict=True))
        distance = float(np.linalg.norm(away))
        off = distance > self.limit * side
        x, y, z = (float(v) for v in away)
        yield Verdict(
            check="check.centre",
            level=Level.FLAG if off else Level.PASS,
            advice=f"The patient lies {distance:.0f} mm off the middle of the images: centre for the next scan."
            if off
            else "The patient lies in the middle of the images.",
            value=distance,
            limit=self.limit * side,
            unit="mm",
            evidence=f"middle of the object at left {x:.0f}, back {y:.0f}, head {z:.0f} mm from that of the image",
        )


@dataclass(kw_only=True)
class CheckPlausible(LookingAtImages):
    """Do size, levels and contrast fit what was to be imaged? A FLAG says: look before you quantify."""

    body_part: str = ""
    """DICOM body part that is meant; empty: what the header says."""

    def _judged(self) -> Iterator[Verdict]:
        planes = self._planes.middle
        seen = _objects(planes, self._scan.modality)
        if not seen:
            return
        part = (self.body_part or self._scan.study.body_part or "").strip().upper()
        troubles = [*_size(seen, part, self._planes.n), *_levels(seen, self._scan.modality), *self._activity(seen)]
        yield Verdict(
            check="check.plausible",
            level=Level.FLAG if troubles else Level.PASS,
            advice=f"Look before you quantify: {'; '.join(troubles)}."
            if troubles
            else "Size and levels fit what was to be imaged.",
            value=float(len(troubles)),
            limit=0.0,
            unit="findings",
            evidence=_extents(seen, part),
        )

    def _activity(self, seen: Seen) -> Iterator[str]:
        """Yield what is odd about the activity of a PET image, where dose and weight are known."""
        pet, weight = self._scan.pet, self._scan.patient.weight_kg
        dose = pet.tracer.dose_bq if pet and pet.tracer else None
        if not dose or not weight:
            return
        mean = float(np.mean([plane.data[inside].mean() for plane, inside in seen]))
        uptake = mean * weight * 1e3 / dose
        if not _SPECIFIC[0] < uptake < _SPECIFIC[1]:
            yield f"the mean uptake is {uptake:.3g} of what an even spread would give: are dose, weight and time right"


def _objects(planes: list[Plane], modality: str) -> Seen:
    found = [(plane, _inside(plane, modality)) for plane in planes]
    return [(plane, inside) for plane, inside in found if inside is not None and inside.mean() > 0.01]


def _inside(plane: Plane, modality: str) -> NDArray[np.bool_] | None:
    data = np.maximum(plane.data + 1024.0, 0) if modality == "CT" else plane.data
    where: Parts | None = quality.parts(data.astype(np.float32))
    return None if where is None else where.inside


def _offset_mm(plane: Plane, inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return how far the object's middle is from the slice's, LPS (3,) [mm]: of its bounding box, not of its mass."""
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    place = plane.grid.world((0, (rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2))
    return np.subtract(place, plane.grid.centre_mm)


def _extent_mm(plane: Plane, inside: NDArray[np.bool_]) -> float:
    sides = (np.ptp(np.flatnonzero(inside.any(axis=1))), np.ptp(np.flatnonzero(inside.any(axis=0))))
    return float(max((n + 1) * s for n, s in zip(sides, plane.grid.spacing_mm[1:], strict=True)))


def _litres(seen: Seen, n: int) -> float:
    """Return the volume of the object, taken that the slices looked at are like all `n`."""
    areas = [float(inside.sum()) * p.grid.spacing_mm[1] * p.grid.spacing_mm[2] for p, inside in seen]
    return float(np.mean(areas)) * _step_mm(seen) * n * 1e-6


def _step_mm(seen: Seen) -> float:
    """Return the distance of neighbouring slices [mm]."""
    if len(seen) < 2:
        return seen[0][0].grid.spacing_mm[0]
    (one, _), (other, _) = seen[0], seen[-1]
    way = float(np.linalg.norm(np.subtract(other.grid.origin_mm, one.grid.origin_mm)))
    return way / max(other.index - one.index, 1)


def _size(seen: Seen, part: str, n: int) -> Iterator[str]:
    if part not in _LARGEST_MM:
        return
    extent = max(_extent_mm(plane, inside) for plane, inside in seen)
    low, high = _LARGEST_MM[part]
    if not low <= extent <= high:
        yield f"{extent:.0f} mm across is not a {part.lower()} ({low:.0f} to {high:.0f} mm)"
    litres = _litres(seen, n)
    if litres > _LITRES.get(part, np.inf):
        yield f"{litres:.1f} L is too much for a {part.lower()}"


def _levels(seen: Seen, modality: str) -> Iterator[str]:
    if modality == "CT":
        values = np.concatenate([plane.data[inside] for plane, inside in seen])
        flesh = float(np.median(values[values > _AIR_HU])) if (values > _AIR_HU).any() else float(np.median(values))
        if not _FLESH_HU[0] <= flesh <= _FLESH_HU[1]:
            yield f"the median of the body is {flesh:.0f} HU, which is no soft tissue: is the calibration right"
        return
    values = np.concatenate([plane.data[inside] for plane, inside in seen])
    bright, usual = float(np.percentile(values, 99.9)), float(np.median(values))
    if modality == "MR" and usual > 0 and bright > 40 * usual:
        yield f"a few voxels are {bright / usual:.0f} times as bright as the rest: metal, or an object in the coil"


def _extents(seen: Seen, part: str) -> str:
    extent = max(_extent_mm(plane, inside) for plane, inside in seen)
    return f"{part or 'body part not told'}, {extent:.0f} mm across, {len(seen)} slices looked at"
