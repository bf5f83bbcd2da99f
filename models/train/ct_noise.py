"""Noise of CT slices: photons in the projections, through the filter of the reconstruction, into the slice.

Parallel beam. The variance of a line integral p behind N photons is ``e^p / N + s^2 e^2p / N^2`` with the electronic
noise s; what must be added to full-dose data to make a part a of the dose: Yu et al., J Comput Assist Tomogr
2012;36:477, DOI 10.1097/RCT.0b013e318258e891.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from kernels.compile import compiled
from recon.ct.kernel import padded, response

F32 = NDArray[np.float32]
Floats = NDArray[np.float64]

MU_WATER_PER_MM = 0.0192
"""Attenuation of water at 70 keV [1/mm]."""
_COARSE = 4  # views and channels of the line integrals that only say how much noise there is


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """How a slice is measured."""

    photons: float
    """Photons of an unattenuated central ray per channel and view at full dose, over the slice's thickness."""
    electronic: float = 20.0
    """Electronic noise in photons."""
    bowtie: float = 0.7
    """Part of the radiation that the bowtie takes at the edge of the field."""
    n_views: int = 320
    """Views over half a turn."""
    kernel: str = "soft"
    """Reconstruction kernel, a name of `recon.ct.kernel.KERNELS`."""


def variance(lines: NDArray, photons: NDArray | float, *, dose: float = 1.0, electronic: float = 0.0) -> Floats:
    """Return the variance of line integrals at a part of the dose."""
    n = dose * np.asarray(photons, float)
    return np.exp(lines) / n + electronic**2 * np.exp(2 * np.asarray(lines, float)) / n**2


def inserted_variance(lines: NDArray, photons: NDArray | float, dose: float, *, electronic: float = 0.0) -> Floats:
    """Return the variance that full-dose line integrals lack of those at `dose` (above 0 to 1) of the full dose.

    ``(1-a)/a e^p/N (1 + (1+a)/a s^2 e^p/N)``.
    """
    base = np.exp(np.asarray(lines, float)) / photons
    return (1 - dose) / dose * base * (1 + (1 + dose) / dose * electronic**2 * base)


def line_integrals(hu: NDArray, pixel_mm: float, *, n_views: int) -> F32:
    """Return line integrals (view, channel) of a square slice, channels of one pixel, half a turn."""
    mu = np.maximum(MU_WATER_PER_MM * (1 + np.asarray(hu, np.float32) / 1000), 0).astype(np.float32)
    out = np.empty((n_views, mu.shape[0]), np.float32)
    _projected(mu, np.arange(n_views) * np.pi / n_views, out)
    return out * np.float32(pixel_mm)


def photons_of(exposure: Exposure, n_channels: int) -> Floats:
    """Return photons per channel behind the bowtie at full dose, (channel,)."""
    edge = np.linspace(-1, 1, n_channels)
    return exposure.photons * (1 - exposure.bowtie * edge**2)


def slice_noise(hu: NDArray, pixel_mm: float, exposure: Exposure) -> tuple[F32, Floats]:
    """Return line integrals and photons of a slice on its (view, channel) grid, from a coarser one."""
    n = hu.shape[0]
    coarse = np.asarray(hu[: n // 2 * 2, : n // 2 * 2], np.float32)
    coarse = coarse.reshape(n // 2, 2, n // 2, 2).mean(axis=(1, 3))
    lines = line_integrals(coarse, 2 * pixel_mm, n_views=max(exposure.n_views // _COARSE, 8))
    views = np.linspace(0, len(lines), exposure.n_views, endpoint=False).astype(int)
    at = (np.arange(n) - 0.5) / 2
    whole = np.stack([np.interp(at, np.arange(lines.shape[1]), row) for row in lines])
    return whole[views].astype(np.float32), photons_of(exposure, n)


def backprojected_noise(
    sd: NDArray, pixel_mm: float, exposure: Exposure, *, rng: np.random.Generator
) -> tuple[F32, F32]:
    """Return a realisation of noise in the slice and its standard deviation, both (y, x) [HU].

    Parameters
    ----------
    sd
        Standard deviation of the line integrals (view, channel).
    pixel_mm
        Side of pixels and channels [mm].
    exposure
        Its kernel is applied.
    rng
        Draws the noise.
    """
    n_views, n = sd.shape
    length = padded(n)
    spectrum = response(length, pixel_mm, exposure.kernel)
    noise = sd.astype(np.float32) * rng.standard_normal(sd.shape, dtype=np.float32)
    rows = fft.irfft(fft.rfft(noise, length) * spectrum, length)[:, :n].astype(np.float32)
    point = fft.irfft(spectrum.astype(float), length) ** 2
    # Between channels the noise is averaged linearly: mean of |1 - f + f e^iw|^2 over f is (2 + cos w) / 3.
    w = 2 * np.pi * np.arange(length // 2 + 1) / length
    kept = (spectrum.astype(float) ** 2 * (2 + np.cos(w)) / 3).sum() / (spectrum.astype(float) ** 2).sum()
    power = fft.irfft(fft.rfft(sd.astype(float) ** 2, length) * fft.rfft(point * kept), length)[:, :n]
    scale = np.float32(np.pi / n_views * 1000 / MU_WATER_PER_MM)
    some = np.maximum(power[::_COARSE], 0).astype(np.float32)  # the variance is smooth over the views
    of_one = n_views / len(some)
    return scale * backprojected(rows), scale * np.sqrt(np.float32(of_one) * backprojected(some))


def backprojected(rows: F32) -> F32:
    """Return the sum over the views of rows (view, channel) on the pixels (channel, channel), half a turn."""
    n_views, n = rows.shape
    out = np.zeros((n, n), np.float32)
    _backprojected(rows, np.arange(n_views) * np.pi / n_views, out)
    return out


def kernel_filtered(hu: NDArray, kernel: str) -> F32:
    """Return a slice as sharp as the kernel makes it (its modulation over the pixels' Nyquist frequency)."""
    n_y, n_x = hu.shape
    f = 2 * np.hypot(fft.fftfreq(n_y)[:, None], fft.rfftfreq(n_x))
    length = 2 * max(n_y, n_x)
    ramp, shaped = (response(length, 1.0, name).astype(float) for name in ("ramp", kernel))
    modulation = shaped / ramp
    weight = np.interp(np.minimum(f, 1), np.linspace(0, 1, len(modulation)), modulation)
    return fft.irfft2(fft.rfft2(hu.astype(np.float32)) * weight.astype(np.float32), hu.shape).astype(np.float32)


@compiled
def _projected(mu: F32, angles: Floats, out: F32) -> None:  # pragma: no cover - compiled
    """Sum `mu` (y, x) along lines, bilinearly, in steps of a pixel."""
    n = mu.shape[0]
    middle = (n - 1) / 2
    for v in range(len(angles)):
        c, s = np.cos(angles[v]), np.sin(angles[v])
        for k in range(n):
            p = k - middle
            total = 0.0
            for t in range(n):
                q = t - middle
                x, y = c * p - s * q + middle, s * p + c * q + middle
                if x < 0 or y < 0 or x >= n - 1 or y >= n - 1:
                    continue
                x0, y0 = int(x), int(y)
                fx, fy = x - x0, y - y0
                low = mu[y0, x0] + fx * (mu[y0, x0 + 1] - mu[y0, x0])
                high = mu[y0 + 1, x0] + fx * (mu[y0 + 1, x0 + 1] - mu[y0 + 1, x0])
                total += low + fy * (high - low)
            out[v, k] = total


@compiled
def _backprojected(rows: F32, angles: Floats, out: F32) -> None:  # pragma: no cover - compiled
    """Add up filtered rows (view, channel) over the pixels, between channels linearly."""
    n = out.shape[0]
    middle = (n - 1) / 2
    for v in range(len(angles)):
        c, s = np.float32(np.cos(angles[v])), np.float32(np.sin(angles[v]))
        row = rows[v]
        for y in range(n):
            start = np.float32(s * (y - middle) - c * middle + middle)
            for x in range(n):
                p = start + c * x
                if p >= 0 and p < n - 1:
                    k = int(p)
                    out[y, x] += row[k] + (p - k) * (row[k + 1] - row[k])
