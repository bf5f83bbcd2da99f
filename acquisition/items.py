"""What flows through the house: blocks of raw data in, images out.

`READOUT_HEAD` has the byte layout of the MRD 1 acquisition header (ISMRMRD, DOI 10.1002/mrm.26089), so that
a received block becomes a `Readouts` without a loop. Names are ours; positions and directions are LPS, mm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntFlag, StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from acquisition.geometry import Grid, Vector
from acquisition.pet_frame import Movement as Movement
from acquisition.pet_frame import TimeFrame as TimeFrame
from acquisition.slice_plan import SlicePlan as SlicePlan
from acquisition.verdict import Verdict

COUNTERS = ("k1", "k2", "average", "slice", "contrast", "phase", "repetition", "set", "segment")
"""Encoding counters of one readout, in the order of the MRD header."""

READOUT_HEAD = np.dtype(
    [
        ("version", "<u2"),
        ("flags", "<u8"),
        ("measurement_uid", "<u4"),
        ("scan_counter", "<u4"),
        ("time_stamp", "<u4"),
        ("physiology_time_stamp", "<u4", (3,)),
        ("n_samples", "<u2"),
        ("available_coils", "<u2"),
        ("n_coils", "<u2"),
        ("channel_mask", "<u8", (16,)),
        ("discard_pre", "<u2"),
        ("discard_post", "<u2"),
        ("center_sample", "<u2"),
        ("encoding", "<u2"),
        ("traj_dims", "<u2"),
        ("dwell_us", "<f4"),
        ("position", "<f4", (3,)),
        ("read_dir", "<f4", (3,)),
        ("phase_dir", "<f4", (3,)),
        ("slice_dir", "<f4", (3,)),
        ("table_position", "<f4", (3,)),
        *((name, "<u2") for name in COUNTERS),
        ("user_counters", "<u2", (8,)),
        ("user_int", "<i4", (8,)),
        ("user_float", "<f4", (8,)),
    ]
)


class Flag(IntFlag):
    """Acquisition flags (MRD numbers them from 1; these are the bits)."""

    FIRST_IN_K1 = 1 << 0
    LAST_IN_K1 = 1 << 1
    FIRST_IN_K2 = 1 << 2
    LAST_IN_K2 = 1 << 3
    FIRST_IN_AVERAGE = 1 << 4
    LAST_IN_AVERAGE = 1 << 5
    FIRST_IN_SLICE = 1 << 6
    LAST_IN_SLICE = 1 << 7
    FIRST_IN_CONTRAST = 1 << 8
    LAST_IN_CONTRAST = 1 << 9
    FIRST_IN_PHASE = 1 << 10
    LAST_IN_PHASE = 1 << 11
    FIRST_IN_REPETITION = 1 << 12
    LAST_IN_REPETITION = 1 << 13
    FIRST_IN_SET = 1 << 14
    LAST_IN_SET = 1 << 15
    FIRST_IN_SEGMENT = 1 << 16
    LAST_IN_SEGMENT = 1 << 17
    NOISE = 1 << 18
    CALIBRATION = 1 << 19
    CALIBRATION_AND_IMAGING = 1 << 20
    REVERSE = 1 << 21
    NAVIGATION = 1 << 22
    PHASE_CORRECTION = 1 << 23
    LAST_IN_MEASUREMENT = 1 << 24
    HP_FEEDBACK = 1 << 25
    DUMMY = 1 << 26
    RT_FEEDBACK = 1 << 27
    SURFACE_COIL = 1 << 28
    PHASE_STABILIZATION_REFERENCE = 1 << 29
    PHASE_STABILIZATION = 1 << 30


NOT_IMAGING = (
    Flag.NOISE
    | Flag.NAVIGATION
    | Flag.PHASE_CORRECTION
    | Flag.HP_FEEDBACK
    | Flag.DUMMY
    | Flag.RT_FEEDBACK
    | Flag.SURFACE_COIL
    | Flag.PHASE_STABILIZATION_REFERENCE
    | Flag.PHASE_STABILIZATION
)
"""Readouts with one of these flags never enter an image's k-space. CALIBRATION alone does not either, but its
lines may be used to fill k-space where calibration is embedded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readouts:
    """A block of readouts of equal shape, in the order in which they were measured."""

    head: NDArray[np.void]
    """One record per readout, dtype `READOUT_HEAD`, shape (n,)."""
    data: NDArray[np.complex64]
    """Samples (n, coil, k0), or (n, coil, x) once ``domain`` is ``x``."""
    traj: NDArray[np.float32] | None = None
    """Trajectory (n, k0, dims) where the scanner sent one."""
    domain: Literal["k0", "x"] = "k0"
    """``x`` after the Fourier transform along the readout."""
    received_s: float = 0.0
    """time.monotonic() when the last readout of the block arrived [s]."""

    def __len__(self) -> int:
        return len(self.head)

    def has(self, flag: Flag) -> NDArray[np.bool_]:
        """Return which readouts carry any bit of `flag`, shape (n,)."""
        return (self.head["flags"] & np.uint64(flag)) != 0

    def select(self, mask: NDArray[np.bool_]) -> Readouts:
        """Return the block of the readouts where `mask` (n,) is true."""
        traj = None if self.traj is None else self.traj[mask]
        return replace(self, head=self.head[mask], data=self.data[mask], traj=traj)


VIEW_HEAD = np.dtype(
    [
        ("flags", "<u4"),
        ("view", "<u4"),
        ("time_s", "<f8"),
        ("angle_rad", "<f8"),
        ("z_mm", "<f8"),
        ("angle_shift_rad", "<f4"),
        ("z_shift_mm", "<f4"),
        ("radius_shift_mm", "<f4"),
        ("ma", "<f4"),
    ]
)
"""One CT view: what it is (`View`), its number, when, where the focal spot's rest position stood (angle from +x
towards +y, not wrapped; z in the patient), how far the flying focal spot was off it, and the tube current."""


class View(IntFlag):
    """What a CT view is; none of these is a view of the patient."""

    DARK = 1 << 0
    """No radiation: the detector's offset."""
    AIR = 1 << 1
    """Nothing between tube and detector."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Projections:
    """A block of CT views in the order in which they were measured."""

    head: NDArray[np.void]
    """One record per view, dtype `VIEW_HEAD`, shape (n,)."""
    data: NDArray[np.float32]
    """Values (view, row, channel)."""
    domain: Literal["counts", "lines"] = "counts"
    """``lines`` once they are line integrals of attenuation."""
    photons: NDArray[np.float32] | None = None
    """Photons of the unattenuated beam (view, channel), where the source tells them: ``photons exp(-line)`` is the
    inverse of a line integral's variance."""
    received_s: float = 0.0
    """time.monotonic() when the last view of the block arrived [s]."""

    def __len__(self) -> int:
        return len(self.head)

    def has(self, flag: View) -> NDArray[np.bool_]:
        """Return which views carry any bit of `flag`, shape (n,)."""
        return (self.head["flags"] & np.uint32(flag)) != 0

    def select(self, mask: NDArray[np.bool_]) -> Projections:
        """Return the block of the views where `mask` (n,) is true."""
        photons = None if self.photons is None else self.photons[mask]
        return replace(self, head=self.head[mask], data=self.data[mask], photons=photons)


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """A time block of PET list-mode: which detectors counted together; when within the block is not known."""

    start_s: float
    """Begin of the block, seconds after the start of the scan."""
    stop_s: float
    """Its end [s]."""
    prompts: NDArray[np.int32]
    """Coincidences (event, 2): indices of both detectors."""
    delayeds: NDArray[np.int32]
    """Delayed coincidences, which are randoms alone (event, 2)."""
    tof: NDArray[np.int16] | None = None
    """Time-of-flight bin of each prompt, counted from 0 at the first detector's side; None: not measured."""
    delayed_tof: NDArray[np.int16] | None = None
    """The same for the delayeds."""
    singles: NDArray[np.uint32] | None = None
    """Single counts of the block's time, per detector block or detector; None: not sent."""
    bed_mm: float = 0.0
    """Table position of the block [mm]."""
    received_s: float = 0.0
    """time.monotonic() when the block arrived [s]."""

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """A time block of PET that was sorted into bins: how often each line of response counted, zeros left out."""

    start_s: float
    """Begin of the block, seconds after the start of the scan."""
    stop_s: float
    """Its end [s]."""
    prompts: NDArray[np.int32]
    """Lines (line, 2): indices of both detectors, in no order."""
    counts: NDArray[np.float32]
    """How often each counted (line,); a bin of several lines is shared evenly among them."""
    tof: NDArray[np.int16] | None = None
    """Time-of-flight bin of each line; None: not measured."""
    bed_mm: float = 0.0
    """Table position of the block [mm]."""
    received_s: float = 0.0
    """time.monotonic() when the block arrived [s]."""

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waveform:
    """Physiology or other side signal."""

    id: int
    """Kind, as the header's waveform information names it (ECG 0, pulse 1, respiratory 2 ...)."""
    time_stamp: int
    """Scanner clock, vendor ticks."""
    sample_time_us: float
    """Time between samples [us]."""
    data: NDArray[np.uint32]
    """Samples (channel, time)."""
    gain: float = 1.0
    """A sample's unit: the value is ``offset + gain * sample``."""
    offset: float = 0.0
    """Value of sample 0."""
    flags: int = 0
    """Vendor flags."""
    measurement_uid: int = 0
    """Measurement it belongs to."""
    scan_counter: int = 0
    """Readout it came with."""


class Kind(StrEnum):
    """Which component of the complex image a value is."""

    MAGNITUDE = "magnitude"
    PHASE = "phase"
    REAL = "real"
    IMAGINARY = "imaginary"
    COMPLEX = "complex"


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Which part of the scan an image shows."""

    slice: int = 0
    """Slice counter; 0 for a volume."""
    contrast: int = 0
    """Echo or contrast counter."""
    phase: int = 0
    """Cardiac phase counter."""
    repetition: int = 0
    """Dynamic counter."""
    set: int = 0
    """Set counter (flow encoding, diffusion direction ...)."""
    average: int = 0
    """Average counter; averages are combined unless a protocol keeps them apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Enhancement:
    """The network that changed an image."""

    card: str
    """Name of its card."""
    version: str
    """Version of the card."""
    sha256: str
    """Of the weights, hexadecimal."""
    strength: float
    """0: the conventional image ... 1: the network's."""
    engine: str
    """What it ran on, with the precision."""
    synthetic: bool = False
    """Whether it predicts what was not measured, rather than changes what was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where an image comes from."""

    protocol: str = ""
    """Protocol that made it."""
    steps: tuple[str, ...] = ()
    """Steps in order, with the parameters that matter."""
    software: str = ""
    """Name and version of this software."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Facts a physicist asks for, e.g. noise source, acceleration, kernel."""
    network: Enhancement | None = None
    """What changed it, where it is not the conventional image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """Voxels, where they are, what they mean, where they come from and how far to trust them."""

    data: NDArray
    """Values (..., z, y, x)."""
    grid: Grid
    """Place of the voxels in the patient."""
    unit: str = "a.u."
    """a.u., HU, Bq/mL, 1 (SNR) ..."""
    kind: Kind = Kind.MAGNITUDE
    """Component of the complex image."""
    output: str = "conventional"
    """Name of the result within the scan; one name is one series."""
    position: Position = field(default_factory=Position)
    """Counters of the frame."""
    provenance: Provenance = field(default_factory=Provenance)
    """Origin."""
    verdicts: tuple[Verdict, ...] = ()
    """What the checks said."""
    time_stamp: int = 0
    """Scanner clock of its first readout, vendor ticks."""
    last_readout_s: float = 0.0
    """time.monotonic() when its last readout arrived [s]."""
    table_position_mm: Vector = (0.0, 0.0, 0.0)
    """Patient table position, LPS [mm]."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """MRD image attributes that came with it or go out with it."""

    def with_verdicts(self, *verdicts: Verdict) -> Image:
        """Return the image with `verdicts` appended."""
        return replace(self, verdicts=(*self.verdicts, *verdicts))


Item = object
"""Anything that a Step takes or gives: Readouts, Waveform, Image, Verdict, or what two Steps agree on."""
