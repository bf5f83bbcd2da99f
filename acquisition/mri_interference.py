"""A radio that is heard in the scanner room: one frequency, the same in every readout, a bright line in the image.

The power at each frequency is summed over readouts that hold noise: the noise scan, and lines far from the centre of
k-space. White noise gives every frequency the same power, to within what chance allows (a gamma distribution); in
imaging lines the object's own power is smooth over frequencies, so that a line must also stand out of its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter
from scipy.stats import gamma

from acquisition.errors import ConfigError
from acquisition.items import Readouts
from acquisition.mri_looking import Looking, kept, noise_lines, outer_lines
from acquisition.verdict import Level, Verdict

_LOOKS = (16, 32, 64, 128, 256, 512)  # readouts after which it is looked at
_FEWEST = {"noise scan": 4, "imaging": 16}  # readouts that are enough at the end of the scan
_CHANCE = 1e-7  # that noise alone reaches the limit at one frequency of one coil
_AROUND = 33  # frequencies that are the surroundings
_UNIFORM = ("cartesian", "radial", "goldenangle")

Floats = NDArray[np.float64]


@dataclass(slots=True)
class _Spectrum:
    """Power by frequency."""

    n: int
    """Readouts."""
    power: Floats
    """Sum over them (coil, frequency)."""
    dwell_us: float
    """Time per sample [us]."""
    kind: str
    """noise scan or imaging."""


@dataclass(kw_only=True)
class CheckInterference(Looking):
    """Find frequencies that stand out of the noise of many readouts; told as soon as chance is ruled out."""

    above: float = 2.0
    """Power of a frequency over that of its surroundings in a noise scan from which it is interference."""
    imaging_above: float = 30.0
    """The same in imaging lines, where edges of the object stand out a little, too."""

    def __post_init__(self) -> None:
        if min(self.above, self.imaging_above) <= 1:
            raise ConfigError(
                "check.mri_interference", expected="ratios above 1", got=f"{self.above}, {self.imaging_above}"
            )

    def _begin(self) -> None:
        self._spectra: dict[tuple[str, int, int], _Spectrum] = {}
        self._told = False
        self._largest = 0.0

    def _look(self, item: Readouts) -> Iterator[Verdict]:
        encoding = self._encoding(item)
        groups = [("noise scan", noise_lines(item))]
        if encoding.trajectory in _UNIFORM:
            groups.append(("imaging", outer_lines(item, encoding)))
        for kind, mask in groups:
            if mask.any() and not self._told:
                yield from self._add(kept(item)[mask], kind, float(item.head["dwell_us"][mask][0]))

    def _add(self, lines: NDArray[np.complex64], kind: str, dwell_us: float) -> Iterator[Verdict]:
        n_coils, n = lines.shape[1:]
        if n < 2 * _AROUND:
            return
        key = kind, n_coils, n
        found = self._spectra.setdefault(key, _Spectrum(0, np.zeros((n_coils, n)), dwell_us, kind))
        before = found.n
        if before >= _LOOKS[-1]:
            return
        found.power += (np.abs(np.fft.fft(lines, axis=2, norm="ortho")) ** 2).sum(axis=0)
        found.n += len(lines)
        if any(before < look <= found.n for look in _LOOKS):
            yield from self._judged(found)

    def _judged(self, found: _Spectrum) -> Iterator[Verdict]:
        around = median_filter(found.power, size=(1, _AROUND), mode="wrap")
        ratio = np.where(around > 1e-20 * found.power.max(), found.power / np.maximum(around, 1e-30), 1.0)
        chance = float(gamma.isf(_CHANCE, found.n)) / found.n
        limit = max(chance, self.above if found.kind == "noise scan" else self.imaging_above)
        self._largest = max(self._largest, float(ratio.max()) / limit)
        if ratio.max() > limit:
            self._told = True
            yield self._verdict(found, ratio, limit)

    def _verdict(self, found: _Spectrum, ratio: Floats, limit: float) -> Verdict:
        coil, place = np.unravel_index(int(ratio.argmax()), ratio.shape)
        offset = np.fft.fftfreq(ratio.shape[1])[place]
        hertz = offset / (found.dwell_us * 1e-6) if found.dwell_us > 0 else float("nan")
        n_coils = int((ratio[:, place] > limit).sum())
        return Verdict(
            check="check.mri_interference",
            level=Level.FLAG,
            advice="A radio frequency is heard in the room: close the door, look for a device or lamp, and repeat.",
            value=float(ratio[coil, place]),
            limit=limit,
            unit="times the noise",
            evidence=f"{hertz / 1e3:+.2f} kHz from the centre ({found.kind}, {found.n} readouts), "
            f"strongest in coil {coil}, seen in {n_coils} of {len(ratio)}",
        )

    def _end(self) -> Iterator[Verdict]:
        if not self._told and self._spectra:
            for found in self._spectra.values():
                if found.n >= _FEWEST[found.kind] and not self._told:
                    yield from self._judged(found)
        if not self._told and self._spectra:
            yield Verdict(
                check="check.mri_interference",
                level=Level.PASS,
                advice="No interference.",
                value=self._largest,
                limit=1.0,
                unit="of the limit",
            )
