"""Susceptibility weighting: veins and blood made dark by the phase that their iron makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ConfigError
from acquisition.items import Image, Item, Kind
from acquisition.scan import Scan
from recon.mri.outputs import component


@dataclass(kw_only=True)
class Swi:
    """Multiply the magnitude by a mask of the high-pass filtered phase; magnitude and filtered phase stay as well.

    Outputs: the conventional magnitude, ``swi`` and ``swi_phase``. The filter divides by the image of the central
    `filter_size` part of k-space (homodyne); the mask falls from 1 at phase 0 to 0 at pi of the veins' sign and is
    raised to `power`.

    References
    ----------
    Haacke et al., Magn Reson Med 2004;52:612, DOI 10.1002/mrm.20198.
    """

    filter_size: float = 0.25
    """Part of k-space along each axis that counts as slowly varying phase."""
    power: int = 4
    """How often the mask is multiplied."""
    sign: int = -1
    """Sign of the phase of veins: -1 for left-handed systems, 1 for right-handed ones."""

    def __post_init__(self) -> None:
        if not 0 < self.filter_size < 1 or not 1 <= self.power <= 16 or self.sign not in (-1, 1):
            raise ConfigError(
                "image.swi",
                expected="filter_size between 0 and 1, power 1 to 16, sign -1 or 1",
                got=f"{self.filter_size}, {self.power}, {self.sign}",
            )

    def open(self, scan: Scan) -> None:
        """Nothing to prepare."""

    def feed(self, item: Item) -> Iterator[Item]:
        """Make three images of a complex one; other items pass."""
        if not isinstance(item, Image) or item.kind is not Kind.COMPLEX:
            yield item
            return
        magnitude = component(item, "magnitude")
        phase = high_pass(item.data, self.filter_size)
        mask = 1 - np.maximum(self.sign * phase, 0) / np.pi
        yield magnitude
        yield replace(magnitude, data=(magnitude.data * mask**self.power).astype(np.float32), output="swi")
        yield replace(magnitude, data=phase.astype(np.float32), output="swi_phase", kind=Kind.PHASE, unit="rad")

    def close(self) -> Iterator[Item]:
        """Nothing is left to do."""
        return iter(())


def high_pass(data: NDArray[np.complexfloating], size: float) -> NDArray[np.float64]:
    """Return the phase [rad] of (..., y, x) less that of the central part of its transform."""
    axes = (-2, -1)
    spectrum = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(data, axes=axes)), axes=axes)
    for axis in axes:
        n = data.shape[axis]
        k = np.abs(np.arange(n) - n // 2) / (n / 2)
        window = np.where(k < size, 0.5 * (1 + np.cos(np.pi * k / size)), 0.0)
        spectrum = spectrum * window.reshape([-1 if a == axis % data.ndim else 1 for a in range(data.ndim)])
    slow = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(spectrum, axes=axes)), axes=axes)
    return np.angle(data * np.conj(slow))
