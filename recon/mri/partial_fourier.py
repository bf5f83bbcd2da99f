"""Partial Fourier: the side of k-space that was not measured, from the side that was and a smooth phase.

Both Steps stand behind `mri.grappa` and work on each coil's k-space along every encoded direction of which one side is
short. Where the phase is not smooth (motion during diffusion encoding) they would do worse than zeros; that is tested
on lines that were measured on both sides, and then the frame stays as it is and a FLAG says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from acquisition.errors import ConfigError
from acquisition.items import Item
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from kernels.registry import kernel
from recon.mri.items import Frame
from recon.mri.space import Axis, spaces

_FEWEST_LINES = 4
"""Missing lines below which nothing is done."""


@dataclass(frozen=True, slots=True)
class Side:
    """One encoded axis of which one side is short."""

    axis: int
    """Axis of the frame's k-space."""
    first: int
    """Matrix index of the first measured line."""
    last: int
    """Matrix index of the last one."""
    centre: int
    """Matrix index of the k-space centre."""

    @property
    def half(self) -> int:
        """Lines on the short side of the centre."""
        return min(self.centre - self.first, self.last - self.centre)

    @property
    def missing(self) -> int:
        """Lines that the short side lacks."""
        return abs((self.centre - self.first) - (self.last - self.centre))


@dataclass(kw_only=True)
class _PartialFourier:
    """What both methods share: which side is short, the phase, the gate."""

    flag_above: float = 0.7
    """Relative error on lines measured on both sides from which the frame is left zero-filled (zeros have 1)."""

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
        measured = frame.counts > 0
        along_k1, along_k2 = np.atleast_1d(measured.any(axis=0)), np.atleast_1d(measured.any(axis=1))
        for side in (_side(2, along_k1, space.y), _side(1, along_k2, space.z)):
            if side is None:
                continue
            error = prediction_error(frame.kspace, side)
            if error > self.flag_above:
                return replace(frame, verdicts=(*frame.verdicts, _left(self._name, error, self.flag_above)))
            frame.kspace.copy_(self._filled(frame.kspace, side))
            done = Verdict(
                check=f"mri.{self._name}",
                level=Level.PASS,
                advice="The unmeasured side of k-space was made from the measured one.",
                value=error,
                limit=self.flag_above,
                evidence=f"lines {side.first}-{side.last}, centre {side.centre}, {side.half} on the short side",
            )
            notes = {**frame.notes, "partial Fourier": f"{self._name}, {side.half} lines on the short side"}
            frame = replace(frame, verdicts=(*frame.verdicts, done), notes=notes)
        return frame

    def _filled(self, kspace: Tensor, side: Side) -> Tensor:
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

    def _filled(self, kspace: Tensor, side: Side) -> Tensor:
        phasor = smooth_phasor(kspace, side, side.half)
        measured = kspace.narrow(side.axis, side.first, side.last - side.first + 1).clone()
        full, axes = kspace.clone(), (side.axis,)
        for _ in range(self.n_iterations):
            image = kernel("centred_ifft")(full, axes)
            full = kernel("centred_fft")(image.abs() * phasor, axes)
            full.narrow(side.axis, side.first, side.last - side.first + 1).copy_(measured)
        return full


@dataclass(kw_only=True)
class Homodyne(_PartialFourier):
    """Homodyne: the long side counts twice, the phase of the symmetric middle is taken out, the real part stays.

    References
    ----------
    Noll et al., IEEE Trans Med Imaging 1991;10:154, DOI 10.1109/42.79473.
    """

    _name = "homodyne"

    def _filled(self, kspace: Tensor, side: Side) -> Tensor:
        n, axes = kspace.shape[side.axis], (side.axis,)
        k = torch.arange(n) - side.centre
        if side.centre - side.first < side.last - side.centre:
            ramp = 1 + k / max(side.half, 1)
        else:
            ramp = 1 - k / max(side.half, 1)
        weight = _along(ramp.clamp(0, 2), kspace, side.axis)
        phasor = smooth_phasor(kspace, side, side.half)
        image = kernel("centred_ifft")(kspace * weight, axes)
        return kernel("centred_fft")((image * phasor.conj()).real * phasor, axes)


def _side(axis: int, measured: np.ndarray, size: Axis) -> Side | None:
    """Return the axis if one of its sides is short; lines that GRAPPA made count as measured."""
    lines = np.flatnonzero(measured)
    if size.encoded < 2 or lines.size == 0:
        return None
    first, last = min(lines[0], size.indices.start), max(lines[-1], size.indices.stop - 1)
    if len(size.indices) == size.encoded:  # the header promises all: believe the lines that came
        first, last = int(lines[0]), int(lines[-1])
    side = Side(axis, int(first), int(last), size.encoded // 2)
    even = 1 - size.encoded % 2  # an even matrix has one line more before its centre
    return side if side.missing - even >= _FEWEST_LINES and side.half >= _FEWEST_LINES else None


def smooth_phasor(kspace: Tensor, side: Side, half: int) -> Tensor:
    """Return the phase factor of the image made of `half` lines on each side of the centre, tapered."""
    k = torch.arange(kspace.shape[side.axis]) - side.centre
    window = torch.where(k.abs() <= half, torch.cos(k * (torch.pi / 2 / (half + 1))).square(), torch.zeros(()))
    low = kernel("centred_ifft")(kspace * _along(window, kspace, side.axis), (side.axis,))
    return low / low.abs().clamp_min(1e-20)


def prediction_error(kspace: Tensor, side: Side) -> float:
    """Return how badly lines that were measured on both sides are predicted from one: 0 perfect, 1 as bad as zeros.

    The inner half of the symmetric middle gives the phase; the outer half of its short side is predicted.
    """
    inner = max(1, side.half // 2)
    upper = side.centre - side.first < side.last - side.centre
    hidden = (
        range(side.centre - side.half, side.centre - inner)
        if upper
        else range(side.centre + inner + 1, side.centre + side.half + 1)
    )
    if len(hidden) == 0:
        return 0.0
    test, index = kspace.clone(), torch.tensor(list(hidden))
    beyond = range(0, side.centre - inner) if upper else range(side.centre + inner + 1, kspace.shape[side.axis])
    unknown = torch.tensor(list(beyond))
    test.index_fill_(side.axis, unknown, 0)
    phasor = smooth_phasor(test, side, inner)
    for _ in range(3):
        image = kernel("centred_ifft")(test, (side.axis,))
        guess = kernel("centred_fft")(image.abs() * phasor, (side.axis,))
        test.index_copy_(side.axis, unknown, guess.index_select(side.axis, unknown))
    truth = kspace.index_select(side.axis, index)
    scale = float(truth.abs().square().sum())
    difference = float((test.index_select(side.axis, index) - truth).abs().square().sum())
    return float(np.sqrt(difference / scale)) if scale > 0 else 0.0


def _along(values: Tensor, like: Tensor, axis: int) -> Tensor:
    return values.to(like.device).view([-1 if a == axis else 1 for a in range(like.ndim)])


def _left(name: str, error: float, limit: float) -> Verdict:
    return Verdict(
        check=f"mri.{name}",
        level=Level.FLAG,
        advice="The phase is not smooth enough to fill k-space: the image is the zero-filled one, a little blurred.",
        value=error,
        limit=limit,
        evidence="tested on lines measured on both sides of the centre",
    )
