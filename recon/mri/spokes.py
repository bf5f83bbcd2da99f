"""The samples of one frame that were not measured line by line."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from acquisition.verdict import Verdict
from recon.mri.items import FrameKey
from recon.mri.space import Space


@dataclass(frozen=True, slots=True, kw_only=True)
class Spokes:
    """The samples of one frame."""

    data: NDArray[np.complex64]
    """(readout, coil, sample)."""
    traj: NDArray[np.float32]
    """(readout, sample, dims) in cycles per field of view of the image."""
    key: FrameKey
    """Which frame it is."""
    head: np.void
    """`READOUT_HEAD` record of the first readout."""
    space: Space
    """Sizes of the image."""
    time_s: NDArray[np.float64]
    """Time of each sample after the echo time (sample,) [s]."""
    trust: NDArray[np.float32] | None = None
    """Weight of each readout beside its density (readout,); 1 when None."""
    field_hz: NDArray[np.float32] | None = None
    """Off-resonance (y, x) of the image's voxels, where it is known [Hz]."""
    last_readout_s: float = 0.0
    """time.monotonic() when the last readout arrived [s]."""
    verdicts: tuple[Verdict, ...] = ()
    """What was found so far."""
    notes: dict[str, str] = field(default_factory=dict)
    """Facts for the image's provenance."""
