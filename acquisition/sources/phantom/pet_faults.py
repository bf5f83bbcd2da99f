"""What goes wrong in a PET scan: a patient who moves, a block that dies, counts that drop out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ConfigError
from acquisition.geometry import Vector

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PetMotion:
    """A rigid motion: at rest before the first time, from pose to pose, at rest after the last."""

    times_s: tuple[float, ...]
    """When each pose is reached [s]; growing. Two equal times make a jump."""
    shifts_mm: tuple[Vector, ...]
    """Shift of each pose, LPS [mm]."""
    turns_deg: tuple[float, ...] = ()
    """Rotation of each pose about the axis of the rings [degrees]; empty: none."""

    def __post_init__(self) -> None:
        counts = {len(self.times_s), len(self.shifts_mm), len(self.turns_deg or self.times_s)}
        if len(counts) != 1 or not self.times_s or list(self.times_s) != sorted(self.times_s):
            raise ConfigError(
                "PET motion",
                expected="as many shifts and turns as times, times that grow",
                got=f"times {self.times_s}, {len(self.shifts_mm)} shifts, {len(self.turns_deg)} turns",
            )

    def pose(self, time_s: float) -> tuple[Vector, float]:
        """Return shift [mm] and turn [degrees] at a time [s]."""
        x, y, z = (float(np.interp(time_s, self.times_s, [s[i] for s in self.shifts_mm])) for i in range(3))
        turn = float(np.interp(time_s, self.times_s, self.turns_deg)) if self.turns_deg else 0.0
        return (x, y, z), turn


def jump(time_s: float, shift_mm: Vector, *, turn_deg: float = 0.0) -> PetMotion:
    """Return a patient who shifts and turns all at once at a time [s]."""
    times = (time_s, float(np.nextafter(time_s, np.inf)))
    return PetMotion(times_s=times, shifts_mm=((0.0, 0.0, 0.0), shift_mm), turns_deg=(0.0, turn_deg))


def drift(start_s: float, stop_s: float, shift_mm: Vector) -> PetMotion:
    """Return a patient who slides from `start_s` to `stop_s` [s]."""
    return PetMotion(times_s=(start_s, stop_s), shifts_mm=((0.0, 0.0, 0.0), shift_mm))


@dataclass(frozen=True, slots=True, kw_only=True)
class PetFaults:
    """What is wrong with the scan; by default nothing."""

    motion: PetMotion | None = None
    """How the patient moves."""
    blocks: tuple[tuple[int, float, float], ...] = ()
    """Detector blocks that fail: number, from when [s], what is left of their efficiency."""
    dropouts: tuple[tuple[float, float, float], ...] = ()
    """Lost coincidences: from when to when [s], the part that is kept."""

    def __post_init__(self) -> None:
        kept = [part for *_, part in (*self.blocks, *self.dropouts)]
        if not all(0 <= part <= 1 for part in kept):
            raise ConfigError("PET faults", expected="parts from 0 to 1", got=str(kept))

    def kept(self, start_s: float, stop_s: float) -> float:
        """Return the part of the coincidences between two times [s] that is not lost."""
        part = 1.0
        for first, last, left in self.dropouts:
            covered = max(min(stop_s, last) - max(start_s, first), 0.0) / (stop_s - start_s)
            part *= 1 - covered * (1 - left)
        return part

    def left(self, time_s: float, block: NDArray[np.int64]) -> Floats:
        """Return what is left of the efficiency of detectors in blocks (detector,) at a time [s]."""
        out = np.ones(len(block))
        for number, since_s, left in self.blocks:
            if time_s >= since_s:
                out[block == number] *= left
        return out
