"""Low and before: what the difference bounds and supports, whatever a network says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from acquisition.errors import ConfigError, DataError
from models.nets import build
from models.pair import CHANNELS, SLICES, Pair, blurred_noise, noise_of_pair, remaining, tissue
from models.train.contrast import random_protocol, signals
from models.train.enhance import enhanced, random_uptake
from models.train.mr import T1_WEIGHTED
from models.train.tissue import NUMBER, tissues
from tests.models.lowdose import NOISE, SHAPE, anatomy, images, pair


def test_what_remains_grows_with_the_dose_and_less_so() -> None:
    assert remaining(1.0) == pytest.approx(1.0)
    assert 0.13 <= remaining(0.1) <= 0.14
    parts = [remaining(d) for d in (0.1, 0.2, 0.3, 0.4)]
    assert all(np.diff(parts) > 0)
    assert all(np.diff(parts, 2) < 0)


def test_physics_keeps_to_the_bound() -> None:
    """Full dose gives at most 1 / dose of what a part of it gives, in every T1-weighted sequence."""
    worst = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        protocol = random_protocol(rng, name=T1_WEIGHTED[seed % len(T1_WEIGHTED)])
        subject, uptake = tissues(protocol.field_t, rng), random_uptake(rng)
        dose = float(rng.uniform(0.08, 0.33))
        none, part, full = (
            signals(protocol, enhanced(subject, uptake, d)).water[[NUMBER["tumour"], NUMBER["vein"]]]
            for d in (0.0, dose, 1.0)
        )
        worst.append(((full - none) * dose / np.maximum(part - none, 1e-9)).max())
    assert max(worst) < 1.05  # right behind an inversion signal grows a little faster than the agent


def test_the_bound_holds_the_truth_but_for_rare_noise() -> None:
    found, missing = pair()
    inside = anatomy()[0] > 0
    assert (missing > found.bound())[inside].mean() < 0.01
    assert found.bound().min() >= 0
    assert (found.bound(0.0) <= found.bound()).all()
    nothing = replace(found, low=found.pre - 10)
    assert not nothing.bound().any()


def test_support_is_in_units_of_the_blurred_noise() -> None:
    flat = np.full((9, 64, 64), 50.0, np.float32)
    chance = np.random.default_rng(0)
    pre, low = (flat + chance.standard_normal(flat.shape).astype(np.float32) for _ in range(2))
    quiet = Pair(pre=pre, low=low, noise=np.ones_like(flat), dose=0.1, field_t=3.0)
    assert np.std(quiet.support()[2:-2]) == pytest.approx(1.0, abs=0.05)
    assert np.std(quiet.smoothed()[2:-2]) == pytest.approx(np.sqrt(2) * blurred_noise(9), rel=0.05)
    found, missing = pair()
    centre = missing > 0.9 * missing.max()
    assert np.median(found.support()[centre]) > 5


def test_enhancement_without_support_is_seen_and_the_truth_is_not() -> None:
    found, missing = pair()
    assert (found.unsupported(missing) > 2 * NOISE).mean() < 1e-3
    invented = missing.copy()
    invented[5:8, 20:26, 40:46] += 40.0
    excess = found.unsupported(invented)
    assert excess[6, 22, 42] > 10
    assert (excess[:, 40:, :30] < 2 * NOISE).mean() > 0.999


def test_the_noise_is_found_where_tissue_is_even() -> None:
    for noise in (0.7, 2.0):
        pre, low, _ = images(noise=noise)
        found = noise_of_pair(pre, low)
        inside = tissue(low)
        assert np.median(found[inside]) == pytest.approx(noise, rel=0.35)
    assert noise_of_pair(np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.float32)).shape == SHAPE


def test_planes_are_what_the_network_is_told() -> None:
    found, _ = pair()
    planes = found.planes()
    assert planes.shape == (SHAPE[0], CHANNELS, *SHAPE[1:])
    np.testing.assert_allclose(planes[:, 0], found.trivial(), rtol=1e-5)
    np.testing.assert_allclose(planes[:, 2 + SLICES // 2], found.difference, atol=1e-4)
    np.testing.assert_allclose(planes[3, 2], found.difference[1], atol=1e-4)
    np.testing.assert_allclose(planes[0, 2], found.difference[0], atol=1e-4)  # beyond the end the end goes on
    assert np.unique(planes[:, -3]) == pytest.approx(1.0)
    twice = replace(found, pre=2 * found.pre, low=2 * found.low, noise=2 * found.noise).planes()
    np.testing.assert_allclose(twice, planes, rtol=1e-4, atol=1e-4)


def test_the_network_never_goes_below_nothing_nor_above_the_bound() -> None:
    torch.manual_seed(0)
    network = build("lowdose", {"slices": SLICES, "levels": 2}, where="test")
    torch.nn.init.normal_(network.unet.tail.weight, std=0.5)  # type: ignore[union-attr]
    x = torch.from_numpy(pair()[0].planes())[:4]
    with torch.inference_mode():
        made = x[:, :1] + network(x)
        free = x[:, :1] + network.train()(x)
    assert float(made.min()) >= -1e-4
    assert float((made - x[:, 1:2]).max()) <= 1e-4
    assert float(free.min()) < -1  # while training it is told which way to go


def test_a_pair_that_is_none() -> None:
    found, _ = pair()
    with pytest.raises(DataError, match="one shape"):
        replace(found, pre=found.pre[:3])
    with pytest.raises(ConfigError, match=r"dose.*0.05 to 0.5.*got 1"):
        replace(found, dose=1.0)


def test_the_residual_of_the_truth_is_noise() -> None:
    found, missing = pair()
    truth, nothing, twice = (found.residual(np.float32(k) * missing) for k in (1.0, 0.0, 2.0))
    assert truth.rms == pytest.approx(1.0, abs=0.25)
    assert nothing.peak > 2 * truth.peak
    assert twice.peak > 2 * truth.peak
    assert found.middle.low.shape == (1, *SHAPE[1:])
