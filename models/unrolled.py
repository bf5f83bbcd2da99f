"""What an unrolled network gets of a scan, and what it is held against: the measured k-space."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.nets.unrolled import gram, packed


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """One plane of k-space, reduced to what a network needs; the phase encoding, or one of two, is the last axis."""

    start: Tensor
    """Image of CG-SENSE (a, b) complex64."""
    rhs: Tensor
    """``A^H y`` (a, b) complex64."""
    mask: Tensor
    """What was measured (a, b) float32, the centre of k-space at index 0."""
    maps: Tensor
    """Coil maps (coil, a, b) complex64."""
    level: float
    """Standard deviation of the noise of one complex sample of k-space."""
    energy: float
    """Sum of the squared magnitudes of the measured samples."""

    def packed(self) -> Tensor:
        """Return the network's input (1, channel, a, b), see `models.nets.unrolled.packed`."""
        noise = torch.full(self.start.shape, self.noise)
        start, rhs, mask, maps = self.start[None], self.rhs[None], self.mask[None], self.maps[None]
        return packed(start, noise[None], rhs, mask=mask, maps=maps)

    @property
    def noise(self) -> float:
        """Standard deviation of the real part of what least squares would give, were the g-factor 1."""
        return self.level * math.sqrt(0.5 / max(float(self.mask.mean()), 1e-6))

    def misfit(self, image: Tensor) -> Tensor:
        """Return ``A^H A x - A^H y`` (a, b) of an image."""
        made: Tensor = gram(image[None, None], self.maps[None], self.mask[None, None])[0, 0] - self.rhs
        return made
