"""Dynamic susceptibility contrast: blood volume, flow, transit time and delay from the passage of a bolus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import toeplitz

from acquisition.errors import ConfigError, HeaderError
from acquisition.items import Image, Item, Kind, Position
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from recon.mri.gathered import foreground, mapped

Floats = NDArray[np.float64]

_VOLUME = 100 * (1 - 0.45) / (1 - 0.25) / 1.04  # ml per 100 g: haematocrit of large and small vessels, density of brain
_FEWEST = 12


@dataclass(kw_only=True)
class PerfusionMap:
    """Gather the time series of every slice; when the scan ends give ``cbv``, ``cbf``, ``mtt`` and ``tmax``.

    The change of R2* is ``-ln(S / S0) / TE``. The arterial input is the mean of the voxels whose bolus is high, early
    and narrow, anywhere in the volume. Flow is the maximum of the residue function, found by deconvolution with a
    block-circulant matrix whose small singular values are cut until the residue hardly oscillates; it does not depend
    on the delay between artery and tissue. CBV in ml/100 g and CBF in ml/100 g/min are relative to an artery without
    partial volume. Tmax and MTT in s.

    References
    ----------
    Oestergaard et al., Magn Reson Med 1996;36:715, DOI 10.1002/mrm.1910360510; Wu et al., Magn Reson Med
    2003;50:164, DOI 10.1002/mrm.10522; arterial input: Mouridsen et al., Magn Reson Med 2006;55:524,
    DOI 10.1002/mrm.20759.
    """

    baseline: int = 0
    """Images before the bolus; 0 finds them."""
    skip: int = 2
    """First images, in which the magnetisation is not yet steady."""
    oscillation: float = 0.095
    """Largest oscillation index of the residue function."""
    threshold: float = 0.15
    """Part of the baseline's 99th percentile below which a voxel is background."""

    def __post_init__(self) -> None:
        for name, fine, expected in (
            ("baseline", self.baseline >= 0, "0 or more"),
            ("skip", self.skip >= 0, "0 or more"),
            ("oscillation", 0 < self.oscillation <= 1, "above 0, at most 1"),
            ("threshold", 0 <= self.threshold < 1, "0 to below 1"),
        ):
            if not fine:
                raise ConfigError(f"map.perfusion {name}", expected=expected, got=str(getattr(self, name)))

    def open(self, scan: Scan) -> None:
        """Read the times.

        Raises
        ------
        HeaderError
            Echo or repetition time is missing, or the series is too short.
        """
        header = scan.require_mr()
        n = 1 + max((e.limit("repetition").maximum for e in header.encodings), default=0)
        times = [t[0] if t else 0.0 for t in (header.te_s, header.tr_s)]
        if min(times) <= 0 or n < _FEWEST + self.skip:
            raise HeaderError(
                "header TE, TR and repetitions",
                expected=f"both times and {_FEWEST + self.skip} repetitions or more",
                got=f"TE {1e3 * times[0]:g} ms, TR {1e3 * times[1]:g} ms, {n} repetitions",
                action="choose a protocol without map.perfusion",
            )
        self._te_s, self._tr_s = times
        self._slices: dict[Position, dict[int, Image]] = {}

    def feed(self, item: Item) -> Iterator[Item]:
        """Pass everything on; keep the series."""
        yield item
        if isinstance(item, Image) and item.output == "conventional" and item.kind is Kind.MAGNITUDE:
            key = replace(item.position, repetition=0)
            self._slices.setdefault(key, {})[item.position.repetition] = item

    def close(self) -> Iterator[Item]:
        """Give the maps of all slices that are complete."""
        longest = max((len(s) for s in self._slices.values()), default=0)
        series = [[s[r] for r in sorted(s)] for s in self._slices.values() if len(s) == longest]
        if longest < _FEWEST + self.skip:
            yield _failed(f"{longest} images of a slice, at least {_FEWEST + self.skip} needed")
            return
        signal = np.stack([np.stack([i.data for i in images]) for images in series], axis=1)[self.skip :]
        yield from self._maps(series, signal.astype(np.float64))

    def _maps(self, series: Sequence[list[Image]], signal: Floats) -> Iterator[Item]:
        """Give the maps of `signal` (time, slice, 1, y, x)."""
        n_before = self.baseline or arrival(signal)
        rest = signal[:n_before].mean(axis=0)
        inside = foreground(rest, self.threshold)
        if not inside.any():
            yield _failed("no signal")
            return
        curves = -np.log(np.maximum(signal[:, inside], 1e-6 * rest.max()) / rest[inside]) / self._te_s
        artery, n_voxels = arterial_input(curves, n_before)
        if artery is None:
            yield _failed("no voxel whose bolus is high, early and narrow")
            return
        volume = curves.sum(axis=0) / artery.sum()
        flow, delay = deconvolved(curves, artery, step_s=self._tr_s, oscillation=self.oscillation)
        transit = np.divide(volume, flow, out=np.zeros_like(flow), where=flow > 0)
        found = Verdict(
            check="map.perfusion",
            level=Level.PASS,
            advice="The arterial input was found by itself: check it before numbers are read from the maps.",
            value=float(artery.max()),
            unit="1/s",
            evidence=f"mean of {n_voxels} voxels, {n_before} images before the bolus, peak at image {artery.argmax()}",
        )
        for name, unit, values in (
            ("cbv", "ml/100 g", _VOLUME * np.maximum(volume, 0)),
            ("cbf", "ml/100 g/min", 60 * _VOLUME * flow),
            ("mtt", "s", transit),
            ("tmax", "s", delay),
        ):
            full = np.zeros(rest.shape)
            full[inside] = values
            for z, images in enumerate(series):
                yield mapped(images, full[z], output=name, unit=unit, verdicts=(found,))


def arrival(signal: Floats) -> int:
    """Return the number of images (time first) before the mean of the bright voxels falls."""
    bright = foreground(signal.mean(axis=0), 0.3)
    course = signal[:, bright].mean(axis=1) if bright.any() else signal.reshape(len(signal), -1).mean(axis=1)
    lowest = max(2, int(course.argmin()))
    level, spread = np.median(course[: max(2, lowest // 2)]), course[: max(2, lowest // 2)].std()
    limit = min(level - 3 * spread, level - 0.05 * (level - course[lowest]))
    early = np.flatnonzero(course[: lowest + 1] < limit)
    return max(2, int(early[0]) - 1) if early.size else max(2, lowest // 2)


def arterial_input(curves: Floats, n_before: int) -> tuple[Floats | None, int]:
    """Return the mean course of the most arterial voxels of (time, voxel) and their number; None where none is."""
    peak, where = curves.max(axis=0), curves.argmax(axis=0)
    noise = curves[:n_before].std(axis=0)
    area = np.maximum(curves, 0).sum(axis=0)
    width = area / np.maximum(peak, 1e-12)
    fit = (peak > 8 * noise) & (peak > 0.5 * np.percentile(peak, 99.5)) & (where > n_before)
    if fit.sum() < 3:
        return None, 0
    early = where[fit] - np.percentile(where[fit], 10)
    score = peak[fit] / np.maximum(width[fit], 1) / (1 + np.maximum(early, 0))
    chosen = np.flatnonzero(fit)[np.argsort(score)[-max(3, min(20, fit.sum() // 10)) :]]
    course = np.asarray(curves[:, chosen].mean(axis=1))
    course[:n_before] = 0
    return np.maximum(course, 0), len(chosen)


def deconvolved(curves: Floats, artery: Floats, *, step_s: float, oscillation: float) -> tuple[Floats, Floats]:
    """Return flow [1/s] and delay of the maximum [s] of courses (time, voxel), by block-circulant deconvolution.

    Each voxel keeps the most singular values with which its residue oscillates less than `oscillation`.
    """
    n = len(artery)
    padded = np.concatenate([artery, np.zeros(n)])
    matrix = step_s * toeplitz(padded, np.roll(padded[::-1], 1))
    u, s, vh = np.linalg.svd(matrix)
    projected = u.T @ np.concatenate([curves, np.zeros_like(curves)])
    flow, delay = np.zeros(curves.shape[1]), np.zeros(curves.shape[1])
    open_ = np.ones(curves.shape[1], bool)
    for part in (0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8):
        keep = s > part * s[0]
        residue = vh[keep].T @ (projected[keep][:, open_] / s[keep, None])
        largest = residue.max(axis=0)
        index = np.abs(np.diff(residue, 2, axis=0)).sum(axis=0) / (len(padded) * np.maximum(largest, 1e-30))
        done = (index < oscillation) | (part == 0.8)
        columns = np.flatnonzero(open_)[done]
        at = residue.argmax(axis=0)[done]
        flow[columns] = np.maximum(largest[done], 0)
        delay[columns] = np.where(at < n, at, at - 2 * n) * step_s
        open_[columns] = False
        if not open_.any():
            break
    return flow, delay


def _failed(why: str) -> Verdict:
    return Verdict(check="map.perfusion", level=Level.FLAG, advice="No perfusion maps were made.", evidence=why)
