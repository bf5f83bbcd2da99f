"""The virtual CT scanner: dark and air views, then the patient, block by block, as a gantry delivers them.

Counts follow ``Poisson(N e^-p) + electronic noise + offset`` where N grows with the tube current and falls towards
the edge of the fan (bowtie). A polychromatic beam adds up the signals of its energies; its noise is that of one
energy. Everything is drawn from the exam's seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from acquisition.ct_geometry import checked, detector_columns, fan_angles, focal_spots, row_heights_mm
from acquisition.errors import ConfigError
from acquisition.geometry import Vector
from acquisition.items import VIEW_HEAD, Projections, View
from acquisition.scan import CtHeader, Equipment, Patient, Scan
from acquisition.sources.phantom.ct_faults import CtFaults
from acquisition.sources.phantom.ct_matter import composition, transmission
from acquisition.sources.phantom.ct_objects import chest
from acquisition.sources.phantom.objects import Phantom
from kernels.ct_lines import solid_lines

Floats = NDArray[np.float64]

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
    modulation_z: float = 0.0
    """Relative rise of the tube current from the middle of the scan to its end at larger z; it falls to the other."""
    beam: Literal["monochromatic", "polychromatic"] = "monochromatic"
    """One energy, at which water has the header's attenuation, or the spectrum of the tube's voltage."""
    subrays: int = 1
    """Rays across each channel whose signals are added up; 1: an infinitely narrow channel."""
    patient_mm: Vector = (0.0, 0.0, 0.0)
    """Where the object's origin lies, LPS [mm]; 0: in the isocentre."""
    faults: CtFaults = field(default_factory=CtFaults)
    """What goes wrong."""
    bad_elements: tuple[tuple[int, int], ...] = ()
    """Elements (row, channel) that always read the offset."""
    focal_spot_shifts: tuple[tuple[float, float, float], ...] = ((0.0, 0.0, 0.0),)
    """Flying focal spot: (angle [rad], z [mm], radius [mm]) of successive views, repeated."""
    seed: int = 1
    """Of the noise."""

    def __post_init__(self) -> None:
        fits = self.turns > 0 and 0 <= self.bowtie < 1 and self.subrays >= 1
        if self.direction not in (-1, 1) or not fits or abs(self.modulation) + abs(self.modulation_z) >= 1:
            raise ConfigError(
                "CT exam",
                expected="direction 1 or -1, turns above 0, bowtie from 0 to below 1, modulations below 1 together, "
                "a ray per channel",
                got=f"direction {self.direction}, turns {self.turns}, bowtie {self.bowtie}, "
                f"modulations {self.modulation} and {self.modulation_z}, {self.subrays} rays",
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
        self.phantom = (chest() if phantom is None else phantom).transformed(np.eye(3), exam.patient_mm)

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
        rise = np.interp(head["z_mm"], [head["z_mm"].min(), head["z_mm"].max()], [-1, 1]) if exam.feed_mm else 0.0
        head["ma"] = current * (1 + exam.modulation * np.cos(2 * head["angle_rad"]) + exam.modulation_z * rise)
        return head

    def lines(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Return what a perfect detector makes of the views from `start` to `stop`, (view, row, channel).

        These are the exact line integrals of attenuation where the beam has one energy and the channels are narrow.
        """
        ct = self.exam.ct
        if self.exam.beam == "monochromatic":
            values = self.phantom.amplitudes()[None] * (ct.mu_water_per_mm or 0.0192)
            lines = self._through(values, start, stop)[0]
            return lines if self.exam.subrays == 1 else -np.log(self._across(np.exp(-lines.astype(float))))
        signal = self._across(transmission(self.areal_densities(start, stop), ct.kvp or 120.0))
        return -np.log(np.maximum(signal, 1e-30)).astype(np.float32)

    def areal_densities(self, start: int = 0, stop: int | None = None) -> dict[str, NDArray[np.float32]]:
        """Return what of each material lies on the rays of some views [g/cm^2], (view, row, channel * subrays)."""
        parts = self.phantom.ellipsoids
        mixed = [composition(p.tissue) for p in parts]
        names = sorted({name for m in mixed for name in m})
        values = np.array([[m.get(name, 0.0) for m in mixed] for name in names])
        for k, part in enumerate(parts):
            if part.parent >= 0:
                values[:, k] -= [mixed[part.parent].get(name, 0.0) for name in names]
        return dict(zip(names, self._through(values / 10, start, stop), strict=True))

    def _through(self, values: Floats, start: int, stop: int | None) -> NDArray[np.float32]:
        """Return the line integrals of `values` per mm (material, part) on the rays of some views."""
        head, n = self.head[start:stop], self.exam.subrays
        ct = self.exam.ct
        fine = replace(
            ct,
            n_channels=ct.n_channels * n,
            pitch_mm=(ct.pitch_mm[0], ct.pitch_mm[1] / n),
            centre=(ct.centre[0], ct.centre[1] * n + (n - 1) / 2),
        )
        spots, columns, heights = focal_spots(fine, head), detector_columns(fine, head), row_heights_mm(fine)
        out = np.empty((len(values), len(head), ct.n_rows, fine.n_channels), np.float32)
        for part, phantom in self._poses(head):
            solids = (
                np.array([e.centre for e in phantom.ellipsoids]),
                np.array([np.linalg.inv(e.matrix) for e in phantom.ellipsoids]),
                np.array([e.shape for e in phantom.ellipsoids]),
                values,
            )
            made = np.empty((len(values), part.stop - part.start, *out.shape[2:]), np.float32)
            solid_lines(spots[part], columns[part], heights, solids, made)
            out[:, part] = made
        return out

    def _poses(self, head: NDArray[np.void]) -> Iterator[tuple[slice, Phantom]]:
        """Yield runs of views during which the patient lies still, and how he lies then."""
        motion = self.exam.faults.motion
        if motion is None or not len(head):
            yield slice(0, len(head)), self.phantom
            return
        matrices, shifts = motion.poses(head["view"] / self.exam.ct.views_per_rotation)
        pose = np.concatenate([matrices.reshape(-1, 9), shifts], axis=1)
        starts = [0, *(np.flatnonzero(np.abs(np.diff(pose, axis=0)).max(axis=1) > 0) + 1).tolist(), len(head)]
        for a, b in pairwise(starts):
            yield slice(a, b), self.phantom.transformed(matrices[a], shifts[a])

    def _across(self, signal: Floats) -> Floats:
        """Return the mean over the rays of each channel."""
        *lead, n = signal.shape
        return signal.reshape(*lead, n // self.exam.subrays, self.exam.subrays).mean(axis=-1)

    def projections(self, *, block: int = 32) -> Iterator[Projections]:
        """Yield dark views, air views, then the patient's, `block` at a time, as counts."""
        rng = np.random.default_rng(self.exam.seed)
        for flag in (View.DARK, View.AIR):
            head = np.zeros(_CALIBRATION, VIEW_HEAD)
            head["flags"], head["ma"] = flag, self.exam.ct.ma or 200.0
            shape = (_CALIBRATION, self.exam.ct.n_rows, self.exam.ct.n_channels)
            level = np.zeros(shape) if flag is View.DARK else np.broadcast_to(self._unattenuated, shape)
            yield Projections(head=head, data=self._read(level, rng))
        gain = self.exam.faults.gain(self.exam.ct, self.exam.seed)
        output = self.exam.faults.output(len(self.head), self.exam.seed)
        for start in range(0, len(self.head), block):
            head = self.head[start : start + block]
            told = head["ma"] / (self.exam.ct.ma or 200.0)
            strength = (told * output[start : start + block])[:, None, None]
            unattenuated = strength * self._unattenuated
            level = unattenuated * np.exp(-self.lines(start, start + block).astype(float))
            if self.exam.faults.scatter:
                level += self.exam.faults.scattered(level, unattenuated, self.exam.ct)
            yield Projections(head=head, data=self._died(self._read(gain * level, rng), head))

    @cached_property
    def _unattenuated(self) -> Floats:
        fan = fan_angles(self.exam.ct)
        counts = _REFERENCE if np.isinf(self.exam.photons) else self.exam.photons
        return counts * (1 - self.exam.bowtie * (fan / np.abs(fan).max()) ** 2)

    def _read(self, level: Floats, rng: np.random.Generator) -> NDArray[np.float32]:
        noisy = level if np.isinf(self.exam.photons) else rng.poisson(level).astype(float)
        if self.exam.electronic:
            noisy = noisy + rng.normal(0.0, self.exam.electronic, level.shape)
        counts = (noisy + _OFFSET).astype(np.float32)
        for row, channel in self.exam.bad_elements:
            counts[:, row, channel] = _OFFSET
        return counts

    def _died(self, counts: NDArray[np.float32], head: NDArray[np.void]) -> NDArray[np.float32]:
        for row, channel, first in self.exam.faults.dying:
            counts[head["view"] >= first, row, channel] = _OFFSET
        return counts
