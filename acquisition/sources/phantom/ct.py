"""The virtual CT scanner: dark and air views, then the patient, block by block, as a gantry delivers them.

Counts follow ``Poisson(N e^-p) + electronic noise + offset`` where N grows with the tube current and falls towards
the edge of the fan (bowtie). Everything is drawn from the exam's seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from acquisition.ct_geometry import checked, detector_columns, fan_angles, focal_spots, row_heights_mm
from acquisition.errors import ConfigError
from acquisition.items import VIEW_HEAD, Projections, View
from acquisition.scan import CtHeader, Equipment, Patient, Scan
from acquisition.sources.phantom.ct_objects import chest
from acquisition.sources.phantom.objects import Phantom
from kernels.ct_lines import ellipsoid_lines

_REFERENCE = 1e6  # counts of an unattenuated ray where the exam asks for no noise
_OFFSET = 120.0  # detector offset [counts]
_CALIBRATION = 16  # dark views, and as many air views


def gantry(**changes: object) -> CtHeader:
    """Return a third-generation scanner with a cylindrical detector, small enough to simulate in seconds."""
    fields: dict[str, object] = {
        "mode": "helical",
        "detector": "cylindrical",
        "n_rows": 16,
        "n_channels": 368,
        "pitch_mm": (2.1894, 2.5716),
        "centre": (7.5, 183.75),
        "source_isocentre_mm": 595.0,
        "source_detector_mm": 1085.6,
        "views_per_rotation": 576,
        "rotation_s": 0.5,
        "mu_water_per_mm": 0.0192,
        "kvp": 120.0,
        "ma": 200.0,
    }
    return CtHeader(**(fields | changes))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class CtExam:
    """What is measured, and with which defects."""

    ct: CtHeader = field(default_factory=gantry)
    """The scanner."""
    turns: float = 1.0
    """Rotations of the gantry."""
    direction: int = 1
    """+1: the angle grows, -1: it falls."""
    feed_mm: float = 0.0
    """Way of the focal spot along +z per rotation [mm]; negative towards the feet."""
    start_z_mm: float = 0.0
    """Focal spot of the first view [mm]."""
    start_angle_rad: float = 0.3
    """Angle of the first view [rad]."""
    photons: float = np.inf
    """Counts of an unattenuated central ray at the calibration's tube current; infinite: no noise."""
    electronic: float = 0.0
    """Standard deviation of the electronic noise [counts]."""
    bowtie: float = 0.7
    """Part of the radiation that the bowtie takes at the edge of the fan."""
    modulation: float = 0.0
    """Relative amplitude of the tube current's modulation with the angle."""
    bad_elements: tuple[tuple[int, int], ...] = ()
    """Elements (row, channel) that always read the offset."""
    focal_spot_shifts: tuple[tuple[float, float, float], ...] = ((0.0, 0.0, 0.0),)
    """Flying focal spot: (angle [rad], z [mm], radius [mm]) of successive views, repeated."""
    seed: int = 1
    """Of the noise."""

    def __post_init__(self) -> None:
        if self.direction not in (-1, 1) or self.turns <= 0 or not 0 <= self.bowtie < 1:
            raise ConfigError(
                "CT exam",
                expected="direction 1 or -1, turns above 0, bowtie from 0 to below 1",
                got=f"direction {self.direction}, turns {self.turns}, bowtie {self.bowtie}",
            )


class CtSimulation:
    """One exam on the virtual scanner; every iteration gives the same data.

    Parameters
    ----------
    exam
        What is measured.
    phantom
        The object, in units of water's attenuation; a chest when absent.
    """

    def __init__(self, exam: CtExam, phantom: Phantom | None = None) -> None:
        checked(exam.ct, "CT exam")
        self.exam = exam
        self.phantom = chest() if phantom is None else phantom

    @cached_property
    def scan(self) -> Scan:
        """The header."""
        return Scan(
            uid=f"ct-phantom-{self.exam.seed}",
            modality="CT",
            protocol_name=f"virtual {self.exam.ct.mode}",
            patient=Patient(id="PHANTOM", name="Phantom^CT", position="HFS"),
            equipment=Equipment(vendor="Isocenter", model="Virtual CT scanner"),
            ct=replace(
                self.exam.ct,
                tube_ma=self.exam.ct.ma,
                rotation_sign=1 if self.exam.direction > 0 else -1,
                feed_mm=self.exam.feed_mm,
            ),
        )

    @cached_property
    def head(self) -> NDArray[np.void]:
        """The heads of the patient's views, shape (n,)."""
        exam, per_turn = self.exam, self.exam.ct.views_per_rotation
        views = np.arange(round(exam.turns * per_turn))
        head = np.zeros(len(views), VIEW_HEAD)
        head["view"] = views
        head["time_s"] = views * (exam.ct.rotation_s or 0.5) / per_turn
        head["angle_rad"] = exam.start_angle_rad + exam.direction * 2 * np.pi * views / per_turn
        head["z_mm"] = exam.start_z_mm + exam.feed_mm * views / per_turn
        shifts = np.array(exam.focal_spot_shifts)[views % len(exam.focal_spot_shifts)]
        head["angle_shift_rad"], head["z_shift_mm"], head["radius_shift_mm"] = shifts.T
        current = exam.ct.ma or 200.0
        head["ma"] = current * (1 + exam.modulation * np.cos(2 * head["angle_rad"]))
        return head

    def lines(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Return exact line integrals of the views from `start` to `stop`, (view, row, channel)."""
        head, ct = self.head[start:stop], self.exam.ct
        parts = self.phantom.ellipsoids
        bodies = (
            np.array([p.centre for p in parts]),
            np.array([np.linalg.inv(p.matrix) for p in parts]),
            self.phantom.amplitudes() * (ct.mu_water_per_mm or 0.0192),
        )
        out = np.empty((len(head), ct.n_rows, ct.n_channels), np.float32)
        ellipsoid_lines(focal_spots(ct, head), detector_columns(ct, head), row_heights_mm(ct), bodies, out)
        return out

    def projections(self, *, block: int = 32) -> Iterator[Projections]:
        """Yield dark views, air views, then the patient's, `block` at a time, as counts."""
        rng = np.random.default_rng(self.exam.seed)
        for flag in (View.DARK, View.AIR):
            head = np.zeros(_CALIBRATION, VIEW_HEAD)
            head["flags"], head["ma"] = flag, self.exam.ct.ma or 200.0
            shape = (_CALIBRATION, self.exam.ct.n_rows, self.exam.ct.n_channels)
            level = np.zeros(shape) if flag is View.DARK else np.broadcast_to(self._unattenuated, shape)
            yield Projections(head=head, data=self._read(level, rng))
        for start in range(0, len(self.head), block):
            head = self.head[start : start + block]
            strength = (head["ma"] / (self.exam.ct.ma or 200.0))[:, None, None]
            level = strength * self._unattenuated * np.exp(-self.lines(start, start + block).astype(float))
            yield Projections(head=head, data=self._read(level, rng))

    @cached_property
    def _unattenuated(self) -> NDArray[np.float64]:
        fan = fan_angles(self.exam.ct)
        counts = _REFERENCE if np.isinf(self.exam.photons) else self.exam.photons
        return counts * (1 - self.exam.bowtie * (fan / np.abs(fan).max()) ** 2)

    def _read(self, level: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float32]:
        noisy = level if np.isinf(self.exam.photons) else rng.poisson(level).astype(float)
        if self.exam.electronic:
            noisy = noisy + rng.normal(0.0, self.exam.electronic, level.shape)
        counts = (noisy + _OFFSET).astype(np.float32)
        for row, channel in self.exam.bad_elements:
            counts[:, row, channel] = _OFFSET
        return counts
