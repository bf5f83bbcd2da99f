"""The shipped denoising cards hold what they claim, at the strength of their protocols, on slices drawn here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import pytest

from integration.protocol import Library
from models.card import MAX_WEIGHTS
from models.engine import TorchCpu
from models.estimate import Estimator
from models.load import find, load
from models.train.ct import chest_slice, ct_sample
from models.train.figures import psnr
from models.train.mr import MrSpec, denoise_sample
from models.train.pet import pet_sample
from models.train.recipe import Case, recipe
from models.train.simulated import Simulated
from tests.benchmarks._failures import FAILURES
from tests.benchmarks.denoise import Method, gaussian, network
from tests.benchmarks.denoise_safety import detail_lost, recovered, stopped
from tests.models.train.simulated import small_head

PROTOCOLS = {"ct_denoise": "ct_axial_denoise", "pet_denoise": "pet_osem_denoise", "mr_denoise": "mri_tse_denoise"}
GAINS = {"ct_denoise": 2.0, "pet_denoise": 3.0, "mr_denoise": 2.0}
"""PSNR over the noisy slice that is held here, at the protocol's strength [dB]; the cards' test images gain more."""
DETAIL = {"ct_denoise": 0.05, "pet_denoise": 0.2, "mr_denoise": 0.3}
"""Part of the truth's finest detail that may be in what was removed: at an SNR of 10 the MR network takes a fifth."""
SURE = ("NaN", "noise alone", "stripes", "blocks", "noise x 20, untold", "inverted")


@cache
def estimator(name: str) -> Estimator:
    loaded = load(find(name, where="test"))
    return Estimator(loaded, TorchCpu(loaded.network, precision="f32"))


def strength(name: str) -> float:
    steps: Mapping[str, Mapping[str, object]] = dict(Library()[PROTOCOLS[name]].steps)
    values = steps["model.denoise"]
    assert values["card"] == name
    return float(values["strength"])  # type: ignore[arg-type]


@cache
def cases(name: str) -> tuple[Case, ...]:
    """Two slices at a quarter of the dose or of the counts, or at an SNR of 10."""
    of = recipe(name)
    assert isinstance(of, Simulated)
    return tuple(of.case(_sample(name, np.random.default_rng(seed))) for seed in (1, 2))


def _sample(name: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    if name == "mr_denoise":
        return denoise_sample(small_head(), rng, MrSpec(matrix=(96, 96), fov_mm=(100.0, 110.0), snr=(10.0, 10.0)))
    if name == "ct_denoise":
        made = ct_sample(chest_slice((192, 192), rng, pixel_mm=1.6), rng, pixel_mm=1.6, dose=0.25)
    else:
        y, x = np.indices((64, 64)) - 31.5
        legs = sum(np.hypot(y, x - side) < 12 for side in (-13, 13)) * 0.6
        legs = legs + 3 * np.exp(-((y - 2) ** 2 + (x - 12) ** 2) / 18) + 0.4 * (np.hypot(y, x + 13) < 4)
        made = pet_sample(legs.astype(np.float32), 4.0, rng, counts=5e4)  # type: ignore[assignment]
    return {"image": made.low, "sigma": made.sigma, "target": made.target}


@pytest.fixture(params=sorted(PROTOCOLS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def gain(method: Method, name: str) -> float:
    found = [psnr(method(c), c.truth, c.inside) - psnr(c.measured, c.truth, c.inside) for c in cases(name)]
    return float(np.mean(found))


def test_noise_falls(name: str) -> None:
    assert gain(network(estimator(name), strength(name)), name) > GAINS[name]


@pytest.mark.parametrize("sort", ["ct_denoise", "mr_denoise"])
def test_noise_falls_more_than_with_a_filter(sort: str) -> None:
    assert gain(network(estimator(sort), strength(sort)), sort) > gain(gaussian(0.8), sort) + 0.5


def test_the_mean_of_what_is_hot_stays() -> None:
    method = network(estimator("pet_denoise"), strength("pet_denoise"))
    for case in cases("pet_denoise"):
        hot = case.truth > 0.5 * case.truth.max()
        assert abs(method(case)[hot].mean() / case.measured[hot].mean() - 1) < 0.03
        assert abs(gaussian(1.0)(case)[hot].mean() / case.measured[hot].mean() - 1) > 0.04


def test_a_lesion_of_three_pixels_is_kept_and_nothing_else_changes(name: str) -> None:
    method = network(estimator(name), strength(name))
    found = [recovered(method, c, 3.0, contrast=10.0, seed=k) for c in cases(name) for k in range(3)]
    kept, elsewhere = np.array(found).T
    assert kept.mean() > 0.9
    assert kept.max() < 1.15
    assert elsewhere.max() < 0.5


def test_two_pixels_are_kept_as_well(name: str) -> None:
    method = network(estimator(name), strength(name))
    found = [recovered(method, c, 2.0, contrast=10.0, seed=k)[0] for c in cases(name) for k in range(3)]
    assert np.mean(found) > 0.78


def test_little_structure_is_in_what_was_removed(name: str) -> None:
    assert abs(detail_lost(network(estimator(name), strength(name)), cases(name))) < DETAIL[name]


@pytest.mark.parametrize("failure", SURE)
def test_planted_failures_are_refused_or_marked(name: str, failure: str) -> None:
    assert all(stopped(estimator(name), name, FAILURES[name][failure](c)) for c in cases(name))


def test_the_card_says_how_it_was_made_and_where_it_ends(name: str) -> None:
    card = estimator(name).card
    assert card.weights.size <= MAX_WEIGHTS
    assert card.training.recipe == name
    psnr_ = next(m for m in card.metrics if m.name == "PSNR")
    assert psnr_.conventional is not None and psnr_.ci95[0] > psnr_.conventional + 2
    assert card.consistency.rms.flag_below > 0
    words = recipe(name).card()
    assert set(words["limits"]) <= set(card.limits), "a limit of the recipe is missing from the card"


def test_the_two_halves_of_a_strength(name: str) -> None:
    (one, _), made = cases(name), estimator(name)
    half, whole = (network(made, s)(one) for s in (0.5, 1.0))
    np.testing.assert_allclose(half, (one.measured + whole) / 2, rtol=1e-3, atol=1e-3 * np.abs(one.measured).max())
