"""Corrections of PET data that need no image: decay, branching, dead time, attenuation from CT.

Every one reads the same `TimeFrame`. Conventions: activity is that at the start of the scan unless told otherwise.
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.special import lambertw

from acquisition.errors import ConfigError, DataError
from acquisition.geometry import Grid
from acquisition.items import Image, TimeFrame
from acquisition.scan import Tracer

Floats = NDArray[np.float64]

_SIGMA = 1 / np.sqrt(8 * np.log(2))


def decay_factor(tracer: Tracer, frame: TimeFrame, *, reference_s: float = 0.0) -> float:
    """Return what the mean activity of a frame is multiplied with to be that at `reference_s` [s] of the scan.

    ``lambda T / (exp(-lambda t0) - exp(-lambda t1))``, times counted from the reference; over all parts of the frame.

    Raises
    ------
    DataError
        The half-life or the frame's length is not above 0.
    """
    if not (tracer.half_life_s > 0 and frame.duration_s > 0):
        raise DataError(
            "decay correction",
            expected="a half-life and a frame longer than 0 s",
            got=f"{tracer.half_life_s} s, {frame.duration_s} s",
            action="check the tracer in the header",
        )
    return frame.duration_s / frame.equivalent_s(tracer.half_life_s, reference_s=reference_s)


def rate_factor(tracer: Tracer, frame: TimeFrame, *, reference_s: float = 0.0) -> float:
    """Return what counts of a frame are multiplied with to be decays per second at the reference.

    Decay, branching and the frame's length together [1/s].

    Raises
    ------
    DataError
        Half-life, length or branching is not above 0.
    """
    if not 0 < tracer.branching <= 1:
        raise DataError("branching", expected="more than 0, at most 1", got=str(tracer.branching))
    return decay_factor(tracer, frame, reference_s=reference_s) / (tracer.branching * frame.duration_s)


def live_part(counted_per_s: ArrayLike, dead_time_s: float) -> Floats:
    """Return the part of the photons that a paralysable detector counts, from what it counted.

    Solves ``m = s exp(-s tau)`` for the lower of both rates s.

    Parameters
    ----------
    counted_per_s
        Photons counted [1/s], any shape.
    dead_time_s
        tau [s].

    Raises
    ------
    DataError
        More was counted than a detector of this dead time can.
    """
    counted = np.asarray(counted_per_s, float)
    most = np.exp(-1) / dead_time_s if dead_time_s > 0 else np.inf
    if dead_time_s < 0 or (counted > most).any():
        raise DataError(
            "dead time",
            expected=f"0 s or more, and at most {most:.0f} counts per s",
            got=f"{dead_time_s} s and {counted.max(initial=0):.0f} per s",
            action="check the dead time of this scanner",
        )
    return np.exp(np.real(lambertw(-counted * dead_time_s)))


PER_MM = MappingProxyType({"1/mm": 1.0, "1/cm": 0.1})
"""Units of attenuation, in 1/mm."""

_KVP = (80.0, 100.0, 120.0, 140.0)
_CT_SLOPES = MappingProxyType(
    {
        "GE": {
            80.0: (50.0, 9.60e-3, 9.6e-6, 9.89e-3, 3.84e-6),
            100.0: (50.0, 9.60e-3, 9.6e-6, 9.85e-3, 4.56e-6),
            120.0: (50.0, 9.60e-3, 9.6e-6, 9.82e-3, 5.11e-6),
            140.0: (50.0, 9.60e-3, 9.6e-6, 9.80e-3, 5.60e-6),
        },
        "": {120.0: (0.0, 9.60e-3, 9.6e-6, 9.60e-3, 5.73e-6)},
    }
)
"""By vendor and kV: HU at the break, then offset and slope below and above it [1/mm] (STIR's ct_slopes.json)."""


def mu_of_hu(hu: ArrayLike, *, kvp: float = 120.0, vendor: str = "") -> NDArray[np.float32]:
    """Return the attenuation at 511 keV [1/mm] of CT numbers: one line for soft tissue, one for bone.

    Parameters
    ----------
    hu
        CT numbers [HU], any shape.
    kvp
        Tube voltage of the CT [kV].
    vendor
        Manufacturer of the CT; those without a table of their own take the general one, which is for 120 kV.

    Raises
    ------
    ConfigError
        No table is for this voltage.
    """
    table = _CT_SLOPES["GE" if vendor.upper().startswith("GE") else ""]
    if kvp not in table and kvp in _KVP:
        table = _CT_SLOPES["GE"]
    if kvp not in table:
        raise ConfigError("CT to mu: kvp", expected=f"one of {', '.join(f'{k:.0f}' for k in _KVP)} kV", got=str(kvp))
    at, low, low_slope, high, high_slope = table[kvp]
    values = np.asarray(hu, np.float32)
    mu = np.where(values < at, low + low_slope * values, high + high_slope * values)
    return np.maximum(mu, 0).astype(np.float32)


def mu_map(ct: Image, grid: Grid, *, fwhm_mm: float = 5.0, kvp: float = 120.0, vendor: str = "") -> Image:
    """Return the attenuation at 511 keV of a CT volume on the grid of a PET image, as smooth as PET sees it [1/mm].

    Parameters
    ----------
    ct
        Volume (z, y, x) [HU].
    grid
        Where the voxels are wanted; outside the CT there is air.
    fwhm_mm
        Resolution of PET, FWHM [mm]; 0: not smoothed.
    kvp, vendor
        As in `mu_of_hu`.

    Raises
    ------
    DataError
        The image is not a volume in HU.
    """
    if ct.unit != "HU" or ct.data.ndim != 3:
        raise DataError("CT to mu", expected="a volume (z, y, x) in HU", got=f"{ct.data.shape} in {ct.unit}")
    mu = mu_of_hu(ct.data, kvp=kvp, vendor=vendor)
    if fwhm_mm > 0:
        mu = gaussian_filter(mu, [fwhm_mm * _SIGMA / s for s in ct.grid.spacing_mm], mode="nearest")
    return Image(data=_brought(mu, ct.grid, grid), grid=grid, unit="1/mm", output="mu")


def mu_on(mu: Image, grid: Grid) -> Image:
    """Return a map of attenuation on another grid, outside of it air [1/mm].

    Raises
    ------
    DataError
        The image is no volume in 1/mm or 1/cm.
    """
    if mu.unit not in PER_MM or mu.data.ndim != 3:
        raise DataError("mu map", expected="a volume (z, y, x) in 1/mm or 1/cm", got=f"{mu.data.shape} in {mu.unit}")
    values = np.maximum(np.asarray(mu.data, np.float32), 0) * np.float32(PER_MM[mu.unit])
    return Image(data=_brought(values, mu.grid, grid), grid=grid, unit="1/mm", output="mu")


def _brought(values: NDArray[np.float32], own: Grid, grid: Grid) -> NDArray[np.float32]:
    """Return the values at the voxels of another grid; where there are none, 0."""
    to_own = np.linalg.inv(own.affine) @ grid.affine
    z, y, x = np.meshgrid(*(np.arange(n, dtype=float) for n in grid.shape), indexing="ij", sparse=True)
    places = [to_own[i, 0] * x + to_own[i, 1] * y + to_own[i, 2] * z + to_own[i, 3] for i in (2, 1, 0)]
    return np.asarray(map_coordinates(values, np.broadcast_arrays(*places), order=1, mode="grid-constant", cval=0.0))
