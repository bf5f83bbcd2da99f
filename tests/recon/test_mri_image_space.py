"""Ringing taken out of images, and images on finer grids: truth known in both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.errors import ConfigError
from acquisition.geometry import Grid
from acquisition.items import Image, Kind, Provenance
from acquisition.verdict import Level
from recon.mri.gibbs import Gibbs, unringed
from recon.mri.interpolate import Interpolate, interpolated, refined
from tests.recon.helpers import Exam, centred, cut


def boxes(n: int) -> np.ndarray:
    """Rectangles on a fine grid (y, x): edges along both directions."""
    y, x = np.meshgrid(*[(np.arange(n) - n // 2) / n] * 2, indexing="ij")
    out = np.where((abs(y + 0.02) < 0.31) & (abs(x - 0.013) < 0.27), 1.0, 0.0)
    return out + np.where((abs(y) < 0.1) & (abs(x + 0.05) < 0.12), 0.6, 0.0)


def band_limited(fine: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The image of a fine object through a smaller matrix: it rings."""
    kspace = cut(centred(fine, (0, 1)), shape)
    image = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(kspace), norm="ortho"))
    return np.abs(image) * np.sqrt(np.prod(shape) / fine.size)


@pytest.mark.parametrize("shape", [(64, 64), (65, 63), (48, 80)])
def test_ringing_falls_and_edges_stay(shape: tuple[int, int]) -> None:
    n = 960
    fine = boxes(n)
    rings = band_limited(fine, shape)
    places = [np.minimum(n - 1, np.round((np.arange(m) - m // 2) * n / m).astype(int) + n // 2) for m in shape]
    truth = fine[np.ix_(*places)]
    clean = unringed(rings.astype(np.float32))
    away = np.ones(shape, bool)
    for axis in (0, 1):  # the voxels beside an edge hold both sides, ringing or not
        step = np.abs(np.diff(truth, axis=axis, prepend=0)) > 0
        for shift in (-1, 0, 1):
            away &= ~np.roll(step, shift, axis)
    before, after = (np.sqrt(((a - truth)[away] ** 2).mean()) for a in (rings, clean))
    assert after < 0.8 * before
    assert abs(clean.mean() - rings.mean()) < 0.005


def test_what_does_not_ring_stays() -> None:
    y, x = np.meshgrid(np.arange(64) - 32, np.arange(60) - 30, indexing="ij")
    smooth = np.exp(-(y**2 + x**2) / 200).astype(np.float32)
    np.testing.assert_allclose(unringed(smooth), smooth, atol=2e-3)
    assert not unringed(np.zeros((32, 32), np.float32)).any()


def image(data: np.ndarray, kind: Kind = Kind.MAGNITUDE) -> Image:
    directions = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    grid = Grid.from_centre((3, -4, 5), shape=data.shape[-3:], spacing_mm=(5.0, 2.0, 1.5), directions=directions)
    return Image(data=data, grid=grid, kind=kind)


def test_gibbs_step_changes_images_and_says_so() -> None:
    step = Gibbs()
    step.open(Exam().scan)
    (made,) = step.feed(image(band_limited(boxes(960), (64, 64))[None].astype(np.float32)))
    assert made.provenance.notes["Gibbs"] == "local subvoxel shifts along y and x"
    assert not made.verdicts
    filtered = replace(image(np.ones((1, 64, 64), np.float32)), provenance=Provenance(notes={"k-space filter": "hann"}))
    (kept,) = step.feed(filtered)
    assert kept.verdicts[0].level is Level.FLAG
    np.testing.assert_array_equal(kept.data, filtered.data)


@pytest.mark.parametrize("bad", [{"n_shifts": 0}, {"window": (3, 1)}])
def test_impossible_parameters_of_gibbs(bad: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        Gibbs(**bad)


@pytest.mark.parametrize("sizes", [(16, 15), (31, 32)])
def test_a_finer_grid_keeps_values_and_places(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    spectrum = np.zeros(sizes, complex)
    middle = tuple(slice(n // 2 - 4, n // 2 + 5) for n in sizes)
    spectrum[middle] = rng.normal(size=(9, 9)) + 1j * rng.normal(size=(9, 9))
    coarse = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(spectrum))).astype(np.complex64)[None]
    wide = tuple(2 * n for n in sizes)
    fine = interpolated(coarse, wide, Kind.COMPLEX)
    first = tuple(w // 2 - 2 * (n // 2) for n, w in zip(sizes, wide, strict=True))
    np.testing.assert_allclose(fine[0, first[0] :: 2, first[1] :: 2], coarse[0], atol=1e-6)
    before = image(np.zeros((1, *sizes), np.float32)).grid
    after = refined(refined(before, 1, wide[0]), 2, wide[1])
    np.testing.assert_allclose(
        after.world((0, wide[0] // 2, wide[1] // 2)), before.world((0, sizes[0] // 2, sizes[1] // 2)), atol=1e-9
    )
    assert after.spacing_mm == (5.0, 1.0, 0.75)


def test_interpolation_by_voxel_size_and_of_phase() -> None:
    step = Interpolate(voxel_mm=1.0)
    step.open(Exam().scan)
    (fine,) = step.feed(image(np.ones((1, 20, 20), np.float32)))
    assert fine.data.shape == (1, 40, 30)
    np.testing.assert_allclose(fine.data, 1, atol=1e-5)
    wraps = np.full((1, 16, 16), np.pi - 0.01, np.float32)
    np.testing.assert_allclose(np.abs(interpolated(wraps, (32, 32), Kind.PHASE)), np.pi - 0.01, atol=1e-4)
    assert (interpolated(np.abs(np.random.default_rng(0).normal(size=(1, 9, 9))), (18, 18), Kind.MAGNITUDE) >= 0).all()


def test_a_factor_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="factor"):
        Interpolate(factor=0.5)
    with pytest.raises(ConfigError, match="voxel_mm"):
        Interpolate(voxel_mm=-1.0)
