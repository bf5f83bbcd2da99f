"""How deep the patient breathes at each time of a PET scan: from a belt, or from the events themselves.

The events of each short time are sorted into a coarse picture (by time of flight) or sinogram. What of it changes at
the pace of a breath is found as the first principal component of its slow oscillations, in each half of the events by
itself: how well both halves agree says how far the signal is to be trusted. Its sign follows from what a diaphragm
does: with a deeper breath activity goes towards the feet, so each place changes as its neighbour on the head's side is.

References
----------
K. Thielemans et al., "Device-less gating for PET/CT using PCA", IEEE NSS/MIC (2011), DOI 10.1109/NSSMIC.2011.6153796.
O. Bertolli et al., "Sign determination methods for the respiratory signal in data-driven PET gating", Phys Med Biol 62
(2017) 3204, DOI 10.1088/1361-6560/aa6052.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import DataError
from acquisition.items import Events, Waveform
from acquisition.pet_geometry import axial_lines, coarse_sinogram, detectors_mm, places_mm
from acquisition.scan import PetHeader

Floats = NDArray[np.float64]

RESPIRATION = 2
"""Kind of the waveform of a belt."""
_SLOWEST_HZ, _FASTEST_HZ = 0.08, 0.5
_WIDTH = 0.6  # half of what is pictured across, of the rings' radius
_ACROSS, _SLICE_MM, _MOST_SLICES = 8, 16.0, 16
_FEWEST = 0.2  # counts of a place in a sample below which it is left out
_LEAST = 32  # samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Breath:
    """Depth of the breath over time."""

    start_s: Floats
    """Begin of each sample (sample,) [s]."""
    stop_s: Floats
    """End of each sample (sample,) [s]."""
    depth: Floats
    """Depth of the breath, growing with inspiration, of no unit (sample,)."""
    source: str
    """belt or events."""
    period_s: float
    """Usual time from breath to breath [s]."""
    trust: float = 1.0
    """Correlation with the true breath that is expected, 0 to 1; a belt is believed."""
    direction: float = 1.0
    """How clearly the events say which way is in, 0 to 1."""


class Pictures:
    """Coarse pictures of the events of each short time, made while they come.

    Parameters
    ----------
    pet
        The scanner.
    towards_head
        +1 where the patient's head lies at the gantry's +z, -1 where the feet do.
    """

    def __init__(self, pet: PetHeader, *, towards_head: float) -> None:
        self._pet, self._head, self._place = pet, towards_head, detectors_mm(pet).astype(float)
        self._deep = max(float(np.ptp(self._place[:, 2])), 1e-9)
        n_slices = int(np.clip(round(self._deep / _SLICE_MM), 3, _MOST_SLICES))
        self.shape = (_ACROSS, _ACROSS, n_slices)
        self._made: list[Floats] = []

    def add(self, blocks: Sequence[Events]) -> None:
        """Add one sample, the events of a few blocks: what both halves of them show."""
        total = np.zeros((2, int(np.prod(self.shape))))
        for block in blocks:
            for half in (0, 1):
                tof = None if block.tof is None else block.tof[half::2]
                total[half] += self._picture(block.prompts[half::2], tof)
        self._made.append(total)

    def breath(self, start_s: Floats, stop_s: Floats) -> Breath:
        """Return the breath that the pictures show, from the begin and end of each sample [s].

        Raises
        ------
        DataError
            Too few samples, or too few counts.
        """
        all_, step_s = np.array(self._made), float(np.median(np.diff(start_s))) if len(start_s) > 1 else 0.0
        whole = all_.sum(axis=1)
        used = whole.mean(axis=0) > _FEWEST if len(whole) else np.zeros(1, bool)
        if len(whole) < _LEAST or used.sum() < 2 * self.shape[2]:
            raise DataError(
                "breath from events",
                expected=f"{_LEAST} samples or more, with counts all over",
                got=f"{len(whole)} samples, counts in {int(used.sum())} of {int(np.prod(self.shape))} places",
                action="gate by a belt",
            )
        parts = [_shares(half[:, used]) for half in (whole, all_[:, 0], all_[:, 1])]
        first = _component(parts[0], step_s, _FASTEST_HZ)
        fastest = float(np.clip(2.2 / _period(first, step_s), 0.4, 0.8))
        depth, one, other = (_component(part, step_s, fastest) for part in parts)
        agreement = abs(float(np.corrcoef(one, other)[0, 1]))
        sign = self._direction(whole, depth)
        return Breath(
            start_s=start_s,
            stop_s=stop_s,
            depth=depth * np.sign(sign),
            source="events",
            period_s=_period(depth, step_s),
            trust=float(np.sqrt(2 * agreement / (1 + agreement))),
            direction=abs(sign),
        )

    def _picture(self, pairs: NDArray[np.int32], tof: NDArray[np.int16] | None) -> Floats:
        """Return how many events fall into each place (across, across, along the axis), flattened."""
        width = _WIDTH * self._pet.radius_mm
        if tof is None or self._pet.n_tof < 2:
            return coarse_sinogram(self._place, pairs, self.shape, width_mm=width, length_mm=self._deep).ravel()
        where = places_mm(self._pet, self._place, pairs, tof) / [2 * width, 2 * width, self._deep] + 0.5
        index = [np.clip((where[:, k] * n).astype(int), 0, n - 1) for k, n in enumerate(self.shape)]
        return np.bincount(np.ravel_multi_index(index, self.shape), minlength=int(np.prod(self.shape))).astype(float)

    def _direction(self, pictures: Floats, depth: Floats) -> float:
        """Return the correlation of what a deeper breath changes with what a way towards the feet would."""
        seen = axial_lines(self._pet, self.shape[2])
        seen = np.maximum(seen / seen.max(), 0.05)
        rates = pictures / pictures.sum(axis=1, keepdims=True)
        mean = rates.mean(axis=0).reshape(self.shape) / seen
        change = ((depth - depth.mean()) @ (rates - rates.mean(axis=0))).reshape(self.shape) / seen
        expected = self._head * np.gradient(mean, axis=2)
        weight = seen * np.ones(self.shape)
        scale = np.sqrt((weight * change**2).sum() * (weight * expected**2).sum())
        return float((weight * change * expected).sum() / max(scale, 1e-300))


def belt_breath(waveforms: Sequence[Waveform], start_s: Floats, stop_s: Floats) -> Breath | None:
    """Return the breath that a belt measured, averaged over samples; None where it did not measure all of the scan.

    Parameters
    ----------
    waveforms
        Blocks of the belt's signal; their time stamps are milliseconds since the start of the scan.
    start_s, stop_s
        Begin and end of the samples that are wanted (sample,) [s].
    """
    traces = [w for w in waveforms if w.id == RESPIRATION and not w.flags and w.data.size]
    if not traces or len(start_s) < 2:
        return None
    times = [w.time_stamp / 1000 + 1e-6 * w.sample_time_us * np.arange(w.data.shape[1]) for w in traces]
    values = [w.offset + w.gain * w.data[0].astype(float) for w in traces]
    t, v = np.concatenate(times), np.concatenate(values)
    order = np.argsort(t, kind="stable")
    total = np.concatenate([[0.0], np.cumsum(v[order])])
    first, last = (np.searchsorted(t[order], edge - 1e-6) for edge in (start_s, stop_s))
    n = last - first
    if (n > 0).mean() < 0.95 or not np.ptp(v) > 0:
        return None
    middle = (start_s + stop_s) / 2
    known = n > 0
    depth = np.interp(middle, middle[known], (total[last] - total[first])[known] / n[known])
    period_s = _period(depth, float(np.median(np.diff(start_s))))
    return Breath(start_s=start_s, stop_s=stop_s, depth=depth, source="belt", period_s=period_s)


def _shares(counts: Floats) -> Floats:
    """Return what is too much or too little at each place, over its noise (sample, place)."""
    total = counts.sum(axis=1, keepdims=True)
    mean = np.maximum((counts / np.maximum(total, 1)).mean(axis=0), 1e-12)
    return np.asarray((counts / np.maximum(total, 1) - mean) / np.sqrt(mean))


def _component(values: Floats, step_s: float, fastest_hz: float) -> Floats:
    """Return the first principal component of what oscillates at the pace of a breath (sample,)."""
    spectrum, hz = np.fft.rfft(values, axis=0), np.fft.rfftfreq(len(values), step_s)
    spectrum[(hz < _SLOWEST_HZ) | (hz > fastest_hz)] = 0
    slow = np.fft.irfft(spectrum, len(values), axis=0)
    _, directions = np.linalg.eigh(slow.T @ slow)
    return np.asarray(slow @ directions[:, -1])


def _period(depth: Floats, step_s: float) -> float:
    """Return the time from breath to breath [s], where the spectrum is highest."""
    power = np.abs(np.fft.rfft(depth - depth.mean())) ** 2
    hz = np.fft.rfftfreq(len(depth), step_s)
    breathing = np.where((hz >= _SLOWEST_HZ) & (hz <= _FASTEST_HZ), power, 0.0)
    return float(1 / max(hz[int(breathing.argmax())], 1e-3))
