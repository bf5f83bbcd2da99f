"""Rays measured twice: a patient who lay still between the two views gives the same line integral.

The line that joins two places of the focal spot is measured from both ends, half a turn apart (at the fan angle g,
after ``pi - 2 g``), with the table at rest as well as moving: on a helix it meets the detector ``D dz / (2 R cos g)``
above its middle, and as much below it from the other end, dz the table's way in between.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from acquisition.ct_geometry import fan_angles
from acquisition.scan import CtHeader

Floats = NDArray[np.float64]

_SEGMENTS = 6  # parts of a projection whose shifts are found apart


class Opposing:
    """Compares both measurements of the lines between two places of the focal spot, while the views come.

    Parameters
    ----------
    ct
        The scanner.
    angle_step_rad
        Angle from view to view, with the sign of the rotation [rad].
    z_step_mm
        Way of the focal spot from view to view [mm].
    """

    def __init__(self, ct: CtHeader, *, angle_step_rad: float, z_step_mm: float) -> None:
        fan = fan_angles(ct)
        pitch = ct.source_isocentre_mm * ct.pitch_mm[1] / ct.source_detector_mm
        reach = ct.source_isocentre_mm * float(np.sin(min(-fan[0], fan[-1])))
        self.places = pitch * (np.arange(2 * int(reach / pitch) - 1) - int(reach / pitch) + 1)
        gamma = np.arcsin(self.places / ct.source_isocentre_mm)
        self._later = gamma / angle_step_rad
        self._half = ct.views_per_rotation // 2
        self._first = _weights(np.interp(gamma, fan, np.arange(ct.n_channels)))
        self._second = _weights(np.interp(-gamma, fan, np.arange(ct.n_channels)))
        between = (self._half - 2 * self._later) * z_step_mm
        side = 1 if ct.detector == "cylindrical" else np.cos(gamma)
        row = ct.source_detector_mm / side * between / (2 * ct.source_isocentre_mm * np.cos(gamma)) / ct.pitch_mm[0]
        self._up, self._down = _weights(ct.centre[0] + row), _weights(ct.centre[0] - row)
        self.usable = np.abs(row) <= (ct.n_rows / 2 if z_step_mm else np.inf)
        self._top = ct.n_rows - 1
        self.reach = int(np.ceil(np.abs(self._later).max())) + 1

    @property
    def span(self) -> int:
        """Views from the first to the last that one pair of parallel projections needs."""
        return self._half + 2 * self.reach + 1

    def reduced(self, views: NDArray[np.float32]) -> Floats:
        """Return what the pairs need of line integrals (view, row, channel): (view, end of the line, place)."""
        return np.stack([self._across(views, self._first, self._up), self._across(views, self._second, self._down)], 1)

    def pair(self, reduced: Floats, at: int) -> tuple[Floats, Floats]:
        """Return a parallel projection and its opposite, over `places`.

        Parameters
        ----------
        reduced
            Of consecutive views, see `reduced`.
        at
            Index of the view whose central ray belongs to the projection; `reach` views before it and
            ``half a turn + reach`` after it must be there.
        """
        return _along(reduced[:, 0], at + self._later), _along(reduced[:, 1], at + self._half - self._later)

    def shifts_mm(self, one: Floats, two: Floats) -> tuple[Floats, Floats]:
        """Return how far the object moved between the two, by segment of the projection, and how surely.

        Returns
        -------
        shifts, information
            Least-squares shift of each segment [mm], and its information (sum of the squared slopes) [1/mm^2].
        """
        rest, mean = one - two, (one + two) / 2
        slope = np.gradient(mean, self.places)
        smooth = np.convolve(slope, [0.25, 0.5, 0.25], mode="same")
        parts = np.array_split(np.flatnonzero(self.usable), _SEGMENTS)
        information = np.array([np.square(smooth[p]).sum() for p in parts])
        shifts = np.array([(smooth[p] * rest[p]).sum() for p in parts]) / np.maximum(information, 1e-12)
        return shifts, information

    def _across(
        self,
        views: NDArray[np.float32],
        channels: tuple[NDArray[np.intp], Floats],
        rows: tuple[NDArray[np.intp], Floats],
    ) -> Floats:
        """Interpolate linearly between rows and channels."""
        (c, wc), (r, wr) = channels, rows
        c1 = np.minimum(c + 1, views.shape[2] - 1)
        low, high = np.clip(r, 0, self._top), np.clip(r + 1, 0, self._top)
        lower = (1 - wc) * views[:, low, c] + wc * views[:, low, c1]
        upper = (1 - wc) * views[:, high, c] + wc * views[:, high, c1]
        out: Floats = (1 - wr) * lower + wr * upper
        return out


def _along(reduced: Floats, when: Floats) -> Floats:
    """Interpolate linearly between views, another moment for each place."""
    early = np.floor(when).astype(np.intp)
    late, place = when - early, np.arange(len(when))
    out: Floats = (1 - late) * reduced[early, place] + late * reduced[early + 1, place]
    return out


def _weights(position: Floats) -> tuple[NDArray[np.intp], Floats]:
    low = np.floor(position).astype(np.intp)
    return low, position - low
