"""The denoising recipes: units, patches and cases are what the service will see."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from acquisition.errors import ConfigError
from models.card import parse_card
from models.noise import floored, level
from models.train import simulated
from models.train.ct_denoise import CtDenoise
from models.train.loop import Trained
from models.train.mr_denoise import MrDenoise
from models.train.pet_denoise import PetDenoise
from models.train.publish import Run, provisional
from models.train.simulated import Simulated, lost
from recon.noise import local_noise
from tests.models.train.test_dataset import Small

RECIPES = {"mr_denoise": MrDenoise(matrices=(72,), kept=2), "ct_denoise": CtDenoise(matrices=(72,), kept=2)}
RECIPES["pet_denoise"] = PetDenoise(matrices=(64,), kept=2)


@pytest.fixture(autouse=True)
def small_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anatomy without files."""
    monkeypatch.setattr(simulated, "source_of", lambda split: Small(part=split, data=Path(), cache=Path()))


@pytest.fixture(params=sorted(RECIPES))
def of(request: pytest.FixtureRequest) -> Simulated:
    return replace(RECIPES[request.param])


def test_patches_are_in_units_of_their_noise(of: Simulated) -> None:
    x, truth = of.batch(np.random.default_rng(0), 6)
    channels = truth.shape[1]
    assert x.shape == (6, channels + 1, of.patch, of.patch)
    noise = x[:, channels:]
    assert 0.5 < float(noise.median()) < 2
    errors = (x[:, :channels] - truth).abs() / noise
    assert 0.5 < float(errors[:, :1][noise > 0.5].median() / 0.6745) < 1.7


def test_every_patch_comes_with_spots_and_without_and_else_alike(of: Simulated) -> None:
    x, truth = replace(of, spots=9.0).batch(np.random.default_rng(0), 4)
    channels = truth.shape[1]
    noise = x[:, :channels] - truth
    torch.testing.assert_close(noise[0::2], noise[1::2], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(x[0::2, channels:], x[1::2, channels:])
    spots = truth[0::2] - truth[1::2]
    assert float(spots.abs().amax()) > 1
    if isinstance(of, PetDenoise):
        assert float(spots.min()) > -1e-4


def test_what_is_lost_of_lesions_is_a_part_of_them(of: Simulated) -> None:
    _, truth = of.batch(np.random.default_rng(0), 4)
    lesions = truth[0::2] - truth[1::2]
    error = torch.randn(truth[0::2].shape, generator=torch.Generator().manual_seed(0)).repeat_interleave(2, dim=0)
    assert float(lost(error, truth)) < 0.1  # noise that both keep is no loss
    for part in (0.25, -0.25):
        error[0::2] = error[1::2] + part * lesions
        assert float(lost(error, truth)) == pytest.approx(0.25, abs=0.02)


def test_what_is_lost_costs(of: Simulated) -> None:
    x, truth = of.batch(np.random.default_rng(0), 2)
    faded = truth.clone()
    faded[0] = truth[1] + 0.5 * (truth[0] - truth[1])
    cost, free = (float(replace(of, kept_whole=w).loss(faded, truth, x)) for w in (1.0, 0.0))
    assert cost - free == pytest.approx(0.5, abs=0.05)


def test_a_case_is_a_sample_of_its_split_with_the_noise_that_the_service_knows(of: Simulated) -> None:
    (test,), (calibration,) = list(of.cases("test", 1)), list(of.cases("calibration", 1))
    assert test.measured.shape == test.truth.shape == test.noise.shape
    assert not np.array_equal(test.truth, calibration.truth)
    assert test.noise.min() >= 0.099 * level(test.noise)
    assert test.inside is not None
    assert 0.02 < test.inside.mean() <= 1


def test_ct_is_told_the_noise_of_the_step_before_it() -> None:
    (case,) = RECIPES["ct_denoise"].cases("test", 1)
    np.testing.assert_array_equal(case.noise, floored(local_noise(case.measured)))


def test_the_card_can_be_read(of: Simulated) -> None:
    name = next(n for n, r in RECIPES.items() if type(r) is type(of))
    setting = of.settings["small"]  # type: ignore[attr-defined]
    run = Run(recipe=name, setting_name="small", setting=setting, seed=1, version="0.1.0")
    card = parse_card(provisional(of, run, Trained(torch.nn.Identity(), 1, 1.0, True)), where="test")  # type: ignore[arg-type]
    assert card.name == name
    assert {d.used_for for d in card.training.data} == {"training", "calibration", "test"}


def test_an_error_of_a_whole_block_costs_more_than_the_same_as_grain(of: Simulated) -> None:
    truth = torch.zeros(1, 1, 32, 32)
    checks = torch.ones(32, 32)
    checks[::2] *= -1
    checks[:, ::2] *= -1
    x = torch.cat([truth, torch.ones_like(truth)], dim=1)
    assert float(of.loss(0.5 + truth, truth, x)) > 1.2 * float(of.loss(0.5 * checks + truth, truth, x))


def test_an_error_at_a_lesion_costs_more_than_the_same_beside_it(of: Simulated) -> None:
    truth = torch.zeros(1, 1, 32, 32)
    truth[..., 8, 8] = 4.0
    x = torch.cat([truth, torch.ones_like(truth)], dim=1)
    at, beside = torch.zeros_like(truth), torch.zeros_like(truth)
    at[..., 8, 8] = beside[..., 24, 24] = 1.0
    least, lost, other = (float(of.loss(truth - error, truth, x)) for error in (0 * at, at, beside))
    assert lost - least > 1.1 * (other - least)


def test_few_counts_are_not_answered_with_their_median() -> None:
    counts = torch.from_numpy(np.random.default_rng(0).poisson(0.6, 20000).astype(np.float32)).reshape(1, 1, 100, 200)
    pet = RECIPES["pet_denoise"]
    cost = [float(pet.penalty(v - counts).mean()) for v in (0.0, 0.4, 0.6, 0.8)]
    assert int(np.argmin(cost)) == 2


def test_without_data_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.delenv(simulated.DATA, raising=False)
    with pytest.raises(ConfigError, match="export ISOCENTER_DATA"):
        simulated.source_of("test")
