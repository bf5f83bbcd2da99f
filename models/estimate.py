"""One slice or volume through one network: into units of its noise, padded, mirrored, run, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ReconError
from models.engine import Engine, Floats
from models.load import Loaded
from models.uncertainty import FLIPS, united


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """What the network makes of one slice (y, x) or volume (z, y, x)."""

    data: NDArray
    """Its image, in the unit of the input."""
    spread: Floats
    """Standard deviation over the mirror images, in the same unit."""


class Estimator:
    """Runs a network on slices (y, x), or on volumes (z, y, x), as its card says.

    The network sees the image over its noise, then the noise map over its median, and returns the correction in the
    same unit. The correction is added in float32, so the precision of the engine touches it alone, not the image.

    Parameters
    ----------
    loaded
        Network and card.
    engine
        What it runs on.
    """

    def __init__(self, loaded: Loaded, engine: Engine) -> None:
        self.card, self.statistics, self.engine = loaded.card, loaded.statistics, engine
        self._multiple = int(getattr(loaded.network, "multiple", 1))
        self._complex = loaded.card.input.kinds == ("complex",)
        self._channels = 3 if self._complex else 2
        self._buffer = np.zeros(0, np.float32)

    def prepare(self, matrix: tuple[int, ...]) -> None:
        """Make ready for slices or volumes of this matrix.

        Raises
        ------
        ReconError
            The engine cannot.
        """
        shape = (1, self._channels, *(-(-n // self._multiple) * self._multiple for n in matrix))
        if self._buffer.shape != shape:
            self._buffer = np.zeros(shape, np.float32)
        self.engine.prepare(shape)

    def image(self, data: NDArray, noise: Floats) -> Estimate:
        """Return the network's image of (z, y, x), slice by slice or as a whole; see `estimate`."""
        if self.card.input.dimensions == data.ndim:
            return self.estimate(data, noise)
        parts = [self.estimate(d, n) for d, n in zip(data, noise, strict=True)]
        return Estimate(np.stack([p.data for p in parts]), np.stack([p.spread for p in parts]))

    def estimate(self, data: NDArray, noise: Floats) -> Estimate:
        """Return the network's image of one slice or volume.

        Parameters
        ----------
        data
            Values, real or complex as the card says.
        noise
            Standard deviation of the noise of each, same unit.

        Raises
        ------
        ReconError
            The engine failed, or its result is not finite.
        """
        self.prepare(data.shape)
        unit = float(np.median(noise))
        parts = [data.real, data.imag] if self._complex else [data.real]
        stack = np.stack([*parts, noise]).astype(np.float32) / np.float32(unit)
        members = self.card.uncertainty.members
        corrections, spread = united([self._run(stack, axes) for axes in FLIPS[members]], members)
        inside: tuple[slice, ...] = tuple(slice(n) for n in data.shape)
        corrections, spread = corrections[(slice(None), *inside)] * unit, spread[inside] * unit
        if not np.isfinite(corrections).all():
            raise ReconError(f"network {self.card.name}", expected="finite pixels", got="NaN or infinite")
        change = corrections[0] + 1j * corrections[1] if self._complex else corrections[0]
        return Estimate((data + change).astype(data.dtype), spread.astype(np.float32))

    def _run(self, stack: NDArray, axes: tuple[int, ...]) -> NDArray:
        """Return what the network makes of (channel, ..., y, x) mirrored along `axes`."""
        self._buffer[0] = np.flip(_padded(stack, self._buffer.shape[2:]), axes)
        corrections: NDArray = self.engine.run(self._buffer)[0]
        return corrections


def _padded(stack: NDArray, matrix: tuple[int, ...]) -> NDArray:
    """Return (channel, ..., y, x) continued to a matrix by reflection."""
    grow = [n - m for n, m in zip(matrix, stack.shape[1:], strict=True)]
    if not any(grow):
        return stack
    mode = "reflect" if all(g < m for g, m in zip(grow, stack.shape[1:], strict=True)) else "edge"
    return np.pad(stack, ((0, 0), *((0, g) for g in grow)), mode=mode)  # type: ignore[call-overload]
