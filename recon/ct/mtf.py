"""How sharp CT images are: the modulation transfer function from the edge of a disc, or from a wire or bead."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.signal.windows import tukey
from scipy.special import j1

from acquisition.errors import DataError
from recon.ct.quality import Slice, by_radius

Floats = NDArray[np.float64]

_OVERSAMPLED = 10  # bins per pixel of an edge's profile
_LEAST_PIXELS = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mtf:
    """A modulation transfer function."""

    lp_per_cm: Floats
    """Frequencies, growing from 0 [lp/cm]."""
    values: Floats
    """Modulation, 1 at frequency 0."""

    def frequency(self, modulation: float) -> float:
        """Return the frequency at which the modulation first falls to a value [lp/cm].

        Raises
        ------
        DataError
            It does not fall so far below the Nyquist frequency.
        """
        below = np.flatnonzero(self.values < modulation)
        if not below.size or below[0] == 0:
            raise DataError(
                "MTF", expected=f"a fall to {modulation:g}", got="none", action="use smaller pixels for this kernel"
            )
        k = below[0]
        drop = self.values[k - 1] - self.values[k]
        part = (self.values[k - 1] - modulation) / drop
        return float(self.lp_per_cm[k - 1] + part * (self.lp_per_cm[k] - self.lp_per_cm[k - 1]))

    def at(self, lp_per_cm: ArrayLike) -> Floats:
        """Return the modulation at some frequencies [lp/cm]."""
        return np.interp(np.asarray(lp_per_cm, float), self.lp_per_cm, self.values)


def mtf_disc(image: Slice, *, centre_mm: tuple[float, float], radius_mm: float, margin_mm: float = 10.0) -> Mtf:
    """Return the modulation transfer from the edge of a disc, averaged over all directions.

    The profile over the distance from the centre is finely binned, differentiated, and Fourier transformed; bins and
    differences are taken out of the result (Richard et al., Med Phys 2012;39:4115, DOI 10.1118/1.4725171).

    Parameters
    ----------
    image
        The slice.
    centre_mm
        Rough centre of the disc (x, y) [mm]; it is refined.
    radius_mm
        Its radius [mm].
    margin_mm
        How far from the edge on both sides the profile reaches; nothing else may lie there [mm].

    Raises
    ------
    DataError
        The disc has no contrast, or reaches beyond the image.
    """
    centre = _refined(image, centre_mm, radius_mm, margin_mm)
    step = image.pixel_mm / _OVERSAMPLED
    r = image.distance_mm(centre) - radius_mm
    near = np.abs(r) < margin_mm
    bins = np.floor((r[near] + margin_mm) / step).astype(int)
    n = int(bins.max()) + 1
    count = np.bincount(bins, minlength=n)
    if n < 2 * margin_mm / step - 2 or (count == 0).mean() > 0.5:
        raise DataError("MTF of a disc", expected="its whole edge in the image", got=f"{near.sum()} pixels near it")
    place = np.bincount(bins, r[near], n)[count > 0] / count[count > 0]
    profile = np.bincount(bins, image.hu[near].astype(float), n)[count > 0] / count[count > 0]
    even = (np.arange(n) + 0.5) * step - margin_mm
    edge = np.interp(even, place, profile)
    if abs(edge[: n // 4].mean() - edge[-n // 4 :].mean()) < 5 * abs(np.diff(edge[: n // 4])).mean() + 1e-9:
        raise DataError(
            "MTF of a disc", expected="an edge", got="no contrast", action="check the centre and the radius"
        )
    line = np.diff(edge)
    window = tukey(len(line) + 2)[1:-1]
    spectrum = np.abs(np.fft.rfft(line * window, 8 * n))
    f = np.fft.rfftfreq(8 * n, step)
    keep = f <= 0.5 / image.pixel_mm
    binned = np.sinc(f[keep] * step) ** 2  # the bins' width and the difference
    values = spectrum[keep] / spectrum[0] / binned
    return Mtf(lp_per_cm=10.0 * f[keep].astype(np.float64), values=values)


def mtf_wire(image: Slice, *, centre_mm: tuple[float, float], half_mm: float = 6.0, wire_mm: float = 0.0) -> Mtf:
    """Return the modulation transfer from a thin wire or bead, averaged over all directions.

    Parameters
    ----------
    image
        The slice.
    centre_mm
        Place of the wire (x, y) [mm].
    half_mm
        Half the side of the square that is looked at; its rim is taken for the background [mm].
    wire_mm
        Diameter of the wire, whose own transform is taken out [mm]; 0: thin.

    Raises
    ------
    DataError
        The square does not lie in the image, or nothing stands out in it.
    """
    columns = np.flatnonzero(np.abs(image.xs_mm - centre_mm[0]) <= half_mm)
    rows = np.flatnonzero(np.abs(image.ys_mm - centre_mm[1]) <= half_mm)
    n = min(len(rows), len(columns))
    if n < _LEAST_PIXELS or n < 2 * half_mm / image.pixel_mm - 2:
        raise DataError("MTF of a wire", expected="the square around it in the image", got=f"{n} pixels")
    square = image.hu[rows[0] : rows[0] + n, columns[0] : columns[0] + n].astype(float)
    rim = np.ones((n, n), bool)
    rim[2:-2, 2:-2] = False
    y, x = np.mgrid[:n, :n] - (n - 1) / 2
    plane = np.stack([np.ones_like(x), x, y], -1)
    square -= plane @ np.linalg.lstsq(plane[rim], square[rim], rcond=None)[0]
    if square.sum() < 5 * square[rim].std() * n:
        raise DataError("MTF of a wire", expected="a wire", got="nothing brighter than its surroundings")
    padded = 8 * n
    spectrum = np.abs(np.fft.rfft2(square, (padded, padded)))
    fy, fx = np.fft.fftfreq(padded, image.pixel_mm)[:, None], np.fft.rfftfreq(padded, image.pixel_mm)[None, :]
    f, values = by_radius(np.hypot(fy, fx), spectrum / spectrum[0, 0], 1 / (padded * image.pixel_mm))
    keep = f <= 0.5 / image.pixel_mm
    own = _jinc(f[keep] * wire_mm)
    return Mtf(lp_per_cm=10 * f[keep], values=values[keep] / values[0] / np.maximum(own, 0.1))


def _refined(image: Slice, centre_mm: tuple[float, float], radius_mm: float, margin_mm: float) -> tuple[float, float]:
    """Return the centre of mass of a disc against its surroundings."""
    r = image.distance_mm(centre_mm)
    reach = radius_mm + margin_mm
    edges = (centre_mm[0] - image.xs_mm[0], image.xs_mm[-1] - centre_mm[0])
    if min(*edges, centre_mm[1] - image.ys_mm[0], image.ys_mm[-1] - centre_mm[1]) < reach or margin_mm >= radius_mm:
        raise DataError(
            "MTF of a disc",
            expected=f"the disc and {margin_mm:g} mm around it in the image, a margin below the radius",
            got=f"centre {centre_mm} mm, radius {radius_mm:g} mm",
        )
    outside = float(image.hu[(r > radius_mm + 0.5 * margin_mm) & (r < reach)].mean())
    mass = np.where(r < reach, image.hu - outside, 0.0)
    total = mass.sum()
    if total == 0:
        raise DataError(
            "MTF of a disc", expected="an edge", got="no contrast", action="check the centre and the radius"
        )
    x, y = (mass.sum(axis=0) @ image.xs_mm) / total, (mass.sum(axis=1) @ image.ys_mm) / total
    if np.hypot(x - centre_mm[0], y - centre_mm[1]) > margin_mm:
        raise DataError("MTF of a disc", expected=f"its centre near {centre_mm} mm", got=f"({x:.1f}, {y:.1f}) mm")
    return float(x), float(y)


def _jinc(u: Floats) -> Floats:
    """Return the transform of a disc of diameter 1 at frequencies u, 1 at 0."""
    q = np.pi * np.maximum(np.abs(u), 1e-6)
    return 2 * j1(q) / q
