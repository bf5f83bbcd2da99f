"""The virtual MRI scanner: an exam becomes a header, readouts in scanner order, and the truth to hold against.

K-space is made slice by slice while the readouts are asked for, so the first one comes at once; what was made
is kept for the next repetition as long as it fits in memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ConfigError
from acquisition.items import Flag, Image, Position, Provenance, Readouts
from acquisition.scan import Encoding, Equipment, Limits, MrHeader, Patient, Scan, Study
from acquisition.sources.phantom.coils import ReceiveArray, cage
from acquisition.sources.phantom.encode import encode
from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.head import WHITE, head
from acquisition.sources.phantom.objects import Phantom
from acquisition.sources.phantom.sequence import Heads, heads

_CACHE_BYTES = 128 << 20
_NOISE_LINES = 64  # Lines coloured in one matrix product: many small products wait for BLAS threads on a busy machine.
_RUN = ("repetition", "slice", "average", "k2")  # noise is drawn once per run of readouts with these counters equal


@dataclass(frozen=True, slots=True)
class _Part:
    """Readouts whose data are made together."""

    start: int
    """Index of its first readout."""
    stop: int
    """One behind its last."""


class Simulation:
    """One exam on the virtual scanner; every iteration of `readouts` gives the same data.

    Parameters
    ----------
    exam
        What is measured.
    phantom
        The object; the exam's head when absent.
    coils
        The receive array; a cage around the head when absent.

    Raises
    ------
    ConfigError
        The array has another number of coils than the exam.
    """

    def __init__(self, exam: MriExam, phantom: Phantom | None = None, *, coils: ReceiveArray | None = None) -> None:
        if coils is not None and len(coils) != exam.n_coils:
            raise ConfigError("simulation coils", expected=f"{exam.n_coils}, as the exam says", got=str(len(coils)))
        self.exam = exam
        self._phantom, self._coils = phantom, coils
        self._kspace: OrderedDict[tuple[int, int], NDArray[np.complex64]] = OrderedDict()

    @cached_property
    def phantom(self) -> Phantom:
        """The object."""
        return self._phantom or head(self.exam.seed)

    @cached_property
    def coils(self) -> ReceiveArray:
        """The receive array."""
        return self._coils or cage(self.exam.n_coils)

    @cached_property
    def scan(self) -> Scan:
        """The header."""
        return _scan(self.exam)

    @cached_property
    def head(self) -> Heads:
        """The heads of all readouts, in order."""
        return heads(self.exam)

    @cached_property
    def noise_covariance(self) -> NDArray[np.complex128]:
        """True covariance of the imaging readouts' noise samples, (n_coils, n_coils).

        Its mean variance gives the exam's SNR: the plain inverse transform averages over
        ``n = N_k0 * N_k1 * N_k2`` samples, and the optimal combination of unit-norm maps keeps the variance.
        """
        n = 2 * self.exam.matrix[2] * self.exam.matrix[1] * self.exam.n_partitions
        sigma = WHITE.signal(self.exam.te_s[0]) / self.exam.snr * np.sqrt(n)
        return sigma**2 * self.coils.noise_covariance(self.exam.seed)

    def readouts(self, *, block: int = 1) -> Iterator[Readouts]:
        """Yield the readouts in scanner order, `block` at a time (fewer where a run ends).

        Raises
        ------
        ConfigError
            `block` is less than 1.
        """
        if block < 1:
            raise ConfigError("readouts block", expected="at least 1", got=str(block))
        self.prepare()
        for number, part in enumerate(self._parts()):
            data = self._data(part, number)
            for start in range(part.start, part.stop, block):
                stop = min(start + block, part.stop)
                yield Readouts(head=self.head[start:stop], data=data[start - part.start : stop - part.start])

    def prepare(self) -> None:
        """Build object, coils and heads now (half a second), so that no readout has to wait for them."""
        _ = self.phantom, self.coils, self.head, self.noise_covariance

    def kspace(self, slice_index: int = 0, contrast: int = 0) -> NDArray[np.complex64]:
        """Return the full noise-free k-space (coil, k2, k1, k0) of one slice (2D) or of the slab (3D)."""
        key = (slice_index, contrast)
        if key in self._kspace:
            self._kspace.move_to_end(key)
            return self._kspace[key]
        te_s = self.exam.te_s[contrast]
        made = encode(self.exam, self.phantom, coils=self.coils, slice_index=slice_index, te_s=te_s)
        self._kspace[key] = made
        while len(self._kspace) > 1 and sum(k.nbytes for k in self._kspace.values()) > _CACHE_BYTES:
            self._kspace.popitem(last=False)
        return made

    def truth(self, slice_index: int = 0, contrast: int = 0) -> Image:
        """Return the object's magnitude at the acquired resolution on the prescribed grid.

        One slice in 2D, the slab in 3D: what one uniform, noise-free, fully sampled coil would show.
        """
        te_s = self.exam.te_s[contrast]
        full = encode(self.exam, self.phantom, coils=None, slice_index=slice_index, te_s=te_s)[0]
        pixels = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(full)))
        nx = self.exam.matrix[2]
        start = nx - nx // 2
        grid = self.exam.grid
        return Image(
            data=np.abs(pixels[..., start : start + nx]).astype(np.float32),
            grid=grid.plane(slice_index) if self.exam.kind == "2D" else grid,
            output="truth",
            position=Position(slice=slice_index, contrast=contrast),
            provenance=Provenance(protocol="phantom"),
        )

    def _parts(self) -> Iterator[_Part]:
        """Yield runs of readouts: the noise scan, then one (repetition, slice, average, k2) after the other."""
        noise = (self.head["flags"] & np.uint64(Flag.NOISE)) != 0
        keys = np.stack([noise, *(self.head[name] for name in _RUN)], axis=1)
        starts = np.flatnonzero(np.any(np.diff(keys.astype(np.int64), axis=0), axis=1)) + 1
        bounds = [0, *starts.tolist(), len(self.head)]
        yield from (_Part(a, b) for a, b in pairwise(bounds))

    def _data(self, part: _Part, number: int) -> NDArray[np.complex64]:
        rows = self.head[part.start : part.stop]
        data = self._noise(rows, number)
        if rows["flags"][0] & np.uint64(Flag.NOISE):
            return data
        shift = self.exam.matrix[1] // 2 - self.exam.k1_center
        for contrast in range(len(self.exam.te_s)):
            mine = np.flatnonzero(rows["contrast"] == contrast)
            full = self.kspace(int(rows["slice"][0]), contrast)
            lines = full[:, rows["k2"][0], rows["k1"][mine].astype(np.intp) + shift]
            data[mine] += lines.transpose(1, 0, 2)
        return data

    def _noise(self, rows: Heads, number: int) -> NDArray[np.complex64]:
        """Return correlated complex noise (n, coil, k0); power grows with the bandwidth, 1 / dwell time."""
        n, n_coils, n_k0 = len(rows), self.exam.n_coils, 2 * self.exam.matrix[2]
        if np.isinf(self.exam.snr):
            return np.zeros((n, n_coils, n_k0), np.complex64)
        rng = np.random.Generator(np.random.SFC64([self.exam.seed, 3, number]))
        scale = np.sqrt(self.exam.dwell_us / rows["dwell_us"][0] / 2)
        colour = (scale * np.linalg.cholesky(self.noise_covariance)).astype(np.complex64)
        data = np.empty((n, n_coils, n_k0), np.complex64)
        for start in range(0, n, _NOISE_LINES):
            piece = data[start : start + _NOISE_LINES].transpose(1, 0, 2)
            white = rng.standard_normal((n_coils, piece.shape[1] * 2 * n_k0), np.float32).view(np.complex64)
            piece[:] = (colour @ white).reshape(piece.shape)
        return data


def simulate(exam: MriExam, phantom: Phantom | None = None) -> tuple[Scan, Iterator[Readouts]]:
    """Return the header and the readouts, one by one, of `exam`."""
    simulation = Simulation(exam, phantom)
    return simulation.scan, simulation.readouts()


def _scan(exam: MriExam) -> Scan:
    return Scan(
        uid=f"phantom_{exam.digest[:12]}",
        modality="MR",
        protocol_name=exam.protocol_name,
        patient=Patient(
            id=exam.patient_id, name="PHANTOM^ISOCENTER", birth_date="19700101", sex="O", weight_kg=70.0, position="HFS"
        ),
        study=_study(exam),
        equipment=_equipment(exam),
        started=datetime(2026, 1, 5, 9, 30, 0),
        measurement_id=f"phantom_{exam.digest[:12]}",
        mr=MrHeader(
            encodings=(_encoding(exam),),
            tr_s=(exam.tr_s,),
            te_s=exam.te_s,
            flip_deg=(15.0,),
            sequence_type="Flash",
        ),
    )


def _study(exam: MriExam) -> Study:
    return Study(
        instance_uid=exam.study_uid,
        id=exam.study_id,
        date="20260105",
        time="093000",
        accession_number=str(int(exam.study_uid[5:]) % 10**8),  # a whole number: MRD knows no other
        referring_physician="NOBODY^AT ALL",
        description="Virtual head",
        body_part="HEAD",
        series_instance_uid=f"2.25.{int(exam.digest, 16)}",
        series_number=exam.series_number,
        frame_of_reference_uid=exam.frame_of_reference_uid,
    )


def _equipment(exam: MriExam) -> Equipment:
    return Equipment(
        vendor="Isocenter",
        model="Virtual MR",
        serial_number="000001",
        software="virtual",
        institution="Nowhere General",
        station="VMR1",
        field_strength_t=3.0,
        n_coils=exam.n_coils,
        coil_name=f"Head{exam.n_coils}",
        resonance_frequency_hz=123_250_000.0,
    )


def _encoding(exam: MriExam) -> Encoding:
    _, ny, nx = exam.matrix
    z_mm = exam.thickness_mm * exam.n_partitions
    accelerated = exam.acceleration > 1
    last = {
        "slice": exam.n_slices,
        "average": exam.averages,
        "repetition": exam.repetitions,
        "contrast": len(exam.te_s),
        "phase": 1,
        "set": 1,
        "segment": 1,
    }
    return Encoding(
        matrix=(exam.n_partitions, ny, 2 * nx),
        fov_mm=(z_mm, exam.fov_mm[0], 2 * exam.fov_mm[1]),
        recon_matrix=(exam.n_partitions, ny, nx),
        recon_fov_mm=(z_mm, *exam.fov_mm),
        limits={
            "k0": Limits(0, 2 * nx - 1, nx),
            "k1": Limits(0, exam.n_lines - 1, exam.k1_center),
            "k2": Limits(0, exam.n_partitions - 1, exam.n_partitions // 2),
            **{name: Limits(0, count - 1, 0) for name, count in last.items()},
        },
        acceleration=(1.0, float(exam.acceleration)),
        calibration_mode=exam.calibration if accelerated else None,
        echo_train_length=1,
    )
