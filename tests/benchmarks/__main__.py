"""Print every benchmark table: ``python -m tests.benchmarks [NAME ...]``; exits 2 if a named one cannot run here."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import tests.benchmarks


def main() -> int:
    """Run the named benchmarks, or all of them."""
    named = [a for a in sys.argv[1:] if not a.startswith("-")]
    codes = []
    for name in named or [
        m.name for m in pkgutil.iter_modules(tests.benchmarks.__path__) if not m.name.startswith("_")
    ]:
        print(f"\n## {name}\n", flush=True)
        codes.append(importlib.import_module(f"tests.benchmarks.{name}").main() or 0)
    return max(codes) if named else 0


if __name__ == "__main__":
    sys.exit(main())
