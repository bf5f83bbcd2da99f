"""Is the noise of each receiver what it was, and what it should be?

Three comparisons: coils with each other, the noise scan with an earlier one, and the noise of the imaging readouts with
the noise scan. The last is seen where the readout is sampled faster than the image needs: the outer part of the
transform of lines far from the centre holds noise alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ConfigError
from acquisition.items import Readouts
from acquisition.mri_looking import Looking, kept, noise_lines, outer_lines
from acquisition.noise import NoiseSum
from acquisition.scan import Encoding
from acquisition.verdict import Level, Verdict

_LOWEST, _HIGHEST = 0.6, 0.9  # between image and the end of the receiver's band, parts of half the band
_LINES = 6  # outer lines that are enough for a coil's noise: a quarter of them, those with least of the object
_BANDWIDTH = 0.79  # noise bandwidth of a receiver, part of the nominal one
_FEW = 64  # samples per coil and coil behind a correlation that can be judged
_UNIFORM = ("cartesian", "radial", "goldenangle")

Floats = NDArray[np.float64]


@dataclass(kw_only=True)
class CheckNoise(Looking):
    """Compare the noise of receivers with each other, with an earlier scan, and during the scan.

    Noise scan: told with the first readout behind it. Imaging: as soon as some outer lines of a slice are in.
    """

    ratio_above: float = 4.0
    """Standard deviation over, or under, that of the median coil from which a coil is marked."""
    shared_above: float = 0.9
    """Correlation of two coils' noise from which they are marked."""
    change_above: float = 1.75
    """Standard deviation against the earlier scan's, or imaging's against the noise scan's, over or under."""
    earlier: str = ""
    """File (.npy) with the noise covariance (coil, coil) of an earlier scan at the same dwell time; empty: none."""

    def __post_init__(self) -> None:
        for name, fine, expected in (
            ("ratio_above", self.ratio_above > 1, "above 1"),
            ("shared_above", 0 < self.shared_above <= 1, "above 0, at most 1"),
            ("change_above", self.change_above > 1, "above 1"),
            ("earlier", not self.earlier or Path(self.earlier).is_file(), "a file that exists"),
        ):
            if not fine:
                raise ConfigError(f"check.mri_noise {name}", expected=expected, got=str(getattr(self, name)))

    def _begin(self) -> None:
        self._noise, self._dwell_us = NoiseSum(), 0.0
        self._told = False
        self._power, self._n_lines = list[Floats](), 0
        self._imaging_dwell_us = 0.0
        self._changed = False

    def _look(self, item: Readouts) -> Iterator[Verdict]:
        noise = noise_lines(item)
        if noise.any():
            self._noise.add(kept(item.select(noise) if not noise.all() else item))
            self._dwell_us = float(item.head["dwell_us"][noise][0])
        if noise.all():
            return
        if not self._told:
            self._told = True
            yield from self._of_scan()
        if not self._changed and self._noise.n_samples:
            yield from self._of_imaging(item)

    def _end(self) -> Iterator[Verdict]:
        if not self._told:
            yield from self._of_scan()
        if self._n_lines and not self._changed:
            yield self._during()

    def _of_scan(self) -> Iterator[Verdict]:
        """Say what the noise scan shows."""
        if not self._noise.n_samples:
            return
        covariance = self._noise.total / self._noise.n_samples
        std = np.sqrt(covariance.diagonal().real)
        level = std / max(float(np.median(std)), 1e-30)
        odd = (level > self.ratio_above) | (level < 1 / self.ratio_above) if len(std) > 2 else np.zeros(len(std), bool)
        largest = float(np.maximum(level, 1 / np.maximum(level, 1e-9)).max()) if len(std) > 2 else 1.0
        names = ", ".join(str(c) for c in np.flatnonzero(odd))
        yield Verdict(
            check="check.mri_noise",
            level=Level.FLAG if odd.any() else Level.PASS,
            advice=f"Noise of coil {names} is not like the others': check the plug and the coil."
            if odd.any()
            else "All coils have noise of their usual strength.",
            value=min(largest, 1e6),
            limit=self.ratio_above,
            unit="times the median coil's",
            evidence="; ".join(f"coil {c}: {level[c]:.3g}" for c in np.flatnonzero(odd)) or f"{len(std)} coils",
        )
        yield from self._shared(covariance, std)
        if self.earlier:
            yield self._against_earlier(covariance)

    def _shared(self, covariance: NDArray[np.complex128], std: Floats) -> Iterator[Verdict]:
        alive = std > 1e-3 * np.median(std)
        if self._noise.n_samples < _FEW * len(std) or alive.sum() < 2:
            return
        shared = np.abs(covariance) / np.maximum(np.outer(std, std), 1e-30)
        shared[~alive] = shared[:, ~alive] = 0
        np.fill_diagonal(shared, 0)
        a, b = sorted(np.unravel_index(int(shared.argmax()), shared.shape))
        if shared[a, b] > self.shared_above:
            yield Verdict(
                check="check.mri_noise_shared",
                level=Level.FLAG,
                advice=f"Coils {a} and {b} receive the same noise: they are coupled, or one signal is there twice.",
                value=float(shared[a, b]),
                limit=self.shared_above,
                unit="correlation",
            )

    def _against_earlier(self, covariance: NDArray[np.complex128]) -> Verdict:
        before = np.load(self.earlier, allow_pickle=False)
        if before.shape != covariance.shape:
            advice = f"The earlier noise scan has {len(before)} coils, this one {len(covariance)}: not compared."
            return Verdict(check="check.mri_noise_change", level=Level.FLAG, advice=advice)
        ratio = np.sqrt(covariance.diagonal().real / np.maximum(before.diagonal().real, 1e-30))
        return self._change(ratio, "the earlier noise scan")

    def _change(self, ratio: Floats, than: str) -> Verdict:
        away = np.maximum(ratio, 1 / np.maximum(ratio, 1e-9))
        odd = np.flatnonzero(away > self.change_above)
        return Verdict(
            check="check.mri_noise_change",
            level=Level.FLAG if len(odd) else Level.PASS,
            advice=f"Noise of {len(odd)} coils differs from {than}: look for interference or a loose plug."
            if len(odd)
            else f"The noise is as in {than}.",
            value=float(min(away.max(), 1e6)),
            limit=self.change_above,
            unit="times",
            evidence="; ".join(f"coil {c}: {ratio[c]:.3g}" for c in (odd[:20] if len(odd) else range(0))),
        )

    def _of_imaging(self, item: Readouts) -> Iterator[Verdict]:
        """Add the noise of outer lines; say what it is when there are enough."""
        encoding = self._encoding(item)
        outer = outer_lines(item, encoding)
        bins = noise_bins(encoding, kept(item).shape[2])
        if not outer.any() or bins is None or len(self._noise.total) != item.data.shape[1]:
            return
        spectrum = np.fft.fft(kept(item)[outer], axis=2, norm="ortho")[:, :, bins]
        power = (np.median(np.abs(spectrum) ** 2, axis=2) / np.log(2)).astype(float)
        self._power.append(power)
        self._n_lines += int(outer.sum())
        self._imaging_dwell_us = float(item.head["dwell_us"][0])
        if self._n_lines >= _LINES:
            yield self._during()

    def _during(self) -> Verdict:
        """Return imaging's noise against the noise scan's."""
        self._changed = True
        before = self._noise.total.diagonal().real / self._noise.n_samples
        wider = self._dwell_us / self._imaging_dwell_us if min(self._dwell_us, self._imaging_dwell_us) > 0 else 1.0
        alive = before > 1e-6 * np.median(before)
        now = np.quantile(np.concatenate(self._power), 0.25, axis=0)
        ratio = np.sqrt(now / np.maximum(before * wider / _BANDWIDTH, 1e-30))
        return self._change(np.where(alive, ratio, 1.0), "the noise scan")


def noise_bins(encoding: Encoding, n: int) -> NDArray[np.bool_] | None:
    """Return which of `n` voxels of a readout's plain transform hold neither image nor the ends of the receiver's
    band; None where the readout is not sampled faster than the image needs."""
    part = encoding.recon_fov_mm[2] / encoding.fov_mm[2] if encoding.fov_mm[2] > 0 else 1.0
    if encoding.trajectory not in _UNIFORM or part > 0.55 or n < 32:
        return None
    place = 2 * np.abs(np.fft.fftfreq(n))
    return np.asarray((place > max(_LOWEST, part + 0.1)) & (place < _HIGHEST))
