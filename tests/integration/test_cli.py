"""The command line as a stranger uses it, with right and with wrong input."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest

from acquisition.sources.mrd_file import write
from integration import cli
from integration.cli import COMMANDS, FAILED, OK, WRONG, _parser, run
from integration.steps import STEPS
from tests.integration.doors_samples import serving
from tests.integration.wiring_samples import raw_file
from tests.phantoms import nrmse, small_simulation


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return raw_file(tmp_path_factory.mktemp("raw") / "raw.h5", acceleration=2, n_acs=16, n_noise=8)


def module(name: str):
    import importlib

    return importlib.import_module(f"integration.commands.{name}")


# Help


def test_without_arguments_it_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == OK
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)


def test_it_knows_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == OK
    assert re.fullmatch(r"isocenter \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_an_unknown_command_is_named_with_the_closest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["reconstrct"]) == WRONG
    assert "did you mean reconstruct?" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_has_examples_that_parse(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == OK
    assert "examples:" in capsys.readouterr().out
    lines = [line.split("|")[0] for line in module(name).EXAMPLES.strip().splitlines()]
    assert len(lines) >= 2
    for line in lines:
        program, command, *arguments = shlex.split(line)
        assert (program, command) == ("isocenter", name)
        _parser(name, module(name)).parse_args(arguments)


def test_asking_for_help_imports_no_torch() -> None:
    code = "import sys; from integration.cli import run; run(['--help']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


# reconstruct


def test_a_raw_file_becomes_dicom_and_a_volume(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, npy = tmp_path / "dicom", tmp_path / "v.npy"
    assert run(["reconstruct", str(raw), "-o", str(out), "--npy", str(npy), "--json"]) == OK
    report = json.loads(capsys.readouterr().out)
    assert report["protocol"] == "mri_cartesian"
    assert report["images"] == {"conventional": 3}
    assert report["modality"] == "MR"
    assert len(list(out.rglob("*.dcm"))) == report["files"] == 3
    assert {"level", "check", "advice"} <= set(report["verdicts"][0])
    volume = np.load(npy)
    truth = np.concatenate([small_simulation().truth(i).data for i in range(3)])
    assert nrmse(volume * (volume * truth).sum() / (volume**2).sum(), truth) < 0.03


def test_the_same_file_gives_the_same_uids_and_another_protocol_others(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def uids(*more: str) -> set[str]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        assert run(["reconstruct", str(raw), "-o", str(folder), *more]) == OK
        return {pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID for p in folder.rglob("*.dcm")}

    first = uids()
    assert first == uids()
    assert not first & uids("--set", "mri.grappa.kernel=2,3")


def test_an_array_or_the_facts_alone(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["reconstruct", str(raw), "--npy", str(tmp_path / "volume.npy")]) == OK
    assert np.load(tmp_path / "volume.npy").ndim == 3
    assert "DICOM" not in capsys.readouterr().out
    assert run(["reconstruct", str(raw), "--json"]) == OK
    report = json.loads(capsys.readouterr().out)
    assert report["dicom_dir"] is None
    assert report["files"] == 0
    assert run(["reconstruct", str(raw)]) == WRONG
    assert "expected -o DIR, --npy FILE or --json" in capsys.readouterr().err


def test_people_are_told_in_words(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["reconstruct", str(raw), "-o", str(tmp_path)]) == OK
    told = capsys.readouterr()
    assert "readouts -> 3 conventional in" in told.out
    assert "3 DICOM files in" in told.out
    assert told.err == ""


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["RAW", "-p", "mri_cartesain", "-o", "OUT"], WRONG, "did you mean mri_cartesian?"),
        (["RAW", "--set", "mri.grappa.kernl=1", "-o", "OUT"], WRONG, "did you mean kernel?"),
        (["RAW", "--set", "mri.grappa.kernel", "-o", "OUT"], WRONG, "step.parameter=value"),
        (["RAW", "--set", "mri.grappa.kernel=3,5", "-o", "OUT"], WRONG, "even number of lines"),
        (["absent.h5", "-o", "OUT"], FAILED, "absent.h5"),
        (["FOLDER", "-o", "OUT"], FAILED, ""),
        (["GARBAGE", "-o", "OUT"], FAILED, "garbage.h5"),
        (["EMPTY", "-o", "OUT"], FAILED, "empty.h5"),
        (["DICOM", "-o", "OUT"], FAILED, "DICOM"),
        (["NOISE", "-o", "OUT"], FAILED, "expected images from protocol mri_cartesian, got none"),
        (["RAW"], WRONG, "expected -o DIR, --npy FILE or --json"),
        (["RAW", "-o", "TAKEN"], FAILED, "taken"),
        (["RAW", "-o", "OUT", "--npy", "FOLDER"], FAILED, ""),
    ],
)
def test_what_is_wrong_is_said_without_a_traceback(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "garbage.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 9)
    (tmp_path / "empty.h5").write_bytes(b"")
    (tmp_path / "image.dcm").write_bytes(bytes(128) + b"DICM" + bytes(100))
    (tmp_path / "taken").write_text("a file")
    simulation = small_simulation(n_noise=8)
    noise = [b for b in simulation.readouts() if b.has(1 << 18).all()]
    write(tmp_path / "noise.h5", simulation.scan, items=noise)
    places = {
        "RAW": raw,
        "OUT": tmp_path / "out",
        "FOLDER": tmp_path,
        "GARBAGE": tmp_path / "garbage.h5",
        "EMPTY": tmp_path / "empty.h5",
        "DICOM": tmp_path / "image.dcm",
        "NOISE": tmp_path / "noise.h5",
        "TAKEN": tmp_path / "taken",
    }
    assert run(["reconstruct", *(str(places.get(a, a)) for a in arguments)]) == code
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told


@pytest.mark.data
def test_a_real_head_stands_upright(data_dir: Path, tmp_path: Path) -> None:
    source = data_dir / "mri" / "head_gre_3T_16ch.h5"
    assert run(["reconstruct", str(source), "-o", str(tmp_path)]) == OK
    (path,) = tmp_path.rglob("*.dcm")
    pixels = pydicom.dcmread(path).pixel_array.astype(float)
    inside = pixels > 0.2 * np.percentile(pixels, 99)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    assert np.ptp(rows) > 1.15 * np.ptp(columns)  # longer from front to back
    widths = inside.sum(1)[rows]
    assert widths[: len(rows) // 4].mean() < widths[-len(rows) // 4 :].mean()  # narrower at the front: above
    comments = pydicom.dcmread(path).ImageComments
    assert "mri.geometry" in comments  # the file has no directions, and the image says so


# protocols


def test_protocols_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["protocols", "list"]) == OK
    assert "mri_cartesian" in capsys.readouterr().out
    assert run(["protocols", "list", "--json"]) == OK
    assert "mri_cartesian" in {row["name"] for row in json.loads(capsys.readouterr().out)}
    assert run(["protocols", "show", "mri_cartesian"]) == OK
    text = capsys.readouterr().out
    assert "kernel = [4, 5] (set here)" in text
    assert run(["protocols", "show", "mri_cartesian", "--json"]) == OK
    assert {name for name, _ in json.loads(capsys.readouterr().out)["steps"]} <= set(STEPS)
    assert run(["protocols", "show", "nothing"]) == WRONG


def test_own_files_are_validated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("name: good\nmodality: MR\ndescription: d\nsteps: [mri.readout]\n")
    bad.write_text("name: bad\nmodality: MR\ndescription: d\nsteps: [mri.redout]\n")
    assert run(["protocols", "validate", str(good)]) == OK
    assert "good is right" in capsys.readouterr().out
    assert run(["protocols", "validate", str(good), str(bad)]) == FAILED
    assert "did you mean mri.readout?" in capsys.readouterr().out
    assert run(["protocols", "validate", "--json", str(bad)]) == FAILED
    assert json.loads(capsys.readouterr().out)[0]["error"]


def test_the_choice_is_explained(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["protocols", "explain", str(raw)]) == OK
    assert "chosen: mri_cartesian" in capsys.readouterr().out
    assert run(["protocols", "explain", str(raw), "--json"]) == OK
    assert json.loads(capsys.readouterr().out)["chosen"] == "mri_cartesian"


# doctor


def test_the_doctor_speaks_words_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    healthy = ["doctor", "--data", str(tmp_path), "--mrd-port", "0", "--http-port", "0"]
    assert run(healthy) == OK
    assert "OK    package names" in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    assert run(["doctor", "--data", str(tmp_path / "file"), "--json"]) == FAILED
    assert "fault" in {row["health"] for row in json.loads(capsys.readouterr().out)}
    assert run(["doctor", "--archive", "nonsense"]) == WRONG


# send


def test_a_file_is_sent_and_the_images_are_kept(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from acquisition.sources.mrd_file import read_images
    from integration.protocol import Library
    from integration.rooms import rooms
    from integration.service import Service
    from tests.integration.doors_samples import plan

    with Service(plan(tmp_path / "data"), rooms(Library())) as service:
        to = ["--to", f"127.0.0.1:{service.mrd_port}"]
        assert run(["send", str(raw), *to, "-o", str(tmp_path / "images.h5"), "--json"]) == OK
        report = json.loads(capsys.readouterr().out)
        assert report["images"] == 3
        assert report["troubles"] == []
        assert len(list(read_images(tmp_path / "images.h5"))) == 3
        assert run(["send", str(raw), *to, "-p", "mri_cartesain"]) == FAILED
        told = capsys.readouterr()
        assert "did you mean mri_cartesian?" in told.err + told.out
        assert run(["send", str(raw), *to, "--set", "mri.grappa.kernel=2,3"]) == OK
        assert "got 3 images" in capsys.readouterr().out
        assert service.journal.jobs(1)[0].protocol == "mri_cartesian"


def test_nobody_at_the_other_end_is_said(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["send", str(raw), "--to", "127.0.0.1:1"]) == FAILED
    assert "expected a listening server" in capsys.readouterr().err
    assert run(["send", str(raw), "--to", "127.0.0.1"]) == WRONG
    assert "not HOST:PORT" in capsys.readouterr().err


# How it ends


def test_ctrl_c_and_a_closed_pipe_end_it_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("integration.commands.doctor.run", interrupted)
    assert run(["doctor"]) == cli.INTERRUPTED
    assert "interrupted" in capsys.readouterr().err
    done = subprocess.run(
        f"{sys.executable} -m integration protocols show mri_cartesian | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Traceback" not in done.stderr


def test_a_name_clash_stops_every_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: {"models": ["other"]})
    assert run(["protocols", "list"]) == FAILED
    assert "pip uninstall other" in capsys.readouterr().err


def test_one_service_per_folder_is_said_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(tmp_path):
        assert run(["serve", "--data", str(tmp_path), "--mrd-port", "0", "--http-port", "0"]) == FAILED
    assert "another folder with --data" in capsys.readouterr().err
