"""Which lines along k1 were measured: the regular pattern, its gaps, and the fully sampled middle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_ACCELERATION = 4
_LOST = 0.25  # the header's factor is believed although this part of its lines is missing
_LOST_UNDECLARED = 0.1  # a factor that the header does not name must explain the lines better


@dataclass(frozen=True, slots=True)
class Pattern:
    """Every `acceleration`-th line from `offset` on, between `first` and `last`."""

    acceleration: int
    """Undersampling factor."""
    offset: int
    """Index of the regular lines modulo `acceleration`."""
    first: int
    """First measured line."""
    last: int
    """Last measured line."""

    @property
    def lines(self) -> NDArray[np.intp]:
        """Indices of the regular lines."""
        start = self.first + (self.offset - self.first) % self.acceleration
        return np.arange(start, self.last + 1, self.acceleration)

    def missing(self, measured: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Return the regular lines that were not measured."""
        return self.lines[~measured[self.lines]]


def detect(measured: NDArray[np.bool_], declared: int = 1) -> Pattern | None:
    """Find the regular pattern that explains the measured lines.

    Parameters
    ----------
    measured
        Which lines were measured (k1,).
    declared
        The header's undersampling factor.

    Returns
    -------
    Pattern or None
        None where nothing was measured or the lines follow no factor from 1 to 4.
    """
    if not measured.any():
        return None
    lines = np.flatnonzero(measured)
    first, last = int(lines[0]), int(lines[-1])
    best = {r: _best_offset(measured, r, first, last) for r in range(1, MAX_ACCELERATION + 1)}
    rules = [(r, 1.0) for r in range(1, declared)]
    rules += [(declared, 1 - _LOST)] if declared in best else []
    rules += [(r, 1 - _LOST_UNDECLARED) for r in best]
    for r, needed in rules:
        if r in best and best[r][0] >= needed:
            return Pattern(r, best[r][1], first, last)
    return None


def measured_lines(counts: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Return which lines k1 were measured in any plane of `counts` (k2, k1)."""
    return np.asarray(counts.max(axis=0) > 0)


def central_run(measured: NDArray[np.bool_], centre: int) -> tuple[int, int]:
    """Return (first, last + 1) of the measured lines without a gap around `centre`; equal where it is missing."""
    if not measured[centre]:
        return centre, centre
    gaps = np.flatnonzero(~measured)
    before, after = gaps[gaps < centre], gaps[gaps > centre]
    return int(before[-1]) + 1 if before.size else 0, int(after[0]) if after.size else len(measured)


def central_region(measured: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return the largest fully measured rectangle around the centre of `measured` (k2, k1), the squarest first."""
    k2, k1 = measured.shape[0] // 2, measured.shape[1] // 2
    first, last = central_run(measured[k2], k1)
    best, size = (slice(k2, k2), slice(k1, k1)), (0, 0)
    for width in range(max(k1 - first, last - k1), 0, -1):
        columns = slice(max(first, k1 - width), min(last, k1 + width))
        low, high = central_run(np.asarray(measured[:, columns].all(axis=1)), k2)
        n, m = high - low, columns.stop - columns.start
        if (min(n, m), n * m) > size:
            best, size = (slice(low, high), columns), (min(n, m), n * m)
    return best


def as_ranges(indices: NDArray[np.intp]) -> str:
    """Write sorted line numbers in words: ``3, 7-9``."""
    if indices.size == 0:
        return ""
    runs = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


def _best_offset(measured: NDArray[np.bool_], r: int, first: int, last: int) -> tuple[float, int]:
    """Return (part of the regular lines that were measured, offset) of the best offset for factor `r`."""
    shares = [
        (float(measured[(first + o) : last + 1 : r].mean()), (first + o) % r) for o in range(min(r, last - first + 1))
    ]
    return max(shares, key=lambda s: s[0])
