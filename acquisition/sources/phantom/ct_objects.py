"""Objects for the virtual CT scanner: ellipsoids of attenuation relative to water, nothing in them symmetric.

Tissue values are ``mu / mu_water = 1 + HU / 1000``; air is 0. Coordinates are LPS, mm.
"""

from __future__ import annotations

import numpy as np

from acquisition.sources.phantom.objects import Ellipsoid, Phantom, Tissue

# name: (parent, HU or tissue, centre [mm], semi-axes [mm]); parents first.
Anatomy = dict[str, tuple[str | None, float | Tissue, tuple[float, float, float], tuple[float, float, float]]]

CHEST: Anatomy = {
    "body": (None, 0, (0, 0, 0), (165, 110, 260)),
    "lung_left": ("body", -830, (72, -5, 0), (55, 78, 120)),
    "lung_right": ("body", -850, (-76, -8, 5), (60, 80, 125)),
    "nodule_left": ("lung_left", 40, (80, 20, 12), (4, 4, 4)),
    "nodule_right": ("lung_right", -100, (-70, -40, -14), (7, 5, 6)),
    "vessel_right": ("lung_right", 60, (-55, 10, 0), (5, 6, 60)),
    "heart": ("body", 45, (6, -38, -10), (10, 35, 42)),
    "aorta": ("body", 150, (3, 30, 0), (11, 11, 150)),
    "spine": ("body", 250, (0, 66, 0), (17, 15, 190)),
    "canal": ("spine", 20, (0, 72, 0), (6, 6, 160)),
    "sternum": ("body", 350, (0, -96, 15), (14, 5, 60)),
    "rib_left": ("body", 600, (138, 0, -4), (4, 20, 7)),
    "rib_right": ("body", 650, (-146, 10, 6), (4, 22, 7)),
    "fat_left": ("body", -100, (50, 86, 8), (14, 5, 20)),
}
ABDOMEN: Anatomy = {
    "body": (None, 20, (0, 0, 0), (160, 115, 260)),
    "liver": ("body", 60, (-75, -15, 10), (62, 62, 70)),
    "lesion": ("liver", 30, (-85, -30, 12), (9, 8, 9)),
    "cyst": ("liver", 0, (-60, 15, 0), (5, 5, 5)),
    "stomach": ("body", -950, (55, -60, 12), (28, 20, 22)),
    "kidney_left": ("body", 120, (62, 40, -8), (22, 25, 45)),
    "kidney_right": ("body", 115, (-58, 72, -38), (18, 16, 32)),
    "aorta": ("body", 160, (8, 28, 0), (10, 10, 150)),
    "spine": ("body", 280, (0, 70, 0), (20, 16, 190)),
}
HEAD: Anatomy = {
    "skin": (None, 40, (0, 0, 0), (76, 96, 110)),
    "skull": ("skin", 900, (0, 0, 5), (71, 91, 98)),
    "brain": ("skull", 36, (0, 0, 5), (64, 84, 91)),
    "ventricle_left": ("brain", 5, (11, -8, 12), (5, 22, 9)),
    "ventricle_right": ("brain", 5, (-12, -6, 12), (7, 24, 10)),
    "bleed": ("brain", 70, (36, 30, 16), (10, 8, 9)),
    "calcification": ("brain", 300, (-20, 40, 4), (3, 3, 3)),
}


def built(anatomy: Anatomy) -> Phantom:
    """Return the object of a table of ellipsoids."""
    names = list(anatomy)
    parts = [
        Ellipsoid(
            np.array(centre, float),
            np.diag(np.array(axes, float)),
            of_hu(what),
            -1 if parent is None else names.index(parent),
        )
        for parent, what, centre, axes in anatomy.values()
    ]
    return Phantom(ellipsoids=tuple(parts), landmarks_mm={n: row[2] for n, row in anatomy.items()})


def of_hu(what: float | Tissue) -> Tissue:
    """Return the tissue of so many HU; a tissue as it is."""
    return what if isinstance(what, Tissue) else Tissue(1 + what / 1000, np.inf)


def chest() -> Phantom:
    """Return a chest: two unequal lungs with nodules, heart, aorta, spine, ribs."""
    return built(CHEST)


def abdomen() -> Phantom:
    """Return an abdomen: liver with a lesion and a cyst, gas, kidneys at unequal height, spine."""
    return built(ABDOMEN)


def head() -> Phantom:
    """Return a head: skull, unequal ventricles, a bleeding on the left, a calcification on the right."""
    return built(HEAD)


def water(radius_mm: float = 100.0, length_mm: float = 1000.0) -> Phantom:
    """Return a long body of water, `radius_mm` in the middle."""
    return built({"water": (None, 0, (0, 0, 0), (radius_mm, radius_mm, length_mm))})
