"""``model.lowdose``: the pair is registered and held against limits; what goes out, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import shift
from torch import Tensor

from acquisition.errors import ConfigError, ReconError
from acquisition.items import Image
from acquisition.scan import Equipment, Scan
from acquisition.verdict import Level, Verdict
from models import align
from models.engine import engine
from models.load import load
from models.lowdose import LowDose, supported, unsupported_pieces
from models.nets import NETS
from models.nets.lowdose import LowDose as Network
from models.predict import Predictor
from models.problem import estimator_of
from models.refuse import Refusal
from models.verify import compared
from recon.rigid import STILL
from tests.models import samples
from tests.models.lowdose import BRIGHT, NOISE, SHAPE, VOXEL_MM, anatomy, image, images, noisy, pair, scan, slices


class Inventing(Network):
    """Adds a bright block, whatever was measured."""

    def forward(self, x: Tensor) -> Tensor:
        block = torch.zeros_like(x[:, :1])
        block[..., 44:50, 44:50] = 30.0
        return torch.maximum(x[:, :1], block) - x[:, :1]


class Given(LowDose):
    """The Step with the image before at hand."""

    pre: Image | Refusal = Refusal("before", "not set")

    def before(self, scan: Scan) -> Image | Refusal:
        """Return it."""
        return self.pre


def card_in(folder: Path, **changes: Any) -> Path:
    """Write a card of a network that adds the amplified blurred difference, where that is positive."""
    ranges = {"field_strength_t": [1.4, 3.1]}
    fields: dict[str, Any] = {
        "network": {"name": "lowdose", "parameters": {"slices": 5, "levels": 1}},
        "input": {"units": ["a.u."], "kinds": ["magnitude"], "matrix": [64, 64], "ranges": ranges},
        "ood": {"threshold": 1e6, "quantile": 0.99, "items": 40},
        "consistency": {name: {"flag_above": 50.0, "refuse_above": 90.0} for name in ("rms", "peak")},
    }
    return samples.card_folder(folder, samples.network("lowdose", slices=5, levels=1), **(fields | changes))


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """That card."""
    return card_in(tmp_path / "card")


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """No search for motion, which takes seconds: both images lie in one place."""

    def brought(low: Image, pre: Image, *, where: str) -> tuple[Any, Any]:
        return pre.data.copy(), STILL

    monkeypatch.setattr(align, "brought", brought)


def run(card: Path, pre: Image | Refusal, low: Image, header: Scan | None = None, **values: Any) -> list[Any]:
    step = Given(card=str(card), engine="torch", **values)
    step.pre = pre
    step.open(header or scan())
    return [i for s in slices(low) for i in step.feed(s)] + list(step.close())


def outputs(items: list[Any]) -> dict[str, Image]:
    return {i.output: i for i in items if isinstance(i, Image) and i.output != "conventional"}


def findings(items: list[Any]) -> Iterator[Verdict]:
    return (i for i in items if isinstance(i, Verdict))


@pytest.mark.usefixtures("still")
def test_the_low_dose_goes_first_and_untouched_then_full_dose_and_support(card: Path) -> None:
    pre, low, missing = images(gain=1.7)
    items = run(card, image(pre), image(low))
    first = items[: SHAPE[0]]
    assert all(i.output == "conventional" for i in first)
    np.testing.assert_array_equal(np.concatenate([i.data for i in first]), low)
    made = outputs(items[SHAPE[0] :])
    assert list(made) == ["synthetic_full_dose", "synthetic_full_dose_uncertainty", "lowdose_support"]
    added = made["synthetic_full_dose"].data - low
    assert added.min() >= -1e-4
    lesion = missing > 0.9 * missing.max()
    assert added[lesion].mean() == pytest.approx(missing[lesion].mean(), rel=0.4)
    assert made["lowdose_support"].data[lesion].mean() > 4
    assert made["lowdose_support"].unit == "1"
    assert made["lowdose_support"].provenance.network is None
    assert not list(findings(items))
    network = made["synthetic_full_dose"].provenance.network
    assert network is not None
    assert network.synthetic
    told = {v.check: v for v in made["synthetic_full_dose"].verdicts}
    assert told["model.lowdose.support"].level is Level.PASS
    assert "gain 1.7" in str(told)


@pytest.mark.usefixtures("still")
def test_half_strength_adds_half(card: Path) -> None:
    pre, low, _ = images()
    whole, half = (
        outputs(run(card, image(pre), image(low), strength=s))["synthetic_full_dose"].data - low for s in (1.0, 0.5)
    )
    np.testing.assert_allclose(half, 0.5 * whole, atol=1e-3)


@pytest.mark.usefixtures("still")
def test_enhancement_that_nothing_supports_is_flagged_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = card_in(tmp_path / "inventing", version="9.9.9")
    monkeypatch.setitem(NETS, "lowdose", f"{__name__}:Inventing")
    pre, low, _ = images()
    found = outputs(run(card, image(pre), image(low)))["synthetic_full_dose"]
    (verdict,) = [v for v in found.verdicts if v.check == "model.lowdose.support"]
    assert verdict.level is Level.FLAG
    assert verdict.value is not None
    assert verdict.value >= 1
    pair_, _ = pair()
    block = np.zeros(SHAPE, np.float32)
    block[:, 44:50, 44:50] = 30.0
    (at, volume), *_ = unsupported_pieces(pair_, block, VOXEL_MM)
    assert np.abs(np.array(at[1:]) - 46.5).max() < 1.5
    assert volume > 100
    told = supported(pair_, block, image(low).grid, check="x")
    x, y = (f"{-38 + 1.2 * c:.0f}" for c in (at[2], at[1]))
    assert f"({x}, {y}," in told.evidence


PLANTED: dict[str, tuple[str, Any]] = {
    "order": ("order", lambda pre, low: (low, pre)),
    "no agent": ("little|order", lambda pre, low: (pre, noisy(anatomy()[0], 9))),
    "full dose": ("much|alike", lambda pre, low: (pre, low + 3 * anatomy()[1])),
    "moved": ("rest|alike", lambda pre, low: (shift(pre, (0, 1.6, 1.2), order=1), low)),
    "other sequence": ("alike|gain", lambda pre, low: (np.where(pre > 10, 2 * BRIGHT - pre, pre), low)),
    "other anatomy": ("alike|overlap|gain", lambda pre, low: (np.roll(pre[:, ::-1], 14, 2), low)),
    "nothing": ("engine|nan", lambda pre, low: (pre, 0 * low)),
    "not a number": ("engine|nan", lambda pre, low: (np.where(pre > 50, np.nan, pre), low)),
}


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("name", sorted(PLANTED))
def test_a_pair_that_is_none_is_refused_and_the_low_dose_is_complete(card: Path, name: str) -> None:
    why, plant = PLANTED[name]
    pre, low = plant(*images()[:2])
    items = run(card, image(pre), image(low))
    assert not outputs(items)
    (verdict,) = findings(items)
    assert verdict.level is Level.FLAG
    assert "1 of 1 images were not enhanced" in verdict.advice
    assert any(verdict.check.endswith(f".{w}") for w in why.split("|")), verdict
    assert len(items) == SHAPE[0] + 1


def test_motion_is_found_and_undone(card: Path) -> None:
    pytest.importorskip("SimpleITK")
    pre, low, _ = images()
    moved = shift(pre, (0, 2.0, -3.0), order=1, mode="nearest")
    motion, fit = align.paired(image(low), image(moved), dose=0.1, field_t=3.0, where="test")
    assert fit.travel_mm == pytest.approx(1.2 * np.hypot(2, 3), abs=0.5)
    assert fit.rest_mm < 0.4
    assert np.std((motion.difference)[3:9, 20:44, 20:44]) < 4 * NOISE


def test_without_the_image_before_the_scan_is_conventional(card: Path) -> None:
    _, low, _ = images()
    items = run(card, Refusal("before", "there is none"), image(low))
    (verdict,) = findings(items)
    assert verdict.check == "model.lowdose.before"
    assert "there is none" in verdict.advice
    plain = LowDose(card=str(card), engine="torch")
    plain.open(scan())
    assert [i.check for i in [*plain.feed(slices(image(low))[0]), *plain.close()] if isinstance(i, Verdict)] == [
        "model.lowdose.before"
    ]
    other = run(card, image(low), image(low), scan(equipment=Equipment(field_strength_t=0.5)))
    assert [v.check for v in findings(other)] == ["model.lowdose.range.field_strength_t"]


def test_what_cannot_be_asked_for(card: Path) -> None:
    with pytest.raises(ConfigError, match=r"dose 0.05 to 0.5.*got dose 1"):
        LowDose(card=str(card), dose=1.0)
    with pytest.raises(ConfigError, match="lengths above 0"):
        LowDose(card=str(card), rest_mm=0.0)


def test_engines_agree_and_another_network_is_none(card: Path, tmp_path: Path) -> None:
    rows = list(compared(card / "card.yaml", ["torch", "openvino"]))
    assert all(row.agrees for row in rows)
    assert isinstance(estimator_of(load(card / "card.yaml"), "torch"), Predictor)
    unet = load(samples.card_folder(tmp_path / "unet") / "card.yaml")
    with pytest.raises(ReconError, match="a network for low doses"):
        Predictor(unet, engine("torch", unet.network, precision="f32"))


def test_one_slice_is_as_in_the_volume(card: Path) -> None:
    loaded = load(card / "card.yaml")
    made = Predictor(loaded, engine("torch", loaded.network, precision="f32"))
    found, _ = pair()
    middle = replace(found, pre=found.pre[4:9], low=found.low[4:9], noise=found.noise[4:9])
    np.testing.assert_allclose(made.solved(middle).data, found.low[6] + made.missing(found).data[6], atol=1e-3)
