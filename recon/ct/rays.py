"""The rays of parallel views, and where the fan views of a resting or flying focal spot measured them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from acquisition.ct_geometry import fan_angles
from acquisition.errors import DataError
from acquisition.scan import CtHeader

Floats = NDArray[np.float64]
Shift = tuple[float, float, float]

SHIFTS = ("angle_shift_rad", "z_shift_mm", "radius_shift_mm")
"""Fields of `VIEW_HEAD` that say where the focal spot flew, in the order of a `Shift`."""
WIDEST = 0.95
"""Part of the focal spot's distance from the axis to which rays can be extended."""
_PATTERNS = (1, 2, 4)
_APART = 0.25  # part of an element's distance from which focal spots are worth a denser raster


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """How the focal spot moves: the same step from view to view."""

    angle_rad: float
    """Angle of view 0 [rad]."""
    angle_step_rad: float
    """Step of the angle, with the sign of the rotation [rad]."""
    z_mm: float
    """z of view 0 [mm]."""
    z_step_mm: float
    """Step along z, with the sign of the table's motion [mm]."""
    shifts: tuple[Shift, ...] = ((0.0, 0.0, 0.0),)
    """Flying focal spot: (angle [rad], z [mm], radius [mm]) of successive views, repeated."""

    @property
    def parallel(self) -> Path:
        """The path in steps of parallel views, one for each round of the focal spot."""
        n = len(self.shifts)
        return replace(self, angle_step_rad=n * self.angle_step_rad, z_step_mm=n * self.z_step_mm)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rays:
    """A raster of columns and rows, and where each focal spot sees it.

    A flying focal spot measures between the channels, between the rows, or both; the raster is then twice as dense,
    and each ray is taken from the spot that measured next to it (Flohr et al., Med Phys 2005;32:2536,
    DOI 10.1118/1.1949787). A ray keeps the height at which it passes the axis.
    """

    start_mm: float
    """Signed distance of column 0 from the axis [mm]; columns lie symmetric to it."""
    pitch_mm: float
    """Distance of columns [mm]."""
    dense: int
    """Columns per channel."""
    row0: float
    """Row that meets the isocentre."""
    row_pitch_mm: float
    """Distance of rows at the detector [mm]."""
    measured: slice
    """Columns within the fan."""
    heights_mm: Floats
    """Height of each row at the detector [mm]."""
    later: Floats
    """How many fan views after the parallel view's own the resting spot measures a column."""
    depth_mm: Floats
    """Resting spot to the point nearest the axis, along a column's projection [mm]."""
    reach_mm: Floats
    """Resting spot to the detector, likewise [mm]."""
    sources: tuple[Floats, Floats, Floats, NDArray[np.intp]]
    """Fan views later and channel (spot, column), row (spot, row, column), and the spot that serves (row, column)."""

    @property
    def places_mm(self) -> Floats:
        """Signed distance of each column from the axis [mm]."""
        return self.start_mm + np.arange(len(self.later), dtype=np.float64) * self.pitch_mm


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Spot:
    """What one focal spot sees, per channel, in the frame of its view's angle."""

    p_mm: Floats
    """Signed distance of the ray from the axis."""
    later_rad: Floats
    """Angle of the parallel view before that of the fan view, with the opposite sign."""
    lift_mm: Floats
    """Height at the detector that the spot's own height is worth, at the axis."""
    gain: Floats
    """Height at the detector that 1 mm of a row's height is worth, at the axis."""


def shifts_of(head: NDArray[np.void], where: str) -> tuple[Shift, ...]:
    """Return the flying focal spot's pattern, from the first views of a scan.

    Raises
    ------
    DataError
        The spot does not repeat after 1, 2 or 4 views.
    """
    flown = np.stack([head[name] for name in SHIFTS], axis=-1).astype(float)
    for n in _PATTERNS:
        if np.allclose(flown[n:], flown[:-n], rtol=1e-3, atol=1e-6):
            return tuple((float(a), float(z), float(r)) for a, z, r in flown[:n])
    raise DataError(where, expected="a focal spot that repeats after 1, 2 or 4 views", got="another pattern")


def rays_of(ct: CtHeader, path: Path, *, extend_mm: float = 0.0) -> Rays:
    """Return the raster of parallel views made from the fans of `ct` along `path`, wider than the fan on each side."""
    fan, reach = fan_angles(ct), ct.source_isocentre_mm
    spots = [_spot(ct, shift) for shift in path.shifts]
    middle = int(np.clip(round(ct.centre[1]), 1, ct.n_channels - 1))
    pitch = reach * ct.pitch_mm[1] / ct.source_detector_mm
    along = 2 if np.ptp([s.p_mm[middle] for s in spots]) > _APART * pitch else 1
    across = 2 if np.ptp([s.lift_mm[middle] for s in spots]) > _APART * ct.pitch_mm[0] else 1
    widest = reach * np.sin(max(-fan[0], fan[-1]))
    n = 2 * int(np.floor(min(widest + extend_mm, WIDEST * reach) * along / pitch)) + 1
    p: Floats = (np.arange(n, dtype=np.float64) - (n - 1) / 2) * (pitch / along)
    gamma = np.arcsin(p / reach)
    heights = (np.arange(across * ct.n_rows) - (across - 1) / 2) / across * ct.pitch_mm[0] - ct.centre[0] * ct.pitch_mm[
        0
    ]
    detector = ct.source_detector_mm / (np.ones(n) if ct.detector == "cylindrical" else np.cos(gamma))
    return Rays(
        start_mm=float(p[0]),
        pitch_mm=pitch / along,
        dense=along,
        row0=across * ct.centre[0] + (across - 1) / 2,
        row_pitch_mm=ct.pitch_mm[0] / across,
        measured=_within(p, (reach * float(np.sin(fan[0])), reach * float(np.sin(fan[-1])))),
        heights_mm=heights,
        later=gamma / path.angle_step_rad,
        depth_mm=reach * np.cos(gamma),
        reach_mm=detector,
        sources=_sources(ct, path, spots, (p, heights)),
    )


def _within(p: Floats, ends: tuple[float, float]) -> slice:
    inside = np.flatnonzero((p >= ends[0]) & (p <= ends[1]))
    return slice(int(inside[0]), int(inside[-1]) + 1)


def _spot(ct: CtHeader, shift: Shift) -> _Spot:
    angle, z, radius = shift
    fan, far = fan_angles(ct), ct.source_isocentre_mm
    rest = ct.source_detector_mm / (np.ones_like(fan) if ct.detector == "cylindrical" else np.cos(fan))
    along, across = (far + radius) * np.cos(angle), (far + radius) * np.sin(angle)
    back, side = along - (far - rest * np.cos(fan)), across - rest * np.sin(fan)
    turned = np.arctan2(side, back)
    p = across * np.cos(turned) - along * np.sin(turned)
    depth, reach = along * np.cos(turned) + across * np.sin(turned), np.hypot(back, side)
    canonical = rest / (far * np.cos(fan))
    return _Spot(
        p_mm=p,
        later_rad=-turned,
        lift_mm=z * (1 - depth / reach) * canonical,
        gain=depth / reach * canonical,
    )


def _sources(
    ct: CtHeader, path: Path, spots: list[_Spot], raster: tuple[Floats, Floats]
) -> tuple[Floats, Floats, Floats, NDArray[np.intp]]:
    """Return where each spot has the raster's rays, and which spot measured nearest to each."""
    p, heights = raster
    channels = np.arange(ct.n_channels, dtype=float)
    channel = np.stack([np.interp(p, s.p_mm, channels, left=-1, right=-1) for s in spots])
    later = np.stack([np.interp(p, s.p_mm, s.later_rad) for s in spots]) / path.angle_step_rad
    lift = np.stack([np.interp(p, s.p_mm, s.lift_mm) for s in spots])[:, None, :]
    gain = np.stack([np.interp(p, s.p_mm, s.gain) for s in spots])[:, None, :]
    row = (heights[:, None] - lift) / gain / ct.pitch_mm[0] + ct.centre[0]
    off = np.square(channel - np.round(channel))[:, None, :] + np.square(row - np.round(row))
    off += 1e3 * (channel < 0)[:, None, :]
    return later, channel, row, np.argmin(np.round(off, 3), axis=0)
