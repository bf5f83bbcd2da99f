"""The recipe of the unrolled network: what a batch holds, what the loss says, from a scan to a card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.card import read_card
from models.load import load
from models.nets import build
from models.nets.unrolled import HEAD, gram, unpacked
from models.problem import Reconstructor, estimator_of
from models.train import unrolled as module
from models.train.dataset import Source
from models.train.loop import Trained
from models.train.mr import unrolled_sample
from models.train.publish import Run, publish
from models.train.recipe import RECIPES, recipe, setting
from models.train.unrolled import UnrolledMr, solved, spotted
from tests.models.train.simulated import SMALL, small_head
from tests.models.train.test_dataset import Small
from tests.models.unrolled import SMALL as SMALL_NET
from tests.models.unrolled import small_network

PARTS = ("training", "calibration", "test")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> UnrolledMr:
    monkeypatch.setattr(module, "_MATRIX", {"lines": (96,), "discs": (72,)})
    monkeypatch.setattr(module, "_RECEIVERS", (6,))
    monkeypatch.setattr(module, "_KEPT", {"lines": 3, "discs": 2})
    of = UnrolledMr()
    sources: Mapping[str, Source] = {part: Small(part=part, data=Path(), cache=Path()) for part in PARTS}
    of.__dict__["_sources"] = sources
    return of


def batches(of: UnrolledMr) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """One batch of each kind."""
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for seed in range(20):
        x, truth = of.batch(np.random.default_rng((1, seed)), 2)
        found.setdefault("lines" if x.shape[3] == 96 else "discs", (x, truth))
        if len(found) == 2:
            return found
    raise AssertionError("one of the two kinds never came")


def test_a_batch_is_what_the_network_takes_and_its_truth_leaves_noise(made: UnrolledMr) -> None:
    for kind, (x, truth) in batches(made).items():
        assert x.shape[1] == HEAD + 16
        assert x.shape[2:] == truth.shape[2:] == ((64, 96) if kind == "lines" else (72, 72))
        p = unpacked(x)
        misfit = gram(torch.complex(truth[:, :1], truth[:, 1:]), p.maps, p.mask) - p.rhs
        left, share = misfit.abs().square().mean((1, 2, 3)).sqrt(), p.mask.mean((1, 2, 3))
        assert (left > 0.1).all()
        assert (left < 1.6 * share.sqrt()).all()  # what the noise amounts to, and the maps' error
        told = p.noise.mean((1, 2, 3)) / (0.5 / share).sqrt()
        assert ((told > 0.84) & (told < 1.26)).all()


def test_a_step_draws_the_same_batch_again(made: UnrolledMr) -> None:
    first, second = (made.batch(np.random.default_rng((1, 7)), 2) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], made.batch(np.random.default_rng((1, 9)), 2)[0])


def test_the_loss_is_a_part_of_the_error_of_wavelets(made: UnrolledMr) -> None:
    x, truth = batches(made)["lines"]
    start = x[:, :2]
    assert float(made.loss(start, truth, x)) == pytest.approx(1)
    assert float(made.loss((start + truth) / 2, truth, x)) == pytest.approx(0.5, rel=1e-3)
    assert float(made.loss(truth, truth, x)) < 1e-3
    louder = x.clone()
    louder[:, :2] *= 10
    assert float(made.loss(10 * (start + truth) / 2, 10 * truth, louder)) == pytest.approx(0.5, rel=1e-3)


def test_lesions_are_put_into_the_k_space_and_the_truth_alike() -> None:
    spec = replace(SMALL, calibrated=0.0, masks=("regular",))
    sample = unrolled_sample(small_head(), np.random.default_rng(3), spec)
    more = spotted(sample, np.random.default_rng(1))
    lesions = more["target"] - sample["target"]
    assert 0.05 < np.abs(lesions).max() / np.percentile(np.abs(sample["target"]), 99) < 2
    assert np.mean(np.abs(lesions) > 0.1 * np.abs(lesions).max()) < 0.1
    (before, _), (after, _) = (solved(s, espirit=False) for s in (sample, more))
    seen = after.gram(torch.from_numpy(lesions).mT.contiguous())
    torch.testing.assert_close(after.rhs - before.rhs, seen, rtol=1e-2, atol=0.05 * float(seen.abs().max()))


def test_a_patch_of_columns_is_exact() -> None:
    sample = unrolled_sample(small_head(), np.random.default_rng(3), replace(SMALL, calibrated=0.0, masks=("regular",)))
    whole, truth = solved(sample, espirit=False)
    part, wanted = solved(sample, espirit=False, columns=slice(10, 30))
    assert torch.equal(wanted, truth[10:30])
    torch.testing.assert_close(part.rhs, whole.rhs[10:30])
    torch.testing.assert_close(part.gram(wanted), whole.gram(truth)[10:30], rtol=1e-4, atol=1e-4)


def test_cases_differ_between_splits_and_are_the_same_each_time(made: UnrolledMr) -> None:
    first, again = (list(made.cases("test", 5)) for _ in range(2))
    (other,) = made.cases("calibration", 1)
    assert all(np.array_equal(a.measured, b.measured) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(other.truth, first[0].truth)
    assert [c.truth.shape for c in first] == [(96, 96)] * 4 + [(72, 72)]
    for case in first:
        assert case.problem is not None
        assert case.inside is not None
        assert case.problem.unexplained(torch.from_numpy(case.truth)) == pytest.approx(1, abs=0.15)


def test_published_weights_are_a_card_that_reconstructs(made: UnrolledMr, tmp_path: Path) -> None:
    chosen = replace(setting(made, "tiny"), cases=3)
    card = made.card()
    made.card = lambda: {**card, "network": {"name": "unrolled", "parameters": SMALL_NET}}  # type: ignore[method-assign]
    net = small_network(size=0.001)
    run = Run(recipe="mr_unrolled", setting_name="tiny", setting=chosen, seed=1, version="0.1.0")
    published = publish(Trained(net, 2, 1.0, finished=True), made, run, tmp_path)
    assert read_card(tmp_path / "card.yaml") == published
    assert {m.name for m in published.metrics} == {"PSNR", "SSIM", "NRMSE"}
    assert published.consistency.rms.flag_above >= 1
    (case,) = made.cases("test", 1)
    again = estimator_of(load(tmp_path / "card.yaml"), "torch")
    assert isinstance(again, Reconstructor)
    assert case.problem is not None
    assert np.isfinite(again.solved(case.problem).data).all()


def test_the_recipe_is_known_and_its_network_can_be_built() -> None:
    assert "mr_unrolled" in RECIPES
    named = recipe("mr_unrolled").card()["network"]
    net = build(named["name"], named["parameters"], where="test")
    assert 4 * sum(p.numel() for p in net.parameters()) < 20_000_000
