"""Receiver noise: how strong it is in each coil, how much the coils share, and the matrix that makes it white.

With noise samples n (coil, sample): ``Psi = E[n n^H]``, ``Psi = L L^H``; the coils ``L^-1 n`` have covariance 1.
Noise power follows the receiver bandwidth, so a covariance measured at another dwell time is scaled.

References: Kellman & McVeigh, Magn Reson Med 2005;54:1439, DOI 10.1002/mrm.20713;
Hansen & Kellman, J Magn Reson Imaging 2015;41:543, DOI 10.1002/jmri.24687.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

SAMPLES_PER_COIL = 10
"""Fewer noise samples than this, per coil, give a covariance that is marked (5 % error of a diagonal element
needs 400 samples)."""
DEAD = 1e-6
"""A coil with less than this part of the median noise power receives nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseModel:
    """What is known about the noise of the readouts that follow; an item that flows ahead of them."""

    source: str
    """noise scan, corners or none."""
    covariance: NDArray[np.complex128]
    """Covariance at the imaging bandwidth (coil, coil), in units of the raw data squared."""
    matrix: NDArray[np.complex64]
    """Whitening matrix (coil, coil) that is applied to each readout."""
    n_samples: int = 0
    """Noise samples per coil behind the covariance."""
    dead_coils: tuple[int, ...] = ()
    """Coils without noise, set to zero."""
    defects: tuple[str, ...] = ()
    """What was wrong with the noise samples, in words."""

    @property
    def whitened(self) -> bool:
        """True when the readouts that follow have unit noise covariance."""
        return self.source != "none"

    @property
    def diagonal_ratio(self) -> float:
        """Noise power of the loudest living coil over that of the quietest."""
        living = np.delete(self.covariance.diagonal().real, self.dead_coils)
        return float(living.max() / living.min()) if living.size and living.min() > 0 else 1.0


@dataclass(slots=True)
class NoiseSum:
    """Sums up ``n n^H`` over blocks of noise samples."""

    dwell_us: float = 0.0
    """Dwell time of the noise samples [us]."""
    n_samples: int = 0
    """Samples per coil so far."""
    n_broken: int = 0
    """Samples left out because they were not finite."""
    total: NDArray[np.complex128] = field(default_factory=lambda: np.zeros((0, 0), np.complex128))
    """Sum of n n^H (coil, coil)."""

    def add(self, samples: NDArray[np.complex64]) -> None:
        """Add noise samples (n, coil, sample); samples that are not finite are left out."""
        n_coils = samples.shape[1]
        flat = np.moveaxis(samples, 1, 0).reshape(n_coils, -1).astype(np.complex128)
        finite = np.isfinite(flat).all(axis=0)
        flat = flat[:, finite]
        self.n_broken += int((~finite).sum())
        if self.total.shape != (n_coils, n_coils):
            self.total, self.n_samples = np.zeros((n_coils, n_coils), np.complex128), 0
        self.total += flat @ flat.conj().T
        self.n_samples += flat.shape[1]

    def model(self, source: str, power_scale: float = 1.0) -> NoiseModel:
        """Return the model of readouts whose noise power is `power_scale` times that of these samples.

        Corners of k-space hold few samples and some signal: only the strength of each coil is taken from them.
        """
        covariance = self.total / max(self.n_samples, 1) * power_scale
        if source == "corners":
            covariance = np.diag(covariance.diagonal())
        model = noise_model(covariance, self.n_samples, source=source)
        if self.n_broken:
            model = replace(model, defects=(*model.defects, f"{self.n_broken} noise samples are not finite"))
        return model


def bandwidth_scale(noise_dwell_us: float, dwell_us: float, receiver_noise_bandwidth: float) -> float:
    """Return the noise power of imaging readouts relative to that of the noise scan.

    ``(noise dwell / dwell) / receiver_noise_bandwidth``: power grows with the sampled bandwidth 1/dwell, and the
    receiver's filter lets only part of the noise scan's nominal bandwidth through, while imaging keeps the flat
    middle of its own.

    Parameters
    ----------
    noise_dwell_us, dwell_us
        Time between samples [us]; 0 (not sent) counts as equal.
    receiver_noise_bandwidth
        Equivalent noise bandwidth of the receiver relative to the nominal one, 0 ... 1.
    """
    ratio = noise_dwell_us / dwell_us if noise_dwell_us > 0 and dwell_us > 0 else 1.0
    return ratio / receiver_noise_bandwidth


def identity_model(n_coils: int, defects: tuple[str, ...] = ()) -> NoiseModel:
    """Return the model that leaves the readouts as they are: nothing is known about their noise."""
    unit = np.eye(n_coils)
    return NoiseModel(
        source="none", covariance=unit.astype(np.complex128), matrix=unit.astype(np.complex64), defects=defects
    )


def noise_model(covariance: NDArray[np.complex128], n_samples: int, *, source: str) -> NoiseModel:
    """Turn a measured covariance into a whitening matrix, whatever state it is in.

    A dead coil is named and set to zero. A covariance that has no Cholesky factor, or comes from too few
    samples, is pulled towards its own diagonal by ``n_coils / n_samples`` (at least 1e-3), and that is said.

    Parameters
    ----------
    covariance
        (coil, coil), Hermitian, in units of the raw data squared.
    n_samples
        Samples per coil it comes from.
    source
        Where it comes from, for the record.
    """
    n_coils = len(covariance)
    power = covariance.diagonal().real
    living = power > max(DEAD * float(np.median(power)), np.finfo(np.float64).tiny)
    dead = tuple(int(c) for c in np.flatnonzero(~living))
    if not living.any():
        return identity_model(n_coils, ("the noise samples are all zero",))
    defects = [f"no noise in coil {', '.join(map(str, dead))}: set to zero"] if dead else []
    if n_samples < SAMPLES_PER_COIL * n_coils:
        defects.append(f"only {n_samples} noise samples for {n_coils} coils")
    inside = covariance[np.ix_(living, living)]
    factor = None if n_samples < SAMPLES_PER_COIL * n_coils else _cholesky(inside)
    if factor is None:
        if len(defects) == bool(dead):
            defects.append("the noise covariance is not positive definite")
        share = min(1.0, max(1e-3, n_coils / max(n_samples, 1)))
        factor = _cholesky((1 - share) * inside + share * np.diag(inside.diagonal()))
    if factor is None:
        factor = np.diag(np.sqrt(inside.diagonal().real)).astype(np.complex128)
    matrix = np.zeros((n_coils, n_coils), np.complex64)
    matrix[np.ix_(living, living)] = np.linalg.inv(factor)
    return NoiseModel(
        source=source,
        covariance=covariance,
        matrix=matrix,
        n_samples=n_samples,
        dead_coils=dead,
        defects=tuple(defects),
    )


def _cholesky(covariance: NDArray[np.complex128]) -> NDArray[np.complexfloating] | None:
    """Return the lower factor; None where the matrix is not safely positive definite."""
    try:
        factor = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        return None
    pivots = factor.diagonal().real / np.sqrt(covariance.diagonal().real)
    return factor if pivots.min() > 1e-4 else None
