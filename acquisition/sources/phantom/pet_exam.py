"""What a virtual PET scan is: the scanner, the time, what is counted and how well."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from acquisition.errors import ConfigError
from acquisition.geometry import Vector
from acquisition.scan import PetHeader, Tracer
from acquisition.sources.phantom.pet_faults import PetFaults

F18 = Tracer(nuclide="^18^Fluorine", half_life_s=6586.2, branching=0.9673, name="FDG")
LIGHT_MM_PER_S = 299_792_458e3


def gantry(*, ctr_ps: float = 300.0, **changes: object) -> PetHeader:
    """Return a small cylinder that is simulated in seconds: 16 rings of 240 crystals, 128 mm long, 13 bins.

    Parameters
    ----------
    ctr_ps
        Resolution of the coincidence time, FWHM [ps].
    changes
        Fields of the header that differ.
    """
    fields: dict[str, object] = {
        "n_rings": 16,
        "n_crystals": 240,
        "radius_mm": 340.0,
        "ring_pitch_mm": 8.0,
        "block": (8, 10),
        "n_tof": 13,
        "tof_bin_mm": 52.0,
        "tof_fwhm_mm": ctr_ps * 1e-12 * LIGHT_MM_PER_S / 2,
        "crystal_mm": (8.0, 8.9),
        "tracer": F18,
    }
    return PetHeader(**(fields | changes))  # type: ignore[arg-type]


def clinical(*, ctr_ps: float = 385.0) -> PetHeader:
    """Return a cylinder like those of clinics: 36 rings of 576 crystals, 200 mm long, 29 bins."""
    return gantry(
        ctr_ps=ctr_ps,
        n_rings=36,
        n_crystals=576,
        radius_mm=371.7,
        ring_pitch_mm=5.55,
        block=(9, 16),
        n_tof=29,
        tof_bin_mm=25.4,
        crystal_mm=(5.3, 3.95),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PetExam:
    """What is measured, and how well."""

    pet: PetHeader = field(default_factory=gantry)
    """The scanner and the tracer."""
    duration_s: float = 10.0
    """Length of the scan, at each position of the table [s]."""
    block_s: float = 0.5
    """Length of a block of events [s]."""
    scatter: Literal["none", "single"] = "single"
    """Whether photons that were scattered once are counted."""
    randoms: Literal["none", "delayed"] = "delayed"
    """Whether random coincidences are counted, and delayed ones sent along."""
    window_ns: float = 4.5
    """Full width of the coincidence window [ns]."""
    efficiency: float = 0.7
    """Mean probability that a photon of full energy that meets a crystal is counted."""
    spread: float = 0.1
    """Standard deviation of the crystals' efficiencies against their mean."""
    dead_time_s: float = 0.0
    """Time for which a block is blind after each photon, restarted by every photon [s]."""
    fov_mm: float = 300.0
    """Distance from the axis beyond which lines are not counted [mm]."""
    patient_mm: Vector = (0.0, 0.0, 0.0)
    """Where the object's origin lies, LPS [mm]."""
    beds_mm: tuple[float, ...] = (0.0,)
    """Positions of the table, one after the other: how far it has carried the patient along +z [mm]."""
    bed_pause_s: float = 0.0
    """Time that the table takes from one position to the next, in which nothing is counted [s]."""
    breath_s: float = 0.0
    """Period of the breath, for objects that breathe [s]; 0: held at the end of expiration."""
    uptake_s: float = 3600.0
    """Time from injection to the start of the scan [s]."""
    dose_bq: float = 250e6
    """Injected activity [Bq]."""
    faults: PetFaults = field(default_factory=PetFaults)
    """What goes wrong."""
    seed: int = 1
    """Of everything that is drawn."""

    def __post_init__(self) -> None:
        positive = min(self.duration_s, self.block_s, self.window_ns, self.fov_mm) > 0
        least = min(self.spread, self.dead_time_s, self.breath_s, self.bed_pause_s)
        if not positive or not 0 < self.efficiency <= 1 or least < 0 or not self.beds_mm:
            raise ConfigError(
                "PET exam",
                expected="times and sizes above 0, an efficiency of up to 1, a position of the table, "
                "spread, dead time, pause and breath of 0 or more",
                got=f"{self.duration_s} s in {self.block_s} s, window {self.window_ns} ns, {self.fov_mm} mm, "
                f"efficiency {self.efficiency} +- {self.spread}, dead time {self.dead_time_s} s, {self.breath_s} s",
            )
