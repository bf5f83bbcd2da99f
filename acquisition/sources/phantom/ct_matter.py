"""What X-rays meet: a small model of the tube's spectrum, and how much a few materials attenuate at each energy.

Mass attenuation coefficients: a few energies of Hubbell & Seltzer, Tables of X-Ray Mass Attenuation Coefficients, NIST
Standard Reference Database 126, DOI 10.18434/T4D01F; between them the logarithms are interpolated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from acquisition.errors import ConfigError
from acquisition.sources.phantom.objects import Tissue

Floats = NDArray[np.float64]

REFERENCE_KEV = 70.0
"""Energy at which HU are defined."""
BONE_DENSITY = 1.92
"""Cortical bone [g/cm^3]."""
_SOFT = 1.1  # relative attenuation above which a tissue has bone in it

_KEV = (20.0, 30.0, 40.0, 50.0, 60.0, 80.0, 100.0, 150.0)
_TABLE: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "water": (_KEV, (0.8096, 0.3756, 0.2683, 0.2269, 0.2059, 0.1837, 0.1707, 0.1505)),
    "bone": (_KEV, (4.001, 1.331, 0.6655, 0.4242, 0.3148, 0.2229, 0.1855, 0.1480)),
    "aluminium": (_KEV, (3.441, 1.128, 0.5685, 0.3681, 0.2778, 0.2018, 0.1704, 0.1378)),
    "titanium": (_KEV, (15.85, 4.972, 2.214, 1.213, 0.7661, 0.4052, 0.2721, 0.1649)),
    "iron": (_KEV, (25.68, 8.176, 3.629, 1.958, 1.205, 0.5952, 0.3717, 0.1964)),
    "iodine": (
        (20.0, 30.0, 33.1693, 33.1695, 40.0, 50.0, 60.0, 80.0, 100.0, 150.0),
        (25.43, 8.561, 6.553, 35.82, 22.10, 12.32, 7.579, 3.510, 1.942, 0.6978),
    ),
}
"""Photon energy [keV] and mass attenuation coefficient [cm^2/g]; bone is cortical (ICRU 44)."""

_K_LINES = ((58.0, 0.30), (59.3, 0.52), (67.2, 0.18))  # tungsten: energy [keV] and share of the lines
_K_SHARE = 0.08  # of all photons at 120 kV
_K_EDGE = 69.5


@dataclass(frozen=True, slots=True)
class Matter(Tissue):
    """A tissue whose composition is known."""

    densities: tuple[tuple[str, float], ...] = ()
    """Material and partial density [g/cm^3]."""


def mass_attenuation(material: str, energy_kev: ArrayLike) -> Floats:
    """Return the mass attenuation coefficient of a material [cm^2/g], in the shape of the energies.

    Raises
    ------
    ConfigError
        The material is not in the table.
    """
    if material not in _TABLE:
        raise ConfigError("material", expected=f"one of {', '.join(sorted(_TABLE))}", got=repr(material))
    kev, values = _TABLE[material]
    return np.exp(np.interp(np.log(np.asarray(energy_kev, float)), np.log(kev), np.log(values)))


def matter(densities: Mapping[str, float]) -> Matter:
    """Return a mixture of materials given by their partial densities [g/cm^3]."""
    mu = sum(rho * float(mass_attenuation(name, REFERENCE_KEV)) for name, rho in densities.items())
    return Matter(mu / float(mass_attenuation("water", REFERENCE_KEV)), np.inf, tuple(densities.items()))


def contrast_agent(iodine_mg_per_ml: float) -> Matter:
    """Return blood with iodine."""
    return matter({"water": 1.04, "iodine": iodine_mg_per_ml / 1000})


TITANIUM = matter({"titanium": 4.54})
STEEL = matter({"iron": 7.9})


def composition(tissue: Tissue) -> dict[str, float]:
    """Return the partial densities [g/cm^3] of a tissue; where only HU are known, water and from 100 HU up bone."""
    if isinstance(tissue, Matter):
        return dict(tissue.densities)
    if tissue.value <= _SOFT:
        return {"water": tissue.value}
    ratio = mass_attenuation("bone", REFERENCE_KEV) / mass_attenuation("water", REFERENCE_KEV)
    bone = float(BONE_DENSITY * ratio)
    part = (tissue.value - 1) / (bone - 1)
    if part <= 1:
        return {"water": 1 - part, "bone": part * BONE_DENSITY}
    return {"bone": tissue.value / bone * BONE_DENSITY}


@lru_cache(maxsize=8)
def spectrum(kvp: float, *, aluminium_mm: float = 6.0, step_kev: float = 5.0) -> tuple[Floats, Floats]:
    """Return energies [keV] and the part of the unattenuated signal that each brings.

    Bremsstrahlung after Kramers (``N ~ U/E - 1``, DOI 10.1080/14786442308565244) behind aluminium, the K lines of
    tungsten, and a detector that adds up energy.

    Raises
    ------
    ConfigError
        The voltage lies outside of what the table covers.
    """
    if not 60 <= kvp <= 150:
        raise ConfigError("tube voltage", expected="60 to 150 kV", got=f"{kvp:g}")
    energy = np.arange(20 + step_kev / 2, kvp, step_kev)
    photons = kvp / energy - 1
    photons /= photons.sum()
    if kvp > _K_EDGE:
        strength = _K_SHARE * min((kvp - _K_EDGE) / (120 - _K_EDGE), 1.3)
        for line, share in _K_LINES:
            photons[np.abs(energy - line).argmin()] += strength * share
    filtered = photons * np.exp(-mass_attenuation("aluminium", energy) * 2.699 * aluminium_mm / 10)
    signal = filtered * energy
    return energy, signal / signal.sum()


def transmission(areal: Mapping[str, NDArray[np.float32]], kvp: float) -> NDArray[np.float64]:
    """Return the part of a polychromatic beam's signal that comes through.

    Parameters
    ----------
    areal
        Areal density of each material on each ray [g/cm^2], arrays of one shape.
    kvp
        Tube voltage [kV].
    """
    energies, parts = spectrum(kvp)
    total = np.zeros(next(iter(areal.values())).shape)
    for energy, part in zip(energies, parts, strict=True):
        exponent = sum(np.float32(mass_attenuation(name, energy)) * rays for name, rays in areal.items())
        total += part * np.exp(-exponent)
    return total
