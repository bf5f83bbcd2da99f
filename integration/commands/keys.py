"""Make a pair of CURVE keys for one end of the raw stream: the service, or a scanner.

The file stays where it was made. The public key, which is printed, goes to the other end: that of a scanner into the
service's list of clients, with a name before it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from integration.doors.stream.keys import make_keys

EXAMPLES = """
  isocenter keys /etc/isocenter/stream.key
  isocenter keys ct1.key
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("file", type=Path, help="new file for both keys, readable for you only")


def run(options: argparse.Namespace) -> int:
    """Make the keys."""
    print(make_keys(options.file).public)
    return 0
