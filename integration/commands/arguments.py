"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from acquisition.errors import ConfigError


def add_changes(parser: argparse.ArgumentParser) -> None:
    """Add ``--set step.parameter=value``."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="STEP.PARAMETER=VALUE",
        help="change a parameter of the protocol; may be repeated (see `isocenter protocols show`)",
    )


def changes_of(texts: Iterable[str]) -> dict[str, object]:
    """Read the values of ``--set``.

    Raises
    ------
    ConfigError
        One is not of the form ``step.parameter=value``, or is given twice.
    """
    changes: dict[str, object] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or "." not in key or key in changes:
            raise ConfigError(
                "--set", expected="step.parameter=value, each once", got=repr(text), action="e.g. mri.grappa.kernel=4,5"
            )
        changes[key.strip()] = value.strip()
    return changes


def address(text: str) -> tuple[str, int]:
    """Read ``HOST:PORT`` (for argparse)."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT, for example 127.0.0.1:9002")
    return host.strip("[]"), int(port)
