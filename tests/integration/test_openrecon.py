"""The recipe for OpenRecon keeps the public rules, and the service understands what its parameters send."""

from __future__ import annotations

import base64
import copy
import json
import re
from pathlib import Path

import pytest

from integration.cli import OK, run
from integration.doors.request import Urgency, from_text
from integration.openrecon import LABEL, UNTESTED, description, problems, recipe
from integration.protocol import Library


def test_the_description_keeps_the_rules_and_says_that_it_is_untested() -> None:
    label = description(Library())
    assert problems(label) == []
    assert label["reconstruction"]["transfer_protocol"] == {"protocol": "ISMRMRD", "version": "1.4.1"}
    assert label["reconstruction"]["port"] == 9002 and len(label["parameters"]) <= 14
    assert "Untested on a scanner" in label["general"]["information"]["en"]
    assert label["reconstruction"]["content_qualification_type"] == "RESEARCH"


def test_every_choice_at_the_console_is_understood() -> None:
    library, label = Library(), description(Library())
    for parameter in label["parameters"]:
        for value in parameter["values"]:
            chosen = {p["id"]: p["default"] for p in label["parameters"]} | {parameter["id"]: value["id"]}
            asked = from_text(json.dumps({"version": "1.0.0", "parameters": chosen}))
            assert asked.unused == () and asked.urgency in Urgency
            assert asked.protocol == "auto" or library[asked.protocol].modality == "MR"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda d: d["parameters"].extend(d["parameters"][:1] * 12), "15 parameters, at most 14"),
        (lambda d: d["parameters"][1].update(id="a.b"), "'a.b' has other than letters and digits"),
        (lambda d: d["parameters"].pop(0), "no parameter `config`"),
        (lambda d: d["parameters"][1].update(default="never"), "'never' is none of its values"),
        (lambda d: d["general"].update(version="1"), "not of the form 1.2.3"),
    ],
)
def test_a_description_that_breaks_a_rule_is_found(change, problem: str) -> None:
    label = copy.deepcopy(description(Library()))
    change(label)
    assert any(problem in found for found in problems(label))


def test_the_command_writes_a_recipe_that_carries_the_description(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["openrecon", "-o", str(tmp_path / "c")]) == OK
    assert UNTESTED in capsys.readouterr().out
    label = json.loads((tmp_path / "c" / "OpenReconLabel.json").read_text())
    text = (tmp_path / "c" / "Dockerfile").read_text()
    assert text == recipe(label) and text.startswith(f"# {UNTESTED}")
    found = re.search(f'LABEL "{re.escape(LABEL)}"="([^"]+)"', text)
    assert found is not None and json.loads(base64.b64decode(found[1])) == label
    assert text.index("USER isocenter") < text.index("CMD")  # not as root
    command = json.loads(text[text.index("CMD ") + 4 :].strip())
    assert command[:2] == ["isocenter", "serve"] and "9002" in command
