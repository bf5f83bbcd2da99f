"""How good CT images are, in the physicist's numbers: noise power, HU, uniformity, contrast; sharpness is in `mtf`.

Every function takes slices (y, x) with the places of their pixels and gives numbers; nothing is shown, nothing kept.
Frequencies are in line pairs per cm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import DataError
from acquisition.geometry import Grid

Floats = NDArray[np.float64]

_LEAST_PIXELS = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slice:
    """One slice and where its pixels are."""

    hu: NDArray
    """Values (y, x) [HU]."""
    xs_mm: Floats
    """x of the columns, evenly spaced [mm]."""
    ys_mm: Floats
    """y of the rows, evenly spaced [mm]."""

    @property
    def pixel_mm(self) -> float:
        """Distance of pixels [mm]."""
        return float(self.xs_mm[1] - self.xs_mm[0])

    def disc(self, centre_mm: tuple[float, float], radius_mm: float) -> NDArray:
        """Return the values within `radius_mm` of `centre_mm` (x, y), shape (n,).

        Raises
        ------
        DataError
            No pixel lies there.
        """
        values: NDArray = self.hu[self.distance_mm(centre_mm) <= radius_mm]
        if not values.size:
            raise DataError("region", expected="pixels in it", got=f"none within {radius_mm:g} mm of {centre_mm} mm")
        return values

    def distance_mm(self, centre_mm: tuple[float, float]) -> Floats:
        """Return each pixel's distance from a point (x, y) [mm], shape (y, x)."""
        return np.hypot(self.xs_mm[None, :] - centre_mm[0], self.ys_mm[:, None] - centre_mm[1])


def slice_of(data: NDArray, grid: Grid) -> Slice:
    """Return slice 0 of an axial image (z, y, x) with the places of its pixels."""
    return Slice(
        hu=data[0],
        xs_mm=np.arange(grid.shape[2], dtype=np.float64) * grid.spacing_mm[2] + grid.origin_mm[0],
        ys_mm=np.arange(grid.shape[1], dtype=np.float64) * grid.spacing_mm[1] + grid.origin_mm[1],
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NoisePower:
    """A noise power spectrum."""

    power: Floats
    """Power (fy, fx), zero frequency first [HU^2 mm^2]."""
    pixel_mm: float
    """Distance of pixels [mm]."""

    @property
    def variance(self) -> float:
        """The integral over all frequencies: the variance of the pixels [HU^2]."""
        ny, nx = self.power.shape
        return float(self.power.sum() / (ny * nx * self.pixel_mm**2))

    def radial(self) -> tuple[Floats, Floats]:
        """Return frequencies [lp/cm] and the power averaged over directions [HU^2 mm^2], to the Nyquist frequency."""
        ny, nx = self.power.shape
        fy, fx = np.fft.fftfreq(ny, self.pixel_mm)[:, None], np.fft.fftfreq(nx, self.pixel_mm)[None, :]
        f, values = by_radius(np.hypot(fy, fx), self.power, 1 / (min(ny, nx) * self.pixel_mm))
        keep = f <= 0.5 / self.pixel_mm
        return 10 * f[keep], values[keep]

    @property
    def mean_lp_per_cm(self) -> float:
        """Mean frequency of the radial spectrum: high for fine grain [lp/cm]."""
        f, power = self.radial()
        return float((f * power)[1:].sum() / power[1:].sum())


def noise_power(regions: NDArray, *, pixel_mm: float) -> NoisePower:
    """Return the noise power spectrum of uniform regions.

    From each region its plane is taken out; what that takes of the variance is given back evenly (three of the n
    values). ICRU Report 87; Solomon et al., Med Phys 2012;39:6048, DOI 10.1118/1.4751020.

    Parameters
    ----------
    regions
        Squares of nothing but noise (n, y, x) [HU], e.g. from several slices.
    pixel_mm
        Distance of pixels [mm].

    Raises
    ------
    DataError
        The regions are no stack of squares large enough.
    """
    if regions.ndim != 3 or min(regions.shape[1:]) < _LEAST_PIXELS or not len(regions):
        raise DataError("NPS", expected=f"regions (n, y, x) of at least {_LEAST_PIXELS} pixels", got=str(regions.shape))
    _, ny, nx = regions.shape
    y, x = np.mgrid[:ny, :nx]
    plane = np.stack([np.ones(ny * nx), x.ravel(), y.ravel()], axis=1)
    flat = regions.reshape(len(regions), -1).astype(float)
    rest = flat - (flat @ np.linalg.pinv(plane).T) @ plane.T
    spectra = np.abs(np.fft.fft2(rest.reshape(regions.shape))) ** 2
    power = spectra.mean(axis=0) * pixel_mm**2 / (ny * nx) * (ny * nx / (ny * nx - 3))
    return NoisePower(power=power, pixel_mm=pixel_mm)


def squares(image: Slice, *, centres_mm: Sequence[tuple[float, float]], side_mm: float) -> NDArray:
    """Return squares cut out of a slice around some points (x, y) [mm], shape (n, pixels, pixels).

    Raises
    ------
    DataError
        One reaches beyond the image.
    """
    n = max(2, round(side_mm / image.pixel_mm))
    out = []
    for x, y in centres_mm:
        row = round(float((y - image.ys_mm[0]) / image.pixel_mm)) - n // 2
        column = round(float((x - image.xs_mm[0]) / image.pixel_mm)) - n // 2
        part = image.hu[max(row, 0) : row + n, max(column, 0) : column + n]
        if part.shape != (n, n):
            raise DataError(
                "region", expected=f"a square of {side_mm:g} mm in the image", got=f"around {x:g}, {y:g} mm"
            )
        out.append(part)
    return np.stack(out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was measured in one insert."""

    mean: float
    """Mean [HU]."""
    deviation: float
    """Mean less the nominal value [HU]."""
    noise: float
    """Standard deviation [HU]."""


def hu_accuracy(
    image: Slice, *, inserts: Mapping[str, tuple[tuple[float, float], float]], radius_mm: float
) -> dict[str, Reading]:
    """Return what each insert measures.

    Parameters
    ----------
    image
        The slice.
    inserts
        By name: centre (x, y) [mm] and nominal value [HU].
    radius_mm
        Radius of the region, smaller than the insert's [mm].
    """
    out = {}
    for name, (centre, nominal) in inserts.items():
        values = image.disc(centre, radius_mm)
        mean = float(values.mean(dtype=np.float64))
        out[name] = Reading(mean=mean, deviation=mean - nominal, noise=float(values.std(dtype=np.float64)))
    return out


def uniformity(
    image: Slice, *, centre_mm: tuple[float, float], radius_mm: float, region_mm: float = 10.0
) -> tuple[float, float]:
    """Return how much the rim of a uniform disc differs from its middle, and the mean of the middle.

    Parameters
    ----------
    image
        The slice.
    centre_mm
        Centre of the disc (x, y) [mm].
    radius_mm
        Distance of the four outer regions from it [mm].
    region_mm
        Radius of each region [mm].

    Returns
    -------
    largest, middle
        Largest difference of an outer region from the middle, with its sign, and the middle itself [HU].
    """
    x, y = centre_mm
    middle = float(image.disc(centre_mm, region_mm).mean(dtype=np.float64))
    places = ((x + radius_mm, y), (x - radius_mm, y), (x, y + radius_mm), (x, y - radius_mm))
    outer = [float(image.disc(place, region_mm).mean(dtype=np.float64)) - middle for place in places]
    return max(outer, key=abs), middle


def contrast_to_noise(
    image: Slice,
    *,
    insert_mm: tuple[float, float],
    background_mm: tuple[float, float],
    radius_mm: float,
) -> float:
    """Return the contrast of an insert against its background, over the background's noise.

    Parameters
    ----------
    image
        The slice.
    insert_mm, background_mm
        Centres of both regions (x, y) [mm].
    radius_mm
        Their radius [mm].

    Raises
    ------
    DataError
        The background has no noise.
    """
    inside, outside = image.disc(insert_mm, radius_mm), image.disc(background_mm, radius_mm)
    noise = float(outside.std(dtype=np.float64))
    if noise == 0:
        raise DataError("CNR", expected="a background with noise", got="none")
    return float(inside.mean(dtype=np.float64) - outside.mean(dtype=np.float64)) / noise


def by_radius(f: Floats, values: Floats, step: float) -> tuple[Floats, Floats]:
    """Return the mean frequency and the mean value of rings of width `step` around frequency 0."""
    ring = np.floor(f / step + 0.5).astype(int).ravel()
    count = np.bincount(ring)
    known = count > 0
    mean_f = np.bincount(ring, f.ravel())[known] / count[known]
    mean = np.bincount(ring, values.ravel())[known] / count[known]
    return mean_f, mean
