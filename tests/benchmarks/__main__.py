"""Print every benchmark table: ``python -m tests.benchmarks [NAME ...]``."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import tests.benchmarks


def main() -> None:
    """Run the named benchmarks, or all of them."""
    names = [m.name for m in pkgutil.iter_modules(tests.benchmarks.__path__) if not m.name.startswith("_")]
    for name in sys.argv[1:] or names:
        print(f"\n## {name}\n", flush=True)
        importlib.import_module(f"tests.benchmarks.{name}").main()


if __name__ == "__main__":
    main()
