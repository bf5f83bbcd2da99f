"""``python -m integration``, and the command ``isocenter``."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line."""
    from integration.cli import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
