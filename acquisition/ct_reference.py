"""What the detector reads without radiation and without a patient, for Steps that correct counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import DataError
from acquisition.items import Projections, View
from acquisition.scan import Scan

Counts = NDArray[np.float32]


class Reference:
    """Gathers dark and air views, and says what part of the radiation came through.

    Parameters
    ----------
    scan
        The scan; named in errors.
    """

    def __init__(self, scan: Scan) -> None:
        ct = scan.require_ct()
        self._uid, self.shape = scan.uid, (ct.n_rows, ct.n_channels)
        self._sums = {flag: np.zeros(self.shape) for flag in View}
        self._counts = dict.fromkeys(View, 0)
        self._ma = 0.0
        self._made: tuple[Counts, Counts] | None = None

    def add(self, block: Projections) -> None:
        """Take what `block` has of dark and air views.

        Raises
        ------
        DataError
            The views are of another size.
        """
        if block.data.shape[1:] != self.shape:
            raise DataError(
                f"scan {self._uid}: views", expected=f"counts of {self.shape} elements", got=str(block.data.shape[1:])
            )
        for flag in View:
            part = block.select(block.has(flag))
            if len(part):
                self._sums[flag] += part.data.sum(axis=0, dtype=np.float64)
                self._counts[flag] += len(part)
                self._made = None
                if flag is View.AIR:
                    self._ma = float(part.head["ma"].mean())

    def dark(self) -> Counts:
        """Return the offset (row, channel)."""
        return self._ready()[0]

    def air(self, head: NDArray[np.void]) -> Counts:
        """Return the counts above the offset that some views would have without a patient (view, row, channel)."""
        air = self._ready()[1]
        if self._ma <= 0 or (head["ma"] <= 0).any():
            return np.broadcast_to(air, (len(head), *self.shape))
        return (head["ma"] / np.float32(self._ma)).astype(np.float32)[:, None, None] * air

    def _ready(self) -> tuple[Counts, Counts]:
        if self._made is None:
            for flag in View:
                if not self._counts[flag]:
                    raise DataError(
                        f"scan {self._uid}",
                        expected=f"{flag.name} views before those of the patient",
                        got="none",
                        action="send the calibration with the scan",
                    )
            dark = self._sums[View.DARK] / self._counts[View.DARK]
            air = self._sums[View.AIR] / self._counts[View.AIR] - dark
            self._made = dark.astype(np.float32), np.maximum(air, 1.0).astype(np.float32)
        return self._made
