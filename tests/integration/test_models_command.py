"""``isocenter models``: cards listed and shown, weights checked, trainings started as programs of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from integration.cli import FAILED, OK, WRONG, run
from integration.commands import models
from models.load import SHIPPED
from tests.models.samples import card_folder, network


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return card_folder(tmp_path / "sample").parent


def test_cards_are_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--cards", str(folder), "list"]) == OK
    assert "sample                  1.2.3    MR  HEAD,BRAIN: A sample" in capsys.readouterr().out
    assert run(["models", "--cards", str(folder), "list", "--json"]) == OK
    (row,) = [r for r in json.loads(capsys.readouterr().out) if r["name"] == "sample"]
    assert row["file"] == str(folder / "sample" / "card.yaml")
    assert row["limits"] == ["Knows nothing."]


def test_without_cards_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "list"]) == OK
    none = not list(SHIPPED.glob("*/card.yaml"))
    assert ("no cards" in capsys.readouterr().out) == none


def test_a_card_is_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--cards", str(folder), "card", "sample"]) == OK
    assert "intended_use: Tests." in capsys.readouterr().out
    assert run(["models", "card", str(folder / "sample"), "--json"]) == OK
    assert json.loads(capsys.readouterr().out)["version"] == "1.2.3"
    assert run(["models", "--cards", str(folder), "card", "sampel"]) == WRONG
    assert "did you mean sample?" in capsys.readouterr().err


def test_weights_are_verified_on_each_engine(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "verify", str(folder / "sample"), "--json"]) == OK
    rows = json.loads(capsys.readouterr().out)
    assert {"openvino", "torch"} <= {row["engine"].split("-")[0] for row in rows}
    assert all(row["error"] is None and row["apart"] <= row["tolerance"] for row in rows)
    assert run(["models", "--cards", str(folder), "verify", "sample", "--engine", "torch"]) == OK
    assert "sample 1.2.3 on torch-f32: 0 of 0.25 sd apart" in capsys.readouterr().out


def test_wrong_weights_fail(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "sample" / "weights.safetensors").write_bytes(b"x")
    assert run(["models", "--cards", str(folder), "verify"]) == FAILED
    assert "expected sha256" in capsys.readouterr().out


def test_an_engine_that_is_too_far_off_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = {"name": "unet", "parameters": {"levels": 2}, "tolerance": 1e-9}
    made = card_folder(tmp_path / "tight", network(), network=named)
    assert run(["models", "verify", str(made), "--engine", "openvino"]) == FAILED
    assert "differs from torch in float32 by" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["verify", "absent"], WRONG, "or the path of a card"),
        (["verify", "SAMPLE", "--engine", "tpu"], OK, ""),
        (["evaluate", "absent"], WRONG, "or the path of a card"),
        (["card"], WRONG, "required: name"),
    ],
)
def test_what_is_wrong_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    places = [str(folder / "sample") if a == "SAMPLE" else a for a in arguments]
    if "tpu" in arguments:
        assert run(["models", *places]) == FAILED
        assert "expected auto, or one of" in capsys.readouterr().out
        return
    assert run(["models", *places]) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "started"),
    [
        (
            ["train", "ellipses", "--minutes", "5", "-o", "out"],
            "train ellipses --setting small --minutes 5.0 --seed 1 --version 1.0.0 -o out",
        ),
        (["evaluate", "SAMPLE", "--cases", "3"], "evaluate SAMPLE/card.yaml --engine auto --cases 3"),
    ],
)
def test_training_is_another_program(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], started: str
) -> None:
    seen: list[list[str]] = []

    def start(command: list[str], *, check: bool) -> subprocess.CompletedProcess[str]:
        seen.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(models.subprocess, "run", start)
    sample = str(folder / "sample")
    assert run(["models", *(sample if a == "SAMPLE" else a for a in arguments)]) == 3
    assert seen == [[sys.executable, "-m", "models.train", *started.replace("SAMPLE", sample).split()]]


def test_the_program_can_be_started(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "train", "ellipses", "--setting", "tiny", "--minutes", "0", "-o", str(tmp_path)]) == 3
    assert "the same command goes on" in capfd.readouterr().err


def test_asking_for_help_imports_no_torch() -> None:
    code = "import sys; from integration.cli import run; run(['models', '--help']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
