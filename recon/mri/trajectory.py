"""Trajectories: their unit, the density of their samples, and the delays of the gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from acquisition.errors import DataError
from recon.nufft import Nufft

Points = NDArray[np.float32]
_PART = 0.75
"""Largest coordinate of a trajectory given in parts of the matrix (-0.5 to 0.5, some scanners a little more)."""
_PIPE_STEPS = 20
_CERTAIN, _MATTERS = 0.05, 0.1


def in_cycles(traj: Points, matrix: tuple[int, ...]) -> tuple[Points, str]:
    """Return the trajectory (readout, sample, dims) in cycles per encoded field of view, and its unit in words.

    Scanners send it in parts of the matrix (-0.5 to 0.5) or in cycles per field of view (-N/2 to N/2); the largest
    coordinate tells which.

    Raises
    ------
    DataError
        It is not finite, or all zero.
    """
    largest = float(np.abs(traj).max(initial=0.0))
    if not math.isfinite(largest) or largest == 0:
        raise DataError("trajectory", expected="finite coordinates", got="zeros, NaN or infinite", action="check it")
    sizes = np.asarray(matrix[::-1][: traj.shape[-1]], np.float32)
    if largest <= _PART:
        return (traj * sizes).astype(np.float32), "parts of the matrix"
    return traj.astype(np.float32), "cycles per field of view"


def density(traj: Points, shape: tuple[int, ...], *, trust: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Return the area of k-space that each sample (readout, sample) stands for, mean 1.

    Spokes through the centre have the ramp ``|k| ** (dims - 1)``; for all else the weights are found by iteration
    (Pipe and Menon, Magn Reson Med 1999;41:179, DOI 10.1002/(SICI)1522-2594(199901)41:1<179::AID-MRM25>3.0.CO;2-V).

    Parameters
    ----------
    traj
        (readout, sample, dims) in cycles per field of view.
    shape
        Voxels of the image.
    trust
        Weight of each readout against others that measured the same places (readout,); 1 when None.
    """
    if not is_radial(traj):
        weights = _pipe(traj, shape, trust)
    else:
        weights = ramp(traj) if trust is None else ramp(traj) * trust[:, None]
    return (weights / weights.mean()).astype(np.float32)


def is_radial(traj: Points) -> bool:
    """Return whether every readout is a straight spoke through the centre."""
    span = traj[:, -1] - traj[:, 0]
    length = np.linalg.norm(span, axis=1)
    if traj.shape[1] < 3 or (length == 0).any():
        return False
    direction = span / length[:, None]
    along = np.einsum("nsd,nd->ns", traj, direction)
    across = traj - along[..., None] * direction[:, None]
    straight = np.abs(across).max() < 1.0
    return bool(straight and (along[:, 0] < 0).all() and (along[:, -1] > 0).all())


def ramp(traj: Points) -> NDArray[np.float64]:
    """Return the weights (spoke, sample) of spokes, ``|k| ** (dims - 1)``, each spoke by itself."""
    radius = np.linalg.norm(traj, axis=2).astype(np.float64)
    step = np.median(np.linalg.norm(np.diff(traj, axis=1), axis=2))
    power = traj.shape[2] - 1
    centre = (step / 4) if power == 1 else (step / 2) ** 2 / 12  # the area of the centre's own cell
    return np.maximum(radius**power, centre)


def _pipe(traj: Points, shape: tuple[int, ...], trust: NDArray[np.float32] | None) -> NDArray[np.float64]:
    points = traj.reshape(-1, traj.shape[-1])
    transform = Nufft(points, shape)
    window = torch.ones(1)
    for n in shape:  # a triangle in the image is a kernel that is nowhere negative in k-space
        window = window[..., None] * (1 - (torch.arange(n) - n // 2).abs() / (n / 2 + 1))
    start = np.ones(traj.shape[:2], np.complex64)
    if trust is not None:  # samples that share a place keep their proportion
        start *= trust[:, None]
    weights = torch.from_numpy(start.reshape(1, -1))
    for _ in range(_PIPE_STEPS):
        weights = weights / transform(transform.adjoint(weights) * window).abs().clamp_min(1e-12)
    return weights[0].real.numpy().reshape(traj.shape[:2]).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Delays:
    """Where the centre of the spokes lies, as an ellipse over their angle."""

    samples: tuple[float, float, float]
    """(S_xx, S_yy, S_xy) [samples]: positive where the true centre comes later than told."""
    error: float
    """Standard error of the estimate [samples]."""

    @property
    def certain(self) -> bool:
        """Whether the estimate is good enough to act on, and large enough to matter."""
        return self.error < _CERTAIN and max(map(abs, self.samples)) > _MATTERS


def spoke_delays(samples: NDArray[np.complex64], traj: Points) -> Delays:
    """Estimate the gradients' delays from the spokes themselves.

    The centre of each spoke is where its power is; over the angles it follows
    ``S_xx cos^2 + S_yy sin^2 + 2 S_xy sin cos`` (Rosenzweig et al., Magn Reson Med 2019;81:1898,
    DOI 10.1002/mrm.27506; Peters et al., Magn Reson Med 2003;50:1, DOI 10.1002/mrm.10505).

    Parameters
    ----------
    samples
        (spoke, coil, sample).
    traj
        (spoke, sample, 2), any unit.
    """
    n = samples.shape[2]
    span = traj[:, -1] - traj[:, 0]
    angle = np.arctan2(span[:, 1], span[:, 0])
    power = (np.abs(samples) ** 2).sum(axis=1)
    lag = np.arange(n) - n // 2
    shift = np.array([_centre(row, lag) for row in power])
    columns = np.stack([np.cos(angle) ** 2, np.sin(angle) ** 2, 2 * np.sin(angle) * np.cos(angle)], axis=1)
    found, *_ = np.linalg.lstsq(columns, shift, rcond=None)
    rest = shift - columns @ found
    variance = (rest**2).sum() / max(1, len(shift) - 3)
    error = np.sqrt(np.diag(np.linalg.pinv(columns.T @ columns)).max() * variance)
    return Delays((float(found[0]), float(found[1]), float(found[2])), float(error))


def with_delays(traj: Points, delays: tuple[float, float, float]) -> Points:
    """Return the spokes moved to where they were really measured."""
    n = traj.shape[1]
    span = (traj[:, -1] - traj[:, 0]) * (n / (n - 1))
    length = np.linalg.norm(span, axis=1, keepdims=True)
    direction = span / length
    matrix = np.array([[delays[0], delays[2]], [delays[2], delays[1]]], np.float32)
    return (traj - ((direction @ matrix) * length / n)[:, None]).astype(np.float32)


def _centre(power: NDArray[np.floating], lag: NDArray[np.intp]) -> float:
    """Return where a spoke has its centre of power [samples], from the part around its peak."""
    peak = int(power.argmax())
    near = np.abs(lag - lag[peak]) <= 6
    weight = power[near].astype(np.float64) ** 2
    total = weight.sum()
    return float((weight * lag[near]).sum() / total) if total > 0 else 0.0
