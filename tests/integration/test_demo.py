"""The demonstration as a newcomer starts it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest

from acquisition.errors import ConfigError, SetupError
from acquisition.sources.phantom.exam import MriExam
from integration import demo, demo_feed
from integration.cli import WRONG, run
from integration.commands.demo import EXAMS, chosen
from integration.demo_console import console_house
from tests.conftest import ROOT


def test_it_runs_once_and_prints_one_json_object(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "integration", "demo", "--once", "--json", "--exam", "mri", "--speed", "10"]
    done = subprocess.run([*command, "--data", str(tmp_path)], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    (exam,) = json.loads(done.stdout)["exams"]
    assert {"modality", "series", "images", "latency_ms", "verdicts", "dicom_dir"} <= set(exam)
    assert (exam["modality"], exam["series"], exam["images"]) == ("MR", "brain_gre_ax_R2", 20)
    files = sorted(Path(exam["dicom_dir"]).glob("*.dcm"))
    assert len(files) == 20
    assert {pydicom.dcmread(f).Rows for f in files} == {256}
    assert {"made", "wire", "spool", "archive archive"} <= set(exam["latency_ms"])
    assert {v["level"] for v in exam["verdicts"]} == {"PASS"}
    assert "slice 19 is back at the scanner" in done.stderr


def test_one_console_shows_what_the_demonstration_measures(tmp_path: Path) -> None:
    with console_house(tmp_path) as place:
        assert place.service is not None
        with demo_feed.serving(place, "another") as (at, service):
            assert at is place and service is place.service
        outcome = demo.mri_exam(place, exam=MriExam(matrix=(2, 32, 32), n_coils=2), speed=100)
        (exam,) = place.ask("api/exams")["exams"]
        outputs = [s["output"] for s in place.ask(f"api/exams/{exam['job']}/images")["series"]]
        assert "mri_cartesian" in {p["name"] for p in place.ask("api/protocols")["protocols"]}
    assert outcome.troubles == [] and outcome.images == 4
    assert outputs == ["conventional", "nlm"]


def test_what_goes_wrong_is_in_the_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_DELIVERY_S", 1.0)
    monkeypatch.setattr(demo, "AUTO", "no_such_protocol")
    with demo.house(tmp_path) as place:
        outcome = demo.mri_exam(place, exam=MriExam(matrix=(1, 32, 32), n_coils=2), speed=100)
    assert outcome.images == 0
    assert any("no_such_protocol" in trouble for trouble in outcome.troubles)


def test_a_process_that_does_not_start_is_named_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "archive").write_text("a file where a folder should be")
    with pytest.raises(SetupError, match=r"archive: expected to be ready.*archive\.log"), demo.house(tmp_path):
        pass


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("cct", r"expected one of ct, mri, pet \(did you mean ct\?\), got 'cct'"),
        ("MRI", "expected one of ct, mri, pet, got 'MRI'. leave --exam out to see all"),
    ],
)
def test_an_exam_that_is_not_there_is_refused(name: str, match: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=match):
        chosen(name)
    assert run(["demo", "--exam", name]) == WRONG
    said = capsys.readouterr()
    assert said.out == "" and f"--exam {name}: expected one of ct, mri, pet" in said.err and "starting" not in said.err


def test_all_exams_are_run_unless_one_is_named() -> None:
    assert list(EXAMS) == ["mri", "ct", "pet"]
    assert chosen(None) == list(EXAMS.values())
    assert [chosen(name) for name in EXAMS] == [[exam] for exam in EXAMS.values()]
