"""Write requirements.lock and requirements-dev.lock from what is installed, walking the declared dependencies.

Run as ``python -m tests.architecture.lock``.
"""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
HEADER = "# Exact versions that the tests ran with; written by `make lock`.\n"


def closure(requirements: list[str]) -> dict[str, str]:
    """Return name -> version of everything that `requirements` pull in on this machine."""
    found: dict[str, str] = {}
    todo = [Requirement(r) for r in requirements]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        distribution = metadata.distribution(name)
        found[name] = distribution.version.split("+")[0]  # a local build tag (torch's +cpu) cannot be asked for
        for line in distribution.requires or []:
            child = Requirement(line)
            extras = [*requirement.extras, ""]
            if child.marker is None or any(child.marker.evaluate({"extra": e}) for e in extras):
                child.marker = None
                todo.append(child)
    return found


def main() -> None:
    """Write both files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    runtime = closure(project["dependencies"])
    dev = closure(project["optional-dependencies"]["dev"])
    _write("requirements.lock", runtime)
    _write("requirements-dev.lock", {k: v for k, v in dev.items() if k not in runtime})


def _write(name: str, versions: dict[str, str]) -> None:
    lines = [f"{k}=={v}\n" for k, v in sorted(versions.items())]
    (ROOT / name).write_text(HEADER + "".join(lines))


if __name__ == "__main__":
    main()
