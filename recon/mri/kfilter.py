"""Windows on k-space: less ringing and noise for a little resolution, and the report says how much."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from acquisition.errors import ConfigError
from acquisition.items import Item
from acquisition.scan import Scan
from kernels.registry import kernel
from recon.mri.items import Frame

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


WINDOWS: dict[str, Window] = {"tukey": tukey, "gaussian": gaussian, "hann": hann}


@dataclass(kw_only=True)
class KspaceFilter:
    """Multiply k-space by a window along every encoded direction and along the readout.

    References
    ----------
    Harris, Proc IEEE 1978;66:51, DOI 10.1109/PROC.1978.10837.
    """

    window: str = "tukey"
    """tukey, gaussian or hann."""
    width: float = 0.3
    """Part of the band that is tapered (tukey), width of the bell (gaussian), strength (hann)."""

    def __post_init__(self) -> None:
        if self.window not in WINDOWS:
            raise ConfigError("mri.filter window", expected=", ".join(WINDOWS), got=repr(self.window))
        if not 0 < self.width <= 1:
            raise ConfigError("mri.filter width", expected="above 0, at most 1", got=str(self.width))

    def open(self, scan: Scan) -> None:
        """Nothing to prepare."""
        self._weights: dict[int, Tensor] = {}

    def feed(self, item: Item) -> Iterator[Item]:
        """Filter frames; other items pass."""
        yield self._filtered(item) if isinstance(item, Frame) else item

    def close(self) -> Iterator[Item]:
        """Nothing is left to do."""
        return iter(())

    def _filtered(self, frame: Frame) -> Frame:
        kspace = frame.kspace
        for axis in (1, 2):
            if kspace.shape[axis] > 1:
                kspace.mul_(self._along(kspace, axis))
        if kspace.shape[3] > 1:
            spectrum = kernel("centred_fft")(kspace, (3,)) * self._along(kspace, 3)
            kspace.copy_(kernel("centred_ifft")(spectrum, (3,)))
        return replace(frame, notes={**frame.notes, "k-space filter": f"{self.window}, width {self.width:g}"})

    def _along(self, kspace: Tensor, axis: int) -> Tensor:
        n = kspace.shape[axis]
        if n not in self._weights:
            r = (torch.arange(n) - n // 2).abs() / (n / 2)
            self._weights[n] = WINDOWS[self.window](r, self.width).to(kspace.device)
        return self._weights[n].view([-1 if a == axis else 1 for a in range(4)])
