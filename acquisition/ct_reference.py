"""What the detector reads without radiation and without a patient, for Steps that correct counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import DataError
from acquisition.items import Projections, View
from acquisition.scan import Scan

Counts = NDArray[np.float32]
_COVERED = 0.8  # of what the head foretells: reference channels that read less have something before them


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
        self._ma, self._channels = 0.0, list(ct.reference_channels)
        self.blocked = 0
        """Views in which something stood before the reference channels."""
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

    def apart(self, block: Projections) -> tuple[Projections | None, Projections | None]:
        """Take what `block` has of dark and air views; return those, and the patient's, None where there are none.

        Raises
        ------
        DataError
            The views are of another size.
        """
        self.add(block)
        patient = ~block.has(View.DARK | View.AIR)
        if not patient.any():
            return block if len(block) else None, None
        return (None, block) if patient.all() else (block.select(~patient), block.select(patient))

    def dark(self) -> Counts:
        """Return the offset (row, channel)."""
        return self._ready()[0]

    def still(self) -> Counts:
        """Return the mean counts above the offset in the air views (row, channel)."""
        return self._ready()[1]

    def air(self, block: Projections) -> Counts:
        """Return the counts above the offset that views would have without a patient (view, row, channel)."""
        return self.output(block)[:, None, None] * self.still()

    def output(self, block: Projections) -> Counts:
        """Return the tube's output in each view, relative to the air views (view,).

        The reference channels tell it where there are any and nothing stands before them (they then read less than
        the tube current in the view's head foretells: `blocked` counts such views); the head tells it otherwise.
        """
        known = self._ma > 0 and bool((block.head["ma"] > 0).all())
        told = (block.head["ma"] / self._ma if known else np.ones(len(block))).astype(np.float32)
        if not self._channels:
            return told
        dark, air = self._ready()
        counts = (block.data[..., self._channels] - dark[:, self._channels]).sum(axis=(1, 2), dtype=np.float64)
        read = (counts / air[:, self._channels].sum(dtype=np.float64)).astype(np.float32)
        covered = (read < np.float32(_COVERED) * told) if known else read <= 0
        self.blocked += int(covered.sum())
        return np.where(covered, told, read)

    def _ready(self) -> tuple[Counts, Counts]:
        if self._made is None:
            for flag in View:
                if not self._counts[flag]:
                    raise DataError(
                        f"scan {self._uid}",
                        expected=f"{flag.name} views before those of the patient",
                        got="none",
                        action="send the calibration with the scan, or start from line integrals",
                    )
            dark = self._sums[View.DARK] / self._counts[View.DARK]
            air = self._sums[View.AIR] / self._counts[View.AIR] - dark
            self._made = dark.astype(np.float32), np.maximum(air, 1.0).astype(np.float32)
        return self._made


def neighbours(odd: NDArray[np.bool_], channel: int) -> tuple[int, int, np.float32]:
    """Return the nearest channels below and above one that are not odd, and the weight of the upper one."""
    good = np.flatnonzero(~odd)
    low, high = good[good < channel], good[good > channel]
    if not low.size and not high.size:
        return channel, channel, np.float32(0)
    a = int(low[-1]) if low.size else int(high[0])
    b = int(high[0]) if high.size else a
    return a, b, np.float32((channel - a) / (b - a) if b > a else 0.0)
