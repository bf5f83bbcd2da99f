"""A virtual MR scanner that samples any trajectory: the head of the Cartesian one, seen along spokes or spirals.

The object is encoded on twice the matrix, so its transform is known on a grid fine enough to be evaluated anywhere by
a non-uniform Fourier transform (Barnett et al., SIAM J Sci Comput 2019;41:C479, DOI 10.1137/18M120885X).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import finufft
import numpy as np
from numpy.typing import NDArray

from acquisition.items import READOUT_HEAD, Flag, Readouts
from acquisition.scan import Encoding, Limits, Scan
from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.mri import Simulation
from acquisition.sources.phantom.trajectories import Trajectory

_ACCURACY = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class NonCartesianExam:
    """One exam: slices and frames of the same spokes."""

    base: MriExam
    """Geometry, coils, noise; its matrix is the image's."""
    traj: Trajectory
    """Where the scanner samples (readout, sample, 2)."""
    told: Trajectory | None = None
    """Where it says that it samples; the same when None."""
    kind: str = "radial"
    """Name of the trajectory in the header."""
    per_frame: int = 0
    """Readouts of one repetition; all when 0."""


class NonCartesianSimulation:
    """The exam's header and readouts.

    Parameters
    ----------
    exam
        What is measured.
    """

    def __init__(self, exam: NonCartesianExam) -> None:
        self.exam = exam
        _, ny, nx = exam.base.matrix
        fine = replace(exam.base, matrix=(exam.base.matrix[0], 2 * ny, 2 * nx), acceleration=1, partial_fourier=1.0)
        self._base, self._fine = Simulation(exam.base), Simulation(fine)

    @property
    def scan(self) -> Scan:
        """The header."""
        scan, base = self._base.scan, self.exam.base
        header = scan.require_mr()
        _, ny, nx = base.matrix
        n_frames = -(-len(self.exam.traj) // (self.exam.per_frame or len(self.exam.traj)))
        encoding = Encoding(
            matrix=(1, ny, nx),
            fov_mm=(base.thickness_mm, *base.fov_mm),
            recon_matrix=(1, ny, nx),
            recon_fov_mm=(base.thickness_mm, *base.fov_mm),
            limits={"slice": Limits(0, base.n_slices - 1, 0), "repetition": Limits(0, n_frames - 1, 0)},
            trajectory=self.exam.kind,
        )
        return replace(
            scan, uid=f"{scan.uid}_{self.exam.kind}_{len(self.exam.traj)}", mr=replace(header, encodings=(encoding,))
        )

    def truth(self, slice_index: int = 0) -> NDArray[np.float32]:
        """Return the object's magnitude on the image's grid (y, x)."""
        return self._base.truth(slice_index).data[0]

    def readouts(self) -> Iterator[Readouts]:
        """Yield the readouts one by one, slice after slice."""
        told = self.exam.traj if self.exam.told is None else self.exam.told
        rng = np.random.default_rng([self.exam.base.seed, 9])
        for slice_index in range(self.exam.base.n_slices):
            samples = self._samples(slice_index)
            samples += self._noise(samples.shape, rng)
            head = self._heads(slice_index)
            for i in range(len(told)):
                yield Readouts(head=head[i : i + 1], data=samples[i : i + 1], traj=told[i : i + 1])

    def _samples(self, slice_index: int) -> NDArray[np.complex64]:
        """Return noise-free samples (readout, coil, sample); amplitudes are those of the Cartesian scanner."""
        kspace = self._fine.kspace(slice_index)[:, 0]
        axes = (1, 2)
        pixels = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=axes), axes=axes), axes=axes)
        nx = pixels.shape[2] // 2
        pixels = np.ascontiguousarray(pixels[..., nx - nx // 2 : nx - nx // 2 + nx], np.complex64)
        n_coils, height, width = pixels.shape
        _, ny, nx = self.exam.base.matrix
        x = (2 * np.pi * self.exam.traj[..., 0] * nx / width).ravel().astype(np.float32)
        y = (2 * np.pi * self.exam.traj[..., 1] * ny / height).ravel().astype(np.float32)
        made = finufft.nufft2d2(y, x, pixels, eps=_ACCURACY, isign=-1)
        offset = np.array([_origin(nx), _origin(ny)]) - np.array([_origin(2 * nx), _origin(2 * ny)]) / 2
        made *= np.exp(2j * np.pi * (self.exam.traj @ offset)).ravel()  # the phase origin of the image's own matrix
        return made.reshape(n_coils, *self.exam.traj.shape[:2]).transpose(1, 0, 2).astype(np.complex64)

    def _noise(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.complex64]:
        if np.isinf(self.exam.base.snr):
            return np.zeros(shape, np.complex64)
        colour = np.linalg.cholesky(self._base.noise_covariance) / np.sqrt(2)
        white = rng.normal(size=shape) + 1j * rng.normal(size=shape)
        return np.einsum("cd,nds->ncs", colour, white).astype(np.complex64)

    def _heads(self, slice_index: int) -> NDArray[np.void]:
        exam, base = self.exam, self.exam.base
        n, n_samples = exam.traj.shape[:2]
        per_frame = exam.per_frame or n
        head = np.zeros(n, READOUT_HEAD)
        head["version"], head["n_samples"], head["center_sample"] = 1, n_samples, n_samples // 2
        head["n_coils"] = head["available_coils"] = base.n_coils
        head["traj_dims"], head["dwell_us"], head["slice"] = exam.traj.shape[2], base.dwell_us, slice_index
        head["k1"], head["repetition"] = np.arange(n) % per_frame, np.arange(n) // per_frame
        head["scan_counter"] = slice_index * n + np.arange(n)
        head["time_stamp"] = np.floor(head["scan_counter"] * base.tr_s / 0.0025)
        head["read_dir"], head["phase_dir"], head["slice_dir"] = base.directions
        head["position"] = base.grid.plane(slice_index).centre_mm
        ends = np.r_[np.arange(per_frame - 1, n, per_frame), n - 1]
        head["flags"][ends] |= np.uint64(Flag.LAST_IN_SLICE)
        if slice_index == base.n_slices - 1:
            head["flags"][-1] |= np.uint64(Flag.LAST_IN_MEASUREMENT)
        return head


def _origin(n: int) -> float:
    """Return how far voxel n // 2 lies from the centre of the field of view [voxels]."""
    return n // 2 - (n - 1) / 2
