"""A head of ellipsoids with nothing symmetric that matters: any flip or rotation shows.

Left is told from right by the bigger left eye, the wider right ventricle, the bright lesion (left, posterior,
superior) and a capsule taped to the right temple; anterior by the nose and the eyes, inferior by the face, the
cerebellum and the spine. Every seed is another head: the anatomy is varied, folded anew and sheared.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from acquisition.sources.phantom.objects import AIR, Ellipsoid, Floats, Phantom, Tissue

FAT = Tissue(1.0, 0.030)
MUSCLE = Tissue(0.42, 0.030)
BONE = Tissue(0.06, 0.002)
MARROW = Tissue(0.55, 0.020)
CSF = Tissue(0.17, 0.500)
GREY = Tissue(0.52, 0.055)
WHITE = Tissue(0.78, 0.050)
NUCLEUS = Tissue(0.60, 0.045)
FLUID = Tissue(0.22, 0.400)
LESION = Tissue(1.25, 0.060)
NECROSIS = Tissue(0.30, 0.100)
CAPSULE = Tissue(1.20, 0.080)

# name: (parent, tissue, centre [mm], semi-axes [mm]); LPS: +x left, +y posterior, +z superior. Parents first.
_ANATOMY: dict[str, tuple[str | None, Tissue, tuple[float, ...], tuple[float, ...]]] = {
    "scalp": (None, FAT, (0, 0, 0), (79, 99, 101)),
    "nose": (None, MUSCLE, (0, -108, -32), (9, 13, 16)),
    "capsule": (None, CAPSULE, (-85, -18, 2), (4, 4, 9)),
    "muscle": ("scalp", MUSCLE, (0, 0, 0), (75, 95, 97)),
    "skull": ("muscle", BONE, (0, 1, 26), (68.4, 85.8, 63.8)),
    "marrow": ("skull", MARROW, (0, 1, 26), (67, 84.4, 62.4)),
    "table": ("marrow", BONE, (0, 1, 26), (65.7, 83.1, 61.1)),
    "csf": ("table", CSF, (0, 1, 26), (64.2, 81.6, 59.6)),
    "grey": ("csf", GREY, (0, 1, 26), (62, 79.4, 57.4)),
    "white": ("grey", WHITE, (0, 1, 26), (58.8, 76.2, 54.2)),
    "fossa": ("muscle", CSF, (0, 36, -56), (46, 33, 18)),
    "cerebellum": ("fossa", GREY, (0, 42, -56), (37, 21, 13)),
    "arbor": ("cerebellum", WHITE, (0, 41, -56), (30, 14, 7)),
    "brainstem": ("fossa", WHITE, (0, 13, -55), (10, 7.5, 11)),
    "orbit_left": ("muscle", FAT, (27, -55.5, -36), (16, 18.5, 15.5)),
    "orbit_right": ("muscle", FAT, (-27, -55.5, -36), (16, 18.5, 15.5)),
    "eye_left": ("orbit_left", FLUID, (27, -59, -36), (13, 13, 13)),
    "eye_right": ("orbit_right", FLUID, (-27, -60, -36), (9.5, 9.5, 9.5)),
    "cheek_left": ("muscle", FAT, (46, -18, -53), (7, 14, 13)),
    "cheek_right": ("muscle", FAT, (-46, -18, -53), (7, 14, 13)),
    "sinus_left": ("muscle", AIR, (15, -48, -66), (9, 12, 8)),
    "sinus_right": ("muscle", AIR, (-17, -48, -66), (11, 12, 8)),
    "vertebra": ("muscle", BONE, (0, 12, -83), (14, 12, 8)),
    "vertebra_marrow": ("vertebra", MARROW, (0, 12, -83), (12.3, 10.3, 6.5)),
    "fissure_top": ("white", CSF, (0, 1, 65), (1.3, 50, 10)),
    "fissure_front": ("white", CSF, (0, -57, 27), (1.2, 14, 20)),
    "fissure_back": ("white", CSF, (0, 59, 27), (1.2, 14, 20)),
    "horn_left": ("white", CSF, (13, -15, 40), (5, 21, 8)),
    "horn_right": ("white", CSF, (-15, -15, 40), (7.5, 22, 10)),
    "trigone_left": ("white", CSF, (20, 26, 35), (5, 18, 8)),
    "trigone_right": ("white", CSF, (-22, 27, 35), (7, 18, 9)),
    "third_ventricle": ("white", CSF, (0, 6, 24), (2.2, 13, 8)),
    "thalamus_left": ("white", NUCLEUS, (12, 8, 20), (8, 13, 9)),
    "thalamus_right": ("white", NUCLEUS, (-12, 8, 20), (8, 13, 9)),
    "putamen_left": ("white", NUCLEUS, (28, -8, 20), (5, 18, 10)),
    "putamen_right": ("white", NUCLEUS, (-28, -8, 20), (5, 18, 10)),
    "lesion": ("white", LESION, (28, 35, 52), (9, 10, 8)),
    "necrosis": ("lesion", NECROSIS, (29, 36, 53), (3.5, 3.5, 3)),
}
# In-plane tilt about the S axis [degrees] of what is not parallel to the midline.
_TILT = {
    "horn_left": -9.0,
    "horn_right": 9.0,
    "trigone_left": -22.0,
    "trigone_right": 22.0,
    "putamen_left": -18.0,
    "putamen_right": 18.0,
    "thalamus_left": -20.0,
    "thalamus_right": 20.0,
}
_MAY_VARY = ("eye", "horn", "trigone", "thalamus", "putamen", "lesion", "sinus")
_LANDMARKS = ("lesion", "nose", "capsule", "eye_left", "eye_right", "horn_left", "horn_right", "cerebellum")
_SIZE = 0.93  # of the head against the table above: 184 x 147 mm, inside a field of view of 240 mm with its nose
_N_FOLDS, _N_TRIALS = 420, 2600


@lru_cache(maxsize=8)
def head(seed: int = 0, *, variation: float = 1.0) -> Phantom:
    """Return one head; the same `seed` always gives the same one (the last few are kept).

    Parameters
    ----------
    seed
        Chooses the head.
    variation
        How far heads differ: 0 is the template with its folds, 1 the usual range (scale 5 %, rotation 4
        degrees, shear 2 %, shift 3 mm, structures 6 % in size).
    """
    rng = np.random.default_rng([seed, 1])
    names = list(_ANATOMY)
    ellipsoids = [_structure(name, names, 1 + 0.06 * variation * rng.uniform(-1, 1)) for name in names]
    ellipsoids += _folds(ellipsoids, names.index("white"), rng)
    template = Phantom(
        ellipsoids=tuple(ellipsoids),
        landmarks_mm={name: _ANATOMY[name][2] for name in _LANDMARKS},  # type: ignore[misc]
        field_bump=((0.0, -50.0, -45.0), 28.0, 60.0),
    )
    return template.transformed(_shape_change(rng, variation), 3 * variation * rng.uniform(-1, 1, 3))


def _structure(name: str, names: Sequence[str], size: float) -> Ellipsoid:
    parent, tissue, centre, axes = _ANATOMY[name]
    scale = min(size, 1.0) if name.startswith(_MAY_VARY) else 1.0
    matrix = _about_z(_TILT.get(name, 0.0)) @ np.diag(np.asarray(axes, float) * scale)
    return Ellipsoid(np.asarray(centre, float), matrix, tissue, names.index(parent) if parent else -1)


def _shape_change(rng: np.random.Generator, variation: float) -> Floats:
    """Return a random affine map close to the identity."""
    shear = 0.02 * variation * rng.uniform(-1, 1, (3, 3))
    np.fill_diagonal(shear, 1 + 0.05 * variation * rng.uniform(-1, 1, 3))
    angles = np.deg2rad(4 * variation * rng.uniform(-1, 1, 3))
    return _SIZE * _rotation(angles) @ shear


def _folds(ellipsoids: Sequence[Ellipsoid], parent: int, rng: np.random.Generator) -> list[Ellipsoid]:
    """Return sulci: sheets of grey matter with a core of CSF, standing on the surface, none touching another."""
    white, first = ellipsoids[parent], len(ellipsoids)
    taken = [e for e in ellipsoids if e.parent == parent]
    n_structures = len(taken)
    for trial in range(_N_TRIALS):
        sheet = _sheet(white, parent, 1.6 - trial / _N_TRIALS, rng)
        if _fits(sheet, white, taken):
            taken.append(sheet)
        if len(taken) == n_structures + _N_FOLDS:
            break
    sulci = taken[n_structures:]
    core = np.array([0.92, 0.92, 0.36])
    return [*sulci, *(Ellipsoid(s.centre, s.matrix * core, CSF, first + i) for i, s in enumerate(sulci))]


def _sheet(white: Ellipsoid, parent: int, size: float, rng: np.random.Generator) -> Ellipsoid:
    """Return a sheet that stands on the surface of `white` at a random place."""
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    surface = white.centre + white.matrix @ direction
    normal = np.linalg.solve(white.matrix.T, direction)
    normal /= np.linalg.norm(normal)
    along = np.cross(normal, rng.normal(size=3))
    along /= np.linalg.norm(along)
    depth, length, half_width = size * rng.uniform(5, 10), size * rng.uniform(7, 13), rng.uniform(2.0, 2.6)
    axes = np.stack([normal * depth, along * length, np.cross(normal, along) * half_width], axis=1)
    sunk = depth + 0.2 + length**2 / 400
    return Ellipsoid(surface - normal * sunk, axes, GREY, parent)


def _fits(sheet: Ellipsoid, white: Ellipsoid, taken: Sequence[Ellipsoid]) -> bool:
    """Return whether `sheet` lies inside `white` and outside all of `taken`."""
    if not white.contains(sheet.centre + _SPHERE @ sheet.matrix.T).all():
        return False
    distance = np.linalg.norm(np.array([e.centre for e in taken]) - sheet.centre, axis=1)
    reach = np.linalg.norm(np.array([e.matrix for e in taken]), axis=1).max(-1)
    near = np.flatnonzero(distance < reach + np.linalg.norm(sheet.matrix, axis=0).max())
    return not any(overlap(sheet, taken[i]) for i in near.tolist())


def overlap(one: Ellipsoid, other: Ellipsoid) -> bool:
    """Return whether any of 200 points on and inside each lies in the other."""
    return bool(
        other.contains(one.centre + _BALL @ one.matrix.T).any()
        or one.contains(other.centre + _BALL @ other.matrix.T).any()
    )


def _spiral(n: int) -> Floats:
    """Return `n` points spread evenly over the unit sphere (golden-angle spiral), shape (n, 3)."""
    z = 1 - (2 * np.arange(n) + 1) / n
    phi = np.arange(n) * np.pi * (3 - np.sqrt(5))
    r = np.sqrt(1 - z**2)
    return np.stack([r * np.cos(phi), r * np.sin(phi), z], axis=1)


_SPHERE = _spiral(100)
_BALL = np.concatenate([_SPHERE, 0.5 * _SPHERE])


def _about_z(degrees: float) -> Floats:
    return _rotation(np.deg2rad([0.0, 0.0, degrees]))


def _rotation(angles_rad: ArrayLike) -> Floats:
    """Return the rotation about x, then y, then z."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles_rad), np.sin(angles_rad)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x
