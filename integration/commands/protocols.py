"""Protocols: which there are, what they do, whether a file of your own is right, and which one a scan would get."""

from __future__ import annotations

import argparse
import json
from dataclasses import MISSING
from pathlib import Path

from acquisition.errors import ConfigError, IsocenterError
from acquisition.sources import open_raw
from integration import router, steps
from integration.protocol import Library, load

EXAMPLES = """
  isocenter protocols list
  isocenter protocols show mri_cartesian
  isocenter protocols validate site/knee_pd.yaml
  isocenter protocols explain raw.h5
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--protocols", type=Path, action="append", default=[], metavar="DIR", help="more protocols")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="names and one line each")
    show = actions.add_parser("show", help="steps of a protocol, with all parameters and their meaning")
    show.add_argument("name")
    validate = actions.add_parser("validate", help="check files before a scan finds out")
    validate.add_argument("files", nargs="+", type=Path, metavar="FILE")
    explain = actions.add_parser("explain", help="which protocol a raw data file gets by itself, and why")
    explain.add_argument("raw", type=Path, metavar="RAW")
    for action, function in ((listing, _list), (show, _show), (validate, _validate), (explain, _explain)):
        action.set_defaults(function=function)
        action.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Do what is asked."""
    return int(options.function(options))


def _list(options: argparse.Namespace) -> int:
    library = Library(options.protocols)
    if options.json:
        print(json.dumps([p.model_dump(mode="json") | {"file": str(library.paths[p.name])} for p in library]))
        return 0
    for protocol in library:
        print(f"{protocol.name:<24}{protocol.modality}  {' '.join(protocol.description.split())}")
    return 0


def _show(options: argparse.Namespace) -> int:
    protocol = Library(options.protocols)[options.name]
    if options.json:
        print(protocol.model_dump_json())
        return 0
    print(f"{protocol.name} ({protocol.modality}): {' '.join(protocol.description.split())}")
    criteria = protocol.match.model_dump(exclude_defaults=True)
    print(f"chosen by itself for: {', '.join(f'{k} {v}' for k, v in criteria.items()) or 'any scan of its modality'}")
    for name, values in protocol.steps:
        print(f"\n{name}")
        for p in steps.parameters(name).values():
            value = values.get(p.name, p.default)
            set_here = " (set here)" if p.name in values else ""
            print(f"  {p.name} = {'required' if value is MISSING else value}{set_here}\n      {p.doc}")
    return 0


def _validate(options: argparse.Namespace) -> int:
    results = []
    for path in options.files:
        try:
            results.append({"file": str(path), "name": load(path).name, "error": None})
        except IsocenterError as error:
            results.append({"file": str(path), "name": None, "error": str(error)})
    if options.json:
        print(json.dumps(results))
    else:
        for result in results:
            print(result["error"] or f"{result['file']}: {result['name']} is right")
    return 1 if any(result["error"] for result in results) else 0


def _explain(options: argparse.Namespace) -> int:
    scan = open_raw(options.raw).scan
    candidates = router.explain(Library(options.protocols), scan)
    problem = ""
    try:
        chosen = router.choose(Library(options.protocols), scan).name
    except ConfigError as error:
        chosen, problem = "", str(error)
    if options.json:
        rows = [{"name": c.protocol.name, "holds": c.reasons, "objections": c.objections} for c in candidates]
        print(json.dumps({"chosen": chosen or None, "problem": problem or None, "candidates": rows}))
    else:
        print(f"chosen: {chosen}" if chosen else problem)
        for c in candidates:
            print(f"\n{c.protocol.name}{'' if c.fits else ' does not fit'}")
            for sign, lines in (("+", c.reasons), ("-", c.objections)):
                for line in lines:
                    print(f"  {sign} {line}")
    return 0 if chosen else 1
