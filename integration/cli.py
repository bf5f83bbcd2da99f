"""The command ``isocenter``: one module per sub-command, imported when it is asked for.

Exit codes: 0 done; 1 it did not work out; 2 wrongly asked for; 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Protocol

from acquisition.errors import ConfigError, IsocenterError

OK, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130

COMMANDS: dict[str, str] = {
    "demo": "a virtual scanner streams an exam; watch it become DICOM",
    "serve": "reconstruct what scanners send, deliver it to archives",
    "send": "send a raw data file to a server as a scanner does",
    "reconstruct": "reconstruct a raw data file into DICOM",
    "check": "is this series usable? raw data, DICOM or NIfTI",
    "answer": "say the last word on a scan: accept, repeat, reject",
    "protocols": "list, show, validate protocols; explain the choice for a file",
    "models": "list, check, train and measure the networks",
    "quality": "measure the image quality of a CT or PET series of a test object",
    "keys": "make the keys of one end of the raw stream",
    "openrecon": "write the recipe of a container for OpenRecon (untested on a scanner)",
    "doctor": "check this computer, ports, archives",
}
"""Names and one line each; the module is ``integration.commands.NAME``."""


class Command(Protocol):
    """A module in ``integration.commands``; its docstring is the help text."""

    EXAMPLES: str

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments."""

    def run(self, options: argparse.Namespace) -> int:
        """Do it; return the exit code."""


def run(arguments: Sequence[str]) -> int:
    """Run one command; return its exit code."""
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help", "help"):
        print(_overview())
        return OK
    if name in ("-V", "--version"):
        from integration.dicom.common import software_version

        print(f"isocenter {software_version()}")
        return OK
    if name not in COMMANDS:
        from integration.steps import one_of

        print(f"isocenter: {name!r} is no command: expected {one_of(name, COMMANDS)}", file=sys.stderr)
        return WRONG
    command: Command = importlib.import_module(f"integration.commands.{name}")
    return _guarded(name, command, rest)


def _guarded(name: str, command: Command, rest: Sequence[str]) -> int:
    parser = _parser(name, command)
    try:
        options = parser.parse_args(rest)
    except SystemExit as asked:  # argparse has printed help or what is wrong
        return int(asked.code or 0)
    _start_logging(options.log_level)
    try:
        from integration.names import require_own_names

        require_own_names()
        return command.run(options)
    except IsocenterError as error:
        print(f"isocenter {name}: {error}", file=sys.stderr)
        return WRONG if isinstance(error, ConfigError) else FAILED
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:  # a file or folder that cannot be written, say
        print(f"isocenter {name}: {error}. Choose another place, or make this one writable", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"isocenter {name}: interrupted", file=sys.stderr)
        return INTERRUPTED


def _parser(name: str, command: Command) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"isocenter {name}",
        description=(command.__doc__ or "").strip(),
        epilog=f"examples:\n{command.EXAMPLES.rstrip()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.configure(parser)
    parser.add_argument(
        "--log-level",
        default=getattr(command, "LOG_LEVEL", "WARNING"),
        choices=("DEBUG", "INFO", "WARNING", "ERROR"),
        help="how much is written to stderr (default: %(default)s)",
    )
    return parser


def _start_logging(level: str) -> None:
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("pynetdicom").setLevel(max(logging.WARNING, logging.getLogger().level))


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    rows = "\n".join(f"  {name:<{width}}{text}" for name, text in COMMANDS.items())
    return (
        "usage: isocenter COMMAND [...]\n\n"
        "The reconstruction computer beside the scanner.\n\n"
        f"commands:\n{rows}\n\n"
        "`isocenter COMMAND --help` has examples. `isocenter --version` says which this is."
    )
