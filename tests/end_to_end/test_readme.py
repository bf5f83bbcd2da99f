"""What the README tells people to type, typed."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from acquisition.sources.mrd_file import write
from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.mri import Simulation
from integration.demo import House, house
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^(isocenter [^#\n]*)", README, re.MULTILINE)
ARCHIVE = "127.0.0.1:4242:ORTHANC"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> House:
    """A folder with a raw file in it, and a running service."""
    with house(tmp_path_factory.mktemp("readme")) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw")
    simulation = Simulation(MriExam(matrix=(2, 64, 64), n_coils=4, acceleration=2, n_acs=16))
    write(path / "raw.h5", simulation.scan, items=simulation.readouts(block=64))
    return path


def typed(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = shlex.split(line)
    assert words[0] == "isocenter"
    return subprocess.run(
        [sys.executable, "-m", "integration", *words[1:]], cwd=folder, capture_output=True, text=True, timeout=120
    )


def test_there_are_commands_to_type() -> None:
    names = {shlex.split(line)[1] for line in COMMANDS}
    assert {"serve", "send", "reconstruct", "protocols", "doctor"} <= names


@pytest.mark.parametrize("line", [c.strip() for c in COMMANDS if c.split()[1] not in ("serve", "demo")])
def test_each_command_does_what_it_says(line: str, place: House, folder: Path) -> None:
    done = typed(line.replace("127.0.0.1:9002", f"127.0.0.1:{place.mrd_port}"), folder)
    assert done.returncode == 0, done.stderr
    words = shlex.split(line)
    for option in ("-o", "--npy"):
        if option in words:
            assert (folder / words[words.index(option) + 1]).exists()
    if "--json" in words:
        json.loads(done.stdout)


@pytest.mark.parametrize("line", [c.strip() for c in COMMANDS if c.split()[1] == "serve"])
def test_the_service_takes_what_the_readme_gives_it(line: str, folder: Path) -> None:
    from integration.cli import _parser
    from integration.commands import serve
    from integration.commands.settings_arguments import settings_of

    settings = settings_of(_parser("serve", serve).parse_args(shlex.split(line)[2:]))
    assert settings.destinations or ARCHIVE not in line


def test_the_files_and_folders_it_names_exist() -> None:
    for name in re.findall(r"^\| `([a-z_/]+)` \|", README, re.MULTILINE):
        assert (ROOT / name).is_dir(), name
    for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / name).is_file(), name
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for name in re.findall(r"make ([a-z]+)", README):
        assert name in targets, name
