"""Windows on k-space: less ringing and noise for a little resolution, and the report says how much of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from acquisition.errors import ConfigError
from acquisition.items import Item
from acquisition.scan import Scan
from kernels.registry import kernel
from recon.mri.items import Frame
from recon.mri.space import Axis, spaces

Window = Callable[[Tensor, float], Tensor]


def tukey(r: Tensor, width: float) -> Tensor:
    """Return 1 up to ``1 - width`` of the band's edge, then a raised cosine down to 0."""
    edge = ((r - (1 - width)) / max(width, 1e-6)).clamp(0, 1)
    return 0.5 * (1 + torch.cos(math.pi * edge))


def gaussian(r: Tensor, width: float) -> Tensor:
    """Return a Gaussian that has fallen to ``exp(-1/2)`` at `width` of the band's edge."""
    return torch.exp(-0.5 * (r / width) ** 2)


def hann(r: Tensor, width: float) -> Tensor:
    """Return a raised cosine over the band; `width` mixes it with 1."""
    return 1 - width + width * 0.5 * (1 + torch.cos(math.pi * r.clamp(0, 1)))


def fermi(r: Tensor, width: float) -> Tensor:
    """Return ``1 / (1 + exp((r - 1 + width) / (width / 6)))``: 1/2 at ``1 - width`` of the band's edge."""
    return torch.sigmoid((1 - width - r) * 6 / width)


WINDOWS: dict[str, Window] = {"tukey": tukey, "gaussian": gaussian, "hann": hann, "fermi": fermi}


@dataclass(kw_only=True)
class KspaceFilter:
    """Multiply k-space by a window along every encoded direction and along the readout.

    The window's edge is that of the encoded matrix, also where the image has more voxels. The frame's `noise_gain` is
    told by how much noise falls, so pixels stay in units of their noise; the note says by how much pixels widen.

    References
    ----------
    Harris, Proc IEEE 1978;66:51, DOI 10.1109/PROC.1978.10837.
    """

    window: str = "tukey"
    """tukey, gaussian, hann or fermi."""
    width: float = 0.3
    """Part of the band that is tapered (tukey, fermi), width of the bell (gaussian), strength (hann)."""

    def __post_init__(self) -> None:
        if self.window not in WINDOWS:
            raise ConfigError("mri.filter window", expected=", ".join(WINDOWS), got=repr(self.window))
        if not 0 < self.width <= 1:
            raise ConfigError("mri.filter width", expected="above 0, at most 1", got=str(self.width))

    def open(self, scan: Scan) -> None:
        """Plan the sizes."""
        self._spaces = spaces(scan)
        self._known: dict[tuple[int, float], tuple[Tensor, float]] = {}

    def feed(self, item: Item) -> Iterator[Item]:
        """Filter frames; other items pass."""
        yield self._filtered(item) if isinstance(item, Frame) else item

    def close(self) -> Iterator[Item]:
        """Nothing is left to do."""
        return iter(())

    def _filtered(self, frame: Frame) -> Frame:
        kspace, space = frame.kspace, self._spaces[frame.key.encoding]
        power, told = 1.0, []
        for axis, size, lines in ((1, space.z, frame.counts.any(axis=1)), (2, space.y, frame.counts.any(axis=0))):
            if kspace.shape[axis] > 1:
                window, wider = self._window(size.encoded, size.encoded / 2)
                kspace.mul_(_along(window, kspace, axis))
                power *= _power(window, lines)
                told.append(f"{size.name} {wider:.2f}")
        if kspace.shape[3] > 1:
            window, wider = self._window(kspace.shape[3], _band(space.x))
            spectrum = kernel("centred_fft")(kspace, (3,)).mul_(_along(window, kspace, 3))
            kspace.copy_(kernel("centred_ifft")(spectrum, (3,)))
            power *= _power(window, _inside(kspace.shape[3], _band(space.x)).numpy())
            told.append(f"x {wider:.2f}")
        note = f"{self.window}, width {self.width:g}: noise x {math.sqrt(power):.2f}, pixels wider by {', '.join(told)}"
        notes = {**frame.notes, "k-space filter": note}
        return replace(frame, notes=notes, noise_gain=frame.noise_gain * math.sqrt(power))

    def _window(self, n: int, band: float) -> tuple[Tensor, float]:
        """Return the window (n,) of which the edge lies `band` samples from the centre, and by how much it widens."""
        if (n, band) not in self._known:
            window = WINDOWS[self.window](_place(n).abs() / band, self.width)
            inside = _inside(n, band).float()
            self._known[n, band] = window, _width(window * inside) / _width(inside)
        return self._known[n, band]


def _band(x: Axis) -> float:
    """Return how far the encoded samples reach from the centre of the image's spectrum along x [samples]."""
    return min(x.encoded * x.recon / x.padded, x.recon) / 2


def _place(n: int) -> Tensor:
    return (torch.arange(n) - n // 2).float()


def _inside(n: int, band: float) -> Tensor:
    return _place(n).abs() <= band


def _along(window: Tensor, like: Tensor, axis: int) -> Tensor:
    return window.to(like.device).view([-1 if a == axis else 1 for a in range(like.ndim)])


def _power(window: Tensor, measured: ArrayLike) -> float:
    """Return the mean square of the window over the lines that hold noise."""
    chosen = window[torch.from_numpy(np.asarray(measured, bool))]
    return float(chosen.square().mean()) if chosen.numel() else 1.0


def _width(window: Tensor) -> float:
    """Return the full width at half maximum of a symmetric spectrum's point spread [1 / spectrum]."""
    place = torch.arange(2048) / 1024  # voxels of the whole spectrum
    k = _place(len(window))
    profile = torch.cos(2 * math.pi * torch.outer(place, k) / len(window)) @ window
    below = (profile < profile[0] / 2).nonzero()
    if len(below) == 0:
        return 2 * float(place[-1])
    i = int(below[0])
    rest = float((profile[i - 1] - profile[0] / 2) / (profile[i - 1] - profile[i]))
    return 2 * (i - 1 + rest) / 1024
