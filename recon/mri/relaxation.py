"""Relaxation times from echoes: T2 or T2* of each voxel, and how well the decay fits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import HeaderError
from acquisition.items import Image
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from recon.mri.gathered import Gathered, foreground, mapped

_STEPS = 8


@dataclass(kw_only=True)
class RelaxationMap(Gathered):
    """Fit ``S = S0 exp(-TE / T)`` to the echoes of each slice as soon as the last one is there; echoes pass.

    Output ``t2`` or ``t2star`` [ms]; 0 where there is no signal or the fit fails. A logarithmic fit weighted by the
    signal's square starts Gauss-Newton steps on the signal itself, all voxels at once.

    References
    ----------
    Weighting: Bevington, Data Reduction and Error Analysis, 1969; Gauss-Newton as in Bonny et al., Magn Reson Med
    1996;36:287, DOI 10.1002/mrm.1910360216.
    """

    name: str = "t2star"
    """t2 or t2star."""
    longest_ms: float = 2000.0
    """Longer times are cut there [ms]."""
    threshold: float = 0.05
    """Part of the first echo's 99th percentile below which a voxel is background."""

    _name = "map.relaxation"

    def _rules(self) -> Sequence[tuple[str, bool, str]]:
        return (
            *super()._rules(),
            ("name", self.name in ("t2", "t2star"), "t2 or t2star"),
            ("longest_ms", self.longest_ms > 0, "above 0"),
            ("threshold", 0 <= self.threshold < 1, "0 to below 1"),
        )

    def _expected(self, scan: Scan) -> int:
        """Read the echo times.

        Raises
        ------
        HeaderError
            There are fewer than two, or they do not grow.
        """
        self._te_s = np.asarray(scan.require_mr().te_s)
        if len(self._te_s) < 2 or (np.diff(self._te_s) <= 0).any():
            raise HeaderError(
                "header TE",
                expected="two or more growing echo times",
                got=", ".join(f"{1e3 * t:g} ms" for t in self._te_s) or "none",
                action="choose a protocol without map.relaxation",
            )
        return len(self._te_s)

    def _made(self, images: list[Image]) -> Iterable[Image]:
        series = np.stack([np.abs(i.data).astype(np.float64) for i in images])
        inside = foreground(series[0], self.threshold)
        times_s, residual = fitted_decay(series, self._te_s, inside)
        times = np.clip(1e3 * times_s, 0, self.longest_ms)
        typical = float(np.median(residual[inside])) if inside.any() else 1.0
        poor = typical > 0.2
        verdict = Verdict(
            check=self._name,
            level=Level.FLAG if poor else Level.PASS,
            advice="The echoes do not follow one exponential decay." if poor else "The decay fits.",
            value=typical,
            limit=0.2,
            evidence=f"median relative residual over {int(inside.sum())} voxels, {len(self._te_s)} echoes",
        )
        yield mapped(images, times, output=self.name, unit="ms", verdicts=(verdict,))


def fitted_decay(
    series: NDArray[np.float64], te_s: NDArray[np.float64], inside: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (time constant [s], relative residual) of (echo, ...), zero outside."""
    y = series[:, inside]
    te = te_s[:, None]
    weight = y**2
    logs = np.log(np.maximum(y, 1e-12 * y.max(initial=1e-12)))
    total = weight.sum(0)
    mean_te, mean_log = (weight * te).sum(0) / total, (weight * logs).sum(0) / total
    spread = (weight * (te - mean_te) ** 2).sum(0)
    rate = -(weight * (te - mean_te) * (logs - mean_log)).sum(0) / np.maximum(spread, 1e-30)
    start = np.exp(mean_log + rate * mean_te)
    rate, start = _gauss_newton(y, te, np.clip(rate, 0, 1e4), start)
    error = np.linalg.norm(start * np.exp(-rate * te) - y, axis=0) / np.maximum(np.linalg.norm(y, axis=0), 1e-30)
    times, residual = np.zeros(inside.shape), np.zeros(inside.shape)
    times[inside] = np.where(rate > 1e-3, 1 / np.maximum(rate, 1e-3), 1e3)
    residual[inside] = error
    return times, residual


def _gauss_newton(
    y: NDArray[np.float64], te: NDArray[np.float64], rate: NDArray[np.float64], start: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Improve both parameters of all voxels together; the amplitude is eliminated (variable projection)."""
    for _ in range(_STEPS):
        decay = np.exp(-rate * te)
        start = (decay * y).sum(0) / (decay * decay).sum(0)
        slope = -te * decay * start
        error = y - start * decay
        norm = (decay * decay).sum(0)
        slope = slope - decay * ((decay * slope).sum(0) / norm)  # what the amplitude cannot explain
        change = (slope * error).sum(0) / np.maximum((slope * slope).sum(0), 1e-30)
        rate = np.clip(rate + np.clip(change, -0.5 * rate - 1, 0.5 * rate + 1), 0, 1e4)
    decay = np.exp(-rate * te)
    return rate, (decay * y).sum(0) / (decay * decay).sum(0)
