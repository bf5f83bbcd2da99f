"""Where the patient lies, from the views alone: the centre of mass of the parallel projections."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from acquisition.ct_geometry import fan_angles
from acquisition.scan import CtHeader

_BINS = 72  # directions
_ALL = 0.95  # part of its rays that a direction must have


class Moments:
    """Mass and first moment of the object by the direction of the rays, gathered from fan views of one turn at most.

    A parallel projection along the direction ``theta`` has its centre of mass at ``c . t(theta)``, the object's centre
    of mass c seen along t (see `acquisition.ct_geometry`).

    Parameters
    ----------
    ct
        The scanner.
    """

    def __init__(self, ct: CtHeader) -> None:
        self._ct = ct
        self._fan = fan_angles(ct)
        self._place = ct.source_isocentre_mm * np.sin(self._fan)
        steps = np.gradient(self._place)
        self._width = steps
        self._sums = np.zeros((3, _BINS))
        middle = (ct.n_rows - 1) / 2 if not 0 <= ct.centre[0] <= ct.n_rows - 1 else ct.centre[0]
        self._rows = sorted({int(np.floor(middle)), int(np.ceil(middle))})
        self.n_views = 0

    @property
    def full(self) -> bool:
        """Whether a whole turn is in."""
        return self.n_views >= self._ct.views_per_rotation

    def add(self, head: NDArray[np.void], lines: NDArray[np.float32]) -> None:
        """Take the next views' line integrals (view, row, channel); what goes beyond one turn is left out."""
        n = min(len(head), self._ct.views_per_rotation - self.n_views)
        if n <= 0:
            return
        mass = lines[:n, self._rows].mean(axis=1, dtype=np.float64) * self._width
        theta = np.mod(head["angle_rad"][:n, None] - self._fan, 2 * np.pi)
        bins = np.minimum((theta * (_BINS / (2 * np.pi))).astype(np.intp), _BINS - 1).ravel()
        for k, values in enumerate((np.ones_like(mass), mass, mass * self._place)):
            self._sums[k] += np.bincount(bins, values.ravel(), _BINS)
        self.n_views += n

    def centre_mm(self) -> tuple[float, float] | None:
        """Return the centre of mass (x, y) LPS [mm]; None where the directions do not suffice, or nothing is there."""
        count, mass, moment = self._sums
        expected = self._ct.views_per_rotation * self._ct.n_channels / _BINS
        known = (count > _ALL * expected) & (mass > 0)
        if known.sum() < _BINS // 8:
            return None
        theta = (np.flatnonzero(known) + 0.5) * (2 * np.pi / _BINS)
        across = np.stack([-np.sin(theta), np.cos(theta)], axis=1)
        x, y = np.linalg.lstsq(across * mass[known, None], moment[known], rcond=None)[0].tolist()
        return x, y
