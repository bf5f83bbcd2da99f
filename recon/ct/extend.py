"""What the fan cuts off: whether the patient leaves it, and rows completed as if by a cylinder of water.

Hsieh et al., Med Phys 2004;31:2385, DOI 10.1118/1.1776673.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from acquisition.ct_geometry import fan_angles
from acquisition.scan import CtHeader
from acquisition.verdict import Level, Verdict
from recon.ct.redundancy import moved_aside

CUT_OFF = 0.1
"""Line integral in the outermost channels from which the fan cuts the patient off."""
_FITTED = 8  # columns at the edge from which the cylinder is fitted


def ends(ct: CtHeader) -> tuple[int, ...]:
    """Return the channels beyond which nothing is measured: the first and the last, of a detector moved aside one."""
    first, last = fan_angles(ct)[[0, -1]]
    if moved_aside(-first, last):
        return (0,) if -first > last else (-1,)
    return (0, -1)


def at_edge(lines: NDArray[np.float32]) -> float:
    """Return the largest line integral of outermost channels (view, row, end), averaged over the rows."""
    return float(lines.mean(axis=1).max(initial=0.0))


def truncation(edge: float, *, hu: str) -> Verdict:
    """Return what to tell of a patient who attenuates by `edge` at the edge of the fan; HU there are `hu`."""
    cut = edge > CUT_OFF
    return Verdict(
        check="ct.truncation",
        level=Level.FLAG if cut else Level.PASS,
        advice=f"The patient reaches beyond the fan: HU at the edge of the field are {hu}."
        if cut
        else "All within the fan.",
        value=edge,
        limit=CUT_OFF,
        evidence="largest line integral in the outermost channels, averaged over the rows",
    )


def complete(
    rows: NDArray[np.float32],
    measured: slice,
    *,
    places_mm: NDArray[np.float64],
    mu_per_mm: float,
    sides: tuple[int, ...] = (0, -1),
) -> None:
    """Complete rows of line integrals beyond what was measured, in place.

    The cylinder has the value and the slope of the row at the edge of the fan; it ends where its chord does.

    Parameters
    ----------
    rows
        Line integrals (view, row, column).
    measured
        Columns that were measured.
    places_mm
        Where the columns pass the depth of the axis, growing, (column,) [mm].
    mu_per_mm
        Attenuation of water [1/mm].
    sides
        Which ends to complete: 0 before the first measured column, -1 after the last.
    """
    last = measured.stop - 1
    outwards = {
        0: (slice(measured.start, None, -1), slice(measured.start, measured.start + _FITTED)),
        -1: (slice(last, None), slice(last, last - _FITTED, -1)),
    }
    for side in sides:
        beyond, inside = outwards[side]
        at, away = (np.abs(places_mm[part] - places_mm[beyond.start]).astype(np.float32) for part in (inside, beyond))
        _outwards(rows[..., beyond], rows[..., inside], at, away, mu_per_mm)


def _outwards(
    beyond: NDArray[np.float32],
    inside: NDArray[np.float32],
    at_mm: NDArray[np.float32],
    away_mm: NDArray[np.float32],
    mu_per_mm: float,
) -> None:
    """Write the columns after the first one of `beyond`; `inside` runs from the edge inwards."""
    if len(away_mm) < 2:
        return
    slope, edge = np.polynomial.polynomial.polyfit(at_mm, inside.reshape(-1, len(at_mm)).T, 1)[::-1]
    edge = np.maximum(edge, 0).reshape((*inside.shape[:-1], 1))
    falling = np.maximum(slope, 0).reshape(edge.shape)
    offset = edge * falling / (4 * mu_per_mm**2)
    square = (edge / (2 * mu_per_mm)) ** 2 + offset**2
    beyond[..., 1:] = 2 * mu_per_mm * np.sqrt(np.maximum(square - (offset + away_mm[1:]) ** 2, 0))
