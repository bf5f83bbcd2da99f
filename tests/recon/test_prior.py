"""Proximal maps: orthonormal transforms, and the optimality of each map."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recon.prior import (
    LocallyLowRank,
    LowRank,
    TemporalFourierSparsity,
    TemporalVariation,
    TotalVariation,
    WaveletSparsity,
    shrink_pairs,
    shrink_singular_values,
    spread,
)
from recon.wavelet import Wavelet
from tests.properties import normal

SHAPES = [(16, 16), (23, 18), (9, 40), (5, 4)]


@pytest.mark.parametrize("shape", SHAPES)
def test_wavelets_come_back_and_keep_the_power(shape: tuple[int, int]) -> None:
    wavelet = Wavelet(shape)
    x = normal((2, *shape), torch.complex64)
    rest, details = wavelet.forward(x)
    assert torch.allclose(wavelet.inverse(rest, details), x, atol=1e-5)
    power = rest.square().sum() + sum(d.square().sum() for d in details)
    assert torch.isclose(power, x.abs().square().sum(), rtol=1e-5)


def test_a_plane_has_no_details_away_from_the_border() -> None:
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    _, details = Wavelet((32, 32), levels=1).forward((2 * y + 3 * x + 1)[None] + 0j)
    assert details[0][:, :, 2:-2, 2:-2].abs().max() < 1e-4


def test_shrinking_keeps_the_phase() -> None:
    z = normal((4, 3, 3), torch.complex64)
    parts = torch.cat([z.real, z.imag])
    real, imag = shrink_pairs(parts, 0.8).chunk(2)
    expected = z * (1 - 0.8 / z.abs()).clamp_min(0)
    assert torch.allclose(torch.complex(real, imag), expected, atol=1e-6)


def objective(prior: str, v: Tensor, x: Tensor, weight: float) -> float:
    """Return weight R(x) + |x - v|^2 / 2."""
    half = 0.5 * float((x - v).abs().square().sum())
    if prior == "wavelet":
        _, details = Wavelet(tuple(v.shape[-2:])).forward(x)
        return half + weight * sum(float(torch.hypot(*d.chunk(2)).sum()) for d in details)
    gradient = torch.stack([torch.roll(x, -1, a) - x for a in (-2, -1)])
    return half + weight * float(gradient.abs().square().sum(0).sqrt().sum())


@pytest.mark.parametrize(
    ("name", "prior"),
    [
        ("wavelet", WaveletSparsity((16, 16), 0.5, spin=False)),
        ("tv", TotalVariation(0.5, n_inner=400)),
    ],
)
def test_nothing_near_the_proximal_point_is_better(name: str, prior) -> None:
    v = normal((1, 16, 16), torch.complex64)
    x = prior(v, 1.0)
    best = objective(name, v, x, 0.5)
    assert best < objective(name, v, v, 0.5)
    for seed in range(20):
        other = x + 0.02 * normal((1, 16, 16), torch.complex64, seed + 1)
        assert objective(name, v, other, 0.5) > best - 1e-3


def series_value(name: str, x: Tensor) -> float:
    """Return R(x) of a series."""
    if name == "variation":
        return float((x[1:] - x[:-1]).abs().sum())
    if name == "fourier":
        return float(torch.fft.fft(x, dim=0, norm="ortho")[1:].abs().sum())
    away = x - x.mean(0)
    if name == "blocks":
        away = away.reshape(len(x), 4, 4, 2, 4).permute(1, 3, 2, 4, 0).reshape(8, 16, len(x))
        return float(torch.linalg.svdvals(away).sum())
    return float(torch.linalg.svdvals(away.flatten(1)).sum())


class _Still(LocallyLowRank):
    """Blocks that stay in their place, to have one objective."""

    def __call__(self, images: Tensor, step: float) -> Tensor:
        self._calls = -1
        return super().__call__(images, step)


@pytest.mark.parametrize(
    ("name", "prior"),
    [
        ("variation", TemporalVariation(0.5, n_inner=500)),
        ("fourier", TemporalFourierSparsity(0.5)),
        ("rank", LowRank(0.5)),
        ("blocks", _Still(0.5, block=4)),
    ],
)
def test_nothing_near_the_proximal_point_of_a_series_is_better(name: str, prior) -> None:
    v = normal((6, 16, 8), torch.complex64)

    def objective(x: Tensor) -> float:
        return 0.5 * series_value(name, x) + 0.5 * float((x - v).abs().square().sum())

    x = prior(v, 1.0)
    assert objective(x) < objective(v)
    for seed in range(20):
        for size in (0.05, 0.005):
            assert objective(x + size * normal((6, 16, 8), torch.complex64, seed + 1)) > objective(x) - 1e-3
    assert torch.allclose(x.mean(0), v.mean(0), atol=1e-5)


def test_the_lowest_frequencies_may_be_free_or_not() -> None:
    v = normal((8, 3, 3), torch.complex64)
    assert torch.allclose(TemporalFourierSparsity(9.0)(v, 1.0), v.mean(0).expand(8, 3, 3), atol=1e-5)
    assert not TemporalFourierSparsity(9.0, free=0)(v, 1.0).any()


def test_total_variation_flattens_and_keeps_the_mean_and_edges() -> None:
    v = torch.zeros(1, 20, 20, dtype=torch.complex64)
    v[:, :, 10:] = 4
    noisy = v + 0.3 * normal(tuple(v.shape), torch.complex64)
    x = TotalVariation(0.6, n_inner=200)(noisy, 1.0)
    assert (x - v).abs().square().mean() < 0.25 * (noisy - v).abs().square().mean()
    assert torch.allclose(x.mean(), noisy.mean(), atol=1e-4)
    assert TotalVariation(0.0)(noisy, 1.0) is noisy


def test_temporal_sparsity_leaves_what_does_not_move() -> None:
    still = normal((1, 5, 5), torch.complex64).expand(8, 5, 5)
    assert torch.allclose(TemporalFourierSparsity(10.0)(still, 1.0), still, atol=1e-5)
    moving = normal((8, 5, 5), torch.complex64)
    calm = TemporalFourierSparsity(100.0)(moving, 1.0)
    assert torch.allclose(calm, moving.mean(0).expand(8, 5, 5), atol=1e-5)


def test_singular_values_shrink() -> None:
    matrix = normal((3, 10, 4), torch.complex64)
    before, after = torch.linalg.svdvals(matrix), torch.linalg.svdvals(shrink_singular_values(matrix, 1.5))
    assert torch.allclose(after, (before - 1.5).clamp_min(0), atol=1e-3)


@pytest.mark.parametrize("shape", [(6, 16, 16), (5, 13, 9)])
def test_low_rank_blocks_stay_what_is_of_rank_one(shape: tuple[int, int, int]) -> None:
    still = normal((1, *shape[1:]), torch.complex64) * normal((shape[0], 1, 1), torch.complex64, 2)
    assert torch.allclose(LocallyLowRank(1e-6, block=4)(still, 1.0), still, atol=1e-3)
    noisy = still + 0.2 * normal(shape, torch.complex64, 3)
    prior = LocallyLowRank(0.8, block=4)
    assert (prior(noisy, 1.0) - still).abs().square().mean() < (noisy - still).abs().square().mean()


def test_shifts_meet_every_parity_in_turn() -> None:
    shifts = [spread(k, 3) for k in range(64)]
    assert len(set(shifts)) == 64
    assert {(y % 2, x % 2) for y, x in shifts[:4]} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert spread(7, 0) == (0, 0)
