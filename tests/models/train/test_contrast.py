from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.errors import ConfigError
from models.train.contrast import (
    EQUATIONS,
    PROTOCOLS,
    Protocol,
    fat_phase_rad,
    fat_shift_voxels,
    random_protocol,
    signals,
)
from models.train.tissue import NUMBER, tissues

T1, T2, T2STAR = np.array([0.8, 1.4, 4.0]), np.array([0.07, 0.09, 1.5]), np.array([0.05, 0.06, 0.6])


def protocol(kind: str, **changes: float) -> Protocol:
    fields = {"name": "p", "kind": kind, "field_t": 3.0, "tr_s": 2.0, "te_s": 0.003}
    return Protocol(**(fields | changes))  # type: ignore[arg-type]


def blochs_train(p: Protocol, t1: float) -> float:
    """Follow one cycle after the other along z, pulse by pulse, until nothing changes."""
    m = 1.0
    a = np.deg2rad(p.flip_deg)

    def rest(m: float, time: float) -> float:
        return 1 - (1 - m) * np.exp(-time / t1)

    for _ in range(60):
        m = rest(-p.inversion * m, p.ti_s - p.n_echoes / 2 * p.spacing_s)
        for k in range(p.n_echoes):
            if k == p.n_echoes // 2:
                seen = m * np.sin(a)
            m = rest(m * np.cos(a), p.spacing_s)
        m = rest(m, p.tr_s - p.ti_s - p.n_echoes / 2 * p.spacing_s)
    return seen


def test_mprage_is_the_steady_state_of_its_pulses() -> None:
    p = protocol("mprage", tr_s=2.2, ti_s=0.9, flip_deg=9, n_echoes=160, spacing_s=0.006, inversion=0.95, te_s=1e-9)
    expected = [blochs_train(p, t1) for t1 in T1]
    assert EQUATIONS["mprage"](p, T1, T2, T2STAR) == pytest.approx(expected, abs=1e-9)


def test_spoiled_echoes_are_the_steady_state_of_their_pulses() -> None:
    p = protocol("gre", tr_s=0.01, flip_deg=20, te_s=1e-9)
    m, a = np.ones(3), np.deg2rad(20)
    for _ in range(4000):
        seen, m = m * np.sin(a), 1 - (1 - m * np.cos(a)) * np.exp(-0.01 / T1)
    assert EQUATIONS["gre"](p, T1, T2, T2STAR) == pytest.approx(seen, rel=1e-6)


def test_balanced_echoes_are_the_steady_state_of_their_rotations() -> None:
    p = protocol("bssfp", tr_s=0.005, flip_deg=45, te_s=1e-9)
    a = np.deg2rad(45)
    for t1, t2, signal in zip(T1, T2, EQUATIONS["bssfp"](p, T1, T2, T2STAR), strict=True):
        e1, e2 = np.exp(-0.005 / t1), np.exp(-0.005 / t2)
        m, turn = np.array([0.0, 1.0]), 1.0  # transverse, longitudinal; alternating pulses
        for _ in range(15000):
            c, s = np.cos(turn * a), np.sin(turn * a)
            m = np.array([c * m[0] + s * m[1], -s * m[0] + c * m[1]])
            seen = abs(m[0])
            m = np.array([m[0] * e2, 1 - (1 - m[1]) * e1])
            turn = -turn
        assert signal == pytest.approx(seen, rel=1e-5)


def test_long_repetition_leaves_density_and_decay() -> None:
    for kind in ("spin_echo", "tse"):
        p = protocol(kind, tr_s=60.0, te_s=0.05, n_echoes=1, spacing_s=0.01)
        assert EQUATIONS[kind](p, T1, T2, T2STAR) == pytest.approx(np.exp(-0.05 / T2), rel=1e-4)


def test_flair_hides_csf_and_shows_lesions() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        water = signals(random_protocol(rng, name="flair"), tissues(3.0)).water
        assert abs(water[NUMBER["csf"]]) < 0.35 * water[NUMBER["cortex"]]
        assert water[NUMBER["plaque"]] > water[NUMBER["white"]]


@pytest.mark.parametrize(
    ("name", "brighter", "darker"),
    [
        ("t1_mprage", "white", "cortex"),
        ("t1_mprage", "cortex", "csf"),
        ("t1_spin_echo", "white", "csf"),
        ("t2_tse", "csf", "cortex"),
        ("t2_tse", "cortex", "white"),
        ("t2_tse", "white", "pallidum"),
        ("pd_tse", "cortex", "white"),
        ("t2star_gre", "csf", "vein"),
    ],
)
def test_contrasts_are_those_of_the_clinic(name: str, brighter: str, darker: str) -> None:
    for seed in range(10):
        p = random_protocol(np.random.default_rng(seed), name=name, field_t=3.0)
        water = signals(p, tissues(3.0)).water
        assert water[NUMBER[brighter]] > water[NUMBER[darker]], seed


def test_every_random_protocol_fits_into_its_repetition_time() -> None:
    for name in PROTOCOLS:
        for seed in range(100):
            signals(random_protocol(np.random.default_rng(seed), name=name), tissues(1.5))


def test_fat_is_shifted_and_turned_by_its_frequency() -> None:
    p = protocol("gre", te_s=0.0023, bandwidth_hz=217.0)
    hz = 3.4e-6 * 42.577e6 * 3
    assert fat_shift_voxels(p) == pytest.approx(-hz / 217)
    assert fat_phase_rad(p) == pytest.approx(-2 * np.pi * hz * 0.0023)
    assert fat_phase_rad(replace(p, kind="tse")) == 0


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"kind": "spiral"}, "a kind of spin_echo"),
        ({"kind": "tse", "tr_s": 0.1, "n_echoes": 20, "spacing_s": 0.01}, "fit into the repetition time"),
        ({"kind": "mprage", "ti_s": 0.3, "n_echoes": 160, "spacing_s": 0.006}, "fit into the repetition time"),
        ({"kind": "gre", "te_s": 0.0}, "times above 0"),
    ],
)
def test_impossible_protocols_are_refused(changes: dict, match: str) -> None:
    fields = {"name": "p", "kind": "gre", "field_t": 3.0, "tr_s": 2.0, "te_s": 0.003} | changes
    with pytest.raises(ConfigError, match=match):
        signals(Protocol(**fields), tissues(3.0))


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="'t3_tse'"):
        random_protocol(np.random.default_rng(0), name="t3_tse")
