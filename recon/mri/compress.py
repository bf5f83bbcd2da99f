"""Coil compression: fewer virtual coils that hold nearly all of the signal, so that all that follows is faster.

It stands behind `mri.assemble` and works on calibrations and frames. On single readouts it would need its matrix before
the first line; here the matrix of a slice comes from the slice's own calibration, which always goes ahead of the frame,
and one matrix product per frame costs less than one per readout. Rows of the matrices are orthonormal: white noise
stays white, of the same strength.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from acquisition.errors import ConfigError
from acquisition.items import Item
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from recon.mri.items import Calibration, Frame, FrameKey

_OWN_LINES = 24  # of a frame that came without calibration: its own middle
_CHUNK = 1 << 15  # samples mixed at a time: they stay in the processor's cache
_WINDOW = 5  # voxels along x that share a covariance


@dataclass(frozen=True, slots=True)
class _Matrix:
    """What was learnt of a slice's coils."""

    rows: Tensor
    """(virtual coil, coil), or (x, virtual coil, coil) where it depends on x."""
    kept: float
    """Part of the calibration's energy that the virtual coils hold."""
    n_coils: int
    """Coils it is made for."""


@dataclass(kw_only=True)
class _Compression:
    """What both methods share: when the matrix is learnt, where it is applied, what is told."""

    n_virtual: int = 0
    """Virtual coils; 0 takes as many as `energy` needs."""
    energy: float = 0.99
    """Part of the calibration's energy that is kept where `n_virtual` is 0."""
    flag_below: float = 0.9
    """Part of the energy that must be kept, else the image is marked."""

    _name = "compress"

    def __post_init__(self) -> None:
        for field, fine, expected in (
            ("n_virtual", self.n_virtual >= 0, "0 or more"),
            ("energy", 0 < self.energy <= 1, "above 0, at most 1"),
            ("flag_below", 0 <= self.flag_below <= 1, "0 to 1"),
        ):
            if not fine:
                raise ConfigError(f"mri.{self._name} {field}", expected=expected, got=str(getattr(self, field)))

    def open(self, scan: Scan) -> None:
        """Forget the scan before."""
        self._matrices: dict[FrameKey, _Matrix] = {}

    def feed(self, item: Item) -> Iterator[Item]:
        """Compress calibrations and frames; other items pass."""
        if isinstance(item, Calibration):
            yield self._calibration(item)
        elif isinstance(item, Frame):
            yield self._frame(item)
        else:
            yield item

    def close(self) -> Iterator[Item]:
        """Nothing is left to do."""
        return iter(())

    @abstractmethod
    def _learnt(self, kspace: Tensor) -> _Matrix:
        """Return the matrix from fully sampled hybrid lines (coil, k2, k1, x)."""

    def _n_kept(self, shares: Tensor) -> int:
        """Return the number of virtual coils; `shares` (coil,) are the strongest coil's energy first, sum 1."""
        if self.n_virtual:
            return min(self.n_virtual, len(shares))
        return min(int((shares.cumsum(0) < self.energy - 1e-6).sum()) + 1, len(shares))

    def _calibration(self, calibration: Calibration) -> Calibration:
        """Learn from a slice's first calibration: a later one must not change what weights and maps rest on."""
        key = _same_slice(calibration.key)
        if key not in self._matrices:
            self._matrices[key] = self._learnt(calibration.kspace)
        matrix = self._matrices[key]
        if matrix.n_coils != calibration.kspace.shape[0]:
            return calibration
        kspace = calibration.kspace.clone()
        return replace(calibration, kspace=_mixed(matrix.rows, kspace))

    def _frame(self, frame: Frame) -> Frame:
        key, n_coils = _same_slice(frame.key), frame.kspace.shape[0]
        if key not in self._matrices:
            half, (n_k2, n_k1) = _OWN_LINES // 2, frame.kspace.shape[1:3]
            z, y = (slice(max(0, n // 2 - half), n // 2 + half) for n in (n_k2, n_k1))
            self._matrices[key] = self._learnt(frame.kspace[:, z, y])
        matrix = self._matrices[key]
        if matrix.n_coils != n_coils:
            return replace(frame, verdicts=(*frame.verdicts, _other_coils(self._name, matrix.n_coils, n_coils)))
        kspace = _mixed(matrix.rows, frame.kspace)
        told = f"{self._name}, {len(kspace)} of {n_coils} coils, {100 * matrix.kept:.2f} % of the energy"
        poor = matrix.kept < self.flag_below
        verdict = Verdict(
            check=f"mri.{self._name}",
            level=Level.FLAG if poor else Level.PASS,
            advice="Too few virtual coils: signal and SNR are lost." if poor else "Coils compressed.",
            value=100 * matrix.kept,
            limit=100 * self.flag_below,
            unit="%",
            evidence=told,
        )
        notes = {**frame.notes, "coil compression": told}
        return replace(frame, kspace=kspace, verdicts=(*frame.verdicts, verdict), notes=notes)


@dataclass(kw_only=True)
class Compress(_Compression):
    """Principal components of the coils, one matrix per slice or volume.

    References
    ----------
    Huang et al., Magn Reson Imaging 2008;26:133, DOI 10.1016/j.mri.2007.04.010.
    """

    def _learnt(self, kspace: Tensor) -> _Matrix:
        n_coils = kspace.shape[0]
        flat = kspace.reshape(n_coils, -1)
        values, vectors = torch.linalg.eigh((flat @ flat.mH).to(torch.complex128))
        shares = _shares(values.flip(0)[None])
        n = self._n_kept(shares)
        rows = vectors.flip(1)[:, :n].mH.to(kspace.dtype).contiguous()
        return _Matrix(rows, float(shares[:n].sum()), n_coils)


@dataclass(kw_only=True)
class CompressGeometric(_Compression):
    """Principal components at each x, turned so that virtual coils change smoothly along it: fewer coils do.

    From the middle outwards, the matrix of each x is turned (within its own rows) towards its neighbour's.

    References
    ----------
    Zhang et al., Magn Reson Med 2013;69:571, DOI 10.1002/mrm.24267.
    """

    _name = "compress_geometric"

    def _learnt(self, kspace: Tensor) -> _Matrix:
        n_coils, _, _, n_x = kspace.shape
        lines = kspace.reshape(n_coils, -1, n_x).permute(2, 0, 1)
        covariance = _smoothed(lines @ lines.mH)
        values, vectors = torch.linalg.eigh(covariance)
        shares = _shares(values.flip(1))
        n = self._n_kept(shares)
        return _Matrix(_aligned(vectors.flip(2)[:, :, :n].mH.contiguous()), float(shares[:n].sum()), n_coils)


def _shares(values: Tensor) -> Tensor:
    """Return the part of the energy that each virtual coil holds, from eigenvalues (x, coil); of nothing, the first."""
    total = values.clamp_min(0).sum(0)
    if not bool(total.sum() > 0):
        return torch.nn.functional.one_hot(torch.tensor(0), values.shape[1]).to(values.dtype)
    return total / total.sum()


def _smoothed(covariance: Tensor) -> Tensor:
    """Average covariances (x, coil, coil) over neighbouring x, and add a little of all: air has no coils of its own."""
    n = len(covariance)
    running = torch.cat([torch.zeros_like(covariance[:1]), covariance]).to(torch.complex128).cumsum(0)
    place = torch.arange(n, device=covariance.device)
    upper, lower = (place + _WINDOW // 2 + 1).clamp_max(n), (place - _WINDOW // 2).clamp_min(0)
    local = running.index_select(0, upper) - running.index_select(0, lower)
    return (local + 1e-3 * running[-1] / n).to(covariance.dtype)


def _aligned(rows: Tensor) -> Tensor:
    """Turn matrices (x, virtual coil, coil) towards their neighbour nearer the middle (orthogonal Procrustes)."""
    n, middle = len(rows), len(rows) // 2
    for places in (range(middle + 1, n), range(middle - 1, -1, -1)):
        for x in places:
            before = rows[x - 1] if x > middle else rows[x + 1]
            left, _, right = torch.linalg.svd(before @ rows[x].mH)
            rows[x] = left @ right @ rows[x]
    return rows


def _mixed(rows: Tensor, kspace: Tensor) -> Tensor:
    """Mix the coils of (coil, k2, k1, x) in place; return the part that holds the virtual coils."""
    n, kspace = rows.shape[-2], kspace.contiguous()
    if rows.ndim == 2:
        flat = kspace.view(kspace.shape[0], -1)
        for part in flat.split(_CHUNK, 1):
            part[:n] = rows @ part
        return kspace[:n]
    for plane in kspace.unbind(1):
        for part in plane.split(max(1, _CHUNK // kspace.shape[3]), 1):
            part[:n] = torch.bmm(rows, part.permute(2, 0, 1)).permute(1, 2, 0)
    return kspace[:n]


def _same_slice(key: FrameKey) -> FrameKey:
    return FrameKey(key.encoding, key.slice, 0, 0, 0, 0)


def _other_coils(name: str, expected: int, got: int) -> Verdict:
    return Verdict(
        check=f"mri.{name}",
        level=Level.FLAG,
        advice="The calibration was measured with other coils than the image: coils not compressed.",
        value=float(got),
        limit=float(expected),
        evidence=f"calibration of {expected} coils, frame of {got}",
    )
