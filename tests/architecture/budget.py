"""The size budget: small files, short functions, few parameters, no broad except, no print.

Run as ``python -m tests.architecture.budget``; prints what is over budget and exits 1.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("recon", "acquisition", "models", "kernels", "integration")
MAX_FILE, MAX_FUNCTION, MAX_PARAMETERS = 400, 50, 6
# The scan boundary: the one place where any failure of one scan is caught, so that the next scan is unaffected.
BROAD_EXCEPT_ALLOWED = {"integration/session.py"}
MAY_PRINT = ("integration/cli.py", "integration/commands/")


def excesses(path: Path, name: str) -> Iterator[str]:
    """Yield one line per rule that the file breaks; `name` is its path from the root."""
    text = path.read_text()
    if (lines := text.count("\n")) > MAX_FILE:
        yield f"{name}: {lines} lines (budget {MAX_FILE})"
    if name.startswith("tests/"):
        return
    for node in ast.walk(ast.parse(text)):
        yield from _function(node, name)
        if isinstance(node, ast.ExceptHandler) and _is_broad(node) and name not in BROAD_EXCEPT_ALLOWED:
            yield f"{name}:{node.lineno} broad except (allowed only at the scan boundary)"
        if _is_print(node) and not name.startswith(MAY_PRINT):
            yield f"{name}:{node.lineno} print outside the command line"


def _function(node: ast.AST, name: str) -> Iterator[str]:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    arguments = [a for a in (*node.args.posonlyargs, *node.args.args) if a.arg not in ("self", "cls")]
    count = len(arguments) + len(node.args.kwonlyargs)
    if length > MAX_FUNCTION:
        yield f"{name}:{node.lineno} {node.name}: {length} lines (budget {MAX_FUNCTION})"
    if count > MAX_PARAMETERS:
        yield f"{name}:{node.lineno} {node.name}: {count} parameters (budget {MAX_PARAMETERS})"


def _is_broad(node: ast.ExceptHandler) -> bool:
    caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    return any(c is None or (isinstance(c, ast.Name) and c.id in ("Exception", "BaseException")) for c in caught)


def _is_print(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"


def main() -> int:
    """Check every Python file of the project."""
    found = []
    for package in (*PACKAGES, "tests"):
        for path in sorted((ROOT / package).rglob("*.py")):
            found += excesses(path, path.relative_to(ROOT).as_posix())
    for line in found:
        print(line)
    print(f"size budget: {len(found)} over" if found else "size budget: kept")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
