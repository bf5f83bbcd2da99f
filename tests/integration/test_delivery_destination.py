"""Destinations are checked before anything is sent to them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from acquisition.errors import ConfigError
from integration.delivery.destination import Destination, read_destinations, write_destinations


def make(**changes: object) -> Destination:
    return Destination.model_validate({"name": "pacs", "host": "h", "port": 104, "ae_title": "PACS"} | changes)


def test_defaults_are_those_of_a_patient_sender() -> None:
    d = make()
    assert (d.calling_ae, d.commitment, d.associations, d.max_attempts) == ("ISOCENTER", "auto", 2, 8)
    assert (d.timeout_s, d.backoff_first_s, d.backoff_max_s, d.enabled) == (10, 1, 900, True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 0},
        {"port": 70000},
        {"ae_title": ""},
        {"ae_title": "A" * 17},
        {"ae_title": "A\\B"},
        {"name": "a/b"},
        {"commitment": "maybe"},
        {"associations": 0},
        {"timeout_s": 0},
        {"max_attempts": 0},
        {"colour": "red"},
    ],
)
def test_a_wrong_field_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        make(**wrong)


def test_the_file_gives_back_what_was_written(tmp_path: Path) -> None:
    both = [make(), make(name="ws", commitment="off", enabled=False)]
    write_destinations(tmp_path / "d.json", both)
    assert read_destinations(tmp_path / "d.json") == both
    assert [p.name for p in tmp_path.iterdir()] == ["d.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "JSON"),
        ('[{"name": "pacs"}]', "host"),
        ('[{"name":"p","host":"h","port":1,"ae_title":"A","colour":1}]', "colour"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "d.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_destinations(path)
    assert str(path) in str(caught.value)


def test_a_name_may_stand_once(tmp_path: Path) -> None:
    write_destinations(tmp_path / "d.json", [make(), make()])
    with pytest.raises(ConfigError, match="named once"):
        read_destinations(tmp_path / "d.json")
    with pytest.raises(ConfigError, match="No such file"):
        read_destinations(tmp_path / "none.json")
