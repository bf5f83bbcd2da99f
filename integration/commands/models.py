"""Networks: which there are, what their cards say, are their weights right, how were they made, how well do they do.

`verify` checks the sum of the weights and runs the network on every engine of this computer. `train` and `evaluate`
run the recipe that made a card; they are programs of their own, never part of the service.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from acquisition.errors import IsocenterError

EXAMPLES = """
  isocenter models list
  isocenter models card mr_denoise
  isocenter models verify
  isocenter models verify site/mr_denoise --engine openvino --json
  isocenter models train ellipses --setting tiny --minutes 5 -o trained
  isocenter models evaluate trained/ellipses --cases 16
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--cards", type=Path, action="append", default=[], metavar="DIR", help="folder of more cards")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="names, versions and one line each")
    card = actions.add_parser("card", help="what a card says")
    card.add_argument("name", help="name or path of a card")
    verify = actions.add_parser("verify", help="check weights, run on every engine, compare them")
    verify.add_argument("names", nargs="*", metavar="NAME", help="names or paths of cards (default: all)")
    verify.add_argument("--engine", action="append", default=[], help="only this engine: cuda, openvino or torch")
    for action, function in ((listing, _list), (card, _card), (verify, _verify)):
        action.set_defaults(function=function)
        action.add_argument("--json", action="store_true", help="print JSON")
    train = actions.add_parser("train", help="make a card's weights again; goes on where it was stopped")
    train.add_argument("name", metavar="RECIPE", help="recipe in models/train; `training` in a card names it")
    train.add_argument("--setting", default="small", help="how much work: small for two cores (default), or another")
    train.add_argument(
        "--minutes", type=float, default=120.0, help="stop after so long, with exit code 3 (default: %(default)g)"
    )
    train.add_argument("--seed", type=int, default=1, help="of all chance (default: %(default)s)")
    train.add_argument("--version", default="1.0.0", help="of the card that is written (default: %(default)s)")
    train.add_argument("-o", "--output", type=Path, default=Path("trained"), metavar="DIR", help="where to")
    evaluate = actions.add_parser("evaluate", help="measure a card's network on its test images")
    evaluate.add_argument("name", help="name or path of a card")
    evaluate.add_argument("--engine", default="auto", help="auto, cuda, openvino or torch")
    evaluate.add_argument("--cases", type=int, default=24, help="test images (default: %(default)s)")
    train.set_defaults(function=_train)
    evaluate.set_defaults(function=_evaluate)


def run(options: argparse.Namespace) -> int:
    """Do what is asked."""
    return int(options.function(options))


def _list(options: argparse.Namespace) -> int:
    from models.card import read_card
    from models.load import cards

    found = [(path, read_card(path)) for path in cards(options.cards)]
    if options.json:
        print(json.dumps([{"file": str(path), **card.model_dump(mode="json")} for path, card in found]))
        return 0
    for _, card in found:
        print(f"{card.name:<24}{card.version:<8} {card.modality}  {','.join(card.anatomy)}: {card.title}")
    if not found:
        print("no cards: the program comes with none yet; --cards DIR looks in a folder of your own")
    return 0


def _card(options: argparse.Namespace) -> int:
    from models.card import read_card
    from models.load import find

    card = read_card(find(options.name, where="isocenter models card", folders=options.cards))
    print(json.dumps(card.model_dump(mode="json")) if options.json else card.text().rstrip())
    return 0


def _verify(options: argparse.Namespace) -> int:
    from models.load import cards, find

    names = options.names or [str(path) for path in cards(options.cards)]
    paths = [find(name, where="isocenter models verify", folders=options.cards) for name in names]
    rows = [row for path in paths for row in _verified(path, options.engine)]
    if options.json:
        print(json.dumps(rows))
    else:
        for row in rows:
            print(_line(row))
        if not rows:
            print("no cards")
    return 1 if any(row["error"] for row in rows) else 0


def _verified(path: Path, engines: list[str]) -> list[dict[str, Any]]:
    from models.verify import compared

    try:
        return [
            {"file": str(path), "error": None if r.agrees else _apart(r.apart, r.tolerance), **r.as_dict()}
            for r in compared(path, engines)
        ]
    except IsocenterError as error:
        return [{"file": str(path), "error": str(error)}]


def _apart(apart: float, tolerance: float) -> str:
    return f"differs from torch in float32 by {apart:.3g} sd of the noise, allowed are {tolerance:g}"


def _line(row: dict[str, Any]) -> str:
    if "engine" not in row:
        return f"{row['file']}: {row['error']}"
    told = "{card} {version} on {engine}: {apart:.3g} of {tolerance:g} sd apart, ready in {prepare_s:.1f} s"
    matrix = " x ".join(map(str, row["matrix"]))
    return f"{told.format(**row)}, {row['run_ms']:.0f} ms for {matrix}: {row['error'] or 'right'}"


def _train(options: argparse.Namespace) -> int:
    arguments = ["--setting", options.setting, "--minutes", str(options.minutes), "--seed", str(options.seed)]
    return _program("train", options.name, *arguments, "--version", options.version, "-o", str(options.output))


def _evaluate(options: argparse.Namespace) -> int:
    from models.load import find

    path = find(options.name, where="isocenter models evaluate", folders=options.cards)
    return _program("evaluate", str(path), "--engine", options.engine, "--cases", str(options.cases))


def _program(*arguments: str) -> int:
    """Run the training as a program of its own: its imports and its memory never enter the service."""
    return subprocess.run([sys.executable, "-m", "models.train", *arguments], check=False).returncode
