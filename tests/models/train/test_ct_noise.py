from __future__ import annotations

import numpy as np
import pytest
from scipy import fft

from models.train.ct import chest_slice, ct_sample, head_slice
from models.train.ct_noise import (
    MU_WATER_PER_MM,
    Exposure,
    backprojected,
    backprojected_noise,
    inserted_variance,
    kernel_filtered,
    line_integrals,
    slice_noise,
    variance,
)
from recon.ct.kernel import padded, response
from tests.models.train.simulated import small_head


def disc(n: int = 96, radius: float = 30.0) -> np.ndarray:
    y, x = np.indices((n, n)) - (n - 1) / 2
    return np.where(y**2 + x**2 < radius**2, 0.0, -1000.0).astype(np.float32)


def test_line_integrals_of_a_disc_are_its_chords() -> None:
    lines = line_integrals(disc(), 2.0, n_views=12)
    s = (np.arange(96) - 47.5) * 2.0
    chords = 2 * np.sqrt(np.maximum(60.0**2 - s**2, 0)) * MU_WATER_PER_MM
    assert lines[:, 25:71] == pytest.approx(np.broadcast_to(chords[25:71], (12, 46)), abs=0.06)
    assert lines.mean(1) == pytest.approx(lines.mean(), rel=0.01)


def test_what_is_filtered_and_backprojected_is_the_slice() -> None:
    lines = line_integrals(disc(), 1.5, n_views=180)
    length = padded(96)
    rows = fft.irfft(fft.rfft(lines, length) * response(length, 1.5, "ramp"), length)[:, :96].astype(np.float32)
    hu = 1000 * np.pi / 180 * backprojected(rows) / MU_WATER_PER_MM - 1000
    assert hu[40:56, 40:56].mean() == pytest.approx(0, abs=3)
    assert hu[2:8, 44:52].mean() == pytest.approx(-1000, abs=20)


def test_inserted_noise_makes_up_what_is_missing() -> None:
    """Full-dose variance and what is inserted give the variance of the lower dose, also with electronic noise."""
    p = np.linspace(0, 7, 15)
    for dose in (0.05, 0.25, 1.0):
        both = variance(p, 1e5, electronic=30) + inserted_variance(p, 1e5, dose, electronic=30)
        assert both == pytest.approx(variance(p, 1e5, dose=dose, electronic=30))


def test_poisson_counts_have_that_variance() -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(2e4 * np.exp(-2.0), 20000) + rng.normal(0, 10, 20000)
    measured = -np.log(counts / 2e4)
    assert measured.var() == pytest.approx(float(variance(np.array(2.0), 2e4, electronic=10)), rel=0.05)


@pytest.mark.parametrize("kernel", ["soft", "bone"])
def test_sigma_is_the_noise_of_the_slice(kernel: str) -> None:
    exposure = Exposure(photons=1e5, n_views=90, kernel=kernel)
    lines, photons = slice_noise(disc(), 3.0, exposure)
    sd = np.sqrt(variance(lines, photons))
    rng = np.random.default_rng(1)
    many = [backprojected_noise(sd, 3.0, exposure, rng=rng) for _ in range(60)]
    noise, sigma = np.stack([m[0] for m in many]), many[0][1]
    ratio = (noise.std(0) / sigma)[20:76, 20:76]
    assert np.median(ratio) == pytest.approx(1, abs=0.04)
    assert sigma[48, 48] > 1.2 * sigma[48, 22]  # the middle sees fewer photons


def test_noise_falls_with_the_root_of_the_dose_and_is_not_white() -> None:
    truth = disc()
    full, low = (ct_sample(truth, np.random.default_rng(4), pixel_mm=2.0, dose=d) for d in (1.0, 0.25))
    assert np.median(low.sigma / full.sigma) == pytest.approx(2, rel=0.05)
    noise = (low.low - low.target)[20:76, 20:76]
    power = np.abs(fft.fft2(noise)) ** 2
    assert power[0, 1:3].mean() < power[5:12, 5:12].mean()  # the ramp takes the low frequencies
    assert np.std((low.low - low.target) / low.sigma) == pytest.approx(1, abs=0.1)
    assert np.abs(full.low - full.full).max() < 1e-3  # all of the dose: nothing to insert


def test_kernels_order_by_sharpness_and_keep_hu() -> None:
    truth = disc()
    edges = [np.abs(np.diff(kernel_filtered(truth, k)[48])).max() for k in ("soft", "standard", "bone")]
    assert edges[0] < edges[1] < edges[2]
    assert kernel_filtered(truth, "soft")[44:52, 44:52] == pytest.approx(0, abs=8)
    assert kernel_filtered(np.full((32, 32), 40, np.float32), "soft") == pytest.approx(40, abs=1e-3)


def test_heads_and_chests_have_the_hu_of_people() -> None:
    head = head_slice(small_head(), (64, 64), np.random.default_rng(0), pixel_mm=1.6)
    assert head.min() == pytest.approx(-1000, abs=1)
    assert head.max() > 700
    assert 20 < np.median(head[26:38, 26:38]) < 50
    chest = chest_slice((128, 128), np.random.default_rng(1), pixel_mm=3.0)
    assert ((chest > -950) & (chest < -700)).mean() > 0.05
    assert ((chest > -140) & (chest < -60)).mean() > 0.02
    assert ((chest > 0) & (chest < 80)).mean() > 0.05
    assert chest.max() > 250
    assert (chest == chest_slice((128, 128), np.random.default_rng(1), pixel_mm=3.0)).all()
