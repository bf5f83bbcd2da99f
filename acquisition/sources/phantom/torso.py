"""A torso of ellipsoids that breathes and whose heart beats: lungs, heart, liver, stomach, spleen, kidneys, spine.

Right is told from left by the liver, superior from inferior by the lungs, posterior by the spine. With inspiration the
diaphragm goes down and takes the organs along, the lungs grow downwards, and the chest rises; with contraction the
ventricles shrink. Every seed is another person.
"""

from __future__ import annotations

import math

import numpy as np

from acquisition.errors import ConfigError
from acquisition.sources.phantom.coils import ReceiveArray, cage
from acquisition.sources.phantom.head import BONE, FAT, MARROW, MUSCLE
from acquisition.sources.phantom.objects import Ellipsoid, Phantom, Tissue

LUNG = Tissue(0.06, 0.002)
BLOOD = Tissue(1.0, 0.150)
MYOCARDIUM = Tissue(0.5, 0.040)
LIVER = Tissue(0.55, 0.028)
SPLEEN = Tissue(0.65, 0.060)
KIDNEY = Tissue(0.75, 0.070)
GUT = Tissue(0.38, 0.050)
VISCERAL = Tissue(0.85, 0.030)
METASTASIS = Tissue(0.95, 0.080)

# name: (parent, tissue, centre [mm], semi-axes [mm]); LPS: +x left, +y posterior, +z superior. Parents first.
_ANATOMY: dict[str, tuple[str | None, Tissue, tuple[float, ...], tuple[float, ...]]] = {
    "skin": (None, FAT, (0, 0, 0), (170, 112, 320)),
    "muscle": ("skin", MUSCLE, (0, 2, 0), (157, 99, 304)),
    "cavity": ("muscle", VISCERAL, (0, -8, 0), (138, 78, 280)),
    "spine": ("muscle", BONE, (0, 85, 0), (17, 12, 110)),
    "marrow": ("spine", MARROW, (0, 85, 0), (14.5, 9.5, 105)),
    "lung_left": ("cavity", LUNG, (79, 2, 80), (32, 43, 84)),
    "lung_right": ("cavity", LUNG, (-70, 0, 82), (46, 50, 88)),
    "heart": ("cavity", MYOCARDIUM, (13, -32, 34), (31, 29, 36)),
    "left_ventricle": ("heart", BLOOD, (24, -28, 32), (14, 15, 22)),
    "right_ventricle": ("heart", BLOOD, (-3, -38, 36), (9, 13, 20)),
    "aorta": ("cavity", BLOOD, (6, 52, 0), (10, 10, 150)),
    "liver": ("cavity", LIVER, (-58, -12, -90), (64, 52, 58)),
    "portal_vein": ("liver", BLOOD, (-38, -8, -84), (16, 5, 5)),
    "hepatic_vein": ("liver", BLOOD, (-66, 8, -72), (5, 14, 5)),
    "metastasis": ("liver", METASTASIS, (-84, -14, -98), (9, 10, 9)),
    "stomach": ("cavity", GUT, (48, -26, -78), (28, 30, 36)),
    "spleen": ("cavity", SPLEEN, (89, 19, -78), (16, 21, 29)),
    "kidney_left": ("cavity", KIDNEY, (50, 35, -132), (18, 14, 31)),
    "kidney_right": ("cavity", KIDNEY, (-46, 34, -160), (16, 12, 26)),
    "bowel": ("cavity", GUT, (8, -22, -185), (56, 30, 32)),
}
_DIAPHRAGM_MM = 18.0
"""How far the diaphragm goes down with a full breath."""
_FOLLOWS = {
    **dict.fromkeys(("liver", "portal_vein", "hepatic_vein", "metastasis", "stomach", "spleen"), 1.0),
    **dict.fromkeys(("kidney_left", "kidney_right", "bowel"), 0.5),
    **dict.fromkeys(("heart", "left_ventricle", "right_ventricle"), 0.4),
}
"""Which part of the diaphragm's way an organ goes."""
_CHEST, _CONTRACTION = 0.04, 0.3
_BACK_MM = 112.0
_MAY_VARY = ("liver", "metastasis", "stomach", "spleen", "kidney", "bowel", "ventricle", "vein")
_LANDMARKS = ("liver", "heart", "spine", "stomach", "metastasis")


def torso(seed: int = 0, *, breath: float = 0.0, beat: float = 0.0, variation: float = 1.0) -> Phantom:
    """Return one torso in one state; the same `seed` is always the same person.

    Parameters
    ----------
    seed
        Chooses the person.
    breath
        0: end of expiration, 1: a full breath.
    beat
        Part of the heart's cycle, 0 to 1; 0 is the end of diastole, 0.5 of systole.
    variation
        How far people differ: 0 is the template, 1 the usual range.

    Raises
    ------
    ConfigError
        `breath` lies outside 0 to 1.
    """
    if not 0 <= breath <= 1:
        raise ConfigError("torso breath", expected="0 to 1", got=str(breath))
    rng = np.random.default_rng([seed, 11])
    names = list(_ANATOMY)
    places = {name: _place(name, breath) for name in names}
    parts = [_structure(name, names, places[name], (rng.uniform(0.88, 1.0), beat, variation)) for name in names]
    template = Phantom(
        ellipsoids=tuple(parts),
        landmarks_mm={name: places[name] for name in _LANDMARKS},
        field_bump=((10.0, -20.0, -10.0 - _DIAPHRAGM_MM * breath), 40.0, 90.0),
    )
    person = np.diag(1 + 0.05 * variation * rng.uniform(-1, 1, 3))
    rise = 1 + _CHEST * breath
    return template.transformed(person @ np.diag([1.0, rise, 1.0]), (0.0, _BACK_MM * (1 - rise), 0.0))


def _place(name: str, breath: float) -> tuple[float, float, float]:
    x, y, z = _ANATOMY[name][2]
    way = 0.5 if name.startswith("lung") else _FOLLOWS.get(name, 0.0)
    return x, y, z - way * _DIAPHRAGM_MM * breath


def _structure(
    name: str, names: list[str], centre: tuple[float, float, float], state: tuple[float, float, float]
) -> Ellipsoid:
    """Return one ellipsoid; `state` is (size, beat, variation)."""
    parent, tissue, rest, axes = _ANATOMY[name]
    size, beat, variation = state
    scale = np.full(3, 1 - variation * (1 - size) if any(part in name for part in _MAY_VARY) else 1.0)
    if name.endswith("ventricle"):
        scale *= 1 - _CONTRACTION * (1 - math.cos(2 * math.pi * beat)) / 2
    if name.startswith("lung"):
        scale[2] = (axes[2] + rest[2] - centre[2]) / axes[2]  # the top stays where it is
    matrix = np.diag(np.asarray(axes, float) * scale)
    return Ellipsoid(np.asarray(centre, float), matrix, tissue, names.index(parent) if parent else -1)


def body_array(n_coils: int) -> ReceiveArray:
    """Return loops around a torso."""
    return cage(n_coils, radii_mm=(215.0, 165.0))
