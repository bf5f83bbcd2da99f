"""The plan of the house holds, and each guard goes red when it is broken."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture import budget

ROOT = Path(__file__).resolve().parents[2]
LINT = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()"]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run([*LINT, "--no-cache"], cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the packages in which rules may be broken."""
    for package in budget.PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_imports_go_one_way(copy: Path) -> None:
    result = lint(copy)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("kernels/planted.py", "import recon", "One way"),
        ("acquisition/planted.py", "import integration", "One way"),
        ("recon/planted.py", "import pydicom", "DICOM libraries only"),
        ("acquisition/sources/planted.py", "import ismrmrd", "Reference libraries"),
        ("acquisition/sources/planted.py", "import petsird", "Reference libraries"),
        ("recon/planted.py", "import yaml", "YAML only"),
        ("models/planted.py", "import yaml", "YAML only"),
        ("models/planted.py", "import models.train.loop", "Training is a program of its own"),
        ("integration/planted.py", "from models import train", "Training is a program of its own"),
    ],
)
def test_a_planted_import_is_found(copy: Path, file: str, line: str, contract: str) -> None:
    (copy / file).write_text(line + "\n")
    result = lint(copy)
    assert result.returncode != 0
    broken = [row for row in result.stdout.splitlines() if "BROKEN" in row]
    assert any(contract in row for row in broken), result.stdout


def test_size_budget_is_kept() -> None:
    assert budget.main() == 0


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("x = 1\n" * 401, "401 lines"),
        ("def f():\n" + "    x = 1\n" * 51, "f: 52 lines"),
        ("def f(a, b, c, d, e, *, g, h): ...\n", "7 parameters"),
        ("try:\n    x = 1\nexcept Exception:\n    x = 2\n", "broad except"),
        ("print(1)\n", "print outside"),
    ],
)
def test_the_budget_sees_what_is_over(tmp_path: Path, text: str, finding: str) -> None:
    path = tmp_path / "planted.py"
    path.write_text(text)
    assert any(finding in row for row in budget.excesses(path, "recon/planted.py"))


def test_modules_do_no_work_at_import_time() -> None:
    """At module level stand imports, definitions and constants; no call is made for its effect."""
    calls = []
    for package in budget.PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                    calls.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert calls == []


def test_the_wheel_lists_the_five_packages_and_no_tests() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    include = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {pattern.rstrip("*") for pattern in include} == set(budget.PACKAGES)


def test_the_wheel_carries_every_file_that_is_read() -> None:
    import tomllib

    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    carried = {path for package, patterns in data.items() for p in patterns for path in (ROOT / package).glob(p)}
    files = [path for package in budget.PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    left = [p for p in files if p.suffix not in (".py", ".md") and "__pycache__" not in p.parts and p not in carried]
    assert left == []
    assert {path.suffix for path in carried} >= {".cu", ".yaml"}
