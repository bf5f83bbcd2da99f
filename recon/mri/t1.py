"""T1 from inversion times, or from flip angles."""

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

Floats = NDArray[np.float64]

_SHORTEST_MS, _PER_OCTAVE = 20.0, 24  # times that are tried; between them a parabola
_POOR = 0.1


@dataclass(kw_only=True)
class _T1(Gathered):
    """What both methods share."""

    longest_ms: float = 5000.0
    """Longer times are cut there [ms]."""
    threshold: float = 0.05
    """Part of the brightest image's 99th percentile below which a voxel is background."""

    def _rules(self) -> Sequence[tuple[str, bool, str]]:
        return (
            *super()._rules(),
            ("longest_ms", self.longest_ms > _SHORTEST_MS, f"above {_SHORTEST_MS:g}"),
            ("threshold", 0 <= self.threshold < 1, "0 to below 1"),
        )

    def _told(self, images: list[Image], t1_ms: Floats, residual: Floats, inside: NDArray[np.bool_]) -> Image:
        typical = float(np.median(residual[inside])) if inside.any() else 1.0
        verdict = Verdict(
            check=self._name,
            level=Level.FLAG if typical > _POOR else Level.PASS,
            advice="The images do not follow one relaxation time." if typical > _POOR else "The relaxation fits.",
            value=typical,
            limit=_POOR,
            evidence=f"median relative residual over {int(inside.sum())} voxels, {len(images)} images",
        )
        return mapped(images, np.where(inside, t1_ms, 0), output="t1", unit="ms", verdicts=(verdict,))


@dataclass(kw_only=True)
class InversionMap(_T1):
    """Fit ``|A - B exp(-TI / T1*)|`` to the inversion times of each slice; output ``t1`` [ms].

    A and B are eliminated for each of a fine set of times, and the sign of the images before the zero crossing is
    tried both ways (RD-NLS). With `look_locker`, readouts in one recovery (MOLLI), ``T1 = T1* (B / A - 1)``.

    References
    ----------
    Barral et al., Magn Reson Med 2010;64:1057, DOI 10.1002/mrm.22497; Deichmann and Haase, J Magn Reson 1992;96:608,
    DOI 10.1016/0022-2364(92)90347-A.
    """

    look_locker: bool = False
    """The images of one recovery were read out one after the other (MOLLI)."""

    _name = "map.t1_inversion"

    def _expected(self, scan: Scan) -> int:
        self._ti_s = np.asarray(scan.require_mr().ti_s)
        if len(set(self._ti_s.tolist())) < 3:
            raise HeaderError(
                "header TI",
                expected="three or more different inversion times, one for each image",
                got=", ".join(f"{1e3 * t:g} ms" for t in self._ti_s) or "none",
                action=f"choose a protocol without {self._name}",
            )
        return len(self._ti_s)

    def _made(self, images: list[Image]) -> Iterable[Image]:
        order = np.argsort(self._ti_s)
        series = np.stack([np.abs(images[i].data).astype(np.float64) for i in order])
        inside = foreground(series.max(axis=0), self.threshold)
        fit = inversion_fit(series[:, inside], self._ti_s[order], self.longest_ms * 1e-3)
        t1 = fit[0] * np.clip(fit[2] / np.maximum(fit[1], 1e-30) - 1, 0, None) if self.look_locker else fit[0]
        t1_ms, residual = np.zeros(inside.shape), np.zeros(inside.shape)
        t1_ms[inside], residual[inside] = np.clip(1e3 * t1, 0, self.longest_ms), fit[3]
        yield self._told(images, t1_ms, residual, inside)


@dataclass(kw_only=True)
class FlipAngleMap(_T1):
    """DESPOT1: T1 from spoiled gradient echoes of two or more flip angles; output ``t1`` [ms].

    ``S / sin a = E S / tan a + M0 (1 - E)``, weighted as in the reference so that noise does not bias the line.
    Without a map of the flip angle actually reached, T1 is wrong by about twice its error.

    References
    ----------
    Chang et al., Magn Reson Med 2008;60:496, DOI 10.1002/mrm.21669.
    """

    _name = "map.t1_flip"
    _rounds = 5

    def _expected(self, scan: Scan) -> int:
        header = scan.require_mr()
        self._flip_rad = np.deg2rad(np.asarray(header.flip_deg))
        if len(set(header.flip_deg)) < 2 or not header.tr_s or not header.tr_s[0] > 0:
            raise HeaderError(
                "header flip angles and TR",
                expected="two or more different angles, one for each image, and the repetition time",
                got=f"{header.flip_deg} degrees, TR {header.tr_s}",
                action=f"choose a protocol without {self._name}",
            )
        self._tr_s = header.tr_s[0]
        return len(self._flip_rad)

    def _made(self, images: list[Image]) -> Iterable[Image]:
        series = np.stack([np.abs(i.data).astype(np.float64) for i in images])
        inside = foreground(series.max(axis=0), self.threshold)
        y, a = series[:, inside], self._flip_rad[:, None]
        slope, rest = np.full(y.shape[1], 0.9), np.zeros(y.shape[1])
        for _ in range(self._rounds):
            weight = (np.sin(a) / (1 - slope * np.cos(a))) ** 2
            slope, rest = _line(y / np.tan(a), y / np.sin(a), weight)
            slope = np.clip(slope, 1e-6, 1 - 1e-6)
        made = rest * np.sin(a) / (1 - slope * np.cos(a))
        t1_ms, residual = np.zeros(inside.shape), np.zeros(inside.shape)
        t1_ms[inside] = np.clip(-1e3 * self._tr_s / np.log(slope), 0, self.longest_ms)
        residual[inside] = np.linalg.norm(made - y, axis=0) / np.maximum(np.linalg.norm(y, axis=0), 1e-30)
        yield self._told(images, t1_ms, residual, inside)


def inversion_fit(series: Floats, ti_s: Floats, longest_s: float) -> tuple[Floats, Floats, Floats, Floats]:
    """Return (T1* [s], A, B, relative residual) of magnitudes (inversion time, voxel), times ascending."""
    n_times = int(np.log2(longest_s * 1e3 / _SHORTEST_MS) * _PER_OCTAVE) + 1
    times = np.geomspace(_SHORTEST_MS * 1e-3, longest_s, n_times)
    basis = np.exp(-ti_s / times[:, None])
    basis -= basis.mean(axis=1, keepdims=True)
    basis /= np.linalg.norm(basis, axis=1, keepdims=True)
    least = series.argmin(axis=0)
    position = np.arange(len(ti_s))[:, None]
    best: tuple[Floats, Floats, Floats, Floats] | None = None
    for crossing in (least, least + 1):  # images before it were negative
        signed = np.where(position < crossing, -series, series)
        found = _at_best(signed, (times, basis), ti_s)
        if best is None:
            best = found
        else:
            better = found[3] < best[3]
            best = tuple(np.where(better, f, b) for f, b in zip(found, best, strict=True))  # type: ignore[assignment]
    assert best is not None
    return best


def _at_best(signed: Floats, table: tuple[Floats, Floats], ti_s: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the fit of signed values (inversion time, voxel) at the time that explains most of them."""
    times, basis = table
    share = (basis @ signed) ** 2
    i = np.clip(share.argmax(axis=0), 1, len(times) - 2)
    voxel = np.arange(signed.shape[1])
    before, at, after = share[i - 1, voxel], share[i, voxel], share[i + 1, voxel]
    bend = before - 2 * at + after
    step = np.clip(np.where(bend < 0, 0.5 * (before - after) / np.minimum(bend, -1e-30), 0), -1, 1)
    t = times[i] * (times[1] / times[0]) ** step
    decay = np.exp(-ti_s[:, None] / t)
    slope, a = _line(decay, signed, np.ones_like(decay))
    rest = np.linalg.norm(a + slope * decay - signed, axis=0) / np.maximum(np.linalg.norm(signed, axis=0), 1e-30)
    return t, a, -slope, rest


def _line(x: Floats, y: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Return slope and intercept of the weighted line through (image, voxel)."""
    total = weight.sum(0)
    mean_x, mean_y = (weight * x).sum(0) / total, (weight * y).sum(0) / total
    spread = np.maximum((weight * (x - mean_x) ** 2).sum(0), 1e-30)
    slope = (weight * (x - mean_x) * (y - mean_y)).sum(0) / spread
    return slope, mean_y - slope * mean_x
