"""The low-dose recipe: slabs of doses, patches as the service will see pairs, a card that can be written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.card import parse_card
from models.pair import CHANNELS, SLICES, tissue
from models.train import simulated
from models.train.doses import dose_slab
from models.train.loop import Trained
from models.train.mr import T1_WEIGHTED
from models.train.mr_lowdose import MrLowDose, pair_of
from models.train.publish import Run, provisional
from models.train.recipe import recipe
from tests.models.train.simulated import SMALL, small_head
from tests.models.train.test_dataset import Small

SPEC = replace(SMALL, protocols=T1_WEIGHTED)


@pytest.fixture(autouse=True)
def small_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anatomy without files."""
    monkeypatch.setattr(simulated, "source_of", lambda split: Small(part=split, data=Path(), cache=Path()))


def of() -> MrLowDose:
    return MrLowDose(spec=SPEC, kept=2, patch=24)


def test_a_slab_is_the_same_each_time_and_its_neighbours_are_alike() -> None:
    one, same = (dose_slab(small_head(), np.random.default_rng(4), SPEC, n_slices=5) for _ in range(2))
    np.testing.assert_array_equal(one.low, same.low)
    assert one.low.shape == (5, 48, 48)
    near = np.corrcoef(one.low[2].ravel(), one.low[3].ravel())[0, 1]
    assert near > 0.8
    assert not np.array_equal(one.low[2], one.low[3])
    assert 0.08 <= one.dose <= 0.33
    assert one.brain.max() > 0.9
    none = dose_slab(small_head(), np.random.default_rng(4), SPEC, n_slices=3, lesions=0.0)
    assert not none.tumour.any()


def test_the_image_before_lies_elsewhere_and_comes_back() -> None:
    """Brought back it differs from the low dose where the agent is; not brought back, or the wrong way, everywhere."""
    better = 0
    for seed in range(12):
        slab = dose_slab(small_head(), np.random.default_rng(seed), SPEC, n_slices=1)
        if not any(slab.back):
            continue
        quiet = replace(slab, sigma=0 * slab.sigma)
        rng = np.random.default_rng(0)
        wrong = replace(quiet, back=(-slab.back[0], -slab.back[1]))
        right, left = (float(np.abs(s.noisy(1.0, rng, name="pre") - slab.low).mean()) for s in (quiet, wrong))
        better += right < left
    assert better >= 6


def test_another_sequence_before_is_told_apart() -> None:
    same, other = (
        dose_slab(small_head(), np.random.default_rng(2), SPEC, n_slices=1, earlier=name) for name in ("", "t2_tse")
    )
    inside = tissue(same.low)
    alike = [np.corrcoef(s.pre[inside], s.low[inside])[0, 1] for s in (same, other)]
    assert alike[0] > 0.9 > alike[1]


def test_patches_are_planes_and_what_is_missing() -> None:
    x, truth = of().batch(np.random.default_rng(0), 4)
    assert x.shape == (4, CHANNELS, 24, 24)
    assert truth.shape == (4, 1, 24, 24)
    assert torch.isfinite(x).all()
    again, _ = of().batch(np.random.default_rng(0), 4)
    torch.testing.assert_close(x, again)
    assert float((x[:, -1]).median()) == pytest.approx(1.0, abs=0.3)


def test_spots_enhance_in_both_images() -> None:
    plain, spotted = (replace(of(), spots=n).batch(np.random.default_rng(1), 4) for n in (0.0, 6.0))
    more = spotted[1] - plain[1]
    assert float(more.max()) > 3
    assert spotted[0].shape == plain[0].shape


def test_the_loss_counts_what_enhances_more() -> None:
    made, zero = of(), torch.zeros(1, 1, 8, 8)
    bright = torch.full_like(zero, 20.0)
    x = torch.zeros(1, CHANNELS, 8, 8)
    assert float(made.loss(bright - 1, bright, x)) > 3 * float(made.loss(zero + 1, zero, x))
    assert float(made.loss(zero, zero, x)) < 0.2


def test_cases_of_a_split_are_pairs_with_a_truth() -> None:
    first, second = of().cases("test", 2)
    (again,) = of().cases("test", 1)
    np.testing.assert_array_equal(first.measured, again.measured)
    assert not np.array_equal(first.measured, second.measured)
    assert first.problem is not None
    np.testing.assert_array_equal(first.problem.low[SLICES // 2], first.measured)  # type: ignore[union-attr]
    assert first.inside is not None
    slab = dose_slab(small_head(), np.random.default_rng(0), SPEC)
    pair = pair_of(slab, 30.0, np.random.default_rng(0))
    assert pair.dose == slab.dose
    assert (pair.noise > 0).all()


def test_the_recipe_can_be_published() -> None:
    made = recipe("mr_lowdose")
    trained = Trained(torch.nn.Identity(), 1, 1.0, True)
    run = Run(recipe="mr_lowdose", setting_name="tiny", setting=made.settings["tiny"], seed=1, version="1.0.0")
    card = parse_card(provisional(made, run, trained), where="test")
    assert "Research" in card.intended_use
    assert card.network.name == "lowdose"
