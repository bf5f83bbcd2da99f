"""A pair of images before and after a small dose through a network that fills in what is missing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ReconError
from models.engine import Engine
from models.estimate import Estimate, Estimator
from models.load import Loaded
from models.nets.lowdose import LowDose
from models.noise import level
from models.pair import CHANNELS, Pair
from models.uncertainty import FLIPS, united


class Predictor(Estimator):
    """Runs a network of `models.nets.lowdose` on pairs, slice by slice with their neighbours.

    Parameters
    ----------
    loaded
        Network and card.
    engine
        What it runs on.

    Raises
    ------
    ReconError
        It is another network.
    """

    def __init__(self, loaded: Loaded, engine: Engine) -> None:
        if not isinstance(loaded.network, LowDose):
            got = type(loaded.network).__name__
            raise ReconError(f"card {loaded.card.name}", expected="a network for low doses", got=got)
        super().__init__(loaded, engine)
        self._channels = CHANNELS

    def missing(self, pair: Pair) -> Estimate:
        """Return the enhancement (z, y, x) that full dose would add to the low-dose image, never below 0.

        Raises
        ------
        ReconError
            The engine failed, or its result is not finite.
        """
        unit = np.float32(level(pair.noise) or 1.0)
        made = [self._slice(stack) for stack in pair.planes()]
        data, spread = (unit * np.stack(part) for part in zip(*made, strict=True))
        if not np.isfinite(data).all():
            raise ReconError(f"network {self.card.name}", expected="finite pixels", got="NaN or infinite")
        return Estimate(np.clip(data, 0, pair.bound()), spread)  # engines of 16 bits round

    def solved(self, pair: Pair) -> Estimate:
        """Return the full-dose image of the middle slice (y, x), as `Estimator.estimate` does."""
        middle = len(pair.low) // 2
        unit = np.float32(level(pair.noise) or 1.0)
        added, spread = (unit * part for part in self._slice(pair.planes()[middle]))
        return Estimate(pair.low[middle] + np.clip(added, 0, pair.bound()[middle]), spread)

    def _slice(self, stack: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        self.prepare(stack.shape[1:])
        members = self.card.uncertainty.members
        corrections, spread = united([self._run(stack, axes) for axes in FLIPS[members]], members)
        n_y, n_x = stack.shape[1:]
        return stack[0] + corrections[0, :n_y, :n_x], spread[:n_y, :n_x]
