"""A virtual MR scanner that samples any trajectory: the object of the Cartesian one, seen along spokes or spirals.

The object is encoded on twice the matrix, so its transform is known on a grid fine enough to be evaluated anywhere by
a non-uniform Fourier transform (Barnett et al., SIAM J Sci Comput 2019;41:C479, DOI 10.1137/18M120885X). Off-resonance
during the readout is one more dimension of that transform: frequency against time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import finufft
import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ConfigError
from acquisition.items import READOUT_HEAD, Flag, Readouts
from acquisition.scan import Encoding, Limits, Scan
from acquisition.sources.phantom.coils import ReceiveArray
from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.mri import Simulation
from acquisition.sources.phantom.objects import Phantom
from acquisition.sources.phantom.trajectories import Trajectory

_ACCURACY = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class NonCartesianExam:
    """One exam: slices, contrasts and frames of the same readouts."""

    base: MriExam
    """Geometry, coils, noise, echo times; its matrix is the image's. 3D with coordinates in a plane is a stack."""
    traj: Trajectory
    """Where the scanner samples (readout, sample, 2 or 3)."""
    told: Trajectory | None = None
    """Where it says that it samples; the same when None."""
    kind: str = "radial"
    """Name of the trajectory in the header."""
    per_frame: int = 0
    """Readouts of one repetition; all when 0."""
    states: tuple[int, ...] = ()
    """Which object is there during each readout; the first when empty."""
    field_acts: bool = False
    """Off-resonance turns the signal during the readout too, not only until the echo."""


class NonCartesianSimulation:
    """The exam's header and readouts.

    Parameters
    ----------
    exam
        What is measured.
    objects
        What lies in the scanner, by state; the exam's head when empty.
    coils
        The receive array; a cage around the head when None.

    Raises
    ------
    ConfigError
        States and readouts or objects do not fit together.
    """

    def __init__(
        self, exam: NonCartesianExam, objects: Sequence[Phantom] = (), *, coils: ReceiveArray | None = None
    ) -> None:
        self.exam, self._objects, self._coils = exam, tuple(objects), coils
        self._states = np.asarray(exam.states or (0,) * len(exam.traj))
        known = max(1, len(self._objects))
        if len(self._states) != len(exam.traj) or self._states.min() < 0 or self._states.max() >= known:
            raise ConfigError(
                "exam states",
                expected=f"{len(exam.traj)} numbers below {known}",
                got=f"{len(self._states)} of {self._states.min()} to {self._states.max()}",
            )
        self._base = Simulation(exam.base, self._object(0), coils=coils)

    @property
    def scan(self) -> Scan:
        """The header."""
        scan, base = self._base.scan, self.exam.base
        header = scan.require_mr()
        _, ny, nx = base.matrix
        nz = base.n_partitions
        depth = base.thickness_mm * nz
        n_frames = -(-len(self.exam.traj) // (self.exam.per_frame or len(self.exam.traj)))
        encoding = Encoding(
            matrix=(nz, ny, nx),
            fov_mm=(depth, *base.fov_mm),
            recon_matrix=(nz, ny, nx),
            recon_fov_mm=(depth, *base.fov_mm),
            limits={
                "k2": Limits(0, nz - 1, nz // 2),
                "slice": Limits(0, base.n_slices - 1, 0),
                "contrast": Limits(0, len(base.te_s) - 1, 0),
                "repetition": Limits(0, n_frames - 1, 0),
            },
            trajectory=self.exam.kind,
        )
        return replace(
            scan, uid=f"{scan.uid}_{self.exam.kind}_{len(self.exam.traj)}", mr=replace(header, encodings=(encoding,))
        )

    def truth(self, slice_index: int = 0, state: int = 0) -> NDArray[np.float32]:
        """Return the object's magnitude on the image's grid: a slice (y, x), or the slab (z, y, x) in 3D."""
        data = Simulation(self.exam.base, self._object(state)).truth(slice_index).data
        return data if self.exam.base.kind == "3D" else data[0]

    def readouts(self) -> Iterator[Readouts]:
        """Yield the readouts one by one: slices, contrasts, readouts, partitions (innermost)."""
        told = self.exam.traj if self.exam.told is None else self.exam.told
        base = self.exam.base
        rng = np.random.default_rng([base.seed, 9])
        count = 0
        for slice_index in range(base.n_slices):
            for contrast in range(len(base.te_s)):
                samples = self._samples(slice_index, contrast)
                samples += self._noise(samples.shape, rng)
                heads = self._heads(slice_index, contrast, count)
                for head, data in zip(heads, samples, strict=True):
                    i = (count // self._n_k2) % len(told)
                    count += 1
                    yield Readouts(head=np.array([head]), data=data[None], traj=told[i : i + 1])

    @property
    def _n_k2(self) -> int:
        """Readouts of one trajectory: the partitions of a stack."""
        return self.exam.base.n_partitions if self.exam.traj.shape[2] == 2 else 1

    def _object(self, state: int) -> Phantom | None:
        return self._objects[state] if self._objects else None

    def _samples(self, slice_index: int, contrast: int) -> NDArray[np.complex64]:
        """Return noise-free samples (readout, coil, sample); amplitudes are those of the Cartesian scanner."""
        n, n_samples, dims = self.exam.traj.shape
        base = self.exam.base
        made = np.empty((n, self._n_k2, base.n_coils, n_samples), np.complex64)
        for state in np.unique(self._states).tolist():
            fine = Simulation(_doubled(base, dims), self._object(state), coils=self._coils)
            mine = self._states == state
            traj = self.exam.traj[mine]
            values = _evaluated(
                fine, traj, (slice_index, contrast), time_s=self._time_s if self.exam.field_acts else None
            )
            values = values.reshape(base.n_coils, self._n_k2, *traj.shape[:2])
            made[mine] = values.transpose(2, 1, 0, 3)
        sizes = base.matrix[::-1][:dims]
        offset = np.array([_origin(n) - _origin(2 * n) / 2 for n in sizes])
        made *= np.exp(2j * np.pi * (self.exam.traj @ offset))[:, None, None]  # the origin of the image's own matrix
        return made.reshape(-1, base.n_coils, n_samples)

    @property
    def _centre(self) -> int:
        """Sample nearest to the centre of k-space."""
        return int(np.linalg.norm(self.exam.traj[0], axis=1).argmin())

    @property
    def _time_s(self) -> NDArray[np.float64]:
        return np.asarray((np.arange(self.exam.traj.shape[1]) - self._centre) * self.exam.base.dwell_us * 1e-6, float)

    def _noise(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.complex64]:
        if np.isinf(self.exam.base.snr):
            return np.zeros(shape, np.complex64)
        colour = np.linalg.cholesky(self._base.noise_covariance) / np.sqrt(2)
        white = rng.normal(size=shape) + 1j * rng.normal(size=shape)
        return np.einsum("cd,nds->ncs", colour, white).astype(np.complex64)

    def _heads(self, slice_index: int, contrast: int, first: int) -> NDArray[np.void]:
        exam, base = self.exam, self.exam.base
        n_k2, n_samples = self._n_k2, exam.traj.shape[1]
        n = len(exam.traj) * n_k2
        per_frame = (exam.per_frame or len(exam.traj)) * n_k2
        head = np.zeros(n, READOUT_HEAD)
        head["version"], head["n_samples"], head["center_sample"] = 1, n_samples, self._centre
        head["n_coils"] = head["available_coils"] = base.n_coils
        head["traj_dims"], head["dwell_us"], head["slice"] = exam.traj.shape[2], base.dwell_us, slice_index
        head["contrast"], head["k2"] = contrast, np.arange(n) % n_k2
        head["k1"], head["repetition"] = np.arange(n) % per_frame // n_k2, np.arange(n) // per_frame
        head["scan_counter"] = first + np.arange(n)
        head["time_stamp"] = np.floor(head["scan_counter"] * base.tr_s / 0.0025)
        head["read_dir"], head["phase_dir"], head["slice_dir"] = base.directions
        head["position"] = base.grid.centre_mm if base.kind == "3D" else base.grid.plane(slice_index).centre_mm
        ends = np.r_[np.arange(per_frame - 1, n, per_frame), n - 1]
        head["flags"][ends] |= np.uint64(Flag.LAST_IN_SLICE)
        if (slice_index, contrast) == (base.n_slices - 1, len(base.te_s) - 1):
            head["flags"][-1] |= np.uint64(Flag.LAST_IN_MEASUREMENT)
        return head


def _doubled(base: MriExam, dims: int) -> MriExam:
    """Return the exam on voxels of half the size along the trajectory's dimensions."""
    nz, ny, nx = base.matrix
    plain = {"acceleration": 1, "partial_fourier": 1.0}
    if dims == 2:
        return base.at(matrix=(nz, 2 * ny, 2 * nx), **plain)
    return base.at(matrix=(2 * nz, 2 * ny, 2 * nx), thickness_mm=base.thickness_mm / 2, **plain)


def _evaluated(
    fine: Simulation, traj: Trajectory, which: tuple[int, int], *, time_s: NDArray[np.float64] | None
) -> NDArray[np.complex64]:
    """Return the object's transform at places (readout, sample, dims), parts of half the fine matrix.

    `which` is (slice, contrast); with `time_s` (sample,) the field turns the signal meanwhile. Shape (transform,
    readout * sample), a stack's partitions varying fastest among the transforms.
    """
    dims = traj.shape[2]
    pixels = _pixels(fine, which, dims)
    k = [np.ascontiguousarray(np.pi * traj[..., d].ravel(), np.float32) for d in reversed(range(dims))]
    if time_s is None:
        made = (finufft.nufft2d2 if dims == 2 else finufft.nufft3d2)(*k, pixels, eps=_ACCURACY, isign=-1)
        return np.atleast_2d(made)
    if dims == 3:
        raise ConfigError("exam field_acts", expected="coordinates in a plane", got="in three dimensions")
    _, ny, nx = pixels.shape
    places = [g.ravel().astype(np.float32) for g in np.indices((ny, nx)) - np.array([ny // 2, nx // 2])[:, None, None]]
    field = field_hz(fine.phantom, fine.exam, which[0]).ravel().astype(np.float32)
    when = np.tile((-2 * np.pi * time_s).astype(np.float32), len(traj))
    strengths = pixels.reshape(len(pixels), -1)
    return np.atleast_2d(finufft.nufft3d3(*places, field, strengths, *k, when, eps=_ACCURACY, isign=-1))


def _pixels(fine: Simulation, which: tuple[int, int], dims: int) -> NDArray[np.complex64]:
    """Return the band-limited object (transform, [z,] y, x) without readout oversampling."""
    kspace = fine.kspace(*which)
    axes = tuple(range(4 - dims, 4))
    pixels = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(kspace, axes=axes), axes=axes), axes=axes)
    n = pixels.shape[3] // 2
    pixels = pixels[..., n - n // 2 : n - n // 2 + n]
    shape = (-1, *pixels.shape[2:]) if dims == 2 else pixels.shape
    return np.ascontiguousarray(pixels.reshape(shape), np.complex64)


def field_hz(phantom: Phantom, exam: MriExam, slice_index: int = 0) -> NDArray[np.float64]:
    """Return the off-resonance of an exam's voxels (y, x) [Hz]; in 3D those of the middle partition."""
    grid = exam.grid.plane(slice_index if exam.kind == "2D" else exam.matrix[0] // 2)
    _, ny, nx = grid.shape
    x, y = np.meshgrid(np.arange(nx), np.arange(ny))
    points = np.stack([x, y, np.zeros_like(x), np.ones_like(x)], axis=-1) @ grid.affine.T
    return phantom.off_resonance_hz(points[..., :3])


def _origin(n: int) -> float:
    """Return how far voxel n // 2 lies from the centre of the field of view [voxels]."""
    return n // 2 - (n - 1) / 2
