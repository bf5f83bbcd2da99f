"""From the magnetisation to what receivers measure: coils, noise in SNR units, k-space cropped to the matrix.

K-space is never padded: it is transformed from cells finer than the voxels and its middle is kept. Noise is coloured
and shared between coils, then made white, as on the real way (`acquisition.noise`): behind that, samples of k-space
have ``E|n|^2 = 1`` in every coil and between coils nothing in common. All transforms are centred and orthonormal. An
image in product units is divided by the noise of its real part: ``sqrt(1/2)`` without undersampling
(`recon.mri.combine`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.spatial.transform import Rotation

from acquisition.errors import ConfigError
from acquisition.noise import noise_model
from acquisition.sources.phantom.coils import ReceiveArray, cage
from models.train.anatomy import Plane
from models.train.fields import splined

Complex = NDArray[np.complex64]
F32 = NDArray[np.float32]

_KNOTS_MM = 17.0  # of coil maps; a cubic spline between them is good to 1 %
_NOISE_SAMPLES = 1 << 20  # pretended samples behind a covariance that is known exactly


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Coils:
    """A whitened receive array on the fine cells of a plane."""

    maps: Complex
    """Sensitivities of unit norm over the coils, (coil, y, x)."""
    profile: F32
    """Root sum of squares of the whitened sensitivities before that, mean 1, (y, x): how well the array sees."""
    covariance: NDArray[np.complex128]
    """Noise covariance before whitening, mean variance 1, (coil, coil)."""
    whitening: Complex
    """The matrix that makes it white, (coil, coil)."""
    knots: Complex
    """Whitened sensitivities on knots over the plane, (coil, ky, kx)."""

    def on_voxels(self, matrix: tuple[int, int]) -> Complex:
        """Return the maps of unit norm on the measured voxels (coil, *matrix)."""
        maps = splined(self.knots, self.maps.shape[-2:], matrix)
        return np.asarray(maps / _norm(maps), np.complex64)


def random_coils(plane: Plane, n_coils: int, rng: np.random.Generator) -> Coils:
    """Return a cage of loops around the head, of random size, place and noise, whitened.

    Raises
    ------
    ConfigError
        There are no coils.
    """
    radii = float(rng.uniform(108, 132)), float(rng.uniform(122, 150))
    array = cage(n_coils, radii_mm=radii)
    turn = Rotation.from_euler("zyx", [rng.uniform(-180, 180), *rng.normal(0, 5, 2)], degrees=True).as_matrix()
    place = rng.normal(0, 8, 3)
    array = ReceiveArray(array.centres_mm @ turn.T + place, array.normals @ turn.T, array.radius_mm)
    covariance = array.noise_covariance(int(rng.integers(1 << 31)))
    whitening = noise_model(covariance, _NOISE_SAMPLES, source="noise scan").matrix
    n_knots = max(8, round(max(plane.shape) * plane.cell_mm / _KNOTS_MM) + 1)
    lps = plane.room_mm(n_knots)[..., ::-1]
    fields = whitening @ array.fields(lps).reshape(n_coils, -1)
    knots = fields.reshape(n_coils, n_knots, n_knots).astype(np.complex64)
    maps = splined(knots, plane.shape)
    profile = _norm(maps)
    maps /= profile
    return Coils(maps=maps, profile=profile / profile.mean(), covariance=covariance, whitening=whitening, knots=knots)


def _norm(maps: Complex) -> F32:
    return np.sqrt((maps.real**2 + maps.imag**2).sum(0))


def cropped_kspace(images: NDArray, matrix: tuple[int, int]) -> Complex:
    """Return the middle of the k-space of images on fine cells (..., y, x), shape (..., *matrix).

    The plain inverse transform of the result has the brightness of the images.

    Raises
    ------
    ConfigError
        The matrix is larger than the images, or numbers are odd.
    """
    shape = images.shape[-2:]
    if any(m > n or m % 2 or n % 2 for m, n in zip(matrix, shape, strict=True)):
        raise ConfigError(
            "cropped k-space",
            expected=f"an even matrix of at most {shape} even cells",
            got=str(matrix),
            action="draw finer cells: k-space is never padded",
        )
    out = images
    for axis, m in zip((-2, -1), matrix, strict=True):
        n = out.shape[axis]
        k = np.arange(m) - m // 2
        spectrum = fft.fft(out, axis=axis)
        spectrum = np.concatenate(
            [spectrum[_at(axis, slice(n - m // 2, n))], spectrum[_at(axis, slice(0, m // 2))]], axis
        )
        sign = ((-1.0) ** k * np.sqrt(m) / n).astype(np.float32)  # the origin lies at cell n // 2
        out = spectrum * sign.reshape((-1, 1) if axis == -2 else (-1,))
    return np.ascontiguousarray(out, np.complex64)


def _at(axis: int, part: slice) -> tuple:
    return (..., part, slice(None)) if axis == -2 else (..., part)


def image_of(kspace: NDArray) -> Complex:
    """Return the centred, orthonormal inverse transform of (..., y, x)."""
    axes = (-2, -1)
    return fft.fftshift(fft.ifft2(fft.ifftshift(kspace, axes), norm="ortho"), axes).astype(np.complex64)


def kspace_of(images: NDArray) -> Complex:
    """Return the centred, orthonormal transform of (..., y, x)."""
    axes = (-2, -1)
    return fft.fftshift(fft.fft2(fft.ifftshift(images, axes), norm="ortho"), axes).astype(np.complex64)


def receiver_noise(shape: tuple[int, ...], coils: Coils, rng: np.random.Generator) -> Complex:
    """Return noise (coil, ...) as the receivers make it, coloured by the array's covariance."""
    return _mixed_coils(np.linalg.cholesky(coils.covariance).astype(np.complex64), white_noise(shape, rng))


def whitened(data: NDArray, coils: Coils) -> Complex:
    """Return data (coil, ...) with unit noise covariance."""
    return _mixed_coils(coils.whitening, data)


def _mixed_coils(matrix: NDArray, data: NDArray) -> Complex:
    return (matrix @ data.reshape(len(data), -1)).reshape(data.shape).astype(np.complex64)


def white_noise(shape: tuple[int, ...], rng: np.random.Generator) -> Complex:
    """Return complex noise with ``E|n|^2 = 1``."""
    noise = rng.standard_normal((*shape[:-1], 2 * shape[-1]), dtype=np.float32).view(np.complex64)
    noise *= np.float32(np.sqrt(0.5))
    return noise


def reference_level(magnitude: NDArray) -> float:
    """Return the brightness that an SNR is stated for: the median over the pixels above a fifth of the brightest."""
    bright = magnitude > 0.2 * np.percentile(magnitude, 99)
    return float(np.median(magnitude[bright])) if bright.any() else 1.0


def unfolding(maps: NDArray, r: int) -> tuple[F32, NDArray]:
    """Return what unfolding every r-th line along y with known maps does to noise.

    With the maps C (coil, r) of the r voxels that fall onto each other, the covariance of their noise over that of
    full data of r-fold duration is ``(C^H C)^-1`` (Pruessmann et al., DOI 10.1002/(SICI)1522-2594(199911)42:5<952::
    AID-MRM16>3.0.CO;2-S).

    Parameters
    ----------
    maps
        Unit norm (coil, y, x); y divisible by r.
    r
        Undersampling.

    Returns
    -------
    tuple
        The g-factor (y, x), and that covariance (y / r, x, r, r).

    Raises
    ------
    ConfigError
        y is not divisible by r.
    """
    n_coils, n_y, n_x = maps.shape
    if r < 1 or n_y % r:
        raise ConfigError("unfolding", expected=f"a divisor of {n_y} lines", got=f"r = {r}")
    folded = maps.reshape(n_coils, r, n_y // r, n_x).transpose(2, 3, 1, 0)  # y / r, x, r, coil
    gram = folded.conj() @ folded.swapaxes(-1, -2)
    inverse = np.linalg.inv(gram.astype(np.complex128) + 1e-3 * np.eye(r))
    g = np.sqrt(np.maximum(np.einsum("yxrr->ryx", inverse).real, 1e-6)).reshape(n_y, n_x)
    return g.astype(np.float32), inverse


def unfolded_noise(covariance: NDArray, rng: np.random.Generator, *, n: int = 1) -> Complex:
    """Return noise of n unfolded images (n, y, x); the standard deviation of its real part is the g-factor."""
    n_y, n_x, r, _ = covariance.shape
    factors = np.linalg.cholesky(covariance).astype(np.complex64)
    white = white_noise((n_y, n_x, n, r), rng).swapaxes(-1, -2)
    noise = (factors @ white) * np.float32(np.sqrt(2))
    return np.ascontiguousarray(noise.transpose(3, 2, 0, 1)).reshape(n, r * n_y, n_x)


def filtered(image: NDArray, weight: NDArray) -> Complex:
    """Return an image whose k-space is weighed by (y, x) weights."""
    return image_of(kspace_of(image) * weight)


def filtered_level(level: NDArray, weight: NDArray) -> F32:
    """Return the noise level (y, x) of an image behind a filter of k-space, from the level in front of it.

    ``var'(p) = sum_q |h(p - q)|^2 var(q)`` with the filter's response h.
    """
    response = np.abs(fft.ifft2(fft.ifftshift(weight))) ** 2
    variance = fft.irfft2(fft.rfft2(level.astype(np.float64) ** 2) * fft.rfft2(response), level.shape)
    return np.sqrt(np.maximum(variance, 0)).astype(np.float32)


def random_window(shape: tuple[int, int], rng: np.random.Generator) -> F32:
    """Return a filter of k-space (y, x): none, a soft edge, a Gaussian, each with partial Fourier at times."""
    r = [np.abs(np.arange(n) - n // 2) / (n / 2) for n in shape]
    radius = np.minimum(np.hypot(r[0][:, None], r[1]), 1.4142)
    kind = rng.integers(4)
    if kind == 0:
        edge = rng.uniform(0.1, 0.9)
        ramp = np.clip((np.maximum(r[0][:, None], r[1]) - (1 - edge)) / edge, 0, 1)
        weight = 0.5 * (1 + np.cos(np.pi * ramp * rng.uniform(0.5, 0.95)))
    elif kind == 1:
        weight = np.exp(-0.5 * (radius / rng.uniform(0.6, 1.5)) ** 2)
    else:
        weight = np.ones(shape)
    if rng.random() < 0.25:
        weight = weight * (np.arange(shape[0]) >= shape[0] * (1 - rng.uniform(0.7, 0.95)))[:, None]
    return weight.astype(np.float32)
