"""What a receiver does wrong, found and repaired before anything is whitened or transformed; nothing of it silently.

Spikes. The readout is sampled faster than the image's field of view needs, so the outer part of its transform holds
noise alone. A spike is one sample wide: part of it shows there, where the signal does not. It is measured there, and
taken off; what remains is what the oversampling says the sample was. In the very centre, where what lies outside the
field of view looks alike, and without oversampling, a sample must also stand out from its two neighbours; without
oversampling it is replaced by their mean.

Offset. A constant in every sample is a bright dot in the middle of the image. It is taken from the noise scan: the mean
over imaging lines is no measure of it, because that is the object in the middle voxel.

Coils. One whose noise is far from that of the others is broken: it is silenced, noise scan included.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acquisition.errors import ConfigError
from acquisition.items import Flag, Item, Readouts
from acquisition.scan import Encoding, Scan
from acquisition.verdict import Level, Verdict

logger = logging.getLogger(__name__)

_UNIFORM = ("cartesian", "radial", "goldenangle")  # evenly sampled along the readout
_SHORTEST = 32  # samples of a readout that can be judged
_EDGE = 4  # samples at both ends that are not judged: the readout is cut off there
_ZONE = 1 / 32  # part of a readout on each side of its centre that is not judged
_SUSPECT = 6.0  # largest over mean magnitude of a readout below which it needs no closer look
_MOST = 8  # spikes taken off one readout of one coil
_REACH = 3  # samples around the peak of the outer part in which the spike itself is looked for
_NEAR = 8  # samples around a spike that its removal must empty ...
_EXPLAINED = 0.9  # ... of this part of their energy
_FLOOR = 2e-5  # of a readout's largest sample: less is rounding and the ends of the readout, not noise
_ALONE = 5.0  # times the larger of its neighbours, without oversampling
_CERTAIN = 6.0  # standard errors from which an offset is believed
_SILENT = 1e-3  # signal of a coil against the median coil's, without noise scan
_LISTED = 20


@dataclass(slots=True)
class _NoiseState:
    """Sums over the noise scan."""

    n: int = 0
    """Samples per coil."""
    total: NDArray[np.complex128] = field(default_factory=lambda: np.zeros(0, np.complex128))
    """Sum of the samples (coil,)."""
    power: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """Sum of their squares (coil,)."""

    def add(self, samples: NDArray[np.complex64]) -> None:
        """Add samples (n, coil, sample)."""
        if len(self.total) != samples.shape[1]:
            self.n, self.total, self.power = 0, np.zeros(samples.shape[1], np.complex128), np.zeros(samples.shape[1])
        self.n += samples.shape[0] * samples.shape[2]
        self.total += samples.sum(axis=(0, 2), dtype=np.complex128)
        self.power += (np.abs(samples).astype(np.float64) ** 2).sum(axis=(0, 2))

    @property
    def std(self) -> NDArray[np.float64]:
        """Noise standard deviation about the mean, sqrt(E|n|^2)."""
        return np.asarray(np.sqrt(np.maximum(self.power / self.n - np.abs(self.total / self.n) ** 2, 0)))

    @property
    def offset(self) -> NDArray[np.complex128]:
        """Mean of the coils in which it is certain, 0 in the others."""
        mean = self.total / max(self.n, 1)
        certain = np.abs(mean) > _CERTAIN * self.std / np.sqrt(max(self.n, 1))
        return np.where(certain, mean, 0)


@dataclass(kw_only=True)
class Repair:
    """Take spikes and receiver offsets out of readouts and silence broken coils; stands in front of `mri.prewhiten`.

    Readouts without a fault pass as they are. What was repaired is told in one Verdict of each kind when the scan
    closes: which line, coil and sample, how strong.
    """

    spike_above: float = 15.0
    """Times the median magnitude of its surroundings from which a sample is a spike."""
    coil_ratio: float = 30.0
    """Noise of a coil over or under the median coil's from which it is broken."""
    hold_above: float = 0.05
    """Part of the readouts with spikes from which a person is asked."""

    _noise: _NoiseState = field(default_factory=_NoiseState, init=False, repr=False)

    def __post_init__(self) -> None:
        for name, fine, expected in (
            ("spike_above", self.spike_above >= 5, "at least 5: noise alone reaches 4"),
            ("coil_ratio", self.coil_ratio > 1, "above 1"),
            ("hold_above", 0 < self.hold_above <= 1, "above 0, at most 1"),
        ):
            if not fine:
                raise ConfigError(f"mri.repair {name}", expected=expected, got=str(getattr(self, name)))

    def open(self, scan: Scan) -> None:
        """Forget the scan before; plan the outer part of each readout."""
        self._uid = scan.uid
        self._encodings = scan.require_mr().encodings
        self._noise, self._broken = _NoiseState(), np.zeros(0, bool)
        self._signal, self._n_readouts, self._hit = np.zeros(0), 0, set[int]()
        self._spikes: list[str] = []
        self._strongest = 0.0

    def feed(self, item: Item) -> Iterator[Item]:
        """Repair readouts; other items pass."""
        if not isinstance(item, Readouts) or item.domain != "k0" or len(item) == 0:
            yield item
            return
        noise = item.has(Flag.NOISE)
        for part, step in ((item.select(noise), self._of_noise), (item.select(~noise), self._of_signal)):
            if len(part) == len(item):
                part = item
            if len(part):
                yield step(part)

    def close(self) -> Iterator[Item]:
        """Say what was found."""
        if self._spikes:
            yield self._spike_verdict()
        offset = self._noise.offset
        if self._n_readouts and offset.any():
            yield _offset_verdict(offset, self._noise.std)
        yield from self._coil_verdicts()

    def _of_noise(self, block: Readouts) -> Readouts:
        """Sum up the noise; silence what stands out of it, and broken coils."""
        data = block.data
        magnitude = np.abs(data)
        limit = self.spike_above * np.median(magnitude, axis=2, keepdims=True)
        spikes = (magnitude > limit) & (limit > 0)
        if spikes.any():
            data = np.where(spikes, np.complex64(0), data)
            for row, coil, sample in np.argwhere(spikes):
                self._remember(block, (int(row), int(coil), int(sample)), float(magnitude[row, coil, sample]))
        pre, post = int(block.head["discard_pre"][0]), int(block.head["discard_post"][0])
        kept = data[:, :, pre : data.shape[2] - post]
        if kept.size and np.isfinite(kept).all():
            self._noise.add(kept)
            self._broken = _broken(self._noise.std, self.coil_ratio)
        return self._corrected(block, data)

    def _of_signal(self, block: Readouts) -> Readouts:
        data = self._without_spikes(block)
        power = (np.abs(data[:, :, :: max(1, data.shape[2] // 64)]) ** 2).sum(axis=(0, 2))
        self._signal = power + (self._signal if len(self._signal) == len(power) else 0)
        self._n_readouts += len(block)
        return self._corrected(block, data)

    def _corrected(self, block: Readouts, data: NDArray[np.complex64]) -> Readouts:
        """Take off the offset and silence broken coils; the block itself where there is nothing to do."""
        n_coils = data.shape[1]
        offset = self._noise.offset
        if len(offset) == n_coils and offset.any():
            data = data - offset.astype(np.complex64)[None, :, None]
        if len(self._broken) == n_coils and self._broken.any():
            data = np.where(self._broken[None, :, None], np.complex64(0), data)
        return block if data is block.data else replace(block, data=data)

    def _without_spikes(self, block: Readouts) -> NDArray[np.complex64]:
        pre, post = int(block.head["discard_pre"][0]), int(block.head["discard_post"][0])
        kept = block.data[:, :, pre : block.data.shape[2] - post]
        if kept.shape[2] < _SHORTEST:
            return block.data
        samples = torch.from_numpy(kept if kept.flags.writeable else kept.copy())
        encoding = self._encodings[min(int(block.head["encoding"][0]), len(self._encodings) - 1)]
        outer = _outer(encoding, samples.shape[2])
        rest = samples if outer is None else torch.fft.ifft(torch.fft.fft(samples, dim=-1) * outer, dim=-1)
        size = rest.abs()[:, :, _EDGE:-_EDGE]
        data, centre = block.data, int(block.head["center_sample"][0]) - pre
        for row, coil in (size.amax(2) > _SUSPECT * size.mean(2)).nonzero().tolist():
            line = samples[row, coil]
            if outer is None:
                fixed, found = _interpolated(line, self.spike_above)
            else:
                fixed, found = _taken_off(line, outer, rest[row, coil], centre=centre, above=self.spike_above)
            if found:
                data = data.copy() if data is block.data else data
                data[row, coil, pre : data.shape[2] - post] = fixed.numpy()
                for sample, strength in found.items():
                    self._remember(block, (row, coil, sample + pre), strength)
        return data

    def _remember(self, block: Readouts, place: tuple[int, int, int], strength: float) -> None:
        row, coil, sample = place
        head = block.head[row]
        self._hit.add(int(head["scan_counter"]))
        self._strongest = max(self._strongest, strength)
        where = f"readout {head['scan_counter']}, k1 {head['k1']}, k2 {head['k2']}, slice {head['slice']}"
        self._spikes.append(f"{where}, coil {coil}, sample {sample}: {strength:.3g}")

    def _spike_verdict(self) -> Verdict:
        part = len(self._hit) / max(self._n_readouts, 1)
        lines = f"{len(self._spikes)} samples in {len(self._hit)} readouts"
        logger.warning("scan %s: spikes in %s", self._uid, lines)
        return Verdict(
            check="mri.spikes",
            level=Level.HOLD if part > self.hold_above else Level.FLAG,
            advice=f"Spikes were found and repaired ({lines}): if it happens again, have the scanner looked at.",
            value=100 * part,
            limit=100 * self.hold_above,
            unit="%",
            evidence=f"strongest {self._strongest:.3g}; " + "; ".join(self._spikes[:_LISTED]),
        )

    def _coil_verdicts(self) -> Iterator[Verdict]:
        std = self._noise.std if self._noise.n else np.zeros(0)
        for coil in np.flatnonzero(self._broken):
            yield _coil_verdict(int(coil), float(std[coil] / np.median(std)), "noise", self.coil_ratio)
        rms = np.sqrt(self._signal)
        for coil in np.flatnonzero(rms < _SILENT * np.median(rms)) if rms.any() else ():
            if len(self._broken) != len(rms) or not self._broken[coil]:
                yield _coil_verdict(int(coil), float(rms[coil] / np.median(rms)), "signal", 1 / _SILENT)


def _broken(std: NDArray[np.float64], ratio: float) -> NDArray[np.bool_]:
    """Return which coils' noise is far from the median coil's; none where fewer than three coils can be compared."""
    middle = np.median(std)
    if len(std) < 3 or not middle > 0:
        return np.zeros(len(std), bool)
    return np.asarray((std > ratio * middle) | (std < middle / ratio))


def _outer(encoding: Encoding, n: int) -> Tensor | None:
    """Return which of `n` voxels of a readout's transform lie outside the image; None where too few do."""
    part = encoding.recon_fov_mm[2] / encoding.fov_mm[2] if encoding.fov_mm[2] > 0 else 1.0
    if encoding.trajectory not in _UNIFORM or part > 0.75:
        return None
    place = (torch.fft.fftfreq(n)).abs()
    return place > part / 2 + (1 - part) / 10  # a little away from the image's edge, where the filter is not yet steep


def _taken_off(
    line: Tensor, outer: Tensor, rest: Tensor, *, centre: int, above: float
) -> tuple[Tensor, dict[int, float]]:
    """Return a readout without its spikes, and the strength of each by its sample; the strongest is found first.

    Parameters
    ----------
    line
        One readout of one coil (sample,).
    outer
        Which voxels of its transform hold no signal.
    rest
        `line`, of which only these were kept.
    centre
        Sample of the k-space centre.
    above
        Times the median of `rest` from which a sample is a spike.
    """
    n = len(line)
    place = torch.arange(n)
    judged = (place >= _EDGE) & (place < n - _EDGE) & ((place - centre).abs() > _ZONE * n)
    judged[1:-1] |= _alone(line)
    shape = torch.fft.ifft(outer.to(line.dtype))  # what a spike at sample 0 leaves
    floor = _FLOOR * float(line.abs().max())
    places: list[int] = []
    left, strengths = rest, rest[:0]
    while len(places) < _MOST:
        size = left.abs() * judged
        peak = int(size.argmax())
        if float(size[peak]) <= above * max(float(left.abs().median()), floor):
            break
        peak = _sharpest(line, peak, places)
        if peak in places:
            break
        places.append(peak)
        responses = shape[(place[:, None] - torch.tensor(places)) % n]  # sample, spike
        strengths = torch.linalg.lstsq(responses, rest[:, None]).solution[:, 0]
        left = rest - responses @ strengths
    near = ((place[:, None] - torch.tensor(places, dtype=torch.long)).abs() <= _NEAR).any(1)
    before, after = (float(part[near].abs().square().sum()) for part in (rest, left))
    if not places or after > (1 - _EXPLAINED) * before:
        return line, {}
    repaired = line.clone()
    repaired[torch.tensor(places)] -= strengths
    return repaired, dict(zip(places, strengths.abs().tolist(), strict=True))


def _sharpest(line: Tensor, peak: int, places: list[int]) -> int:
    """Return the sample near `peak` that stands out of the readout itself: the outer part alone blurs a burst."""
    low, high = max(0, peak - _REACH), min(len(line), peak + _REACH + 1)
    size = line[low:high].abs()
    size[[p - low for p in places if low <= p < high]] = 0
    around = line[max(0, peak - 16) : peak + 17].abs().median()
    largest = int(size.argmax())
    return low + largest if size[largest] > 3 * around else peak


def _interpolated(line: Tensor, above: float) -> tuple[Tensor, dict[int, float]]:
    """Return a readout in which samples that stand alone are the mean of their neighbours, and the strength of each."""
    size = line.abs()
    floor = max(float(size.median()), _FLOOR * float(size.max()))
    places = (_alone(line) & (size[1:-1] > above * floor)).nonzero()[:, 0] + 1
    if len(places) == 0:
        return line, {}
    repaired = line.clone()
    repaired[places] = (line[places - 1] + line[places + 1]) / 2
    return repaired, dict(zip(places.tolist(), (line - repaired)[places].abs().tolist(), strict=True))


def _alone(line: Tensor) -> Tensor:
    """Return which samples (all but the first and the last) stand out from both neighbours."""
    size = line.abs()
    return size[1:-1] > _ALONE * torch.maximum(size[:-2], size[2:])


def _offset_verdict(offset: NDArray[np.complex128], std: NDArray[np.float64]) -> Verdict:
    coils = np.flatnonzero(offset)
    worst = float((np.abs(offset[coils]) / np.maximum(std[coils], 1e-30)).max())
    return Verdict(
        check="mri.offset",
        level=Level.FLAG,
        advice=f"{len(coils)} receivers have an offset: it was taken off. It would show as a dot in the middle.",
        value=worst,
        unit="noise standard deviations",
        evidence="; ".join(f"coil {c}: {offset[c]:.3g}" for c in coils[:_LISTED]),
    )


def _coil_verdict(coil: int, ratio: float, what: str, limit: float) -> Verdict:
    done = "left out of the images" if what == "noise" else "it adds nothing to the images"
    return Verdict(
        check="mri.coil",
        level=Level.FLAG,
        advice=f"Coil {coil} is broken or not connected: {done}. Check the plug, then repeat if SNR matters.",
        value=ratio,
        limit=limit,
        evidence=f"{what} of coil {coil} is {ratio:.3g} times the median coil's",
    )
