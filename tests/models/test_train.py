"""Training: the same numbers whether interrupted or not; cards that are complete; calibration that holds."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from acquisition.errors import ConfigError, DataError, LimitError, ReconError
from models.card import read_card
from models.consistency import Residual, residual
from models.engine import TorchCpu
from models.estimate import Estimator
from models.load import load
from models.nets import build
from models.train import __main__ as program
from models.train import publish as publishing
from models.train import simulated
from models.train.ellipses import Ellipses
from models.train.figures import interval, nrmse, psnr, ssim
from models.train.loop import CHECKPOINT, Trained, Training, schedule
from models.train.publish import Run, covered, publish
from models.train.recipe import RECIPES, Setting, recipe, setting
from models.train.simulated import Simulated
from models.train.unrolled import UnrolledMr
from tests.models.train.test_dataset import Small


@pytest.fixture
def small_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anatomy without files."""
    monkeypatch.setattr(simulated, "source_of", lambda split: Small(part=split, data=Path(), cache=Path()))


TINY = Setting(steps=6, batch=1, rate=1e-3, cases=4, average=0.5)


def training(folder: Path, *, seed: int = 1, of: Setting = TINY, told: list[str] | None = None) -> Training:
    def net() -> torch.nn.Module:
        return build("unet", {"levels": 1}, where="test")

    return Training(net, Ellipses(), setting=of, seed=seed, folder=folder, tell=(told or []).append)


def weights(trained: Trained) -> dict[str, torch.Tensor]:
    return dict(trained.network.state_dict())


def same(a: Trained, b: Trained) -> bool:
    return all(torch.equal(weights(a)[name], value) for name, value in weights(b).items())


# The loop


def test_an_interrupted_training_ends_with_the_same_numbers(tmp_path: Path) -> None:
    whole = training(tmp_path / "whole").run(math.inf)
    first = training(tmp_path / "parts")
    for step, (x, truth) in enumerate(first._batches(), start=1):
        first._one(x, truth)
        if step == 3:
            first.save()
        if step == 4:  # done, but lost: the machine went down before the next checkpoint
            break
    rest = training(tmp_path / "parts").run(math.inf)
    assert rest.step == whole.step == 6
    assert whole.finished
    assert same(rest, whole)
    assert not same(training(tmp_path / "other", seed=2).run(math.inf), whole)


def test_batches_are_the_same_whoever_draws_them(tmp_path: Path) -> None:
    alone = list(training(tmp_path / "0", of=replace(TINY, steps=3))._batches())
    drawn = list(training(tmp_path / "1", of=replace(TINY, steps=3, workers=1))._batches())
    assert len(alone) == len(drawn) == 3
    for (a, b), (c, d) in zip(alone, drawn, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)
    assert not torch.equal(alone[0][0], alone[1][0])


def test_it_stops_when_its_time_is_over_and_goes_on(tmp_path: Path) -> None:
    stopped = training(tmp_path).run(0.0)
    assert (stopped.step, stopped.finished) == (0, False)
    told: list[str] = ["first"]
    rest = training(tmp_path, told=told).run(math.inf)
    assert rest.finished
    assert told[1] == "going on at step 0 of 6"
    assert told[-1].startswith("step 6/6, loss ")
    assert training(tmp_path).run(math.inf).step == 6  # nothing is left to do


def test_a_checkpoint_is_written_meanwhile(tmp_path: Path) -> None:
    one = training(tmp_path)
    one.checkpoint_s = 0.0
    one._resume = lambda: None  # type: ignore[method-assign]
    seen = []
    one.save = lambda: seen.append(one.step)  # type: ignore[method-assign]
    one.run(math.inf)
    assert seen == [1, 2, 3, 4, 5, 6, 6]


def test_the_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    training(tmp_path).save()
    with pytest.raises(ConfigError, match=r"expected one of this training: .*seed 2, got .*seed 1"):
        training(tmp_path, seed=2)
    with pytest.raises(ConfigError, match="choose another folder"):
        training(tmp_path, of=replace(TINY, rate=1e-2))
    assert not (tmp_path / CHECKPOINT).with_suffix(".part").exists()


def test_it_learns(tmp_path: Path) -> None:
    one = training(tmp_path, of=replace(TINY, steps=40, batch=2))
    before = _error(one._network)
    assert _error(one.run(math.inf).network) < 0.8 * before


def _error(network: torch.nn.Module) -> float:
    x, truth = Ellipses().batch(np.random.default_rng(99), 8)
    with torch.no_grad():
        return float((x[:, :1] + network(x) - truth).square().mean())


def test_the_average_is_of_the_weights(tmp_path: Path) -> None:
    last = training(tmp_path / "last", of=replace(TINY, average=0.0))
    trained = last.run(math.inf)
    assert all(torch.equal(weights(trained)[n], v) for n, v in last._averaged.items())
    assert not same(trained, training(tmp_path / "mean").run(math.inf))


def test_a_loss_that_is_no_number_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ellipses, "loss", lambda self, e, t, x: (e * torch.inf).mean() * 0)
    with pytest.raises(ReconError, match=r"training, step 1: expected a finite loss, got nan\. lower the rate"):
        training(tmp_path).run(math.inf)


def test_the_rate_rises_falls_and_never_vanishes() -> None:
    rates = np.array([schedule(done) for done in np.linspace(0, 1, 501)])
    assert rates.max() == pytest.approx(1, abs=1e-6)
    assert np.argmax(rates) == 10
    assert (np.diff(rates[10:]) <= 0).all()
    assert rates.min() == pytest.approx(0.01, abs=1e-6)


# Figures


def test_figures_are_those_of_the_equations() -> None:
    chance = np.random.default_rng(0)
    truth, inside = chance.random((40, 40)), np.ones((40, 40), bool)
    off = truth + 0.1
    assert nrmse(off, truth, inside) == pytest.approx(0.1 * 40 / np.linalg.norm(truth))
    assert psnr(off, truth, inside) == pytest.approx(20 * np.log10(np.percentile(truth, 99.9) / 0.1))
    assert ssim(truth, truth, inside) == pytest.approx(1)
    assert ssim(chance.random((40, 40)), truth, inside) < 0.1
    half = inside.copy()
    half[:, 20:] = False
    broken = truth.copy()
    broken[:, 30:] = 9
    assert nrmse(broken, truth, half) == 0


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    chance = np.random.default_rng(3)
    held = 0
    for _ in range(200):
        mean, low, high = interval(list(chance.normal(5, 2, 30)))
        assert low <= mean <= high
        held += low <= 5 <= high
    assert 0.88 < held / 200 < 0.99
    with pytest.raises(DataError, match="2 items or more"):
        interval([1.0])


# The card


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A card of a network that was trained for a moment."""
    folder = tmp_path_factory.mktemp("published")
    small = Setting(steps=25, batch=2, rate=2e-3, cases=20, average=0.5)
    one = Training(
        lambda: build("unet", {"width": 32, "levels": 2}, where="test"),
        Ellipses(),
        setting=small,
        seed=1,
        folder=folder,
        tell=lambda line: None,
    )
    run = Run(recipe="ellipses", setting_name="test", setting=small, seed=1, version="0.1.0")
    publish(one.run(math.inf), Ellipses(), run, folder)
    return folder


def test_what_is_published_can_be_loaded_and_is_complete(published: Path) -> None:
    card = load(published / "card.yaml").card
    assert card == read_card(published / "card.yaml")
    assert card.training.setting.startswith("test: 25 steps of 2")
    assert {row.used_for: row.items for row in card.training.data}["test"] == 20
    figures = {m.name: m for m in card.metrics}
    assert set(figures) == {"PSNR", "SSIM", "NRMSE"}
    assert figures["PSNR"].conventional is not None
    assert figures["PSNR"].value > figures["PSNR"].conventional
    assert figures["PSNR"].ci95[0] < figures["PSNR"].value < figures["PSNR"].ci95[1]


def test_held_out_images_are_taken_and_their_pixels_lie_inside(published: Path) -> None:
    loaded = load(published / "card.yaml")
    estimator = Estimator(loaded, TorchCpu(loaded.network, precision="f32"))
    cases = list(Ellipses().cases("test", 20))
    assert 0.88 < covered(cases, estimator) < 0.98
    calibration = publishing.calibrated(list(Ellipses().cases("calibration", 20)), estimator)
    assert calibration["ood"]["threshold"] == loaded.card.ood.threshold
    assert calibration["uncertainty"]["factor"] == loaded.card.uncertainty.factor


def test_taking_all_noise_away_is_never_refused(published: Path) -> None:
    """The limits may not come from a timid network on small images: noise is all that may go, and all of it."""
    card = load(published / "card.yaml").card
    for case in Ellipses().cases("test", 40):
        found = residual(case.measured, case.truth, case.noise)
        assert found.rms < card.consistency.rms.flag_above
        assert found.peak < card.consistency.peak.flag_above
    chance = np.random.default_rng(0)
    alarms = 0
    for _ in range(60):
        noise = chance.standard_normal((128, 128))
        alarms += residual(noise, 0 * noise, noise * 0 + 1).peak > publishing.largest_of_noise((128, 128))
    assert alarms <= 2


def test_enough_images_mark_what_none_of_them_did_and_never_refuse_noise() -> None:
    cases = list(Ellipses().cases("calibration", 2)) * 30
    changes = [Residual(rms, 2.0) for rms in np.linspace(0.3, 0.6, 60)]
    limits = publishing._bounds(cases, changes, 4.0)
    assert limits["rms"]["flag_above"] == pytest.approx(1.15 * 0.6, rel=1e-4)
    assert limits["rms"]["flag_below"] == pytest.approx(0.3 / 1.15, rel=1e-4)
    assert limits["rms"]["refuse_above"] > 1
    assert limits["peak"]["refuse_above"] > 4
    few = publishing._bounds(cases[:20], changes[:20], 4.0)
    assert few["rms"]["flag_above"] > 1
    assert "flag_below" not in few["rms"]


def test_splits_share_no_image() -> None:
    drawn = [c.truth.tobytes() for s in ("training", "calibration", "test") for c in Ellipses().cases(s, 4)]  # type: ignore[arg-type]
    assert len(set(drawn)) == 12


def test_weights_too_large_for_a_card_are_not_published(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "MAX_WEIGHTS", 1000)
    trained = Trained(load(published / "card.yaml").network, 25, 1.0, True)
    run = Run(recipe="ellipses", setting_name="test", setting=replace(TINY, cases=2), seed=1, version="0.1.0")
    with pytest.raises(LimitError, match="at most 1000 bytes"):
        publish(trained, Ellipses(), run, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_is_complete(name: str, small_source: None) -> None:
    of = recipe(name)
    if isinstance(of, UnrolledMr):  # anatomy without files
        of.__dict__["_sources"] = {"training": Small(part="training", data=Path(), cache=Path())}
    if isinstance(of, Simulated):
        of = replace(of, matrices=(72,), kept=2)
    assert "small" in of.settings
    card = of.card()
    net = build(card["network"]["name"], card["network"]["parameters"], where=name)
    x, truth = of.batch(np.random.default_rng(0), 2)
    again, _ = of.batch(np.random.default_rng(0), 2)
    assert torch.equal(x, again)
    with torch.no_grad():
        estimate = x[:, : truth.shape[1]] + net(x)
    assert estimate.shape == truth.shape
    assert of.loss(estimate, truth, x).ndim == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "elipses"], "did you mean ellipses?"),
        (["train", "ellipses", "--setting", "smal"], "did you mean small?"),
    ],
)
def test_what_is_wrong_is_named(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main([*arguments, "-o", str(tmp_path)]) == program.WRONG
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch": 0}, {"rate": 0.0}, {"average": 1.0}, {"cases": 1}])
def test_a_setting_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="setting: expected"):
        replace(TINY, **wrong)
    assert setting(Ellipses(), "small").steps > setting(Ellipses(), "tiny").steps


def test_the_program_says_when_its_time_is_up_and_measures_a_card(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "ellipses", "--setting", "tiny", "--minutes", "0", "-o", str(tmp_path)]
    assert program.main(arguments) == program.UNFINISHED
    assert "the same command goes on from" in capsys.readouterr().err
    assert program.main(["evaluate", str(published / "card.yaml"), "--engine", "torch", "--cases", "3"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["engine"] == "torch-f32"
    assert {m["name"] for m in report["metrics"]} == {"PSNR", "SSIM", "NRMSE"}
    assert 0.7 < report["covered"] <= 1
