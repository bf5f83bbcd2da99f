"""Objects for the virtual PET scanner: solids of activity and of attenuation at 511 keV. LPS, mm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from acquisition.errors import ConfigError
from acquisition.geometry import Vector
from acquisition.sources.phantom.ct_people import inserted
from acquisition.sources.phantom.objects import Ellipsoid, Phantom, Tissue
from acquisition.sources.phantom.solids import Cylinder
from acquisition.sources.phantom.torso import torso as mr_torso

WATER, LUNG, BONE = 0.0096, 0.0026, 0.0151
"""Attenuation at 511 keV [1/mm]."""
NEMA_SPHERES_MM = (10.0, 13.0, 17.0, 22.0, 28.0, 37.0)
"""Diameters of the spheres of the IEC body phantom [mm]."""
_NEMA_CIRCLE_MM = 57.2


@dataclass(frozen=True, kw_only=True, eq=False)
class PetObject:
    """A tree of solids, each with its attenuation and its activity."""

    body: Phantom
    """The solids; their value is the attenuation at 511 keV [1/mm]."""
    bq_per_ml: tuple[float, ...]
    """Activity of each solid at the start of the scan [Bq/mL]."""

    def __post_init__(self) -> None:
        if len(self.bq_per_ml) != len(self.body.ellipsoids) or min(self.bq_per_ml, default=0.0) < 0:
            raise ConfigError(
                "PET object",
                expected=f"an activity of 0 Bq/mL or more for each of {len(self.body.ellipsoids)} solids",
                got=f"{len(self.bq_per_ml)} of them, the least {min(self.bq_per_ml, default=0.0)}",
            )

    @cached_property
    def activity(self) -> Phantom:
        """The same solids with the activity as their value [Bq/mL]."""
        parts = zip(self.body.ellipsoids, self.bq_per_ml, strict=True)
        return replace(self.body, ellipsoids=tuple(replace(e, tissue=Tissue(a, np.inf)) for e, a in parts))

    @property
    def landmarks_mm(self) -> Mapping[str, Vector]:
        """Named places, LPS [mm]."""
        return self.body.landmarks_mm

    def transformed(self, matrix: ArrayLike, shift_mm: ArrayLike = (0.0, 0.0, 0.0)) -> PetObject:
        """Return the object after ``p -> matrix @ p + shift``."""
        return PetObject(body=self.body.transformed(matrix, shift_mm), bq_per_ml=self.bq_per_ml)


def point(place_mm: Vector = (0.0, 0.0, 0.0), *, bq: float = 1e5, radius_mm: float = 0.5) -> PetObject:
    """Return a small ball in air with `bq` of activity."""
    ball = Ellipsoid(np.array(place_mm, float), radius_mm * np.eye(3), Tissue(0.0, np.inf))
    return PetObject(body=Phantom(ellipsoids=(ball,)), bq_per_ml=(bq / (4 / 3 * np.pi * radius_mm**3 / 1000),))


def cylinder(
    *, radius_mm: float = 100.0, length_mm: float = 200.0, bq_per_ml: float = 10e3, mu_per_mm: float = WATER
) -> PetObject:
    """Return a uniform cylinder along the axis of the rings."""
    solid = _rod((0.0, 0.0, 0.0), (radius_mm, radius_mm, length_mm / 2), mu_per_mm)
    return PetObject(body=Phantom(ellipsoids=(solid,)), bq_per_ml=(bq_per_ml,))


def nema_body(*, ratio: float = 4.0, background_bq_per_ml: float = 5300.0, cold: tuple[int, ...] = ()) -> PetObject:
    """Return the IEC body phantom of NEMA NU 2: six spheres in one plane, a lung insert, warm background.

    The outline is an ellipse of 294 mm by 230 mm, 180 mm long; walls have no thickness. Landmarks are ``sphere_10``
    to ``sphere_37`` and ``lung``.

    Parameters
    ----------
    ratio
        Activity in the spheres against the background.
    background_bq_per_ml
        Activity of the background [Bq/mL].
    cold
        Numbers (0 to 5, smallest first) of spheres without activity.
    """
    parts: list[Ellipsoid] = [
        _rod((0.0, 0.0, 0.0), (147.0, 115.0, 90.0), WATER),
        _rod((0.0, 0.0, 0.0), (25.0, 25.0, 89.9), LUNG, parent=0),
    ]
    activity = [background_bq_per_ml, 0.0]
    places: dict[str, Vector] = {"lung": (0.0, 0.0, 0.0)}
    for n, diameter in enumerate(NEMA_SPHERES_MM):
        angle = np.deg2rad(60.0 * n - 150.0)
        place = (_NEMA_CIRCLE_MM * float(np.cos(angle)), _NEMA_CIRCLE_MM * float(np.sin(angle)), 0.0)
        parts.append(Ellipsoid(np.array(place), diameter / 2 * np.eye(3), Tissue(WATER, np.inf), 0))
        activity.append(0.0 if n in cold else ratio * background_bq_per_ml)
        places[f"sphere_{diameter:.0f}"] = place
    return PetObject(body=Phantom(ellipsoids=tuple(parts), landmarks_mm=places), bq_per_ml=tuple(activity))


# name: (parent, mu [1/mm], activity against white matter, centre [mm], semi-axes [mm]); parents first.
_BRAIN: dict[str, tuple[str | None, float, float, Vector, Vector]] = {
    "skin": (None, WATER, 0.4, (0, 0, 0), (76, 96, 110)),
    "skull": ("skin", BONE, 0.2, (0, 0, 5), (71, 91, 98)),
    "fluid": ("skull", WATER, 0.1, (0, 0, 5), (66, 86, 93)),
    "grey": ("fluid", WATER, 4.0, (0, 0, 5), (63, 83, 90)),
    "white": ("grey", WATER, 1.0, (0, 0, 8), (52, 71, 76)),
    "ventricle_left": ("white", WATER, 0.0, (11, -8, 12), (5, 22, 9)),
    "ventricle_right": ("white", WATER, 0.0, (-12, -6, 12), (7, 24, 10)),
    "caudate_left": ("white", WATER, 4.0, (20, -22, 8), (4, 9, 9)),
    "caudate_right": ("white", WATER, 4.0, (-23, -22, 8), (4, 9, 9)),
    "putamen_left": ("white", WATER, 4.4, (30, -4, 4), (6, 15, 9)),
    "putamen_right": ("white", WATER, 4.4, (-32, -4, 4), (6, 15, 9)),
    "thalamus_left": ("white", WATER, 4.0, (10, 22, 2), (7, 9, 8)),
    "thalamus_right": ("white", WATER, 4.0, (-11, 24, 2), (7, 9, 8)),
}


def brain(seed: int = 0, *, white_bq_per_ml: float = 8e3) -> PetObject:
    """Return a head after Hoffman: grey to white matter about 4 to 1, cold ventricles; every seed is another one."""
    rng = np.random.default_rng([seed, 31])
    names = list(_BRAIN)
    parts, activity = [], []
    for parent, mu, uptake, centre, axes in _BRAIN.values():
        inner = parent == "white"
        scale = rng.uniform(0.85, 1.0, 3) if inner else np.ones(3)
        above = -1 if parent is None else names.index(parent)
        parts.append(Ellipsoid(np.array(centre, float), np.diag(np.array(axes) * scale), Tissue(mu, np.inf), above))
        activity.append(white_bq_per_ml * uptake * float(rng.uniform(0.9, 1.1)))
    body = Phantom(ellipsoids=tuple(parts), landmarks_mm={n: _BRAIN[n][3] for n in names})
    size = np.diag(1 + 0.06 * rng.uniform(-1, 1, 3))
    return PetObject(body=body.transformed(size), bq_per_ml=tuple(activity))


# Order of the torso's solids: (mu [1/mm], SUV).
_TORSO: tuple[tuple[float, float], ...] = (
    (0.0090, 0.3),  # skin and fat
    (WATER, 0.7),  # muscle
    (0.0093, 0.6),  # cavity
    (0.0125, 0.9),  # spine
    (0.0110, 1.4),  # marrow
    (LUNG, 0.5),
    (LUNG, 0.5),
    (WATER, 3.0),  # myocardium
    (0.0099, 1.8),  # ventricles
    (0.0099, 1.8),
    (0.0099, 1.8),  # aorta
    (0.0101, 2.3),  # liver
    (0.0099, 1.8),  # veins
    (0.0099, 1.8),
    (0.0099, 8.0),  # metastasis
    (WATER, 1.5),  # stomach
    (0.0100, 1.9),  # spleen
    (0.0099, 3.5),  # kidneys
    (0.0099, 3.5),
    (WATER, 1.2),  # bowel
)
_LUNGS, _LIVER = (5, 6), 11
_LESIONS = (2, 5)
_TRIALS = 40


def torso(
    seed: int = 0, *, breath: float = 0.0, bq_per_ml_per_suv: float = 4e3, centre_mm: Vector = (0.0, 0.0, 0.0)
) -> PetObject:
    """Return one torso with lesions in lungs and liver; the same `seed` is always the same person.

    Landmarks are those of the body and ``lesion_0`` onwards.

    Parameters
    ----------
    seed
        Chooses the person and the lesions.
    breath
        0: end of expiration, 1: a full breath; lesions go with their organ.
    bq_per_ml_per_suv
        Activity at a standardised uptake value of 1 [Bq/mL].
    centre_mm
        The place in the body that lies in the middle of the rings, LPS [mm].
    """
    rng = np.random.default_rng([seed, 37])
    uptake = [suv * float(rng.uniform(0.85, 1.15)) for _, suv in _TORSO]
    rest, body = _tissues(seed, 0.0), _tissues(seed, breath)
    for n in range(rng.integers(_LESIONS[0], _LESIONS[1] + 1)):
        for _ in range(_TRIALS):
            host = int(rng.choice((*_LUNGS, _LIVER)))
            u = rng.normal(size=3)
            u *= rng.uniform(0, 0.8) / np.linalg.norm(u)
            radii = np.diag(rng.uniform(4, 11) * rng.uniform(0.8, 1.2, 3))
            suv = float(rng.uniform(3, 12))
            try:
                rest = _with(rest, host, (u, radii), f"lesion_{n}")
            except ConfigError:
                continue
            body = body if breath == 0 else _with(body, host, (u, radii), f"lesion_{n}")
            uptake.append(suv)
            break
    found = PetObject(body=rest if breath == 0 else body, bq_per_ml=tuple(bq_per_ml_per_suv * s for s in uptake))
    return found.transformed(np.eye(3), -np.asarray(centre_mm, float))


def breathing_torso(seed: int = 0, *, centre_mm: Vector = (0.0, 0.0, 0.0)) -> Callable[[float], PetObject]:
    """Return the torso of a seed at each depth of breath."""
    return lambda breath: torso(seed, breath=breath, centre_mm=centre_mm)


def _tissues(seed: int, breath: float) -> Phantom:
    phantom = mr_torso(seed, breath=breath)
    parts = zip(phantom.ellipsoids, _TORSO, strict=True)
    return replace(phantom, ellipsoids=tuple(replace(e, tissue=Tissue(mu, np.inf)) for e, (mu, _) in parts))


def _with(phantom: Phantom, host: int, lesion: tuple[np.ndarray, np.ndarray], name: str) -> Phantom:
    """Return the body with a lesion at a place given in the coordinates of its host."""
    inside = phantom.ellipsoids[host]
    centre = inside.centre + inside.matrix @ lesion[0]
    return inserted(phantom, Ellipsoid(centre, lesion[1], Tissue(WATER, np.inf)), name=name)


def _rod(centre: Vector, axes: Vector, mu: float, *, parent: int = -1) -> Cylinder:
    return Cylinder(np.array(centre, float), np.diag(np.array(axes, float)), Tissue(mu, np.inf), parent)
