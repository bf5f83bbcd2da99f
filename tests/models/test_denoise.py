"""``model.denoise`` in a protocol: what it may say, and when a mistake is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from acquisition.errors import ConfigError
from acquisition.verdict import Level
from models import apply as module
from models.nets import NETS
from recon.noise import NoiseMap
from tests.models.samples import TEST_NETS, card_folder, document, ellipses, image, plain_card, scan, step


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks made for tests."""
    for name, place in TEST_NETS.items():
        monkeypatch.setitem(NETS, name, place)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strength": 1.1}, "model.denoise strength: expected 0 to 1, got 1.1"),
        ({"strength": -0.1}, "expected 0 to 1"),
        ({"strength": float("nan")}, "expected 0 to 1"),
        ({"longest_s": 0.0}, "above 0 s"),
        ({"matrix": (48, 48, 48)}, "model.denoise matrix: expected 2 numbers from 1"),
        ({"matrix": (0, 48)}, "2 numbers from 1"),
        ({"engine": "tpu"}, "expected auto, or one of"),
        ({"card": "absent"}, "or the path of a card"),
    ],
)
def test_wrong_parameters_are_found_when_the_protocol_is_read(tmp_path: Path, changes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        step(card_folder(tmp_path), **changes)


def test_a_card_that_is_wrong_is_found_when_the_protocol_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="metrics"):
        step(card_folder(tmp_path, metrics=[]))


def test_the_module_names_no_other_output() -> None:
    from integration.gate import CONVENTIONAL

    assert module.CONVENTIONAL == CONVENTIONAL


def test_a_slice_of_ct_gets_its_noise_from_the_step_before(tmp_path: Path, plain: None) -> None:
    units = document()["input"] | {"units": ["HU"], "noise": "noise"}
    noise, made = NoiseMap(), step(plain_card(tmp_path, "blur", input=units))
    noise.open(scan())
    made.open(scan())
    one = image(20 * ellipses(1000), unit="HU")
    out = [o for item in noise.feed(one) for o in made.feed(item)] + list(made.close())
    assert [o.output for o in out] == ["conventional", "noise", "denoised", "denoised_uncertainty"]
    assert out[0] is one
    assert 0.5 < np.median(out[1].data) / 20 < 1.5


def test_a_change_below_what_is_usual_is_shown_and_marked(tmp_path: Path, plain: None) -> None:
    rms = {"flag_above": 90, "flag_below": 80, "refuse_above": 90}
    limits = {"rms": rms, "peak": {"flag_above": 90, "refuse_above": 90}}
    made = step(plain_card(tmp_path, "blur", consistency=limits))
    made.open(scan())
    _, enhanced, _ = made.feed(image())
    (verdict,) = enhanced.verdicts
    assert (verdict.level, verdict.limit) == (Level.FLAG, 80)
    assert "less noise than it was told of" in verdict.advice
