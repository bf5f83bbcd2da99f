"""Thousands of different people for the virtual CT scanner: every seed is another one, none is impossible.

The tables of `ct_objects` are the template. Structures shrink inside the place they had, their HU vary, lesions and
vessels are put where there is room, and the whole is stretched, sheared and turned; so the tree stays a proper tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from acquisition.errors import ConfigError
from acquisition.geometry import Vector
from acquisition.sources.phantom.ct_matter import contrast_agent
from acquisition.sources.phantom.ct_objects import ABDOMEN, CHEST, HEAD, Anatomy, of_hu
from acquisition.sources.phantom.objects import Ellipsoid, Floats, Phantom, Tissue


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sown:
    """Small structures that are put somewhere into a host."""

    host: str
    """Name of the structure they lie in."""
    count: tuple[int, int]
    """Fewest and most."""
    hu: tuple[float, float]
    """Lowest and highest."""
    radius_mm: tuple[float, float]
    """Smallest and largest semi-axis [mm]."""
    length: float = 1.4
    """Longest semi-axis against the others."""


_ANATOMIES: Mapping[str, Anatomy] = {"chest": CHEST, "abdomen": ABDOMEN, "head": HEAD}
_VESSELS = ("aorta", "vessel", "heart", "kidney")
_SOWN: Mapping[str, tuple[_Sown, ...]] = {
    "chest": (
        _Sown(host="lung_left", count=(6, 14), hu=(20, 60), radius_mm=(1.5, 4), length=5),
        _Sown(host="lung_right", count=(6, 14), hu=(20, 60), radius_mm=(1.5, 4), length=5),
        _Sown(host="lung_left", count=(0, 3), hu=(-700, 60), radius_mm=(2, 9)),
        _Sown(host="lung_right", count=(0, 3), hu=(-700, 60), radius_mm=(2, 9)),
        _Sown(host="heart", count=(0, 2), hu=(300, 900), radius_mm=(0.8, 2)),
        _Sown(host="body", count=(2, 6), hu=(300, 700), radius_mm=(3, 6), length=3),
    ),
    "abdomen": (
        _Sown(host="liver", count=(0, 6), hu=(0, 100), radius_mm=(3, 10)),
        _Sown(host="liver", count=(2, 6), hu=(40, 70), radius_mm=(1.5, 3), length=5),
        _Sown(host="kidney_left", count=(0, 2), hu=(0, 700), radius_mm=(1.5, 5)),
        _Sown(host="body", count=(2, 8), hu=(-110, 60), radius_mm=(4, 12), length=2),
        _Sown(host="body", count=(0, 3), hu=(-980, -900), radius_mm=(3, 8)),
    ),
    "head": (
        _Sown(host="brain", count=(0, 3), hu=(55, 80), radius_mm=(2, 10)),
        _Sown(host="brain", count=(0, 3), hu=(10, 26), radius_mm=(3, 12)),
        _Sown(host="brain", count=(0, 3), hu=(150, 600), radius_mm=(1, 2.5)),
    ),
}
_TRIALS = 60


def person(region: str, seed: int, *, iodine_mg_per_ml: float = 0.0) -> Phantom:
    """Return one person; the same `seed` is always the same one.

    Parameters
    ----------
    region
        chest, abdomen or head.
    seed
        Chooses the person.
    iodine_mg_per_ml
        Contrast agent in the vessels [mg/ml]; 0: none.

    Raises
    ------
    ConfigError
        The region is unknown.
    """
    if region not in _ANATOMIES:
        raise ConfigError("CT person", expected=f"one of {', '.join(sorted(_ANATOMIES))}", got=repr(region))
    rng = np.random.default_rng([seed, 23])
    anatomy = _ANATOMIES[region]
    names = list(anatomy)
    parts = [_structure(name, anatomy, iodine_mg_per_ml, rng) for name in names]
    parts = _shrunk(parts, rng)
    landmarks: dict[str, Vector] = {name: _place(part.centre) for name, part in zip(names, parts, strict=True)}
    for sown in _SOWN[region]:
        host = names.index(sown.host)
        for k in range(rng.integers(sown.count[0], sown.count[1] + 1)):
            if part := _fitting(parts, host, sown, rng):
                landmarks[f"{sown.host}_{len(parts)}_{k}"] = _place(part.centre)
                parts.append(part)
    template = Phantom(ellipsoids=tuple(parts), landmarks_mm=landmarks)
    return template.transformed(_build(rng), 4 * rng.uniform(-1, 1, 3))


def inserted(phantom: Phantom, part: Ellipsoid, *, name: str) -> Phantom:
    """Return the object with one more solid, e.g. a metal screw, in the innermost structure around its centre.

    Raises
    ------
    ConfigError
        It would stick out of that structure or touch another one in it.
    """
    around = [k for k, e in enumerate(phantom.ellipsoids) if e.contains(part.centre)]
    host = around[-1] if around else -1
    part = replace(part, parent=host)
    if not _has_room(part, list(phantom.ellipsoids)):
        raise ConfigError(
            f"CT object: {name}",
            expected="room for it inside one structure",
            got=f"{np.round(part.centre, 1).tolist()} mm",
            action="make it smaller or move it",
        )
    return replace(
        phantom,
        ellipsoids=(*phantom.ellipsoids, part),
        landmarks_mm={**phantom.landmarks_mm, name: _place(part.centre)},
    )


def ball(centre_mm: Vector, radii_mm: Vector, what: float | Tissue) -> Ellipsoid:
    """Return an ellipsoid of a tissue or so many HU with its axes along x, y and z."""
    return Ellipsoid(np.array(centre_mm, float), np.diag(np.array(radii_mm, float)), of_hu(what))


def _structure(name: str, anatomy: Anatomy, iodine_mg_per_ml: float, rng: np.random.Generator) -> Ellipsoid:
    parent, what, centre, axes = anatomy[name]
    tissue = of_hu(what)
    spread = 0.06 if tissue.value > 1.2 else 0.004 if tissue.value > 0.85 else 0.02
    tissue = Tissue(max(tissue.value + spread * float(rng.normal()), 0.0), np.inf)
    if iodine_mg_per_ml and name.startswith(_VESSELS):
        tissue = contrast_agent(iodine_mg_per_ml * float(rng.uniform(0.7, 1.0)))
    above = -1 if parent is None else list(anatomy).index(parent)
    return Ellipsoid(np.array(centre, float), np.diag(np.array(axes, float)), tissue, above)


def _shrunk(parts: list[Ellipsoid], rng: np.random.Generator) -> list[Ellipsoid]:
    """Return the parts, each smaller about its own centre, with all that lies in it."""
    maps: list[tuple[Floats, Floats]] = []
    out = []
    for part in parts:
        scale = np.diag(rng.uniform(0.85, 1.0, 3)) if part.parent >= 0 else np.eye(3)
        matrix, shift = maps[part.parent] if part.parent >= 0 else (np.eye(3), np.zeros(3))
        own = matrix @ scale
        maps.append((own, shift + matrix @ part.centre - own @ part.centre))
        out.append(replace(part, centre=own @ part.centre + maps[-1][1], matrix=own @ part.matrix))
    return out


def _fitting(parts: list[Ellipsoid], host: int, sown: _Sown, rng: np.random.Generator) -> Ellipsoid | None:
    """Return a structure that has room in its host, if a few trials find one."""
    tissue = Tissue(1 + float(rng.uniform(*sown.hu)) / 1000, np.inf)
    for trial in range(_TRIALS):
        u = rng.normal(size=3)
        u *= rng.uniform(0, 0.95) ** (1 / 3) / np.linalg.norm(u)
        radii = (
            rng.uniform(*sown.radius_mm) * np.array([1, 1, rng.uniform(1, sown.length)]) * (1 - 0.5 * trial / _TRIALS)
        )
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        centre = parts[host].centre + parts[host].matrix @ u
        part = Ellipsoid(centre, np.ascontiguousarray(turn * radii), tissue, host)
        if _has_room(part, parts):
            return part
    return None


def _has_room(part: Ellipsoid, parts: list[Ellipsoid]) -> bool:
    """Return whether `part` lies inside its parent and touches none of its siblings."""
    surface = part.centre + _SPHERE @ part.matrix.T
    if part.parent >= 0 and not parts[part.parent].contains(surface).all():
        return False
    reach = np.linalg.norm(part.matrix, 2)
    for other in parts:
        if other.parent == part.parent and other is not part:
            u = np.linalg.solve(other.matrix, part.centre - other.centre)
            if np.linalg.norm(u) < 1 + reach / np.linalg.norm(other.matrix, -2):
                mesh = other.centre + _SPHERE @ other.matrix.T
                if other.contains(surface).any() or part.contains(mesh).any() or part.contains(other.centre):
                    return False
    return True


def _build(rng: np.random.Generator) -> Floats:
    """Return how a body is stretched, sheared and turned."""
    shape = 0.03 * rng.uniform(-1, 1, (3, 3))
    np.fill_diagonal(shape, rng.uniform(0.85, 1.12, 3))
    angle = np.deg2rad(rng.uniform(-6, 6))
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    return turn @ shape


def _place(centre: Floats) -> Vector:
    x, y, z = centre.tolist()
    return (x, y, z)


def _spiral(n: int) -> Floats:
    """Return `n` points spread over the unit sphere (golden-angle spiral), shape (n, 3)."""
    z = 1 - (2 * np.arange(n) + 1) / n
    phi = np.arange(n) * np.pi * (3 - np.sqrt(5))
    r = np.sqrt(1 - z**2)
    return np.stack([r * np.cos(phi), r * np.sin(phi), z], axis=1)


_SPHERE = _spiral(400)
