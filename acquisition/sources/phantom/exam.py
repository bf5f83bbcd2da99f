"""What a virtual MRI exam is: matrix, geometry, acceleration, contrast and noise of a Cartesian measurement.

Conventions. An image is the centred inverse Fourier transform of k-space (``fftshift(ifft(ifftshift(k)))``):
index ``N // 2`` is the phase origin. ``position_mm`` is the centre of the field of view, index ``(N - 1) / 2``.
With ``k`` in cycles per field of view, ``S(k) = sum_x rho(x) exp(-2 pi i k x / N)``: the plain inverse transform
(1 / N) gives the object's own signal values. x grows along ``read``, y along ``phase``, z along ``slice``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ConfigError
from acquisition.geometry import Grid, Vector


@dataclass(frozen=True, slots=True, kw_only=True)
class Orientation:
    """Directions of the three encodings, LPS; made unit length where they are used."""

    read: Vector
    """Growing x index."""
    phase: Vector
    """Growing y index."""
    slice: Vector
    """Growing z index."""


ORIENTATIONS: dict[str, Orientation] = {
    "axial": Orientation(read=(1.0, 0.0, 0.0), phase=(0.0, 1.0, 0.0), slice=(0.0, 0.0, 1.0)),
    "coronal": Orientation(read=(1.0, 0.0, 0.0), phase=(0.0, 0.0, -1.0), slice=(0.0, 1.0, 0.0)),
    "sagittal": Orientation(read=(0.0, 1.0, 0.0), phase=(0.0, 0.0, -1.0), slice=(-1.0, 0.0, 0.0)),
    # Axial, tilted 25 degrees about L, then 15 about P, then 10 about S.
    "double-oblique": Orientation(
        read=(0.95125124, 0.16773126, -0.25881905),
        phase=(-0.04965879, 0.91153286, 0.40821789),
        slice=(0.30439297, -0.37546514, 0.87542610),
    ),
}
"""By name. All are right-handed (read x phase = slice)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MriExam:
    """One Cartesian multi-coil exam of a head."""

    matrix: tuple[int, int, int] = (5, 128, 128)
    """Slices or partitions, phase encodings, pixels along the readout (z, y, x)."""
    fov_mm: tuple[float, float] = (240.0, 240.0)
    """In-plane field of view (y, x) [mm]."""
    kind: Literal["2D", "3D"] = "2D"
    """Slices one by one, or one slab with encoding along z."""
    thickness_mm: float = 5.0
    """Slice thickness; 3D: partition thickness [mm]."""
    gap_mm: float = 0.0
    """Gap between slices, 2D only [mm]."""
    orientation: str | Orientation = "axial"
    """A name in `ORIENTATIONS` or explicit directions."""
    position_mm: Vector = (0.0, 0.0, 25.0)
    """Centre of the field of view of the whole slab, LPS [mm]."""
    acceleration: int = 1
    """Undersampling R along k1, 1 to 4."""
    n_acs: int = 24
    """Calibration lines around the centre; used when R > 1."""
    calibration: Literal["embedded", "separate"] = "embedded"
    """Calibration lines within each slice, or all of them before the first imaging readout."""
    partial_fourier: float = 1.0
    """Sampled fraction along k1, above 0.5; the early lines are left out."""
    averages: int = 1
    """Averages."""
    repetitions: int = 1
    """Repetitions."""
    te_s: tuple[float, ...] = (0.0034,)
    """Echo times, one per contrast [s]."""
    slice_order: Literal["interleaved", "ascending"] = "interleaved"
    """Even slices then odd ones, or in order."""
    n_coils: int = 8
    """Receiver channels."""
    snr: float = 60.0
    """White matter over noise in the fully sampled, optimally combined image of one average; inf: no noise."""
    n_noise: int = 32
    """Noise readouts before the scan; 0 for none."""
    tr_s: float = 0.007
    """Time from excitation to excitation [s]; each excitation reads all contrasts of one line."""
    dwell_us: float = 5.0
    """Time per sample [us]; the readout is oversampled by 2."""
    noise_dwell_us: float | None = None
    """Time per sample of the noise readouts [us]; as `dwell_us` when absent. Noise power falls with it."""
    seed: int = 0
    """Chooses the head, the noise and the coils' noise covariance."""
    patient_id: str = "PHANTOM-0001"
    """Patient identifier."""
    study_id: str = "1"
    """Exams of one patient with the same study id form one study in one frame of reference."""
    series_number: int = 1
    """Number of this series in the study."""
    protocol_name: str = "virtual_gre"
    """The scanner's name of what it runs."""

    def __post_init__(self) -> None:
        for name, expected, fine in self._rules():
            if not fine:
                raise ConfigError(
                    f"exam {name}",
                    expected=expected,
                    got=str(getattr(self, name)),
                    action="change this field of the exam",
                )

    def _rules(self) -> tuple[tuple[str, str, bool], ...]:
        """Return (field, what it should be, whether it is)."""
        readout_s = 2 * self.matrix[2] * self.dwell_us * 1e-6
        known = isinstance(self.orientation, Orientation) or self.orientation in ORIENTATIONS
        return (
            ("matrix", "at least 1 slice and 4 x 4 pixels", self.matrix[0] >= 1 and min(self.matrix[1:]) >= 4),
            ("fov_mm", "positive lengths", min(self.fov_mm) > 0),
            ("kind", "2D or 3D", self.kind in ("2D", "3D")),
            ("thickness_mm", "a positive length", self.thickness_mm > 0),
            ("gap_mm", "0 or more, and 0 in 3D", self.gap_mm >= 0 and (self.kind == "2D" or self.gap_mm == 0)),
            ("orientation", f"directions or one of {', '.join(ORIENTATIONS)}", known),
            ("acceleration", "1, 2, 3 or 4", self.acceleration in (1, 2, 3, 4)),
            (
                "n_acs",
                "0 to the number of lines",
                self.n_acs >= 0 and (self.acceleration == 1 or self.n_acs <= self.matrix[1]),
            ),
            ("calibration", "embedded or separate", self.calibration in ("embedded", "separate")),
            ("partial_fourier", "more than 0.5, at most 1", 0.5 < self.partial_fourier <= 1),
            ("averages", "at least 1", self.averages >= 1),
            ("repetitions", "at least 1", self.repetitions >= 1),
            ("te_s", "one or more positive, growing times", _growing(self.te_s)),
            ("slice_order", "interleaved or ascending", self.slice_order in ("interleaved", "ascending")),
            ("n_coils", "1 to 1024", 1 <= self.n_coils <= 1024),
            ("snr", "a positive number or inf", self.snr > 0),
            ("n_noise", "0 or more", self.n_noise >= 0),
            ("tr_s", f"room for {len(self.te_s)} readouts of {readout_s:g} s", self.tr_s >= readout_s * len(self.te_s)),
        )

    @property
    def directions(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Unit vectors (read, phase, slice), LPS."""
        o = self.orientation if isinstance(self.orientation, Orientation) else ORIENTATIONS[self.orientation]
        read, phase, along = (np.asarray(v, float) / np.linalg.norm(v) for v in (o.read, o.phase, o.slice))
        return read, phase, along

    @property
    def grid(self) -> Grid:
        """The prescribed voxels of the whole slab."""
        _, ny, nx = self.matrix
        spacing = (self.thickness_mm + self.gap_mm, self.fov_mm[0] / ny, self.fov_mm[1] / nx)
        return Grid.from_centre(
            self.position_mm,
            shape=self.matrix,
            spacing_mm=spacing,
            directions=self.directions,
            thickness_mm=self.thickness_mm,
        )

    @property
    def n_slices(self) -> int:
        """Values of the slice counter: 1 in 3D."""
        return self.matrix[0] if self.kind == "2D" else 1

    @property
    def n_partitions(self) -> int:
        """Values of the k2 counter: 1 in 2D."""
        return 1 if self.kind == "2D" else self.matrix[0]

    @property
    def n_lines(self) -> int:
        """Values of the k1 counter, partial Fourier included, undersampling not."""
        ny = self.matrix[1]
        return max(ny // 2 + 1, round(self.partial_fourier * ny))

    @property
    def k1_center(self) -> int:
        """Value of the k1 counter at the centre of k-space."""
        return self.matrix[1] // 2 - (self.matrix[1] - self.n_lines)

    @property
    def readout_time_s(self) -> float:
        """Mean time from readout to readout [s]."""
        return self.tr_s / len(self.te_s)

    @property
    def digest(self) -> str:
        """32 hexadecimal digits that change with any field."""
        return _digest(*(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self)))

    @property
    def study_uid(self) -> str:
        """StudyInstanceUID: the same for all exams of one patient and study id."""
        return f"2.25.{int(_digest('study', self.patient_id, self.study_id), 16)}"

    @property
    def frame_of_reference_uid(self) -> str:
        """Frame of reference of the study."""
        return f"2.25.{int(_digest('frame', self.patient_id, self.study_id), 16)}"

    def at(self, **changes: object) -> MriExam:
        """Return the exam with fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


def demo_exam() -> MriExam:
    """Return the exam of the demonstration: a brain in 20 slices of 256 x 256, 16 coils, R = 2, 20 s long."""
    return MriExam(
        matrix=(20, 256, 256),
        fov_mm=(240.0, 240.0),
        thickness_mm=5.0,
        gap_mm=1.0,
        position_mm=(0.0, 0.0, 12.0),
        acceleration=2,
        n_acs=24,
        n_coils=16,
        snr=80.0,
        n_noise=32,
        tr_s=0.007,
        te_s=(0.0034,),
        dwell_us=5.0,
        protocol_name="brain_gre_ax_R2",
    )


def _growing(times: tuple[float, ...]) -> bool:
    return len(times) > 0 and times[0] > 0 and all(a < b for a, b in pairwise(times))


def _digest(*parts: str) -> str:
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:32]
