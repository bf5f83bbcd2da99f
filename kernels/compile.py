"""How loops are compiled here: cached on disk, without the interpreter's lock, sums in any order."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from numba import njit

F = TypeVar("F", bound=Callable)

_REORDER = {"contract", "reassoc", "nsz"}  # NaN and infinity keep their meaning


def compiled(function: F) -> F:
    """Compile a function of arrays and numbers; the first call in a new environment takes seconds."""
    made = njit(cache=True, nogil=True, fastmath=_REORDER, error_model="numpy")(function)
    return cast("F", made)
