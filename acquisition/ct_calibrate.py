"""The water calibration: the polynomial that makes water's line integrals straight, from a scan of a water phantom."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acquisition.ct_geometry import fan_angles, row_heights_mm
from acquisition.ct_moments import Moments
from acquisition.errors import DataError, HeaderError
from acquisition.scan import CtHeader, Scan

Floats = NDArray[np.float64]

_EDGE = 0.985  # of the radius; beyond it a channel sees the phantom's wall
_MOST_RAYS = 400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WaterFit:
    """What a water calibration found."""

    coefficients: tuple[float, ...]
    """c1, c2, ... for ct.beam_hardening."""
    centre_mm: tuple[float, float]
    """Where the phantom lay, LPS [mm]."""
    residual: float
    """Root mean square of what is left, in line integrals."""
    largest: float
    """Largest measured line integral that the fit knows; beyond it the polynomial is a guess."""


def fit_water(
    scan: Scan, head: NDArray[np.void], lines: NDArray[np.float32], *, radius_mm: float, degree: int = 4
) -> WaterFit:
    """Fit ``mu_water * length = c1 p + c2 p^2 + ...`` over the rays through a cylinder of water.

    Parameters
    ----------
    scan
        The scan; its header says what water attenuates [1/mm].
    head, lines
        Its views and their line integrals after ct.air (view, row, channel); at least a quarter turn more than the fan.
    radius_mm
        Radius of the cylinder of water [mm]. It lies along the axis and is longer than the detector sees.
    degree
        Degree of the polynomial.

    Raises
    ------
    HeaderError
        The header does not say what water attenuates.
    DataError
        The phantom cannot be found, or its rays do not fix a polynomial of this degree.
    """
    ct = scan.require_ct()
    if not ct.mu_water_per_mm:
        raise HeaderError(f"scan {scan.uid}: mu_water_per_mm", expected="the attenuation of water", got="none")
    centre = _centre(scan, head, lines)
    p, wanted = _rays(ct, (head, lines), centre, radius_mm)
    if len(p) < 100 * degree or np.ptp(p) < 0.5:
        raise DataError(
            f"scan {scan.uid}: water calibration",
            expected=f"rays through a cylinder of {radius_mm:g} mm radius",
            got=f"{len(p)} rays",
            action="check radius_mm and the phantom's place",
        )
    powers = p[:, None] ** np.arange(1, degree + 1)
    coefficients = np.linalg.lstsq(powers, wanted, rcond=None)[0]
    rest = powers @ coefficients - wanted
    return WaterFit(
        coefficients=tuple(float(c) for c in coefficients),
        centre_mm=centre,
        residual=float(np.sqrt(np.square(rest).mean())),
        largest=float(p.max()),
    )


def _centre(scan: Scan, head: NDArray[np.void], lines: NDArray[np.float32]) -> tuple[float, float]:
    """Return where the phantom lies."""
    moments = Moments(scan.require_ct())
    moments.add(head, lines)
    centre = moments.centre_mm()
    if centre is None:
        raise DataError(
            f"scan {scan.uid}: water calibration",
            expected="a phantom, seen over a quarter turn more than the fan",
            got=f"{len(head)} views",
            action="scan a full turn",
        )
    return centre


def _rays(
    ct: CtHeader, views: tuple[NDArray[np.void], NDArray[np.float32]], centre: tuple[float, float], radius_mm: float
) -> tuple[Floats, Floats]:
    """Return the measured line integrals of rays through the cylinder, and what they should be."""
    head, lines = views
    fan = fan_angles(ct)
    theta = head["angle_rad"][:, None] - fan
    place = ct.source_isocentre_mm * np.sin(fan) + centre[0] * np.sin(theta) - centre[1] * np.cos(theta)
    chord = 2 * np.sqrt(np.maximum(radius_mm**2 - place**2, 0))
    reach = ct.source_detector_mm / (np.ones_like(fan) if ct.detector == "cylindrical" else np.cos(fan))
    tilt = np.hypot(row_heights_mm(ct)[:, None], reach) / reach
    water = (ct.mu_water_per_mm or 0.0) * chord[:, None, :] * tilt
    inside = np.broadcast_to((np.abs(place) < _EDGE * radius_mm)[:, None, :], lines.shape)
    step = max(1, int(inside.sum()) // _MOST_RAYS)
    return lines[inside][::step].astype(float), water[inside][::step]
