"""Partial Fourier: the side of k-space that was not measured, from the side that was and a smooth phase.

Both Steps stand behind `mri.grappa` and work on each coil's k-space along every encoded direction of which one side is
short: k1, k2 and, after an asymmetric echo, the readout. All other directions are images meanwhile, because only an
image has a smooth phase. Where the phase is not smooth (motion during diffusion encoding) they would do worse than
zeros; that is tested on lines that were measured on both sides, and then the direction stays as it is and a FLAG says
so. The noise along the signal's phase grows, because measured lines stand for two; the frame's `noise_gain` says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from acquisition.errors import ConfigError
from acquisition.items import Flag, Item
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from kernels.registry import kernel
from recon.mri.items import Frame
from recon.mri.space import CARTESIAN, Axis, Space, spaces

_FEWEST_LINES = 4
"""Missing lines below which nothing is done."""
_TEST_STEPS = 3
_LOUDEST = 4  # coils that are tested: the others follow the same phase, and cost as much
_NAMES = {1: "k2", 2: "k1", 3: "k0"}


@dataclass(frozen=True, slots=True)
class Side:
    """One encoded axis of which one side is short."""

    axis: int
    """Axis of the frame's k-space."""
    first: int
    """Matrix index of the first measured line."""
    last: int
    """Matrix index of the last one."""
    size: int
    """Lines of the axis; the centre of k-space is line size // 2."""
    reach: int
    """Lines on each side of the centre up to the edge of the encoded matrix."""

    @property
    def centre(self) -> int:
        """Matrix index of the k-space centre."""
        return self.size // 2

    @property
    def half(self) -> int:
        """Lines on the short side of the centre."""
        return min(self.centre - self.first, self.last - self.centre)

    @property
    def missing(self) -> int:
        """Lines that the short side lacks."""
        return abs((self.centre - self.first) - (self.last - self.centre))

    @property
    def lower(self) -> bool:
        """Whether the side before the centre is the short one."""
        return self.centre - self.first < self.last - self.centre

    @property
    def unknown(self) -> list[int]:
        """Matrix indices that are to be made."""
        if self.lower:
            return list(range(max(0, self.centre - self.reach), self.first))
        return list(range(self.last + 1, min(self.size, self.centre + self.reach + 1)))


@dataclass(kw_only=True)
class _PartialFourier:
    """What both methods share: which side is short, the phase, the gate."""

    flag_above: float = 0.7
    """Relative error on lines measured on both sides from which a direction is left zero-filled (zeros have 1)."""

    _name = "partial_fourier"

    def __post_init__(self) -> None:
        if not self.flag_above > 0:
            raise ConfigError(f"mri.{self._name} flag_above", expected="a number above 0", got=str(self.flag_above))

    def open(self, scan: Scan) -> None:
        """Plan the sizes."""
        self._spaces = spaces(scan)

    def feed(self, item: Item) -> Iterator[Item]:
        """Complete frames; other items pass."""
        yield self._completed(item) if isinstance(item, Frame) else item

    def close(self) -> Iterator[Item]:
        """Nothing is left to do."""
        return iter(())

    def _completed(self, frame: Frame) -> Frame:
        space = self._spaces[frame.key.encoding]
        for side in short_sides(frame, space):
            spectrum = _spectrum(frame.kspace, side.axis)
            error = prediction_error(spectrum, side)
            name = _NAMES[side.axis]
            if error > self.flag_above:
                frame = replace(frame, verdicts=(*frame.verdicts, _left(self._name, name, error, self.flag_above)))
                continue
            frame.kspace.copy_(_spectrum_back(self._filled(spectrum, side), side.axis))
            frame = self._told(frame, side, name, error)
        return frame

    def _told(self, frame: Frame, side: Side, name: str, error: float) -> Frame:
        done = Verdict(
            check=f"mri.{self._name}",
            level=Level.PASS,
            advice=f"The unmeasured side of {name} was made from the measured one.",
            value=error,
            limit=self.flag_above,
            evidence=f"lines {side.first}-{side.last}, centre {side.centre}, {side.half} on the short side",
        )
        gain = self._noise_gain(side)
        before = frame.notes.get("partial Fourier")
        note = f"{self._name} along {name}, {side.half} lines on the short side, noise x {gain:.2f}"
        notes = {**frame.notes, "partial Fourier": f"{before}; {note}" if before else note}
        return replace(frame, verdicts=(*frame.verdicts, done), notes=notes, noise_gain=frame.noise_gain * gain)

    def _filled(self, spectrum: Tensor, side: Side) -> Tensor:
        raise NotImplementedError

    def _noise_gain(self, side: Side) -> float:
        """Return by how much the noise along the signal's phase grows."""
        raise NotImplementedError


@dataclass(kw_only=True)
class Pocs(_PartialFourier):
    """Projection onto convex sets: the phase is that of the symmetric middle, measured lines are never changed.

    References
    ----------
    Haacke et al., J Magn Reson 1991;92:126, DOI 10.1016/0022-2364(91)90253-P.
    """

    n_iterations: int = 6
    """Projections."""

    _name = "pocs"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_iterations < 1:
            raise ConfigError("mri.pocs n_iterations", expected="at least 1", got=str(self.n_iterations))

    def _filled(self, spectrum: Tensor, side: Side) -> Tensor:
        return _projected(spectrum, side, side.half, unknown=side.unknown, steps=self.n_iterations)

    def _noise_gain(self, side: Side) -> float:
        both, n = 2 * side.half + 1, side.last - side.first + 1
        return math.sqrt((both + 4 * (n - both)) / n)


@dataclass(kw_only=True)
class Homodyne(_PartialFourier):
    """Homodyne: the long side counts twice, the phase of the symmetric middle is taken out, the real part stays.

    One pass and no iterations; where two directions are short `Pocs` is the better choice.

    References
    ----------
    Noll et al., IEEE Trans Med Imaging 1991;10:154, DOI 10.1109/42.79473.
    """

    _name = "homodyne"

    def _filled(self, spectrum: Tensor, side: Side) -> Tensor:
        axes = (side.axis,)
        phasor = smooth_phasor(spectrum, side, side.half)
        image = kernel("centred_ifft")(spectrum * _along(_ramp(side), spectrum, side.axis), axes)
        return kernel("centred_fft")((image * phasor.conj()).real * phasor, axes)

    def _noise_gain(self, side: Side) -> float:
        return float(_ramp(side)[side.first : side.last + 1].square().mean().sqrt())


def short_sides(frame: Frame, space: Space) -> list[Side]:
    """Return the directions of a frame of which one side is short; lines that GRAPPA made count as measured."""
    measured = frame.counts > 0
    sides = [_side(1, measured.any(axis=1), space.z), _side(2, measured.any(axis=0), space.y), _echo(frame, space)]
    return [side for side in sides if side is not None]


def _side(axis: int, measured: ArrayLike, size: Axis) -> Side | None:
    lines = np.flatnonzero(measured)
    if size.encoded < 2 or lines.size == 0:
        return None
    first, last = min(lines[0], size.indices.start), max(lines[-1], size.indices.stop - 1)
    if len(size.indices) == size.encoded:  # the header promises all: believe the lines that came
        first, last = int(lines[0]), int(lines[-1])
    even = 1 - size.encoded % 2  # an even matrix has one line more before its centre
    side = Side(axis, int(first), int(last), size.encoded, size.encoded // 2)
    return side if _worth(side, even) else None


def _echo(frame: Frame, space: Space) -> Side | None:
    """Return the readout if its echo is asymmetric, in samples of the image's x (oversampling is cut off already)."""
    head, axis = frame.head, space.x
    if space.encoding.trajectory != CARTESIAN:
        return None
    reverse = bool(int(head["flags"]) & Flag.REVERSE)
    n, pre, post = int(head["n_samples"]), int(head["discard_pre"]), int(head["discard_post"])
    kept = n - pre - post
    if not 0 < kept < axis.encoded:
        return None
    centre = n - 1 - int(head["center_sample"]) - post if reverse else int(head["center_sample"]) - pre
    scale, middle = axis.recon / axis.padded, axis.recon // 2
    reach = min(int(axis.encoded * scale / 2), middle)
    # one sample in from an end that is not there: cutting the oversampling off has blurred it
    first = -reach if centre >= axis.encoded // 2 else math.ceil(-centre * scale) + 1
    last = reach if kept - centre >= axis.encoded - axis.encoded // 2 else math.floor((kept - 1 - centre) * scale) - 1
    side = Side(3, middle + first, min(middle + last, axis.recon - 1), axis.recon, reach)
    return side if _worth(side, 1 - axis.recon % 2) else None


def _worth(side: Side, even: int) -> bool:
    return side.missing - even >= _FEWEST_LINES and side.half >= _FEWEST_LINES


def smooth_phasor(spectrum: Tensor, side: Side, half: int) -> Tensor:
    """Return the phase factor of the image made of `half` lines on each side of the centre, tapered."""
    low = kernel("centred_ifft")(spectrum * _along(_taper(side, half), spectrum, side.axis), (side.axis,))
    return low / low.abs().clamp_min(1e-20)


def prediction_error(spectrum: Tensor, side: Side) -> float:
    """Return how badly lines that were measured on both sides are predicted from one: 0 perfect, 1 as bad as zeros.

    The inner half of the symmetric middle gives the phase; the outer half of its short side is predicted, in the
    coils that receive most.

    Parameters
    ----------
    spectrum
        (coil, z, y, x), of which `side.axis` is k-space and all others are images.
    side
        The direction.
    """
    loud = spectrum.narrow(side.axis, side.centre, 1).abs().square().sum((1, 2, 3)).topk(min(_LOUDEST, len(spectrum)))
    spectrum = spectrum.index_select(0, loud.indices)
    inner = max(1, side.half // 2)
    low, high = side.centre - side.half, side.centre + side.half + 1
    hidden = list(range(low, side.centre - inner) if side.lower else range(side.centre + inner + 1, high))
    if not hidden:
        return 0.0
    beyond = list(range(side.centre - inner) if side.lower else range(side.centre + inner + 1, side.size))
    index = torch.tensor(hidden, device=spectrum.device)
    test = spectrum.index_fill(side.axis, torch.tensor(beyond, device=spectrum.device), 0)
    made = _projected(test, side, inner, unknown=beyond, steps=_TEST_STEPS).index_select(side.axis, index)
    truth = spectrum.index_select(side.axis, index)
    scale, difference = float(truth.abs().square().sum()), float((made - truth).abs().square().sum())
    return math.sqrt(difference / scale) if scale > 0 else 0.0


def _projected(spectrum: Tensor, side: Side, half: int, *, unknown: list[int], steps: int) -> Tensor:
    """Return the spectrum with its `unknown` lines made by `steps` projections on the phase of the middle.

    The origin is line 0 and voxel 0 meanwhile: the shifts of a centred transform cost as much as the transform.
    """
    axis, n = side.axis, side.size
    phasor = torch.fft.ifftshift(smooth_phasor(spectrum, side, half), dim=axis)
    full = torch.fft.ifftshift(spectrum, dim=axis)
    index = (torch.tensor(unknown, device=spectrum.device) - side.centre) % n
    for _ in range(steps):
        image = torch.fft.ifft(full, dim=axis)
        guess = torch.fft.fft(image.abs() * phasor, dim=axis)
        full.index_copy_(axis, index, guess.index_select(axis, index))
    return torch.fft.fftshift(full, dim=axis)


def _taper(side: Side, half: int) -> Tensor:
    k = torch.arange(side.size) - side.centre
    return torch.where(k.abs() <= half, torch.cos(k * (torch.pi / 2 / (half + 1))).square(), torch.zeros(()))


def _ramp(side: Side) -> Tensor:
    """Return the weights of homodyne: 0 where the short side ends, 1 in the centre, 2 on the long side."""
    k = (torch.arange(side.size) - side.centre) / max(side.half, 1)
    return ((1 + k) if side.lower else (1 - k)).clamp(0, 2)


def _spectrum(kspace: Tensor, axis: int) -> Tensor:
    """Return (coil, k2, k1, x) with one axis in k-space and all others as images."""
    others = tuple(a for a in (1, 2) if a != axis and kspace.shape[a] > 1)
    images = kernel("centred_ifft")(kspace, others) if others else kspace
    return kernel("centred_fft")(images, (3,)) if axis == 3 else images


def _spectrum_back(spectrum: Tensor, axis: int) -> Tensor:
    others = tuple(a for a in (1, 2) if a != axis and spectrum.shape[a] > 1)
    images = kernel("centred_ifft")(spectrum, (3,)) if axis == 3 else spectrum
    return kernel("centred_fft")(images, others) if others else images


def _along(values: Tensor, like: Tensor, axis: int) -> Tensor:
    return values.to(like.device).view([-1 if a == axis else 1 for a in range(like.ndim)])


def _left(step: str, name: str, error: float, limit: float) -> Verdict:
    return Verdict(
        check=f"mri.{step}",
        level=Level.FLAG,
        advice="The phase is not smooth enough to fill k-space: the image is the zero-filled one, a little blurred.",
        value=error,
        limit=limit,
        evidence=f"{name}, tested on lines measured on both sides of the centre",
    )
