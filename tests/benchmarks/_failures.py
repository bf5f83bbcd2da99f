"""Failures planted into slices whose truth is known: what a denoising network must refuse, or mark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import affine_transform, gaussian_filter, zoom

from models.train.ct_noise import MU_WATER_PER_MM, backprojected, line_integrals
from models.train.recipe import Case
from recon.ct.kernel import padded, response

_VIEWS, _PIXEL_MM = 360, 1.0
_STARVED = 4.5  # line integral beyond which no photons are left
Plant = Callable[[Case], Case]


def _with(case: Case, image: NDArray) -> Case:
    return replace(case, measured=np.asarray(image).astype(case.measured.dtype))


def _unit(case: Case) -> NDArray:
    """Return the phase of each pixel; 1 for real images."""
    image = case.measured
    return np.exp(1j * np.angle(image)) if np.iscomplexobj(image) else np.ones(image.shape, np.float32)


def _bright(case: Case) -> float:
    return float(np.percentile(np.abs(case.measured), 99))


def broken(case: Case) -> Case:
    """A pixel that is no number."""
    image = case.measured.copy()
    image[10, 10] = np.nan
    return _with(case, image)


def noise_alone(case: Case) -> Case:
    """Nothing was in the scanner."""
    rng = np.random.default_rng(0)
    return _with(case, case.noise * rng.standard_normal(case.noise.shape))


def quarter(case: Case) -> Case:
    """A quarter of the matrix, interpolated."""
    small = zoom(case.measured.real, 0.25, order=1)
    return _with(case, zoom(small, 4, order=1)[: case.truth.shape[0]])


def stripes(case: Case) -> Case:
    """A spike in k-space, or a bad detector row."""
    x = np.arange(case.truth.shape[1])
    return _with(case, case.measured + 15 * case.noise * np.sign(np.sin(0.9 * x)))


def louder(case: Case) -> Case:
    """Twenty times the noise, and nobody told."""
    rng = np.random.default_rng(0)
    return _with(case, case.measured + 20 * case.noise * rng.standard_normal(case.noise.shape))


def told_too_little(case: Case) -> Case:
    """The noise is said to be a fifth of what it is: another dose, another noise scan."""
    return replace(case, noise=0.2 * case.noise)


def told_too_much(case: Case) -> Case:
    """The noise is said to be five times what it is."""
    return replace(case, noise=5 * case.noise)


def inverted(case: Case) -> Case:
    """Bright is dark."""
    image = case.measured
    return _with(case, (_bright(case) - np.abs(image)) * _unit(case) if np.iscomplexobj(image) else -image)


def inverted_counts(case: Case) -> Case:
    """Much activity where there is none."""
    return _with(case, _bright(case) - case.measured)


def powers(case: Case) -> Case:
    """A contrast in which little but the brightest tissue shows."""
    return _with(case, _bright(case) * (np.abs(case.measured) / _bright(case)) ** 4 * _unit(case))


def like_t1(case: Case) -> Case:
    """HU as if it were T1-weighted MR: bone black, fat white."""
    return _with(
        case, np.interp(case.measured, (-1000, -700, -100, 40, 200, 1000), (-1000, -950, 500, 150, -800, -950))
    )


def without_attenuation(case: Case) -> Case:
    """Skin bright, the middle dark, as without correction of attenuation."""
    y, x = (np.indices(case.truth.shape) - (np.array(case.truth.shape)[:, None, None] - 1) / 2) / 28
    return _with(case, case.measured * (0.1 + 1.5 * np.hypot(y, x) ** 4).clip(0, 3))


def ghosts(case: Case) -> Case:
    """The object twice, half a field of view apart."""
    return _with(case, case.measured + 0.8 * np.roll(case.measured, case.measured.shape[0] // 2, 0))


def moved_lines(case: Case) -> Case:
    """A head that turns and shifts between the shots of a k-space with interleaved lines."""
    image, rng = case.measured, np.random.default_rng(0)
    middle = (np.asarray(image.shape) - 1) / 2
    mixed = np.fft.fft2(image)
    for shot in range(1, 6):
        angle, shift = rng.uniform(-0.12, 0.12), rng.uniform(-8, 8, 2)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        offset = middle - turn @ middle + shift
        parts = [affine_transform(p, turn, offset, order=1) for p in (image.real, image.imag)]
        mixed[shot::6] = np.fft.fft2(parts[0] + 1j * parts[1])[shot::6]
    return _with(case, np.fft.ifft2(mixed))


def moved_views(case: Case) -> Case:
    """A body that jumps 12 pixels in the middle of the turn."""
    shown = line_integrals(case.truth, _PIXEL_MM, n_views=_VIEWS)
    other = line_integrals(np.roll(case.truth, 12, axis=1), _PIXEL_MM, n_views=_VIEWS)
    other[: _VIEWS // 2] = shown[: _VIEWS // 2]
    return _with(case, case.measured + _filtered(other - shown))


def moved_counts(case: Case) -> Case:
    """Half of the counts from a body that lies a quarter of the field away."""
    return _with(case, 0.5 * (case.measured + np.roll(case.measured, case.truth.shape[1] // 4, axis=1)))


def void(case: Case) -> Case:
    """Metal in MR: signal gone, and piled up beside it."""
    y, x = np.indices(case.truth.shape) - np.array(case.truth.shape)[:, None, None] / 2
    r = np.hypot(y, x)
    pile = 6 * _bright(case) * np.exp(-(((r - 26) / 3) ** 2)) * (np.cos(2 * np.arctan2(y, x)) > 0)
    return _with(case, np.where(r < 24, 0, case.measured) + pile * _unit(case))


def metal(case: Case) -> Case:
    """Metal in CT: two rods that let almost no photons through, and what backprojection makes of that."""
    y, x = np.indices(case.truth.shape) - np.array(case.truth.shape)[:, None, None] / 2
    rods = sum((np.hypot(y - a, x - b) < 5) for a, b in ((10, -30), (-5, 35)))
    truth = np.where(rods > 0, 12000, case.truth).astype(np.float32)
    lines, with_rods = (line_integrals(t, _PIXEL_MM, n_views=_VIEWS) for t in (case.truth, truth))
    few = with_rods > _STARVED
    noise = 0.15 * np.random.default_rng(0).standard_normal(lines.shape)
    seen = np.minimum(with_rods, _STARVED) + few * noise
    image = case.measured + _filtered((seen - lines).astype(np.float32))
    return _with(case, np.clip(image, -1024, 3071))


def overcorrected(case: Case) -> Case:
    """Metal in PET: attenuation much overcorrected along rays through an implant."""
    y, x = np.indices(case.truth.shape) - np.array(case.truth.shape)[:, None, None] / 2
    rays = np.cos(3 * np.arctan2(y, x)) ** 8 * np.exp(-np.hypot(y, x) / 15)
    return _with(case, case.measured * (1 + 6 * rays) + 4 * _bright(case) * (np.hypot(y, x) < 3))


def blocks(case: Case) -> Case:
    """A test pattern."""
    y, x = np.indices(case.truth.shape) // 8
    return _with(case, _bright(case) * ((y + x) % 2) + 0 * case.measured)


def bars(case: Case) -> Case:
    """Another anatomy that nobody has: rings of all widths, as bright as the slice."""
    y, x = np.indices(case.truth.shape) - np.array(case.truth.shape)[:, None, None] / 2
    r = np.hypot(y, x)
    rings = gaussian_filter((np.sin(r**2 / 90) > 0).astype(float), 0.7) * (r < 0.45 * len(x))
    return _with(case, case.measured - case.truth + rings * _bright(case) * _unit(case))


def _filtered(rows: NDArray) -> NDArray:
    """Return the backprojection of filtered line integrals (view, channel) [HU]."""
    n_views, n = rows.shape
    length = padded(n)
    spectrum = response(length, _PIXEL_MM, "standard")
    made = fft.irfft(fft.rfft(rows, length) * spectrum, length)[:, :n].astype(np.float32)
    image: NDArray = np.pi / n_views * 1000 / MU_WATER_PER_MM * backprojected(made)
    return image


_ANY: Mapping[str, Plant] = {
    "NaN": broken,
    "noise alone": noise_alone,
    "quarter matrix": quarter,
    "stripes": stripes,
    "blocks": blocks,
    "rings": bars,
    "noise x 20, untold": louder,
}
_TOLD: Mapping[str, Plant] = {"noise told / 5": told_too_little, "noise told x 5": told_too_much}
FAILURES: Mapping[str, Mapping[str, Plant]] = {
    "mr_denoise": {
        **_ANY,
        **_TOLD,
        "inverted": inverted,
        "wrong contrast": powers,
        "ghost": ghosts,
        "motion": moved_lines,
        "metal": void,
    },
    "ct_denoise": {
        **_ANY,
        "inverted": inverted,
        "wrong contrast": like_t1,
        "ghost": ghosts,
        "motion": moved_views,
        "metal": metal,
    },
    "pet_denoise": {
        **_ANY,
        **_TOLD,
        "inverted": inverted_counts,
        "wrong contrast": without_attenuation,
        "motion": moved_counts,
        "metal": overcorrected,
    },
}
"""Recipe -> name -> how it is planted."""
