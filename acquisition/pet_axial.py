"""How far a patient slid along the scanner, from where events lie along its axis.

The centre of all events says little there: of a body longer than the scanner, as much comes in at one end as leaves at
the other. Its profile tells more: activity, that is counts over the sensitivity of each plane, is moved until it
explains the counts behind the motion. The whole cross-section is one profile: of parts of it, each would also change
where the patient moves across.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from acquisition.scan import PetHeader

Floats = NDArray[np.float64]

_BIN_MM = 4.0
_FARTHEST_MM = 60.0
_STEP_MM = 0.5
_SEEN = 0.2  # of the sensitivity of the best plane
_SMOOTH = np.array([0.25, 0.5, 0.25])


class AxialProfile:
    """Counts along the axis of a scanner, and how far they moved.

    Parameters
    ----------
    pet
        The scanner.
    detectors
        Where its detectors are (detector, 3) [mm].
    """

    def __init__(self, pet: PetHeader, detectors: Floats) -> None:
        rings = detectors[:, 2].reshape(pet.n_rings, -1).mean(axis=1)
        half = max(float(np.ptp(rings)) / max(pet.n_rings - 1, 1) / 2, 0.1)
        width = half * max(1, round(_BIN_MM / half))  # lines between rings lie in the middle of bins
        n = max(2, int(np.ceil(np.ptp(rings) / width)) + 1)
        self._edges = (rings.min() + rings.max()) / 2 + width * (np.arange(n + 1) - n / 2)
        most = pet.n_rings if pet.max_ring_difference is None else pet.max_ring_difference
        one, other = np.indices((pet.n_rings, pet.n_rings))
        met = np.abs(one - other) <= most
        middles = ((rings[:, None] + rings[None, :]) / 2)[met]
        found = np.histogram(middles, self._edges)[0].astype(float)
        self._sensitivity = np.convolve(np.pad(found, 1, mode="edge"), _SMOOTH, mode="valid")

    @property
    def n_planes(self) -> int:
        """Length of a profile."""
        return len(self._edges) - 1

    def counts(self, planes_mm: Floats) -> Floats:
        """Return the profile (plane,) of events with the middle of their lines at `planes_mm` (event,) [mm]."""
        at = np.searchsorted(self._edges, planes_mm, side="right") - 1
        use = (at >= 0) & (at < self.n_planes)
        return np.bincount(at[use], minlength=self.n_planes).astype(float)

    def shift_mm(self, before: Floats, behind: Floats) -> tuple[float, float]:
        """Return how far the activity moved along the axis [mm], and by how much that explains the counts better.

        Parameters
        ----------
        before, behind
            Counts (plane,) before and behind the motion.

        Returns
        -------
        tuple
            The shift; chi-square per place at rest less that at the shift, times the number of places.
        """
        good = self._sensitivity > _SEEN * self._sensitivity.max()
        activity = np.convolve(np.pad(before, 1, mode="edge"), _SMOOTH, mode="valid")
        activity = np.divide(activity, self._sensitivity, out=np.zeros_like(activity), where=good)
        z = (self._edges[1:] + self._edges[:-1]) / 2
        shifts = np.arange(-_FARTHEST_MM, _FARTHEST_MM + _STEP_MM / 2, _STEP_MM)
        reach = min(_FARTHEST_MM, 0.4 * float(np.ptp(z[good])))
        shifts = shifts[np.abs(shifts) <= reach]
        misfit = np.array([self._misfit(activity, before.sum(), behind, z, good, d) for d in shifts])
        best = int(misfit.argmin())
        places = int(good.sum())
        return float(shifts[best]), float((misfit[np.abs(shifts).argmin()] - misfit[best]) * places)

    def _misfit(self, activity: Floats, total: float, behind: Floats, z: Floats, good: NDArray, shift: float) -> float:
        """Return chi-square per place of the counts behind, where what came from outside is not asked."""
        low, high = z[good][[0, -1]]
        use = good & (z - shift >= low - 1e-6) & (z - shift <= high + 1e-6)
        moved = np.interp(z[use] - shift, z[good], activity[good]) * self._sensitivity[use]
        counted = behind[use]
        moved = moved * (counted.sum() / max(moved.sum(), 1e-9))
        noise = np.maximum(counted, 1.0) + moved * behind.sum() / max(total, 1.0)
        return float(((counted - moved) ** 2 / noise).mean())
