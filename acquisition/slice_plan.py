"""Where the next series goes: a slab of slices in patient coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from acquisition.errors import ConfigError
from acquisition.geometry import Grid, Vector


@dataclass(frozen=True, slots=True, kw_only=True)
class SlicePlan:
    """Position and orientation of the next series, in patient coordinates.

    Raises
    ------
    ConfigError
        A direction is no unit vector, the two are not perpendicular, or a size is not above 0.
    """

    name: str
    """What is prescribed, e.g. brain-acpc."""
    centre_mm: Vector
    """Centre of the slab, LPS [mm]."""
    normal: Vector
    """Unit slice normal, towards growing slice index, LPS."""
    in_plane: Vector
    """Unit vector of growing x in the plane (DICOM's row cosine), LPS."""
    fov_mm: tuple[float, float]
    """Field of view (y, x) [mm]."""
    n_slices: int
    """Number of slices."""
    slice_distance_mm: float
    """Distance of slice centres [mm]."""
    slice_thickness_mm: float = 0.0
    """Thickness of a slice [mm]; 0: the distance, so that slices touch."""
    frame_of_reference_uid: str | None = None
    """Frame of reference of the localizer, in which all places are."""
    landmarks_mm: Mapping[str, Vector] = field(default_factory=dict)
    """Landmarks it rests on, LPS [mm]."""
    confidence: float = 0.0
    """0 ... 1."""
    evidence: Mapping[str, float] = field(default_factory=dict)
    """Figures behind the confidence, by name with the unit at its end."""

    def __post_init__(self) -> None:
        n, x = np.asarray(self.normal, float), np.asarray(self.in_plane, float)
        lengths = np.linalg.norm(n), np.linalg.norm(x)
        if max(abs(length - 1) for length in lengths) > 1e-3 or abs(n @ x) > 1e-3:
            got = f"lengths {lengths[0]:.4f}, {lengths[1]:.4f}, cosine {n @ x:.4f}"
            raise ConfigError(f"plan {self.name}", expected="two perpendicular unit vectors", got=got)
        if self.n_slices < 1 or self.slice_distance_mm <= 0 or min(self.fov_mm) <= 0 or self.slice_thickness_mm < 0:
            got = f"{self.n_slices} slices every {self.slice_distance_mm:g} mm, field of view {self.fov_mm}"
            raise ConfigError(f"plan {self.name}", expected="sizes above 0", got=got)

    @property
    def y_dir(self) -> Vector:
        """Unit vector of growing y in the plane (DICOM's column cosine): ``normal`` cross ``in_plane``, LPS."""
        x, y, z = (float(v) for v in np.cross(self.normal, self.in_plane))
        return (x, y, z)

    @property
    def thickness_mm(self) -> float:
        """Thickness of a slice [mm]."""
        return self.slice_thickness_mm or self.slice_distance_mm

    @property
    def coverage_mm(self) -> float:
        """Height of the slab from outer face to outer face [mm]."""
        return (self.n_slices - 1) * self.slice_distance_mm + self.thickness_mm

    def grid(self, pixel_mm: float) -> Grid:
        """Return the slices as a grid of square pixels of about this side: each one's place and corners."""
        n_y, n_x = (max(1, round(side / pixel_mm)) for side in self.fov_mm)
        return Grid.from_centre(
            self.centre_mm,
            shape=(self.n_slices, n_y, n_x),
            spacing_mm=(self.slice_distance_mm, self.fov_mm[0] / n_y, self.fov_mm[1] / n_x),
            directions=(self.in_plane, self.y_dir, self.normal),
            thickness_mm=self.thickness_mm,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it as what JSON can hold, with what follows from it."""
        places = {name: list(place) for name, place in self.landmarks_mm.items()}
        derived = {"y_dir": list(self.y_dir), "coverage_mm": self.coverage_mm}
        return {**asdict(self), "landmarks_mm": places, "evidence": dict(self.evidence), **derived}


def plan_of(document: Mapping[str, Any], *, where: str) -> SlicePlan:
    """Return the plan that `SlicePlan.as_dict` wrote; `where` is named in errors.

    Raises
    ------
    ConfigError
        Something is missing, or is not what it should be.
    """
    try:
        return SlicePlan(
            name=str(document["name"]),
            centre_mm=_vector(document["centre_mm"]),
            normal=_vector(document["normal"]),
            in_plane=_vector(document["in_plane"]),
            fov_mm=(float(document["fov_mm"][0]), float(document["fov_mm"][1])),
            n_slices=int(document["n_slices"]),
            slice_distance_mm=float(document["slice_distance_mm"]),
            slice_thickness_mm=float(document.get("slice_thickness_mm", 0.0)),
            frame_of_reference_uid=document.get("frame_of_reference_uid"),
            landmarks_mm={str(k): _vector(v) for k, v in document.get("landmarks_mm", {}).items()},
            confidence=float(document.get("confidence", 0.0)),
            evidence={str(k): float(v) for k, v in document.get("evidence", {}).items()},
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        told = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{where}: slice plan", expected="what `isocenter plan --json` prints", got=told) from error


def _vector(values: Any) -> Vector:
    x, y, z = (float(v) for v in values)
    return (x, y, z)


__all__ = ["SlicePlan", "plan_of"]
