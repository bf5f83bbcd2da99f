"""Water and fat apart, from the phase that fat gains on water from echo to echo."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from acquisition.errors import ConfigError, HeaderError
from acquisition.items import Image, Item, Kind, Position
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from recon.mri.outputs import component

GAMMA_HZ_PER_T = 42.577478518e6
FAT_PPM = (-3.80, -3.40, -2.60, -1.94, -0.39, 0.60)
"""Shifts of the six fat peaks from water [ppm] (Hamilton et al., NMR Biomed 2011;24:784, DOI 10.1002/nbm.1622)."""
FAT_PART = (0.087, 0.693, 0.128, 0.004, 0.039, 0.048)
"""Their parts of the signal."""
_FIELDS = 120
"""Field offsets tried over one period."""
_CANDIDATES = 4
_NEIGHBOURS = 5.0
"""Width of the neighbourhood in which the field is alike, as a Gaussian [voxels]."""


@dataclass(kw_only=True)
class Dixon:
    """Separate water and fat of each slice as soon as its last echo is there (three echoes or more).

    The signal is ``(W + F sum_p a_p exp(2 pi i f_p t)) exp(2 pi i psi t)``. For every field offset psi of one period
    the best W and F leave a residual; its local minima are the candidates of a voxel, true and swapped. From the
    voxel whose minimum is the clearest the field grows over its neighbours, the surest first, each taking the
    candidate nearest to those around it. Outputs: every echo's magnitude (conventional), ``water``, ``fat``,
    ``fat_fraction`` [%] and ``b0`` [Hz].

    References
    ----------
    Hernando et al., Magn Reson Med 2008;59:571, DOI 10.1002/mrm.21522 (variable projection); Yu et al., Magn Reson
    Med 2005;54:1032, DOI 10.1002/mrm.20654 (region growing).
    """

    clockwise: bool = True
    """Sense of precession of the scanner's phase: with False the echoes are conjugated."""
    threshold: float = 0.05
    """Part of the 99th percentile below which a voxel is background."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise ConfigError("map.dixon threshold", expected="0 to below 1", got=str(self.threshold))

    def open(self, scan: Scan) -> None:
        """Read echo times and field strength.

        Raises
        ------
        HeaderError
            There are fewer than three echoes, or the field strength is missing.
        """
        self._te_s = np.asarray(scan.require_mr().te_s)
        self._field_t = scan.equipment.field_strength_t
        if len(self._te_s) < 3 or (np.diff(self._te_s) <= 0).any():
            got = ", ".join(f"{1e3 * t:g} ms" for t in self._te_s) or "none"
            raise HeaderError("header TE", expected="three or more growing echo times", got=got)
        if not self._field_t:
            raise HeaderError("header systemFieldStrength_T", expected="the field strength", got="none")
        self._echoes: dict[Position, dict[int, Image]] = {}

    def feed(self, item: Item) -> Iterator[Item]:
        """Pass magnitudes on; give water and fat behind the last echo of a slice."""
        if not isinstance(item, Image) or item.kind is not Kind.COMPLEX:
            yield item
            return
        yield component(item, "magnitude")
        key = replace(item.position, contrast=0)
        echoes = self._echoes.setdefault(key, {})
        if item.position.contrast < len(self._te_s):
            echoes[item.position.contrast] = item
        if len(echoes) == len(self._te_s):
            yield from self._separated(self._echoes.pop(key))

    def close(self) -> Iterator[Item]:
        """Say which slices lack echoes."""
        if self._echoes:
            yield Verdict(
                check="map.dixon",
                level=Level.FLAG,
                advice=f"{len(self._echoes)} slices lack echoes: water and fat of them were not separated.",
                value=float(len(self._echoes)),
                unit="slices",
            )

    def _separated(self, echoes: dict[int, Image]) -> Iterator[Image]:
        series = np.stack([echoes[i].data for i in range(len(self._te_s))])
        series = series if self.clockwise else series.conj()
        assert self._field_t is not None
        water, fat, field_hz = (np.zeros(series.shape[1:], d) for d in (np.complex64, np.complex64, np.float32))
        for plane in np.ndindex(series.shape[1:-2]):
            found = separate(series[(slice(None), *plane)], self._te_s, self._field_t, threshold=self.threshold)
            water[plane], fat[plane], field_hz[plane] = found
        total = np.abs(water) + np.abs(fat)
        top = np.percentile(total, 99)
        fraction = np.where(total > self.threshold * top, 100 * np.abs(fat) / np.maximum(total, 1e-30), 0)
        first = replace(
            component(echoes[0], "magnitude"), last_readout_s=max(i.last_readout_s for i in echoes.values())
        )
        yield replace(first, data=np.abs(water).astype(np.float32), output="water")
        yield replace(first, data=np.abs(fat).astype(np.float32), output="fat")
        yield replace(first, data=fraction.astype(np.float32), output="fat_fraction", unit="%")
        yield replace(first, data=field_hz.astype(np.float32), output="b0", unit="Hz")


def separate(
    series: NDArray[np.complexfloating], te_s: NDArray[np.float64], field_t: float, *, threshold: float
) -> tuple[NDArray[np.complex128], NDArray[np.complex128], NDArray[np.float64]]:
    """Return (water, fat, field offset [Hz]) of echoes (echo, y, x); zero in the background.

    Parameters
    ----------
    series
        Complex echoes.
    te_s
        Echo times [s].
    field_t
        Field strength [T].
    threshold
        Part of the 99th percentile of the magnitude below which a voxel is background.
    """
    n_echoes, height, width = series.shape
    magnitude = np.sqrt((np.abs(series) ** 2).mean(0))
    inside = magnitude > threshold * np.percentile(magnitude, 99)
    basis = np.stack([np.ones(n_echoes, complex), _fat_phasor(te_s, field_t)], axis=1)
    period = 1 / float(np.diff(te_s).min())
    offsets = (np.arange(_FIELDS) / _FIELDS - 0.5) * period
    residual = _residuals(series.reshape(n_echoes, -1), te_s, basis, offsets).reshape(_FIELDS, height, width)
    chosen = _field(residual, magnitude, inside)
    field_hz = _refined(residual, chosen, inside) * (period / _FIELDS) - period / 2
    turned = series * np.exp(-2j * np.pi * field_hz * te_s[:, None, None])
    parts = np.linalg.pinv(basis) @ turned.reshape(n_echoes, -1)
    water, fat = parts.reshape(2, height, width) * inside
    return water, fat, field_hz * inside


def _fat_phasor(te_s: NDArray[np.float64], field_t: float) -> NDArray[np.complex128]:
    """Return the fat signal relative to water at each echo."""
    hertz = np.asarray(FAT_PPM) * 1e-6 * GAMMA_HZ_PER_T * field_t
    parts = np.asarray(FAT_PART) / sum(FAT_PART)
    return (parts * np.exp(2j * np.pi * te_s[:, None] * hertz)).sum(axis=1)


def _residuals(
    signals: NDArray[np.complexfloating],
    te_s: NDArray[np.float64],
    basis: NDArray[np.complex128],
    offsets: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Return what no water and fat explain (offset, voxel), relative to the signal's power."""
    rest = np.eye(len(te_s)) - basis @ np.linalg.pinv(basis)
    power = np.maximum((np.abs(signals) ** 2).sum(0), 1e-30)
    out = np.empty((len(offsets), signals.shape[1]), np.float32)
    for i, offset in enumerate(offsets):
        turned = np.exp(2j * np.pi * offset * te_s)
        projector = (turned[:, None] * rest * turned.conj()).astype(np.complex64)
        out[i] = (np.abs(projector @ signals.astype(np.complex64)) ** 2).sum(0) / power
    return out


def _field(residual: NDArray[np.float32], magnitude: NDArray, inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the offset of each voxel, as an index.

    The residuals of a neighbourhood are added first: the field is alike there, so its minimum stays, while the swapped
    minima of water and of fat lie on opposite sides of it and wash out. The field grows over that sum; each voxel then
    takes its own minimum nearest to it.
    """
    power = (magnitude / magnitude.max()) ** 2 * inside
    summed = gaussian_filter(residual * power, (0, _NEIGHBOURS, _NEIGHBOURS), mode=("wrap", "nearest", "nearest"))
    weight = np.maximum(gaussian_filter(power, _NEIGHBOURS), 1e-12)
    minima, clarity = _minima(summed / weight, np.sqrt(weight))
    smooth = _grow(minima, clarity, inside, _FIELDS)
    own, _ = _minima(residual, magnitude)
    apart = np.abs((own - smooth + _FIELDS / 2) % _FIELDS - _FIELDS / 2)
    apart[own < 0] = np.inf
    nearest = apart.argmin(axis=0)[None]
    close = np.take_along_axis(apart, nearest, 0)[0] < _FIELDS / 8
    return np.where(close, np.take_along_axis(own, nearest, 0)[0], smooth).astype(np.float32)


def _minima(residual: NDArray[np.float32], magnitude: NDArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the best local minima (candidate, y, x) as indices, -1 for none, and how clear the best is."""
    lower = (residual <= np.roll(residual, 1, 0)) & (residual < np.roll(residual, -1, 0))
    depth = np.where(lower, residual, np.inf)
    order = np.argsort(depth, axis=0)[:_CANDIDATES]
    depths = np.take_along_axis(depth, order, axis=0)
    usable = depths < depths[:1] + 0.25 * (residual.max(0) - residual.min(0))
    minima = np.where(np.isfinite(depths) & usable, order, -1).astype(np.float32)
    first, second = (np.where(np.isfinite(d), d, residual.max(0)) for d in depths[:2])
    return minima, ((second - first) * magnitude).astype(np.float32)


@njit(cache=True)
def _grow(
    minima: NDArray[np.float32], clarity: NDArray[np.float32], inside: NDArray[np.bool_], period: int
) -> NDArray[np.float32]:  # pragma: no cover - compiled
    """Let the field grow from the clearest voxels; each takes the candidate nearest to its done neighbours."""
    _, height, width = minima.shape
    chosen = np.full((height, width), -1.0, np.float32)
    for start in np.argsort(-clarity.ravel()):
        y, x = start // width, start % width
        if not inside[y, x] or chosen[y, x] >= 0 or minima[0, y, x] < 0:
            continue
        front, first = [(-clarity[y, x], y, x)], True
        while len(front) > 0:
            _, y, x = heapq.heappop(front)
            if chosen[y, x] >= 0:
                continue
            expected = minima[0, y, x] if first else _expected(chosen, clarity, y, x, period)
            chosen[y, x] = _nearest(minima[:, y, x], expected, period)
            first = False
            for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                v, u = y + dy, x + dx
                if 0 <= v < height and 0 <= u < width and inside[v, u] and chosen[v, u] < 0:
                    heapq.heappush(front, (-clarity[v, u], v, u))
    return chosen


@njit(cache=True)
def _expected(
    chosen: NDArray[np.float32], clarity: NDArray[np.float32], y: int, x: int, period: int
) -> float:  # pragma: no cover - compiled
    """Return the circular mean of the field around a voxel, the clearest neighbours counting most."""
    sine, cosine = 0.0, 0.0
    for v in range(max(0, y - 2), min(chosen.shape[0], y + 3)):
        for u in range(max(0, x - 2), min(chosen.shape[1], x + 3)):
            if chosen[v, u] >= 0:
                angle = 2 * math.pi * chosen[v, u] / period
                sine += (clarity[v, u] + 1e-12) * math.sin(angle)
                cosine += (clarity[v, u] + 1e-12) * math.cos(angle)
    return math.atan2(sine, cosine) * period / (2 * math.pi)


@njit(cache=True)
def _nearest(candidates: NDArray[np.float32], expected: float, period: int) -> float:  # pragma: no cover - compiled
    """Return the candidate nearest to the expected offset, that itself where there is none."""
    best, nearest = expected % period, 1e30
    for candidate in candidates:
        apart = abs((candidate - expected + period / 2) % period - period / 2)
        if candidate >= 0 and apart < nearest:
            best, nearest = candidate, apart
    return best


def _refined(
    residual: NDArray[np.float32], chosen: NDArray[np.float32], inside: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the minima to a part of a step, by a parabola through three offsets."""
    index = np.where(inside & (chosen >= 0), chosen, 0).astype(int)
    rows = [np.take_along_axis(residual, ((index + d) % len(residual))[None], 0)[0].astype(float) for d in (-1, 0, 1)]
    bend = rows[0] - 2 * rows[1] + rows[2]
    shift = np.where(bend > 1e-12, 0.5 * (rows[0] - rows[2]) / np.maximum(bend, 1e-12), 0)
    return index + np.clip(shift, -0.5, 0.5)
