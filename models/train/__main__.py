"""``python -m models.train``: make the weights of a recipe, or measure those of a card again.

Exit codes: 0 done; 1 it did not work out; 2 wrongly asked for; 3 the time was up: the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from acquisition.errors import ConfigError, IsocenterError
from models.load import load
from models.nets import build
from models.problem import estimator_of
from models.train.loop import Trained, Training
from models.train.publish import Run, covered, measured, publish
from models.train.recipe import recipe, setting

OK, FAILED, WRONG, UNFINISHED = 0, 1, 2, 3


def main(arguments: Sequence[str]) -> int:
    """Do what is asked; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.function(options))
    except IsocenterError as error:
        sys.stderr.write(f"models.train: {error}\n")
        return WRONG if isinstance(error, ConfigError) else FAILED


def train(options: argparse.Namespace) -> int:
    """Train, and publish the card when it is finished."""
    training, run = _training(options)
    trained = training.run(60 * options.minutes)
    if not trained.finished:
        where = options.output / options.recipe
        _tell(f"{options.recipe}: the time is up at step {trained.step}; the same command goes on from {where}")
        return UNFINISHED
    return _published(trained, run, options)


def stop(options: argparse.Namespace) -> int:
    """Publish the card of a training that was stopped, with the steps that it did."""
    training, run = _training(options)
    return _published(training.run(0.0), run, options)


def _training(options: argparse.Namespace) -> tuple[Training, Run]:
    of = recipe(options.recipe)
    chosen = setting(of, options.setting)
    network = of.card()["network"]
    training = Training(
        lambda: build(network["name"], network.get("parameters", {}), where=f"recipe {options.recipe}"),
        of,
        setting=chosen,
        seed=options.seed,
        folder=options.output / options.recipe,
        tell=lambda line: _tell(f"{options.recipe}: {line}"),
    )
    run = Run(
        recipe=options.recipe, setting_name=options.setting, setting=chosen, seed=options.seed, version=options.version
    )
    return training, run


def _published(trained: Trained, run: Run, options: argparse.Namespace) -> int:
    folder = options.output / options.recipe
    card = publish(trained, recipe(options.recipe), run, folder)
    sys.stdout.write(f"{folder / 'card.yaml'}: {card.name} {card.version}, sha256 {card.weights.sha256}\n")
    return OK


def evaluate(options: argparse.Namespace) -> int:
    """Measure a card's network on its test images again, on the engine that is asked for; print JSON."""
    loaded = load(options.card)
    of = recipe(loaded.card.training.recipe)
    estimator = estimator_of(loaded, options.engine)
    cases = list(of.cases("test", options.cases))
    report = {
        "card": loaded.card.name,
        "version": loaded.card.version,
        "engine": estimator.engine.name,
        "metrics": measured(cases, estimator, where=loaded.card.training.recipe),
        "covered": covered(cases, estimator),
        "coverage": loaded.card.uncertainty.coverage,
    }
    sys.stdout.write(json.dumps(report) + "\n")
    return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models.train", description=(__doc__ or "").split("\n")[0])
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    one = actions.add_parser("train", help="make the weights of a recipe; goes on where it was stopped")
    one.add_argument("--minutes", type=float, default=120.0)
    one.set_defaults(function=train)
    three = actions.add_parser("stop", help="make the card of a training that was stopped before its end")
    three.set_defaults(function=stop)
    for action in (one, three):
        action.add_argument("recipe")
        action.add_argument("--setting", default="small")
        action.add_argument("--seed", type=int, default=1)
        action.add_argument("--version", default="1.0.0")
        action.add_argument("-o", "--output", type=Path, default=Path("trained"))
    two = actions.add_parser("evaluate", help="measure a card's network again")
    two.add_argument("card", type=Path)
    two.add_argument("--engine", default="auto")
    two.add_argument("--cases", type=int, default=24)
    two.set_defaults(function=evaluate)
    return parser


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
