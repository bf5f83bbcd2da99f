"""Write the recipe of a container for OpenRecon: Dockerfile and description. UNTESTED ON A SCANNER, research use only.

Put the wheel (`pip wheel . --no-deps`) and requirements.lock beside them, then `docker build`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from integration.openrecon import UNTESTED, description, problems, recipe
from integration.protocol import Library

EXAMPLES = """
  isocenter openrecon -o container
  isocenter openrecon -o container --protocols /etc/isocenter/protocols
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder to write into")
    parser.add_argument("--protocols", type=Path, action="append", default=[], metavar="DIR", help="more protocols")


def run(options: argparse.Namespace) -> int:
    """Write both files; return 1 where the description breaks a rule."""
    label = description(Library(options.protocols))
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "OpenReconLabel.json").write_text(json.dumps(label, indent=2) + "\n")
    (options.output / "Dockerfile").write_text(recipe(label))
    found = problems(label)
    for problem in found:
        print(f"the description breaks a rule: {problem}")
    print(f"{options.output}: Dockerfile, OpenReconLabel.json. {UNTESTED}")
    return 1 if found else 0
