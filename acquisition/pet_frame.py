"""Which part of a PET scan an image shows, and when the patient moved; both are items that flow through the house."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acquisition.geometry import Vector


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeFrame:
    """The part of a PET scan that one image shows; events, randoms, scatter and decay all read this one."""

    start_s: float
    """Begin, seconds after the start of the scan."""
    stop_s: float
    """End [s]."""
    index: int = 0
    """Number of the frame."""
    parts: tuple[tuple[float, float], ...] = ()
    """Begin and end of the parts of it that are counted [s], growing; empty: all of it."""
    output: str = "conventional"
    """Name of the image that is made of it."""
    gate: int = 0
    """Which state of the breath it shows, from 0."""
    n_gates: int = 1
    """States told apart; 1: none."""
    source: str = ""
    """How the parts were found; empty where there are none."""
    period_s: float = 0.0
    """Usual time from breath to breath [s]; 0: not told."""
    live: float = 1.0
    """Part of the coincidences that were counted in spite of dead time, mean over detectors."""

    @property
    def spans(self) -> tuple[tuple[float, float], ...]:
        """Begin and end of everything that is counted [s]."""
        return self.parts or ((self.start_s, self.stop_s),)

    @property
    def duration_s(self) -> float:
        """Time that is counted [s]."""
        return math.fsum(b - a for a, b in self.spans)

    def equivalent_s(self, half_life_s: float, *, reference_s: float = 0.0) -> float:
        """Return how long the activity of a reference time [s] would be measured for the counts of this frame [s]."""
        rate = math.log(2) / half_life_s
        spans = ((a - reference_s, b - a) for a, b in self.spans)
        return math.fsum(math.exp(-rate * a) * -math.expm1(-rate * length) / rate for a, length in spans)

    def counts(self, times_s: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which times [s] lie in what is counted (time,)."""
        first, last = (np.array(edges) - 1e-6 for edges in zip(*self.spans, strict=True))
        at = np.searchsorted(first, times_s, side="right") - 1
        return np.asarray((at >= 0) & (times_s < last[np.maximum(at, 0)]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """The patient shifted or turned at some time of a PET scan, and lies otherwise since."""

    time_s: float
    """When, seconds after the start of the scan; true to a window of the check that saw it."""
    shift_mm: Vector
    """How far the centre of what is seen went, in the gantry [mm]."""
