"""Noise, HU and contrast against what is planted."""

from __future__ import annotations

import numpy as np
import pytest

from acquisition.errors import DataError
from acquisition.geometry import Grid
from recon.ct.quality import (
    NoisePower,
    Slice,
    contrast_to_noise,
    hu_accuracy,
    noise_power,
    slice_of,
    squares,
    uniformity,
)

PIXEL = 0.8
RNG = np.random.default_rng(4)


def blank(n: int = 200, hu: float = 0.0) -> Slice:
    place = (np.arange(n) - (n - 1) / 2) * PIXEL
    return Slice(hu=np.full((n, n), hu), xs_mm=place, ys_mm=place)


def coloured(shape: tuple[int, int, int], power) -> np.ndarray:
    """Noise whose spectrum is power(f) [HU^2 mm^2], f in 1/mm."""
    fy, fx = np.fft.fftfreq(shape[1], PIXEL)[:, None], np.fft.fftfreq(shape[2], PIXEL)[None]
    amplitude = np.sqrt(power(np.hypot(fy, fx))) / PIXEL
    return np.fft.ifft2(np.fft.fft2(RNG.standard_normal(shape)) * amplitude).real


def test_white_noise_has_a_flat_spectrum_of_the_right_height() -> None:
    noise = 12.0 * RNG.standard_normal((200, 48, 48)) + 30
    spectrum = noise_power(noise, pixel_mm=PIXEL)
    assert spectrum.variance == pytest.approx(144, rel=0.01)
    f, power = spectrum.radial()
    np.testing.assert_allclose(power[3:], 144 * PIXEL**2, rtol=0.06)
    assert f[-1] <= 5 / PIXEL < f[-1] + 1.5 * (f[1] - f[0])


@pytest.mark.parametrize("shape", [(150, 64, 64), (150, 48, 80)])
def test_coloured_noise_gives_back_its_spectrum_and_variance(shape: tuple[int, int, int]) -> None:
    def power(f: np.ndarray) -> np.ndarray:
        return 400 * f * np.exp(-((f / 0.25) ** 2))

    noise = coloured(shape, power)
    spectrum = noise_power(noise, pixel_mm=PIXEL)
    assert spectrum.variance == pytest.approx(noise.var(), rel=0.02)
    f, measured = spectrum.radial()
    np.testing.assert_allclose(measured[3:], power(f[3:] / 10), atol=2.0)
    fine = noise_power(coloured(shape, lambda f: 400 * f), pixel_mm=PIXEL)
    assert fine.mean_lp_per_cm > 1.3 * spectrum.mean_lp_per_cm


def test_a_slope_is_no_noise() -> None:
    y, x = np.mgrid[:40, :40]
    flat = noise_power((3 * x - 2 * y + 7.0)[None], pixel_mm=PIXEL)
    assert flat.variance == pytest.approx(0, abs=1e-9)
    assert isinstance(flat, NoisePower)


def test_squares_are_cut_where_they_should_be() -> None:
    image = blank()
    image.hu[:] = image.xs_mm[None, :] + 100 * image.ys_mm[:, None]
    [one, two] = squares(image, centres_mm=[(10.0, -20.0), (-30.0, 40.0)], side_mm=16.0)
    assert one.shape == (20, 20)
    assert one.mean() == pytest.approx(10 - 2000, abs=101 * PIXEL)
    assert two.mean() == pytest.approx(-30 + 4000, abs=101 * PIXEL)
    with pytest.raises(DataError, match=r"a square of 16 mm in the image"):
        squares(image, centres_mm=[(-78.0, 0.0)], side_mm=16.0)


def test_hu_uniformity_and_contrast_are_those_planted() -> None:
    image = blank()
    r = image.distance_mm((0.0, 0.0))
    image.hu[:] = 4 * (r / 60) ** 2
    image.hu[image.distance_mm((30.0, 10.0)) < 12] = 118.0
    readings = hu_accuracy(image, inserts={"acrylic": ((30.0, 10.0), 120.0)}, radius_mm=10.0)
    assert readings["acrylic"].mean == pytest.approx(118) and readings["acrylic"].deviation == pytest.approx(-2)
    assert readings["acrylic"].noise == pytest.approx(0, abs=1e-9)
    largest, middle = uniformity(image, centre_mm=(0.0, 0.0), radius_mm=60.0, region_mm=6.0)
    assert largest == pytest.approx(4, abs=0.3) and middle == pytest.approx(0, abs=0.05)
    largest, _ = uniformity(Slice(hu=-image.hu, xs_mm=image.xs_mm, ys_mm=image.ys_mm), centre_mm=(0, 0), radius_mm=60)
    assert largest == pytest.approx(-4, abs=0.5)


def test_contrast_to_noise_of_a_faint_rod() -> None:
    image = blank()
    image.hu[:] += 10 * RNG.standard_normal(image.hu.shape)
    image.hu[image.distance_mm((-20.0, 15.0)) < 13] += 6
    found = contrast_to_noise(image, insert_mm=(-20.0, 15.0), background_mm=(20.0, 15.0), radius_mm=12.0)
    assert found == pytest.approx(0.6, abs=0.1)
    assert contrast_to_noise(image, insert_mm=(20.0, 15.0), background_mm=(-20.0, 15.0), radius_mm=12.0) < -0.4


def test_places_are_those_of_the_grid() -> None:
    grid = Grid.from_centre(
        (5.0, -7.0, 3.0), shape=(1, 6, 8), spacing_mm=(1.0, 2.0, 2.0), directions=((1, 0, 0), (0, 1, 0), (0, 0, 1))
    )
    image = slice_of(np.zeros((1, 6, 8)), grid)
    assert image.xs_mm.mean() == pytest.approx(5) and image.ys_mm.mean() == pytest.approx(-7)
    assert len(image.xs_mm) == 8 and len(image.ys_mm) == 6 and image.pixel_mm == 2


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(DataError, match="none within 3 mm"):
        blank().disc((500.0, 0.0), 3.0)
    with pytest.raises(DataError, match="a background with noise"):
        contrast_to_noise(blank(), insert_mm=(0, 0), background_mm=(20, 0), radius_mm=5)
    for regions in (np.zeros((20, 20)), np.zeros((3, 4, 20)), np.zeros((0, 20, 20))):
        with pytest.raises(DataError, match="regions"):
            noise_power(regions, pixel_mm=1.0)
