"""What a sequence makes of the tissues: signal equations, and random protocols as radiographers set them.

All signals are those of fully relaxed water of density 1 seen at once: 1. References: Bernstein, King & Zhou, Handbook
of MRI Pulse Sequences, 2004 (spin echo, inversion recovery, spoiled gradient echo); MPRAGE: Mugler & Brookeman, MRM
1990;15:152, DOI 10.1002/mrm.1910150117; balanced steady state: Scheffler & Lehnhardt, Eur Radiol 2003;13:2409,
DOI 10.1007/s00330-003-1957-x.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ConfigError
from models.train.tissue import NUMBER, Tissues, tissues

Floats = NDArray[np.float64]

FAT_PPM = -3.4
"""Chemical shift of fat against water [ppm]."""
GAMMA_HZ_PER_T = 42.577e6
"""Protons' gyromagnetic ratio [Hz/T]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """What the sequence does."""

    name: str
    """What it is called, one of `PROTOCOLS` where it was drawn."""
    kind: str
    """One of `EQUATIONS`."""
    field_t: float
    """Field strength [T]."""
    tr_s: float
    """Repetition time; of MPRAGE from inversion to inversion [s]."""
    te_s: float
    """Echo time; of a train that of the centre of k-space [s]."""
    ti_s: float = 0.0
    """Inversion time, to the centre of k-space [s]."""
    flip_deg: float = 90.0
    """Flip angle [degrees]."""
    n_echoes: int = 1
    """Echoes of a train, or readouts behind an inversion."""
    spacing_s: float = 0.0
    """Time between these echoes or readouts [s]."""
    inversion: float = 0.97
    """Part of the magnetisation that is inverted."""
    fat_left: float = 1.0
    """Part of the fat's signal that fat suppression leaves."""
    bandwidth_hz: float = 250.0
    """Receiver bandwidth per voxel of the readout [Hz]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What each tissue gives; arrays run over `tissue.NAMES`."""

    water: Floats
    """Signal of the water at the echo time; negative where an inversion has not passed zero."""
    fat: Floats
    """Signal of the fat at the echo time, without its phase."""
    t2_s: Floats
    """Time with which the water's signal decays along a train [s]."""
    fat_t2_s: float
    """Time with which the fat's signal decays along a train [s]."""


_Equation = Callable[[Protocol, Floats, Floats, Floats], Floats]  # protocol, T1, T2, T2* [s] -> signal per density


def _spin_echo(p: Protocol, t1: Floats, t2: Floats, t2star: Floats) -> Floats:
    """``(1 - 2 e^(-(TR - TE/2)/T1) + e^(-TR/T1)) e^(-TE/T2)``."""
    return (1 - 2 * np.exp(-(p.tr_s - p.te_s / 2) / t1) + np.exp(-p.tr_s / t1)) * np.exp(-p.te_s / t2)


def _turbo(p: Protocol, t1: Floats, t2: Floats, t2star: Floats) -> Floats:
    """``(1 - e^(-(TR - train)/T1)) e^(-TE/T2)``: nothing is left along z behind the train."""
    rest = p.tr_s - p.n_echoes * p.spacing_s
    return (1 - np.exp(-rest / t1)) * np.exp(-p.te_s / t2)


def _inverted_turbo(p: Protocol, t1: Floats, t2: Floats, t2star: Floats) -> Floats:
    """``(1 - (1 + f) e^(-TI/T1) + f e^(-(TR - train)/T1)) e^(-TE/T2)`` with the part f inverted."""
    rest, f = p.tr_s - p.n_echoes * p.spacing_s, p.inversion
    return (1 - (1 + f) * np.exp(-p.ti_s / t1) + f * np.exp(-rest / t1)) * np.exp(-p.te_s / t2)


def _spoiled(p: Protocol, t1: Floats, t2: Floats, t2star: Floats) -> Floats:
    """``sin a (1 - E1) / (1 - cos a E1) e^(-TE/T2*)``."""
    a, e1 = np.deg2rad(p.flip_deg), np.exp(-p.tr_s / t1)
    return np.sin(a) * (1 - e1) / (1 - np.cos(a) * e1) * np.exp(-p.te_s / t2star)


def _mprage(p: Protocol, t1: Floats, t2: Floats, t2star: Floats) -> Floats:
    """Inversion, a train of spoiled echoes whose middle one lies at TI, recovery: the steady state of the cycle."""
    a, f, n = np.deg2rad(p.flip_deg), p.inversion, p.n_echoes
    before = np.exp(-(p.ti_s - n / 2 * p.spacing_s) / t1)
    after = np.exp(-(p.tr_s - p.ti_s - n / 2 * p.spacing_s) / t1)
    e1 = np.exp(-p.spacing_s / t1)
    q = np.cos(a) * e1
    driven = (1 - e1) / (1 - q)
    start = (1 - after + after * (driven + (1 - before - driven) * q**n)) / (1 + after * f * before * q**n)
    first = 1 - (1 + f * start) * before
    middle = driven + (first - driven) * q ** (n / 2)
    return np.sin(a) * middle * np.exp(-p.te_s / t2star)


def _balanced(p: Protocol, t1: Floats, t2: Floats, t2star: Floats) -> Floats:
    """``sin a (1 - E1) / (1 - (E1 - E2) cos a - E1 E2) e^(-TE/T2)``, on resonance."""
    a, e1, e2 = np.deg2rad(p.flip_deg), np.exp(-p.tr_s / t1), np.exp(-p.tr_s / t2)
    return np.sin(a) * (1 - e1) / (1 - (e1 - e2) * np.cos(a) - e1 * e2) * np.exp(-p.te_s / t2)


EQUATIONS: Mapping[str, _Equation] = {
    "spin_echo": _spin_echo,
    "tse": _turbo,
    "ir_tse": _inverted_turbo,
    "gre": _spoiled,
    "mprage": _mprage,
    "bssfp": _balanced,
}
"""Kind of sequence -> signal per density, from protocol, T1, T2 and T2* [s]."""
_FAT_IN_TRAINS = 2.0  # close refocusing pulses undo J-coupling: fat is bright, DOI 10.1002/jmri.1880020511
TRAINS = ("tse", "ir_tse")
"""Kinds whose lines are read at different times of one train."""
REFOCUSED = ("spin_echo", "tse", "ir_tse")
"""Kinds in which off-resonance has no effect at the echo."""


def signals(protocol: Protocol, subject: Tissues) -> Signals:
    """Return what each tissue gives.

    Raises
    ------
    ConfigError
        The kind of sequence is unknown, or its times do not fit into each other.
    """
    _check(protocol)
    equation = EQUATIONS[protocol.kind]
    one = np.ones(1)
    fat_t2_s = subject.fat_t2_s * (_FAT_IN_TRAINS if protocol.kind in TRAINS else 1.0)
    fat = equation(protocol, subject.fat_t1_s * one, fat_t2_s * one, subject.fat_t2star_s * one)[0]
    return Signals(
        water=subject.pd * (1 - subject.fat) * equation(protocol, subject.t1_s, subject.t2_s, subject.t2star_s),
        fat=subject.pd * subject.fat * fat * protocol.fat_left,
        t2_s=subject.t2_s,
        fat_t2_s=fat_t2_s,
    )


def _check(p: Protocol) -> None:
    where = f"protocol {p.name}"
    if p.kind not in EQUATIONS:
        raise ConfigError(where, expected=f"a kind of {', '.join(EQUATIONS)}", got=repr(p.kind))
    train = p.n_echoes * p.spacing_s
    room = p.tr_s - p.ti_s - train / 2 if p.kind == "mprage" else p.tr_s - train - p.ti_s
    early = p.ti_s - train / 2 if p.kind == "mprage" else 0.0
    if min(p.tr_s, p.te_s) <= 0 or room < 0 or early < 0:
        raise ConfigError(
            where,
            expected="times above 0 that fit into the repetition time",
            got=f"TR {p.tr_s:g}, TE {p.te_s:g}, TI {p.ti_s:g}, train {train:g} s",
            action="lengthen TR or shorten the train",
        )


def fat_phase_rad(protocol: Protocol) -> float:
    """Return the phase of fat against water at the echo [rad]."""
    if protocol.kind in REFOCUSED:
        return 0.0
    return float(2 * np.pi * FAT_PPM * 1e-6 * GAMMA_HZ_PER_T * protocol.field_t * protocol.te_s)


def fat_shift_voxels(protocol: Protocol) -> float:
    """Return how far fat is shifted along the readout [voxels]."""
    return FAT_PPM * 1e-6 * GAMMA_HZ_PER_T * protocol.field_t / protocol.bandwidth_hz


def flow(protocol: Protocol, rng: np.random.Generator) -> dict[str, float]:
    """Return by what factor moving blood is brighter than it would be at rest, for artery and vein.

    Spin echoes lose what has left the slice between excitation and refocusing; fresh blood is not yet saturated.
    """
    if protocol.kind in REFOCUSED:
        return {"artery": float(rng.uniform(0, 0.2)), "vein": float(rng.uniform(0.05, 0.6))}
    if protocol.kind == "bssfp":
        return {"artery": float(rng.uniform(0.7, 1.3)), "vein": float(rng.uniform(0.8, 1.2))}
    return {"artery": float(rng.uniform(0.9, 2.2)), "vein": float(rng.uniform(0.8, 1.4))}


# name: (kind, TR, TE, TI [s], flip [degrees], echoes, spacing [s]), each a range; one that the clinic uses
_RANGES: dict[str, tuple[str, tuple[tuple[float, float], ...]]] = {
    "t1_spin_echo": ("spin_echo", ((0.40, 0.70), (0.008, 0.016), (0, 0), (90, 90), (1, 1), (0, 0))),
    "t1_gre": ("gre", ((0.12, 0.30), (0.0023, 0.006), (0, 0), (60, 80), (1, 1), (0, 0))),
    "t1_spgr": ("gre", ((0.006, 0.013), (0.002, 0.005), (0, 0), (12, 25), (1, 1), (0, 0))),
    "t1_mprage": ("mprage", ((1.8, 2.5), (0.002, 0.004), (0.8, 1.1), (7, 12), (140, 180), (0.0055, 0.007))),
    "t2_tse": ("tse", ((3.0, 6.5), (0.080, 0.120), (0, 0), (90, 90), (8, 24), (0.008, 0.012))),
    "pd_tse": ("tse", ((2.2, 4.0), (0.012, 0.035), (0, 0), (90, 90), (4, 10), (0.007, 0.011))),
    "flair": ("ir_tse", ((7.5, 10.0), (0.085, 0.130), (2.2, 2.7), (90, 90), (12, 24), (0.008, 0.011))),
    "t2star_gre": ("gre", ((0.45, 0.90), (0.012, 0.028), (0, 0), (15, 30), (1, 1), (0, 0))),
    "bssfp": ("bssfp", ((0.0042, 0.0065), (0.0021, 0.0032), (0, 0), (30, 60), (1, 1), (0, 0))),
}
PROTOCOLS = tuple(_RANGES)
"""Names of what is drawn."""


def random_protocol(rng: np.random.Generator, *, name: str | None = None, field_t: float | None = None) -> Protocol:
    """Return a protocol with times drawn from what the clinic uses.

    Parameters
    ----------
    rng
        Draws it.
    name
        One of `PROTOCOLS`; drawn when None.
    field_t
        Field strength [T]; drawn (3 T twice as often as 1.5 T) when None.

    Raises
    ------
    ConfigError
        The name is unknown.
    """
    name = str(rng.choice(PROTOCOLS)) if name is None else name
    if name not in _RANGES:
        raise ConfigError("protocol", expected=f"one of {', '.join(PROTOCOLS)}", got=repr(name))
    kind, ranges = _RANGES[name]
    tr, te, ti, flip, n_echoes, spacing = (float(rng.uniform(*r)) for r in ranges)
    field = float(rng.choice([1.5, 3.0, 3.0])) if field_t is None else field_t
    drawn = Protocol(
        name=name,
        kind=kind,
        field_t=field,
        tr_s=tr,
        te_s=te,
        ti_s=ti,
        flip_deg=flip,
        n_echoes=round(n_echoes),
        spacing_s=spacing,
        inversion=float(rng.uniform(0.92, 1.0)),
        fat_left=float(rng.choice([1.0, 1.0, rng.uniform(0.03, 0.25)])),
        bandwidth_hz=float(rng.uniform(120, 400)),
    )
    return _nulled(drawn, rng) if name == "flair" else drawn


def _nulled(p: Protocol, rng: np.random.Generator) -> Protocol:
    """Set TI so that CSF of the table gives nearly nothing: ``T1 ln((1 + f) / (1 + f e^(-rest/T1)))``."""
    t1 = float(tissues(p.field_t).t1_s[NUMBER["csf"]])
    rest = p.tr_s - p.n_echoes * p.spacing_s
    null = t1 * np.log((1 + p.inversion) / (1 + p.inversion * np.exp(-rest / t1)))
    return replace(p, ti_s=float(null * rng.uniform(0.97, 1.03)))
