"""Cards: strict in, the same out, every mistake named with what would have been right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from acquisition.errors import ConfigError
from models.card import Card, parse_card, read_card
from models.load import cards
from tests.models.samples import document


def changed(place: str, value: Any) -> dict[str, Any]:
    """A complete card with one value changed; ``a.b`` is a key within a key, DELETE takes it away."""
    card = yaml.safe_load(yaml.safe_dump(document()))
    *path, last = place.split(".")
    part = card
    for name in path:
        part = part[int(name)] if isinstance(part, list) else part[name]
    if value == "DELETE":
        del part[last]
    else:
        part[last] = value
    return card


def test_a_card_is_the_same_after_writing_and_reading(tmp_path: Path) -> None:
    card = parse_card(document(), where="test")
    path = tmp_path / "card.yaml"
    path.write_text(card.text())
    assert read_card(path) == card


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("limitz", ["x"], r"limitz: expected one of .*did you mean limits\?.*unknown key"),
        (
            "input.range",
            {},
            r"input.range: expected one of dimensions, figures, kinds, matrix, noise, ranges, units.*mean ranges\?",
        ),
        ("input.ranges.snrr", [1, 2], r"input.ranges.snrr: expected one of .*did you mean snr\?"),
        ("training.data.0.license", "x", r"training.data.0.license: expected one of .*did you mean licence\?"),
        ("consistency.rms.flag", 1, r"consistency.rms.flag: expected one of flag_above, flag_below, refuse_above"),
        ("ood", "DELETE", "card.*: ood: expected a value, got none"),
        ("training.data.0.licence", "DELETE", "training.data.0.licence: expected a value"),
        ("metrics", [], "metrics"),
        ("limits", [], "limits"),
        ("anatomy", [], "anatomy"),
        ("input.ranges.snr", [9, 3], "the smaller value comes first"),
        ("input.units", [], "input.units"),
        ("input.dimensions", 3, "matrix has 2 numbers, dimensions says 3"),
        ("metrics.0.ci95", [31, 32], "outside its confidence interval"),
        ("weights.sha256", "abc", "weights.sha256"),
        ("weights.size", 20_000_001, "weights.size"),
        ("weights.file", "../weights.safetensors", "weights.file"),
        ("weights.file", "weights.pt", "weights.file"),
        ("version", 1.0, "version"),
        ("version", "1.0", "version"),
        ("modality", "XA", "modality"),
        ("sequences", ["t1("], "'t1\\(' is none"),
        ("uncertainty.members", 3, "uncertainty.members"),
        ("network.precision", "int4", "network.precision"),
    ],
)
def test_what_is_wrong_is_named(place: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_card(changed(place, value), where="card x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b\n", "name stands twice"),
        ("[1, 2]", "expected name, version"),
        ("a: [", "expected a YAML file"),
        ("!!python/object/apply:os.system ['true']", "expected a YAML file"),
    ],
)
def test_what_is_no_card_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "card.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_card(path)


def test_a_card_cannot_be_changed() -> None:
    card = parse_card(document(), where="test")
    with pytest.raises(ValueError, match="frozen"):
        card.version = "2.0.0"  # type: ignore[misc]


def test_every_field_says_what_it_means() -> None:
    import ast
    import inspect

    from models import card

    tree = ast.parse(inspect.getsource(card))
    for node in (n for n in tree.body if isinstance(n, ast.ClassDef)):
        for field, text in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign):
                told = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
                assert told, f"{node.name}.{ast.unparse(field.target)}"


def test_shipped_cards_are_right() -> None:
    """Each stands in a folder of its name, with weights of the size it says."""
    for path in cards():
        card: Card = read_card(path)
        assert card.name == path.parent.name
        assert (path.parent / card.weights.file).stat().st_size == card.weights.size
