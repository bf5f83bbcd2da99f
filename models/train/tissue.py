"""What the labelled tissues are made of: proton density, relaxation, fat, susceptibility, HU; and how people differ.

Sources by key in `SOURCES`; "estimate" marks values that were chosen to lie between measured tissues. Every subject
draws its own values around the table, so that a network learns anatomy and physics, not one table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ConfigError

Floats = NDArray[np.float64]

SOURCES = {
    "stanisz": "Stanisz et al., MRM 2005;54:507, DOI 10.1002/mrm.20605 (T1 and T2 at 1.5 and 3 T)",
    "gelman": "Gelman et al., MRM 2001;45:71, DOI 10.1002/1522-2594(200101)45:1<71::AID-MRM1011>3.0.CO;2-2",
    "rooney": "Rooney et al., MRM 2007;57:308, DOI 10.1002/mrm.21122 (T1 against field strength)",
    "bazelaire": "de Bazelaire et al., Radiology 2004;230:652, DOI 10.1148/radiol.2303021331 (fat, marrow)",
    "whittall": "Whittall et al., MRM 1997;37:34, DOI 10.1002/mrm.1910370107 (water content and T2)",
    "peters": "Peters et al., MRI 2007;25:748, DOI 10.1016/j.mri.2007.02.014 (T2* at 1.5 and 3 T)",
    "schenck": "Schenck, Med Phys 1996;23:815, DOI 10.1118/1.597854 (susceptibility)",
    "estimate": "between the measured tissues above",
}
"""Where the numbers come from."""

FIELDS_T = (1.5, 3.0)
"""Field strengths of the table [T]."""

# name: (PD, T1 at 1.5 T, T1 at 3 T, T2 at 1.5 T, T2 at 3 T, T2* at 1.5 T, T2* at 3 T [ms], fat part, chi against
#        water [ppm], HU, source of T1 and T2)
_TABLE: dict[str, tuple[float, float, float, float, float, float, float, float, float, float, str]] = {
    "air": (0.0, 1000, 1000, 50, 50, 10, 10, 0.0, 9.4, -1000, "schenck"),
    "white": (0.70, 800, 1000, 72, 69, 66, 53, 0.0, -0.03, 29, "stanisz"),
    "cortex": (0.82, 1150, 1550, 92, 95, 84, 66, 0.0, 0.02, 37, "stanisz"),
    "csf": (0.99, 4000, 4200, 1600, 1400, 800, 500, 0.0, 0.0, 8, "rooney"),
    "ventricle": (1.0, 4100, 4300, 1800, 1600, 900, 600, 0.0, 0.0, 5, "rooney"),
    "cerebellar_white": (0.72, 780, 960, 74, 70, 66, 53, 0.0, -0.03, 30, "stanisz"),
    "cerebellar_cortex": (0.82, 1120, 1470, 95, 96, 80, 62, 0.0, 0.02, 38, "stanisz"),
    "thalamus": (0.76, 960, 1250, 82, 80, 62, 48, 0.0, 0.03, 35, "gelman"),
    "caudate": (0.81, 1090, 1390, 86, 84, 59, 41, 0.0, 0.06, 38, "gelman"),
    "putamen": (0.81, 1020, 1300, 80, 76, 56, 32, 0.0, 0.07, 38, "gelman"),
    "pallidum": (0.74, 840, 1040, 64, 58, 45, 24, 0.0, 0.13, 37, "gelman"),
    "brainstem": (0.73, 850, 1080, 80, 77, 64, 50, 0.0, 0.0, 32, "whittall"),
    "hippocampus": (0.83, 1160, 1500, 98, 98, 76, 58, 0.0, 0.01, 36, "estimate"),
    "amygdala": (0.83, 1150, 1480, 96, 96, 72, 54, 0.0, 0.02, 36, "estimate"),
    "accumbens": (0.82, 1110, 1420, 90, 88, 66, 48, 0.0, 0.03, 37, "estimate"),
    "ventral_dc": (0.75, 890, 1130, 74, 70, 50, 34, 0.0, 0.07, 34, "estimate"),
    "white_spots": (0.75, 950, 1220, 95, 92, 74, 60, 0.0, 0.0, 27, "estimate"),
    "optic_nerve": (0.73, 815, 1083, 77, 78, 60, 46, 0.0, 0.0, 32, "stanisz"),
    "choroid": (0.87, 1300, 1700, 150, 140, 70, 45, 0.0, 0.1, 42, "estimate"),
    "artery": (0.83, 1441, 1800, 250, 200, 150, 60, 0.0, 0.0, 45, "stanisz"),
    "vein": (0.83, 1441, 1750, 150, 70, 60, 22, 0.0, 0.25, 50, "stanisz"),
    "vitreous": (0.99, 3900, 4100, 1200, 1000, 500, 350, 0.0, 0.0, 10, "estimate"),
    "eye_muscle": (0.78, 1008, 1412, 44, 48, 30, 24, 0.05, 0.0, 50, "stanisz"),
    "muscle": (0.78, 1008, 1412, 38, 40, 28, 24, 0.05, 0.0, 55, "stanisz"),
    "fat": (0.82, 340, 380, 60, 66, 35, 26, 0.95, 0.6, -95, "bazelaire"),
    "mucosa": (0.85, 1050, 1350, 90, 85, 40, 24, 0.0, 0.0, 35, "estimate"),
    "skin": (0.60, 800, 980, 36, 34, 20, 14, 0.15, 0.0, 20, "estimate"),
    "spinal_cord": (0.72, 745, 993, 74, 78, 60, 46, 0.0, 0.0, 32, "stanisz"),
    "cortical_bone": (0.06, 900, 1000, 6, 5, 1.2, 0.8, 0.0, -2.2, 1100, "estimate"),
    "marrow": (0.62, 549, 586, 46, 46, 16, 10, 0.6, 0.0, 420, "bazelaire"),
    "dura": (0.65, 950, 1200, 46, 42, 25, 18, 0.0, 0.0, 48, "estimate"),
    "oedema": (0.86, 1250, 1600, 140, 135, 100, 80, 0.0, 0.0, 22, "estimate"),
    "plaque": (0.84, 1150, 1500, 135, 130, 100, 80, 0.0, 0.0, 27, "estimate"),
    "tumour": (0.84, 1250, 1650, 110, 105, 70, 55, 0.0, 0.0, 40, "estimate"),
    "necrosis": (0.93, 2200, 2600, 260, 240, 150, 110, 0.0, 0.0, 18, "estimate"),
    "infarct": (0.88, 1400, 1800, 170, 160, 110, 90, 0.0, 0.0, 18, "estimate"),
    "haemorrhage": (0.75, 700, 850, 60, 50, 14, 7, 0.0, 0.6, 68, "estimate"),
    "calcification": (0.20, 800, 900, 20, 18, 4, 2.5, 0.0, -1.5, 350, "estimate"),
}
NAMES = tuple(_TABLE)
"""Tissues in the order of their numbers; 0 is air."""
NUMBER = {name: number for number, name in enumerate(NAMES)}
"""Number of each tissue."""
CHI_PPM = np.array([row[8] for row in _TABLE.values()])
"""Susceptibility against water of each tissue [ppm]."""
HU = np.array([float(row[9]) for row in _TABLE.values()])
"""CT number of each tissue [HU]."""
PARENCHYMA = [
    "white",
    "cortex",
    "cerebellar_white",
    "cerebellar_cortex",
    "thalamus",
    "caudate",
    "putamen",
    "pallidum",
    "brainstem",
    "hippocampus",
    "amygdala",
    "accumbens",
    "ventral_dc",
    "white_spots",
]
"""Tissues in which lesions may lie."""
_FAT_T1_MS, _FAT_T2_MS, _FAT_T2STAR_MS = (300.0, 370.0), (62.0, 68.0), (42.0, 30.0)
_SPREAD_PD, _SPREAD_T1, _SPREAD_T2 = 0.03, 0.07, 0.08
_SPREAD_WHOLE = 0.05  # of all T1 of a subject together: age, temperature, the method's bias


@dataclass(frozen=True, slots=True, kw_only=True)
class Tissues:
    """One subject's tissues at one field strength; arrays run over `NAMES`."""

    field_t: float
    """Field strength [T]."""
    pd: Floats
    """Protons of water and fat against pure water."""
    t1_s: Floats
    """Longitudinal relaxation time of the water [s]."""
    t2_s: Floats
    """Transverse relaxation time of the water [s]."""
    t2star_s: Floats
    """Effective transverse relaxation time of the water [s]."""
    fat: Floats
    """Part of the protons that are in fat."""
    fat_t1_s: float
    """Longitudinal relaxation time of fat [s]."""
    fat_t2_s: float
    """Transverse relaxation time of fat [s]."""
    fat_t2star_s: float
    """Effective transverse relaxation time of fat [s]."""

    def __len__(self) -> int:
        return len(self.pd)


def tissues(field_t: float, rng: np.random.Generator | None = None, *, spread: float = 1.0) -> Tissues:
    """Return the tissues of one subject.

    Parameters
    ----------
    field_t
        Field strength [T]; between 1.5 and 3 T logarithms are interpolated (T1 ~ B0^a, DOI 10.1002/mrm.21122).
    rng
        Draws the subject; the table itself when None.
    spread
        How far subjects differ: 1 is 7 % (standard deviation) in T1 and 8 % in T2 of each tissue.

    Raises
    ------
    ConfigError
        The field strength lies outside of the table.
    """
    if not FIELDS_T[0] <= field_t <= FIELDS_T[1]:
        expected = f"{FIELDS_T[0]} to {FIELDS_T[1]} T"
        raise ConfigError("tissues", expected=expected, got=f"{field_t:g} T", action="choose a field of the table")
    rows = np.array([row[:10] for row in _TABLE.values()])

    def at_field(low: Floats, high: Floats) -> Floats:
        part = np.log(field_t / FIELDS_T[0]) / np.log(FIELDS_T[1] / FIELDS_T[0])
        return np.asarray(1e-3 * np.exp((1 - part) * np.log(low) + part * np.log(high)))

    def drawn(values: Floats, sd: float) -> Floats:
        return values if rng is None else values * np.exp(spread * sd * rng.standard_normal(values.shape))

    whole = 1.0 if rng is None else float(np.exp(spread * _SPREAD_WHOLE * rng.standard_normal()))
    t2 = drawn(at_field(rows[:, 3], rows[:, 4]), _SPREAD_T2)
    fat = [float(at_field(np.array(v[0]), np.array(v[1]))) for v in (_FAT_T1_MS, _FAT_T2_MS, _FAT_T2STAR_MS)]
    return Tissues(
        field_t=field_t,
        pd=np.minimum(drawn(rows[:, 0], _SPREAD_PD), 1.05),
        t1_s=whole * drawn(at_field(rows[:, 1], rows[:, 2]), _SPREAD_T1),
        t2_s=t2,
        t2star_s=np.minimum(drawn(at_field(rows[:, 5], rows[:, 6]), 1.5 * _SPREAD_T2), t2),
        fat=rows[:, 7],
        fat_t1_s=fat[0] * whole,
        fat_t2_s=fat[1],
        fat_t2star_s=fat[2],
    )
