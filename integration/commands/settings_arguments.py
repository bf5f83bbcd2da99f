"""Settings of the service on a command line, for the commands that need them."""

from __future__ import annotations

import argparse
from pathlib import Path

from integration.settings import Settings, parse_archive, read_settings


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that stand over the settings file."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings (YAML); what is given here goes first")
    parser.add_argument("--host", help="address to listen at (default: 127.0.0.1)")
    parser.add_argument("--mrd-port", type=int, metavar="N", help="port for scanners (default: 9002; 0: a free one)")
    parser.add_argument("--http-port", type=int, metavar="N", help="port of the status page (default: 8080)")
    parser.add_argument(
        "--console",
        action="store_true",
        default=None,
        help="serve the console page with patients and pictures at the HTTP port; loopback only",
    )
    parser.add_argument("--stream-port", type=int, metavar="N", help="port of the raw stream (default: no such door)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of journal, recordings and spool")
    parser.add_argument(
        "--archive",
        action="append",
        default=[],
        metavar="HOST:PORT:AETITLE",
        help="send images there; may be repeated, replaces the destinations of --config",
    )
    parser.add_argument("--protocols", type=Path, action="append", metavar="DIR", help="more protocols")


def settings_of(options: argparse.Namespace) -> Settings:
    """Read the settings that the arguments and the file make.

    Raises
    ------
    ConfigError
        One of them is wrong.
    """
    archives = tuple(parse_archive(text, index=i) for i, text in enumerate(options.archive))
    return read_settings(
        options.config,
        host=options.host,
        mrd_port=options.mrd_port,
        http_port=options.http_port,
        console=options.console,
        stream_port=options.stream_port,
        data=options.data,
        destinations=archives or None,
        protocols=tuple(options.protocols) if options.protocols else None,
    )
