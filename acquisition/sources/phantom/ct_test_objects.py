"""Test objects for CT quality: modules one behind the other, like those of the ACR's and of the Catphan's families.

Sizes and HU follow what is publicly described of these objects; they are not copies of a product. Each insert's place
and nominal HU is a landmark, so a program can measure what a person would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from acquisition.geometry import Vector
from acquisition.sources.phantom.ct_objects import of_hu
from acquisition.sources.phantom.objects import Ellipsoid, Phantom, Tissue
from acquisition.sources.phantom.solids import Box, Cylinder

MODULE_MM = 40.0
"""Length of one module along z [mm]."""
ACR_Z_MM = {"hu": 60.0, "low_contrast": 20.0, "uniformity": -20.0, "line_pairs": -60.0}
"""Middle of each module of `acr_like` [mm]."""
ACR_HU = {"bone": 955.0, "polyethylene": -95.0, "water": 0.0, "acrylic": 120.0, "air": -1000.0}
"""Nominal HU of the inserts of `acr_like`."""
LINE_PAIRS_PER_CM = (4, 5, 6, 7, 8, 9, 10, 12)
"""Bar patterns of `acr_like` [lp/cm]."""
RODS_MM = (25.0, 6.0, 5.0, 4.0, 3.0, 2.0)
"""Diameters of the low-contrast rods of `acr_like`, 6 HU above the background [mm]."""
CATPHAN_HU = {
    "air": -1000.0,
    "polymethylpentene": -200.0,
    "polyethylene": -100.0,
    "polystyrene": -35.0,
    "acrylic": 120.0,
    "acetal": 340.0,
    "teflon": 990.0,
}
"""Nominal HU of the inserts of `catphan_like`."""
CATPHAN_Z_MM = {"hu": 0.0, "wire": -40.0, "uniformity": -80.0}
"""Middle of each module of `catphan_like` [mm]."""
INSERTS_MM = 58.4
"""Distance of the inserts from the middle [mm]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rod:
    """A round insert along z."""

    name: str
    """Its landmark."""
    hu: float | Tissue
    """HU or tissue."""
    centre_mm: Vector
    """Its middle [mm]."""
    radius_mm: float
    """Radius [mm]."""
    length_mm: float = MODULE_MM
    """Length along z [mm]."""
    parent: int = 0
    """The solid it lies in."""


def acr_like() -> Phantom:
    """Return 20 cm of solid water: HU inserts, 6 HU rods, a uniform part with two beads, bars of 4 to 12 lp/cm."""
    z = ACR_Z_MM
    body = Rod(name="body", hu=0.0, centre_mm=(0, 0, 0), radius_mm=100, length_mm=4 * MODULE_MM, parent=-1)
    angles = np.deg2rad([225, 135, 0, 315, 45])
    inserts = [
        Rod(
            name=name,
            hu=hu,
            centre_mm=(INSERTS_MM * np.cos(a), INSERTS_MM * np.sin(a), z["hu"]),
            radius_mm=12.5 if name != "water" else 25.0,
        )
        for (name, hu), a in zip(ACR_HU.items(), angles, strict=True)
    ]
    beads = [
        Ellipsoid(np.array([x, y, z["uniformity"]]), np.eye(3) * 0.6, of_hu(3000.0), 0) for x, y in ((60, 0), (0, -60))
    ]
    return _phantom([body, *inserts, *_low_contrast(z["low_contrast"])], [*beads, *_bars(z["line_pairs"])])


def catphan_like(*, wire_mm: float = 0.5) -> Phantom:
    """Return 15 cm of nearly water: seven inserts, a wire of `wire_mm` diameter along z, a uniform part.

    Parameters
    ----------
    wire_mm
        Diameter of the wire [mm]; its attenuation is such that its mass stays the same.
    """
    z = CATPHAN_Z_MM
    body = Rod(name="body", hu=10.0, centre_mm=(0, 0, -40), radius_mm=75, length_mm=3 * MODULE_MM, parent=-1)
    angles = 2 * np.pi * np.arange(len(CATPHAN_HU)) / len(CATPHAN_HU) + 0.2
    inserts = [
        Rod(name=name, hu=hu, centre_mm=(50 * np.cos(a), 50 * np.sin(a), z["hu"]), radius_mm=6.0)
        for (name, hu), a in zip(CATPHAN_HU.items(), angles, strict=True)
    ]
    wire = Rod(name="wire", hu=3000.0 * (0.5 / wire_mm) ** 2, centre_mm=(6, -17, z["wire"]), radius_mm=wire_mm / 2)
    return _phantom([body, *inserts, wire])


def _low_contrast(z_mm: float) -> list[Rod]:
    """Return one large rod, and four of each smaller size, twice their diameter apart."""
    rods = [Rod(name="rod_25_0", hu=6.0, centre_mm=(0, -55, z_mm), radius_mm=12.5)]
    for k, diameter in enumerate(RODS_MM[1:]):
        a = np.deg2rad(-25 + 55 * k)
        middle, along = 55 * np.array([np.cos(a), np.sin(a)]), np.array([-np.sin(a), np.cos(a)])
        for j in range(4):
            x, y = (middle + (j - 1.5) * 2 * diameter * along).tolist()
            rods.append(Rod(name=f"rod_{diameter:g}_{j}", hu=6.0, centre_mm=(x, y, z_mm), radius_mm=diameter / 2))
    return rods


def _bars(z_mm: float) -> list[Ellipsoid]:
    """Return patterns of 15 mm, bars as wide as the gaps, all along their own radius."""
    bars: list[Ellipsoid] = []
    for k, pairs in enumerate(LINE_PAIRS_PER_CM):
        a = 2 * np.pi * k / len(LINE_PAIRS_PER_CM)
        out, along = np.array([np.cos(a), np.sin(a), 0]), np.array([-np.sin(a), np.cos(a), 0])
        half = 2.5 / pairs
        count = round(15 / (4 * half))
        matrix = np.stack([along * half, out * 7.5, np.array([0, 0, MODULE_MM / 2 - 1])], axis=1)
        for j in range(count):
            centre = 65 * out + (j - (count - 1) / 2) * 4 * half * along + np.array([0, 0, z_mm])
            bars.append(Box(centre, matrix, of_hu(1100.0), 0))
    return bars


def _phantom(rods: Sequence[Rod], more: Sequence[Ellipsoid] = ()) -> Phantom:
    solids: list[Ellipsoid] = [
        Cylinder(
            np.array(rod.centre_mm, float),
            np.diag([rod.radius_mm, rod.radius_mm, rod.length_mm / 2]),
            of_hu(rod.hu),
            rod.parent,
        )
        for rod in rods
    ]
    return Phantom(ellipsoids=(*solids, *more), landmarks_mm={rod.name: rod.centre_mm for rod in rods})
