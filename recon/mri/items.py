"""What the MRI Steps hand to each other: one frame of k-space, and the calibration lines of a slice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from acquisition.items import Enhancement, Position
from acquisition.verdict import Verdict


class FrameKey(NamedTuple):
    """The counters that tell one frame from another; averages and segments belong to the same frame."""

    encoding: int
    slice: int
    contrast: int
    phase: int
    repetition: int
    set: int

    @property
    def position(self) -> Position:
        """The frame's place in the scan."""
        return Position(
            slice=self.slice, contrast=self.contrast, phase=self.phase, repetition=self.repetition, set=self.set
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Hybrid k-space of one frame: Fourier transformed along the readout, not along k1 and k2."""

    kspace: Tensor
    """(coil, k2, k1, x) complex64, averages divided out, the k-space centre at index n // 2; unmeasured lines 0.
    The memory is the assembler's: later Steps may change it in place, the last one calls `release`."""
    counts: NDArray[np.uint16]
    """How often each line was measured (k2, k1)."""
    key: FrameKey
    """Which frame it is."""
    head: np.void
    """`READOUT_HEAD` record of the first imaging readout: geometry and time."""
    last_readout_s: float = 0.0
    """time.monotonic() when the last readout arrived [s]."""
    acceleration: int = 1
    """Undersampling along k1 that has been undone."""
    unfolding: Tensor | None = None
    """Hybrid GRAPPA weights (x, tap * coil, offset * coil) that filled it, for the g-factor."""
    replica: Callable[[Tensor], Tensor] | None = None
    """Does to other k-space of the same lines what was done to this frame's: for the noise. None: nothing, or see
    `unfolding`."""
    combined: bool = False
    """The coils are combined already: what stands in their place is one image per set of maps."""
    noise_gain: float = 1.0
    """What filters and partial Fourier did to the noise along the signal's phase, as a factor."""
    verdicts: tuple[Verdict, ...] = ()
    """What was found so far."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Facts for the image's provenance."""
    output: str = "conventional"
    """Name of the result that its image belongs to."""
    network: Enhancement | None = None
    """The network that changed it."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """MRD attributes of its image."""
    release: Callable[[], None] = lambda: None
    """Gives the memory back for the next frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The fully sampled middle of one slice's k-space, as soon as it is there."""

    kspace: Tensor
    """Hybrid k-space (coil, k2, k1, x), a copy."""
    first: tuple[int, int]
    """Matrix index (k2, k1) of its first line."""
    matrix: tuple[int, int]
    """Encoded matrix (k2, k1) it was cut from."""
    key: FrameKey
    """The frame it was measured with."""
    separate: bool = False
    """True when it is a reference scan of its own and not part of the frame."""
    head: np.void | None = None
    """`READOUT_HEAD` record of its first readout: where the slice lies."""
