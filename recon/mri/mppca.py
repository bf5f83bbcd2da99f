"""Noise of a series taken away by its local low rank: ``image.mppca`` and, with the noise known, ``image.nordic``.

A patch's images make a matrix (voxel, image). Signal is of low rank; noise fills the other singular values, and how far
they reach is known (Marchenko and Pastur). MP-PCA finds noise and rank from the values themselves: Veraart et al.,
NeuroImage 2016;142:394, DOI 10.1016/j.neuroimage.2016.08.016. NORDIC takes the noise as known, from prewhitened
complex images over their g-factor, and cuts at the largest value that noise alone reaches: Moeller et al., NeuroImage
2021;226:117539, DOI 10.1016/j.neuroimage.2020.117539.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import ClassVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from acquisition.errors import ConfigError, DataError
from acquisition.items import Image, Item, Kind, Position
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from recon.mri.gathered import COUNTERS

_FEWEST = 4  # images of a series
_CHUNK = 4096  # patches at a time
Rank = Callable[[NDArray[np.float64], int, int], NDArray[np.int64]]


@dataclass(kw_only=True)
class _LocalRank:
    """What both Steps share: series gathered until the scan ends, then given once more with less noise."""

    counter: str = "repetition"
    """Counter that tells the images of a series apart: contrast, set, repetition or phase."""
    window: tuple[int, int, int] = (5, 5, 5)
    """Sides of a patch (z, y, x); a slice alone has one of 1 along z [pixels]."""

    output: ClassVar[str]
    _name: ClassVar[str]
    _kinds: ClassVar[tuple[Kind, ...]]

    def __post_init__(self) -> None:
        if self.counter not in COUNTERS:
            raise ConfigError(f"{self._name} counter", expected=", ".join(COUNTERS), got=self.counter)
        if len(self.window) != 3 or min(self.window) < 1 or max(self.window) > 15:
            raise ConfigError(f"{self._name} window", expected="three sides from 1 to 15", got=str(self.window))

    def open(self, scan: Scan) -> None:
        """Forget the scan before."""
        self._series: dict[Position, dict[int, Image]] = {}
        self._gfactor: dict[int, NDArray] = {}

    def feed(self, item: Item) -> Iterator[Item]:
        """Pass everything on, and keep the conventional images."""
        yield item
        if isinstance(item, Image) and item.output == "gfactor":
            self._gfactor[item.position.slice] = item.data
        elif isinstance(item, Image) and item.output == "conventional" and item.kind in self._kinds:
            key = replace(item.position, **{self.counter: 0})
            self._series.setdefault(key, {})[int(getattr(item.position, self.counter))] = item

    def close(self) -> Iterator[Item]:
        """Give each series once more; say which had too few images."""
        short = 0
        for found in self._series.values():
            images = [found[n] for n in sorted(found)]
            alike = len({i.data.shape for i in images}) == 1
            if len(images) < _FEWEST or not alike:
                short += 1
                continue
            made = self._denoised(np.stack([i.data.reshape(i.grid.shape) for i in images]), images[0])
            for image, data in zip(images, made, strict=True):
                yield replace(image, data=data.reshape(image.data.shape), output=self.output)
        self._series = {}
        if short:
            yield Verdict(
                check=self._name,
                level=Level.FLAG,
                advice=f"{short} slices were not denoised: their series had too few images, or of several sizes.",
                value=float(short),
                unit="slices",
                evidence=f"{_FEWEST} images of one size needed",
            )

    def _denoised(self, series: NDArray, first: Image) -> NDArray:
        raise NotImplementedError


@dataclass(kw_only=True)
class MpPca(_LocalRank):
    """Give, at the end, each series with less noise (output ``mppca``); noise and rank are found patch by patch.

    Noise must be independent from voxel to voxel: it comes before interpolation and filters. Magnitudes keep the bias
    that noise gives to what is dark; complex images do not.
    """

    output = "mppca"
    _name = "image.mppca"
    _kinds = (Kind.MAGNITUDE, Kind.REAL, Kind.COMPLEX)

    def _denoised(self, series: NDArray, first: Image) -> NDArray:
        return low_rank(series, self.window, marchenko_pastur)


@dataclass(kw_only=True)
class Nordic(_LocalRank):
    """Give, at the end, each complex series with less noise (output ``nordic``); the noise is known to be 1.

    For complex images in units of their noise (unit ``1``); where a map of the g-factor came, they are divided by it.
    Phases that differ from image to image raise the rank, so less noise goes, never signal.
    """

    output = "nordic"
    _name = "image.nordic"
    _kinds = (Kind.COMPLEX,)

    def _denoised(self, series: NDArray, first: Image) -> NDArray:
        if first.unit != "1":
            raise DataError(
                self._name, expected="images in units of their noise", got=first.unit, action="put mri.prewhiten first"
            )
        g = self._gfactor.get(first.position.slice, np.ones(1, np.float32))
        g = np.maximum(g.reshape(series.shape[1:]) if g.size > 1 else g, 0.1 * np.median(g))
        return (low_rank(series / g, self.window, known_noise(np.sqrt(2.0))) * g).astype(series.dtype)


def low_rank(series: NDArray, window: tuple[int, int, int], rank: Rank) -> NDArray:
    """Return a series (n, z, y, x) of which every patch keeps its largest singular values.

    A voxel is the mean of what all patches make of it; those of low rank count more, ``1 / (1 + rank)``.

    Parameters
    ----------
    series
        Real or complex.
    window
        Sides of a patch (z, y, x); cut to the image.
    rank
        How many values are kept: takes eigenvalues of the patches' Gram matrices, falling (patch, k), rows and columns.

    Raises
    ------
    DataError
        There are fewer than two images.
    """
    if series.ndim != 4 or len(series) < 2:
        raise DataError("low rank", expected="2 images or more (n, z, y, x)", got=str(series.shape))
    sides = tuple(min(a, b) for a, b in zip(window, series.shape[1:], strict=True))
    patches = sliding_window_view(series, sides, axis=(1, 2, 3))
    n, places = len(series), patches.shape[1:4]
    total, weights = np.zeros(series.shape, series.dtype), np.zeros(series.shape[1:], np.float32)
    for z, row in product(range(places[0]), range(0, places[1], max(1, _CHUNK // places[2]))):
        rows = slice(row, min(row + max(1, _CHUNK // places[2]), places[1]))
        chunk = patches[:, z, rows].reshape(n, -1, int(np.prod(sides))).transpose(1, 0, 2)  # patch, image, voxel
        kept, found = _kept(chunk, rank)
        weight = (1 / (1 + found)).astype(np.float32)
        shape = (rows.stop - rows.start, places[2])
        made = (kept * weight[:, None, None]).transpose(1, 2, 0).reshape(n, -1, *shape)
        for k, (dz, dy, dx) in enumerate(np.ndindex(*sides)):
            at = (z + dz, slice(rows.start + dy, rows.stop + dy), slice(dx, dx + places[2]))
            total[:, *at] += made[:, k]
            weights[at] += weight.reshape(shape)
    return (total / weights).astype(series.dtype)


def _kept(patches: NDArray, rank: Rank) -> tuple[NDArray, NDArray[np.int64]]:
    """Return patches (patch, image, voxel) of the rank that they have, and that rank (patch,)."""
    small = patches.shape[1] <= patches.shape[2]
    matrix = patches if small else patches.transpose(0, 2, 1)
    gram = np.einsum("pik,pjk->pij", matrix, matrix.conj(), optimize=True)
    values, vectors = np.linalg.eigh(gram)
    falling = np.maximum(values[:, ::-1].astype(np.float64), 0)
    found = rank(falling, patches.shape[2], patches.shape[1])
    order = np.arange(values.shape[1])[::-1]  # of the rising values: 0 is the largest
    basis = vectors * (order[None, None] < found[:, None, None])
    made = basis @ (basis.conj().transpose(0, 2, 1) @ matrix)
    return (made if small else made.transpose(0, 2, 1)), found


def marchenko_pastur(values: NDArray[np.float64], rows: int, columns: int) -> NDArray[np.int64]:
    """Return how many eigenvalues (patch, k) are signal: the fewest whose rest is as wide as its mean says.

    With p values left, noise of variance s has mean ``s n`` and spreads over ``4 s sqrt(n p)``, n the longer side.
    """
    shorter, longer = min(rows, columns), max(rows, columns)
    scaled = values / longer
    left = shorter - np.arange(shorter)  # values from the k-th on
    mean = np.cumsum(scaled[:, ::-1], axis=1)[:, ::-1] / left
    spread = (scaled - scaled[:, -1:]) / (4 * np.sqrt(left / longer))
    noise = spread <= mean * (1 + 1e-6)
    return np.where(noise.any(axis=1), noise.argmax(axis=1), shorter)


def known_noise(sigma: float) -> Rank:
    """Return the rule that keeps what is above the largest singular value of noise, ``sigma (sqrt(m) + sqrt(n))``."""

    def rank(values: NDArray[np.float64], rows: int, columns: int) -> NDArray[np.int64]:
        return np.asarray((values > (sigma * (np.sqrt(rows) + np.sqrt(columns))) ** 2).sum(axis=1))

    return rank
