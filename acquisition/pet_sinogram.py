"""Which two detectors a bin of a PET sinogram belongs to, for cylinders whose sinograms are not arc corrected.

Neighbouring crystals give neighbouring views; between two parallel lines of a view lies one of the next half view,
put into the same view (interleaving), so that 2 n crystals give n views. Bin ``n_bins // 2`` runs through the axis.
With crystal 0 at the top (-y) and indices growing towards the patient's left, as Siemens and STIR count them, this is

    first = view + floor(t / 2),  second = view - floor((t + 1) / 2) + n,  both modulo 2 n,  t = bin - n_bins // 2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def crystal_pairs(n_crystals: int, n_views: int, n_bins: int) -> NDArray[np.int32]:
    """Return the crystals of both detectors, shape (view, bin, 2).

    Parameters
    ----------
    n_crystals
        Crystals per ring, gaps included; even.
    n_views
        Views over half a turn; where there are fewer than ``n_crystals / 2``, neighbours were summed, and the first
        of them stands for all.
    n_bins
        Bins per view.
    """
    summed = n_crystals // 2 // n_views
    view, t = np.arange(n_views)[:, None] * summed, np.arange(n_bins)[None, :] - n_bins // 2
    first = (view + t // 2) % n_crystals
    second = (view - (t + 1) // 2 + n_crystals // 2) % n_crystals
    return np.stack([first, second], axis=-1).astype(np.int32)


def sinogram_bin(crystals: NDArray, n_crystals: int, n_bins: int) -> tuple[NDArray, NDArray, NDArray]:
    """Return view, bin and whether first and second detector are exchanged, of pairs of crystals: the inverse.

    Parameters
    ----------
    crystals
        Crystal in its ring of both detectors (event, 2).
    n_crystals, n_bins
        Crystals per ring and bins per view; bins outside lie below 0 or at `n_bins` and above.
    """
    first, second = crystals[:, 0].astype(np.int64), crystals[:, 1].astype(np.int64)
    half = n_crystals // 2
    t = (first - second + 3 * half) % n_crystals  # mod 2 n; a view later by n is the same line the other way round
    view = (first - t // 2) % n_crystals
    late = view >= half
    far = t >= half
    swapped = late != far
    t = np.where(late, np.where(far, t - n_crystals, -t), np.where(far, n_crystals - t, t))
    return np.where(late, view - half, view), t + n_bins // 2, swapped


def ring_pairs(n_rings: int, max_difference: int) -> NDArray[np.int32]:
    """Return the rings of both detectors of every plane without axial compression, shape (plane, 2).

    Segments follow each other as difference 0, +1, -1, +2 ...: first minus second ring. Within a segment the sum of
    the rings grows.
    """
    pairs = []
    for segment in (0, *(s * d for d in range(1, max_difference + 1) for s in (1, -1))):
        low = np.arange(n_rings - abs(segment))
        pairs.append(np.stack([low + max(segment, 0), low + max(-segment, 0)], axis=-1))
    return np.concatenate(pairs).astype(np.int32)
