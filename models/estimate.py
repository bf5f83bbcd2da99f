"""One slice through one network: into units of its noise, padded, mirrored, run, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ReconError
from models.engine import Engine, Floats
from models.load import Loaded
from models.uncertainty import mirrored, united


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """What the network makes of one slice."""

    data: NDArray
    """Its image (y, x), in the unit of the input."""
    spread: Floats
    """Standard deviation over the mirror images (y, x), in the same unit."""


class Estimator:
    """Runs a network on slices (y, x).

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
        self._members = loaded.card.uncertainty.members
        self._complex = loaded.card.input.kinds == ("complex",)
        self._buffer = np.zeros(0, np.float32)

    def prepare(self, matrix: tuple[int, int]) -> None:
        """Make ready for slices of this matrix (y, x).

        Raises
        ------
        ReconError
            The engine cannot.
        """
        shape = self._shape(matrix)
        if self._buffer.shape != shape:
            self._buffer = np.zeros(shape, np.float32)
        self.engine.prepare(shape)

    def estimate(self, data: NDArray, noise: Floats) -> Estimate:
        """Return the network's image of one slice.

        Parameters
        ----------
        data
            Values (y, x), real or complex as the card says.
        noise
            Standard deviation of their noise (y, x), same unit.

        Raises
        ------
        ReconError
            The engine failed, or its result is not finite.
        """
        n_y, n_x = data.shape
        self.prepare((n_y, n_x))
        unit = float(np.median(noise))
        channels = np.stack([data.real, data.imag]) if self._complex else data.real[None]
        stack = np.concatenate([channels, noise[None]]).astype(np.float32) / np.float32(unit)
        mirrored(_padded(stack, self._buffer.shape[2:]), self._members, self._buffer)
        corrections, spread = united(self.engine.run(self._buffer), self._members)
        corrections, spread = corrections[:, :n_y, :n_x] * unit, spread[:n_y, :n_x] * unit
        if not np.isfinite(corrections).all():
            raise ReconError(f"network {self.card.name}", expected="finite pixels", got="NaN or infinite")
        change = corrections[0] + 1j * corrections[1] if self._complex else corrections[0]
        return Estimate((data + change).astype(data.dtype), spread.astype(np.float32))

    def _shape(self, matrix: tuple[int, int]) -> tuple[int, ...]:
        n_y, n_x = (-(-n // self._multiple) * self._multiple for n in matrix)
        return (self._members, 3 if self._complex else 2, n_y, n_x)


def _padded(stack: NDArray, matrix: tuple[int, ...]) -> NDArray:
    """Return (channel, y, x) continued to a matrix by reflection."""
    grow = [n - m for n, m in zip(matrix, stack.shape[1:], strict=True)]
    mode = "reflect" if all(g < m for g, m in zip(grow, stack.shape[1:], strict=True)) else "edge"
    return np.pad(stack, ((0, 0), (0, grow[0]), (0, grow[1])), mode=mode)  # type: ignore[call-overload]
