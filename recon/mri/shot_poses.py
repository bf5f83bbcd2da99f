"""Where the head was during each shot, from the coils alone: which shots disagree with the others, and by how much.

Coils and one image must explain all lines. A head that was elsewhere during one shot breaks that: what stays
unexplained is, to first order, that shot's lines of the image's derivatives. So shifts and turns of all shots are
found together by Gauss-Newton steps on what no image explains, with a complex factor of each shot set free (the phase
drifts, and echoes are not equally strong). The poses found are taken out of the lines, and it is done again. What
smooth phase the image has stays in the scanner when the head moves.

References
----------
Joint estimation: Haskell et al., IEEE Trans Med Imaging 2018;37:1253, DOI 10.1109/TMI.2018.2791482; coils as the
measure: Bydder et al., Magn Reson Med 2002;47:677, DOI 10.1002/mrm.10114.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from recon.mri.shot_model import LatticeModel

Floats = NDArray[np.float64]

_ROUNDS = 4
_SMOOTH = 3.0  # lines from the centre to which the phase that stays in the scanner reaches
_RIDGE = 1e-3  # of a parameter's own information: what all shots share is not seen
_AROUND = 1.5  # samples over which power is averaged
_MAPS = 0.03  # error of coil maps and model, part of the signal
_FACTOR = 0.2  # standard deviation of a shot's factor that is expected
_LEAST = 0.02  # mm or degrees below which a shot is not moved
_JUMP = 0.3  # mm or degrees: smaller steps from shot to shot are noise, larger ones movement
_N_POSE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotPoses:
    """What was found, shots in the order of their numbers."""

    shift_mm: Floats
    """Shift along phase encoding and readout against the usual pose (shot, 2) [mm]."""
    turn_deg: Floats
    """Turn about the middle of the field of view, from phase encoding towards readout (shot,) [degrees]."""
    factor: NDArray[np.complex128]
    """Signal against the usual shot's (shot,)."""
    error: Floats
    """Standard deviation that noise alone gives shift and turn (shot, 3) [mm, mm, degrees]."""

    @property
    def way_mm(self) -> Floats:
        """How far a point 57 mm from the middle moved (shot,): 1 mm is a shift of 1 mm or a turn of 1 degree [mm]."""
        return np.asarray(np.sqrt((self.shift_mm**2).sum(1) + self.turn_deg**2))


def shot_poses(
    lines: Tensor,
    shots: Sequence[NDArray[np.bool_]],
    *,
    model: LatticeModel,
    voxel_mm: tuple[float, float],
) -> ShotPoses:
    """Find the pose of each shot.

    Parameters
    ----------
    lines
        Whitened hybrid k-space (coil, line, x), the centre at ``n // 2``; noise ``E|n|^2 = 1``.
    shots
        Which lines each shot measured (line,), shots in the order of time.
    model
        Coils, and the lattice of the lines.
    voxel_mm
        Voxels of the model's image (y, x) [mm].
    """
    belongs = torch.from_numpy(np.stack(shots))
    poses, factors = np.zeros((len(shots), _N_POSE)), np.ones(len(shots), complex)
    image = cleaned(model.solved(lines), 1.0)
    corrected, error = lines, np.zeros_like(poses)
    for turn in range(_ROUNDS):
        if turn:
            corrected = _still(lines, image, belongs, model=model, moved=_Moved(image, voxel_mm, poses, factors))
            image = cleaned(model.solved(corrected), 1.0)
        step, error = _step(corrected, image, belongs, model=model, at=(poses, factors, voxel_mm))
        poses = poses + step[:, :_N_POSE]
        factors = factors + step[:, _N_POSE] + 1j * step[:, _N_POSE + 1]
        poses -= np.median(poses, axis=0)
        factors += 1 - np.median(factors.real) - 1j * np.median(factors.imag)
    return ShotPoses(shift_mm=poses[:, :2], turn_deg=poses[:, 2], factor=factors, error=error)


@dataclass(frozen=True, slots=True)
class _Moved:
    """The image in the poses of the shots."""

    image: Tensor
    """As most shots saw it (y, x)."""
    voxel_mm: tuple[float, float]
    """Its voxels [mm]."""
    poses: Floats
    """Shift, shift, turn (shot, 3)."""
    factors: NDArray[np.complex128]
    """(shot,)."""

    def changes(self) -> Tensor:
        """Return by what the image differs in each shot (shot, y, x)."""
        phase = smooth_phase(self.image)
        still = (self.image * phase.conj()).numpy()
        parts = [ndimage.spline_filter(part, mode="grid-wrap") for part in (still.real, still.imag)]
        out = torch.zeros((len(self.poses), *self.image.shape), dtype=self.image.dtype)
        for shot, (pose, factor) in enumerate(zip(self.poses, self.factors, strict=True)):
            seen = still
            if np.abs(pose).max() > _LEAST:
                places = _places(pose, still.shape, self.voxel_mm)
                real, imag = (
                    ndimage.map_coordinates(p, places, mode="grid-wrap", prefilter=False, output=np.float32)
                    for p in parts
                )
                seen = real + 1j * imag
            out[shot] = torch.from_numpy(np.asarray(factor * seen - still, np.complex64)) * phase
        return out


def _places(pose: Floats, shape: tuple[int, ...], voxel_mm: tuple[float, float]) -> NDArray:
    """Return where the voxels of the moved image lie in the still one (2, y, x) [voxels]."""
    y, x = ((np.arange(n) - n // 2) * d - t for n, d, t in zip(shape, voxel_mm, pose[:2], strict=True))
    cos, sin = np.cos(np.deg2rad(pose[2])), np.sin(np.deg2rad(pose[2]))
    places = np.stack(np.broadcast_arrays(cos * y[:, None] + sin * x, cos * x - sin * y[:, None]))
    middle = np.array([n // 2 for n in shape])
    return np.asarray(places / np.array(voxel_mm)[:, None, None] + middle[:, None, None])


def _still(lines: Tensor, image: Tensor, belongs: Tensor, *, model: LatticeModel, moved: _Moved) -> Tensor:
    """Return the lines as they would have been in the usual pose."""
    out = lines.clone()
    for mask, change in zip(belongs, moved.changes(), strict=True):
        out[:, mask] -= model.forward(change)[:, mask]
    return out


def _step(
    lines: Tensor,
    image: Tensor,
    belongs: Tensor,
    *,
    model: LatticeModel,
    at: tuple[Floats, NDArray[np.complex128], tuple[float, float]],
) -> tuple[Floats, Floats]:
    """Return the step (shot, 5) of shift, shift, turn and factor, and the error of the pose from noise (shot, 3)."""
    poses, factors, voxel_mm = at
    rest = lines - model.forward(model.solved(lines))
    columns = model.forward(derivatives(image, voxel_mm))  # (5, coil, line, x)
    weight = _weight(model.forward(image))
    n_shots, n = len(belongs), len(columns)
    unexplained = torch.empty((n_shots, n, rest.numel()), dtype=rest.dtype)
    for shot, mask in enumerate(belongs):
        part = torch.zeros_like(columns)
        part[:, :, mask] = columns[:, :, mask]
        unexplained[shot] = (weight * (part - model.forward(model.solved(part)))).flatten(1)
    own = torch.stack([(weight * columns)[:, :, mask].abs().square().sum((1, 2, 3)) for mask in belongs])
    flat = torch.view_as_real(unexplained.flatten(0, 1)).flatten(1)
    gradient = flat @ torch.view_as_real((weight * rest).flatten()).flatten()
    found = [part.double().numpy() for part in (flat @ flat.T, own, gradient)]
    off = np.stack([factors.real - 1, factors.imag], axis=1)
    return _solved(found[0], found[1], found[2], poses=poses, factors=off)


def _weight(expected: Tensor) -> Tensor:
    """Return one over the error that is expected of lines (coil, line, x): noise, and a part of the signal."""
    around = torch.nn.functional.avg_pool2d(expected.abs().square(), 3, 1, 1, count_include_pad=False)
    return (1 + _MAPS**2 * around).rsqrt()


def _solved(
    information: Floats, own: Floats, gradient: Floats, *, poses: Floats, factors: Floats
) -> tuple[Floats, Floats]:
    """Solve for the step; poses of neighbouring shots are expected to be alike, with few jumps."""
    n_shots, n = own.shape
    scale = np.sqrt(np.maximum(own.ravel(), 1e-30))
    scaled = information / scale[:, None] / scale + _RIDGE * np.eye(len(scale))
    covariance = np.linalg.inv(scaled) / scale[:, None] / scale / 2
    centred = np.eye(n_shots) - 1 / n_shots  # what all shots share is not told, and no error
    own_error = [np.diag(centred @ covariance[c::n, c::n] @ centred) for c in range(_N_POSE)]
    error = np.sqrt(np.maximum(np.stack(own_error, axis=1), 0))
    matrix, right = scaled * scale[:, None] * scale, gradient.copy()
    for column in range(_N_POSE):
        place = np.arange(n_shots) * n + column
        jump = np.abs(np.diff(poses, axis=0)).max(1) if n_shots > 1 else np.zeros(0)
        weight = 0.5 / (_JUMP * np.maximum(jump, _JUMP))
        between = np.diff(np.eye(n_shots), axis=0)
        smooth = between.T @ (weight[:, None] * between)
        matrix[np.ix_(place, place)] += smooth
        right[place] -= smooth @ poses[:, column]
    for column in (_N_POSE, _N_POSE + 1):  # strength and phase, held near those of the other shots
        place = np.arange(n_shots) * n + column
        matrix[place, place] += 0.5 / _FACTOR**2
        right[place] -= 0.5 / _FACTOR**2 * factors[:, column - _N_POSE]
    step = np.linalg.solve(matrix, right).reshape(n_shots, n)
    return np.asarray(step), np.asarray(error)


def derivatives(image: Tensor, voxel_mm: tuple[float, float]) -> Tensor:
    """Return how an image (y, x) changes with shift along y, along x [1/mm], turn [1/degree], strength and phase."""
    phase = smooth_phase(image)
    still = image * phase.conj()
    along = []
    for axis, spacing in enumerate(voxel_mm):
        n = image.shape[axis]
        k = torch.fft.fftfreq(n, spacing)
        k[n // 2 if n % 2 == 0 else 0] = 0  # the highest frequency has no sign
        shape = (-1, 1) if axis == 0 else (1, -1)
        along.append(torch.fft.ifft(torch.fft.fft(still, dim=axis) * (2j * torch.pi * k).view(shape), dim=axis))
    y, x = (
        ((torch.arange(n) - n // 2) * d).view(s)
        for n, d, s in zip(image.shape, voxel_mm, ((-1, 1), (1, -1)), strict=True)
    )
    turn = (x * along[0] - y * along[1]) * (torch.pi / 180)
    return torch.stack([-phase * along[0], -phase * along[1], phase * turn, image, 1j * image])


def cleaned(image: Tensor, noise: float) -> Tensor:
    """Return an image (y, x) with its noise of variance `noise` taken out (Wiener, by the power around each frequency).

    Derivatives of noise would look like information: shifts and turns would be found too small.
    """
    spectrum = torch.fft.fft2(image, norm="ortho")
    power = ndimage.gaussian_filter(spectrum.abs().square().numpy(), _AROUND, mode="wrap")
    weight = torch.from_numpy(np.maximum(1 - noise / np.maximum(power, 1e-30), 0))
    return torch.fft.ifft2(spectrum * weight, norm="ortho").to(image.dtype)


def smooth_phase(image: Tensor) -> Tensor:
    """Return the unit phase of an image's middle frequencies."""
    ky, kx = (torch.fft.fftfreq(n) * n for n in image.shape)
    window = torch.exp(-0.5 * ((ky[:, None] / _SMOOTH) ** 2 + (kx / _SMOOTH) ** 2))
    smooth = torch.fft.ifft2(torch.fft.fft2(image) * window)
    return smooth / smooth.abs().clamp_min(1e-20)
