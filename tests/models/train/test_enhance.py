from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.errors import ConfigError
from models.train.anatomy import Lesions
from models.train.contrast import random_protocol, signals
from models.train.enhance import AGENTS, Uptake, dose_series, enhanced, random_uptake, relaxivity
from models.train.scene import random_scene
from models.train.tissue import NAMES, NUMBER, PARENCHYMA, tissues
from tests.models.train.simulated import axial_plane, small_head


def test_relaxation_rates_grow_with_the_concentration() -> None:
    subject = tissues(3.0)
    uptake = Uptake(agent="gadobutrol", full_mm=np.full(len(NAMES), 0.5))
    after = enhanced(subject, uptake, 0.4)
    r1, r2 = relaxivity("gadobutrol", 3.0)
    assert (r1, r2) == (4.5, 6.5)
    assert 1 / after.t1_s - 1 / subject.t1_s == pytest.approx(0.2 * r1)
    assert 1 / after.t2_s - 1 / subject.t2_s == pytest.approx(0.2 * r2)
    assert enhanced(subject, uptake, 0.0).t1_s == pytest.approx(subject.t1_s)


def test_a_tenth_of_the_dose_gives_13_to_14_percent_of_the_enhancement() -> None:
    """Lesions in the sequences of the published study (inversion-prepared and spoiled gradient echoes), 1.5 and 3 T."""
    part = []
    for name in ("t1_mprage", "t1_spgr"):
        for seed in range(150):
            rng = np.random.default_rng(seed)
            protocol = random_protocol(rng, name=name)
            subject, uptake = tissues(protocol.field_t, rng), random_uptake(rng)
            none, tenth, full = (
                signals(protocol, enhanced(subject, uptake, dose)).water[NUMBER["tumour"]] for dose in (0.0, 0.1, 1.0)
            )
            part.append((tenth - none, full - none))
    ratio = np.sum(part, axis=0)
    assert 0.13 <= ratio[0] / ratio[1] <= 0.14


def test_normal_brain_takes_up_nothing() -> None:
    for seed in range(20):
        uptake = random_uptake(np.random.default_rng(seed))
        assert uptake.agent in AGENTS
        assert not uptake.full_mm[[NUMBER[n] for n in PARENCHYMA]].any()
        for name in ("artery", "vein", "tumour", "dura", "choroid", "mucosa"):
            assert uptake.full_mm[NUMBER[name]] > 0.05
    assert random_uptake(np.random.default_rng(1)).agent == random_uptake(np.random.default_rng(1)).agent


def test_the_doses_differ_only_where_the_agent_is() -> None:
    protocol = replace(random_protocol(np.random.default_rng(3), name="t1_mprage", field_t=3.0), bandwidth_hz=1e6)
    plane = axial_plane()
    scene = random_scene(small_head(), plane, protocol, np.random.default_rng(3))
    at = small_head().centre + np.array([0.0, 8.0, 14.0])
    ball = Lesions(
        middles=at[None],
        inverse=np.eye(3)[None] / 6,
        waves=np.zeros((1, 4, 5)),
        what=np.array([NUMBER["tumour"]]),
    )
    scene = replace(scene, lesions=ball, vessels=np.zeros(plane.shape, np.float32))
    uptake = random_uptake(np.random.default_rng(3), agent="gadobenate")
    pre, low, full = np.abs(dose_series(scene, protocol, tissues(3.0), uptake=uptake))
    change = full - pre
    assert change.max() > 0.3 * pre.max()
    assert ((low - pre)[change > 0.5 * change.max()] > 0.05 * change.max()).all()
    assert np.mean(np.abs(change) < 1e-3 * pre.max()) > 0.6  # the brain and the air
    weak = (low - pre).sum() / change.sum()
    assert 0.1 < weak < 0.2


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: random_uptake(np.random.default_rng(0), agent="iodine"), "gadobutrol"),
        (lambda: enhanced(tissues(3.0), random_uptake(np.random.default_rng(0)), -0.1), "0 or more"),
    ],
)
def test_impossible_doses_are_refused(call, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        call()
