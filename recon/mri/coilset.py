"""What calibration lines say of the coils: a few virtual ones, their ESPIRiT maps on the solver's grid, the noise.

Encoded axes of an awkward length are solved on a slightly finer grid of the same field of view (k-space with a rim of
lines that nobody measured): transforms of 240 points take half the time of those of 230.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acquisition.errors import ConfigError, ReconError
from kernels.registry import kernel
from recon.mri.cache import TensorCache
from recon.mri.espirit import espirit_maps
from recon.mri.items import Calibration, Frame, FrameKey
from recon.mri.pattern import central_region

_MAPS_BYTES = 512 << 20
_REGION = 24  # calibration samples along each axis: more is anatomy, and costs
_FAST_PRIMES = (2, 3, 5, 7)
_OUTER = 0.1  # part of the samples, those farthest from the centre, that the noise is read from
_QUANTILE = 0.25  # of their power: the weaker ones are noise even where some still see an edge


@dataclass(frozen=True, slots=True)
class Coils:
    """The coils of one slice or volume."""

    maps: Tensor
    """2D: (set, virtual coil, x, k1 axis); 3D: (x, set, virtual coil, z, y); on the solver's grid."""
    compression: Tensor
    """(virtual coil, coil), orthonormal rows: white noise stays white."""


@dataclass(kw_only=True)
class CoilOptions:
    """Parameters that every method with coil maps has."""

    n_sets: int = 1
    """Sets of coil maps; two where the object is larger than the field of view."""
    kernel: int = 6
    """Samples of an ESPIRiT block along each axis."""
    crop: float = 0.9
    """Eigenvalue below which a voxel is taken as outside the object; 0 keeps all."""
    energy: float = 0.995
    """Part of the calibration's energy that the virtual coils keep; 1 keeps every coil."""

    _name = "coils"

    def __post_init__(self) -> None:
        for field, fine, expected in self._rules():
            if not fine:
                raise ConfigError(f"mri.{self._name} {field}", expected=expected, got=str(getattr(self, field)))

    def _rules(self) -> Sequence[tuple[str, bool, str]]:
        return (
            ("n_sets", 1 <= self.n_sets <= 4, "1 to 4"),
            ("kernel", self.kernel >= 2, "at least 2"),
            ("crop", 0 <= self.crop < 1, "0 to below 1"),
            ("energy", 0 < self.energy <= 1, "above 0, at most 1"),
        )


class CoilStore:
    """Maps and compression of every slice of a scan, estimated when they are first asked for.

    Parameters
    ----------
    options
        How they are estimated.
    """

    def __init__(self, options: CoilOptions) -> None:
        self._options = options
        self._calibrations: dict[FrameKey, Calibration] = {}
        self._compressions: dict[FrameKey, Tensor] = {}
        self._maps = TensorCache(_MAPS_BYTES)

    def learn(self, calibration: Calibration) -> None:
        """Take the calibration of a slice; the maps of a single plane are made at once."""
        key = same_slice(calibration.key)
        self._calibrations[key] = calibration
        self._compressions.pop(key, None)
        self._maps.drop(key)
        if calibration.matrix[0] == 1:
            with suppress(ReconError):  # told with the frame, which is held then
                self._coils(key)

    def knows(self, key: FrameKey) -> bool:
        """Return whether a slice (see `same_slice`) has a calibration, its own middle counted."""
        return key in self._calibrations

    def of(self, frame: Frame) -> Coils:
        """Return the coils of a frame; from its own middle where no calibration came.

        Raises
        ------
        ReconError
            The calibration region is missing, too small, or of other coils.
        """
        key = same_slice(frame.key)
        if key not in self._calibrations:
            self._calibrations[key] = own_middle(frame)
        coils = self._coils(key)
        if coils.compression.shape[1] != frame.kspace.shape[0]:
            got = f"{coils.compression.shape[1]} and {frame.kspace.shape[0]}"
            raise ReconError("coils of calibration and frame", expected="the same number", got=got)
        return coils

    def _coils(self, key: FrameKey) -> Coils:
        calibration = self._calibrations[key]
        if key not in self._compressions:
            self._compressions[key] = compression(calibration.kspace, self._options.energy)
        matrix = self._compressions[key]
        return Coils(self._maps.get(key, lambda: self._estimated(calibration, matrix)), matrix)

    def _estimated(self, calibration: Calibration, matrix: Tensor) -> Tensor:
        region = torch.einsum("vc,czyx->vzyx", matrix, calibration.kspace)
        sizes, n_x, asked = calibration.matrix, region.shape[3], self._options
        starts = tuple(f - n // 2 for f, n in zip(calibration.first, sizes, strict=True))
        n_z, n_y = (fast_size(n) for n in sizes)

        def maps(part: Tensor, shape: tuple[int, int]) -> Tensor:
            return espirit_maps(part, shape, kernel=asked.kernel, n_sets=asked.n_sets, crop=asked.crop).maps

        if sizes[0] == 1:
            plane = _centre(kernel("centred_fft")(region, (3,))[:, 0], (starts[1], None))
            return maps(plane, (n_y, n_x)).transpose(2, 3).contiguous()
        nothing = region.new_zeros((asked.n_sets, region.shape[0], n_z, n_y))
        planes = (region[..., x] for x in range(n_x))
        return torch.stack([maps(_centre(p, starts), (n_z, n_y)) if p.any() else nothing for p in planes])


def fast_size(n: int) -> int:
    """Return n, or the next multiple of 4 whose Fourier transform is fast, where n has a large prime factor."""
    if _is_fast(n):
        return n
    n += -n % 4
    while not _is_fast(n):
        n += 4
    return n


def _is_fast(n: int) -> bool:
    for prime in _FAST_PRIMES:
        while n % prime == 0:
            n //= prime
    return n == 1


def compression(region: Tensor, energy: float) -> Tensor:
    """Return orthonormal rows (virtual coil, coil) that keep `energy` of the calibration (coil, ...)."""
    flat = region.flatten(1)
    power, vectors = torch.linalg.eigh(flat @ flat.mH)
    power, vectors = power.flip(0).clamp_min(0), vectors.flip(1)
    share = power.cumsum(0) / power.sum().clamp_min(1e-30)
    n = min(int((share < energy).sum()) + 1, len(power)) if energy < 1 else len(power)
    return vectors[:, :n].mH.contiguous()


def own_middle(frame: Frame) -> Calibration:
    """Return the fully measured middle of a frame as its calibration.

    Raises
    ------
    ReconError
        The middle was not measured.
    """
    k2, k1 = central_region(frame.counts > 0)
    region = frame.kspace[:, k2, k1].clone()
    if not region.numel():
        raise ReconError(
            f"frame {tuple(frame.key)}",
            expected="a fully measured middle of k-space, or calibration lines",
            got="neither",
            action="measure calibration lines",
        )
    n_k2, n_k1 = frame.counts.shape
    return Calibration(kspace=region, first=(k2.start, k1.start), matrix=(n_k2, n_k1), key=frame.key)


def noise_level(kspace: Tensor, counts: NDArray[np.uint16]) -> float:
    """Return the noise standard deviation of one complex sample, from the measured lines farthest from the centre.

    The power of noise is exponentially distributed: its lower quartile tells the mean, and is blind to the few samples
    that still see an edge.

    Parameters
    ----------
    kspace
        (coil, k2, k1, x).
    counts
        Which lines were measured (k2, k1).
    """
    measured = np.argwhere(counts > 0)
    if not len(measured):
        return 0.0
    half = np.maximum(np.array(counts.shape) / 2, 1)
    radius = (((measured - np.array(counts.shape) // 2) / half) ** 2).sum(axis=1)
    k2, k1 = measured[np.argsort(radius)][-max(2, math.ceil(_OUTER * len(measured))) :].T
    power = torch.view_as_real(kspace[:, torch.from_numpy(k2), torch.from_numpy(k1)]).square().sum(-1).flatten(1)
    rank = max(1, round(_QUANTILE * power.shape[1]))
    quartile = power.kthvalue(rank, dim=1).values.double() / -math.log(1 - _QUANTILE)
    return math.sqrt(float(quartile.mean()))


def sampling_gain(counts: NDArray[np.uint16]) -> float:
    """Return by how much the noise of least squares is larger than that of one full sampling, were g 1 everywhere."""
    measured = counts[counts > 0].astype(float)
    return float(np.sqrt((1 / measured).mean() * counts.size / measured.size)) if measured.size else 1.0


def same_slice(key: FrameKey) -> FrameKey:
    """Coils do not change between the contrasts, phases and repetitions of a slice."""
    return FrameKey(key.encoding, key.slice, 0, 0, 0, 0)


def _centre(region: Tensor, starts: tuple[int | None, ...]) -> Tensor:
    """Cut at most `_REGION` samples around the k-space centre out of (coil, a, b); `starts`: frequency of the first
    sample of each axis, None where the axis is centred."""
    for axis, start in enumerate(starts, 1):
        n = region.shape[axis]
        centre = n // 2 if start is None else -start
        half = max(1, min(centre, n - centre, _REGION // 2))
        region = region.narrow(axis, max(0, centre - half), min(2 * half, n - max(0, centre - half)))
    return region
