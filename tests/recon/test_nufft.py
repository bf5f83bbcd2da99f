"""The non-uniform transform against the sum that defines it, and its normal operator."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from acquisition.errors import DataError
from acquisition.sources.phantom.trajectories import kooshball, radial, spiral
from recon.nufft import Nufft, Toeplitz
from tests.properties import normal


def places(name: str, shape: tuple[int, ...]) -> np.ndarray:
    made = {"radial": radial(7, 12), "spiral": spiral(3, 40, turns=2), "koosh": kooshball(9, 10)}[name]
    return (made * np.asarray(shape[::-1], np.float32)).reshape(-1, len(shape))


CASES = [("radial", (20, 17)), ("radial", (1, 9)), ("spiral", (15, 15)), ("koosh", (6, 8, 7))]


@pytest.mark.parametrize(("name", "shape"), CASES)
@pytest.mark.parametrize("n_coils", [1, 3])
def test_it_is_the_sum_over_voxels(name: str, shape: tuple[int, ...], n_coils: int) -> None:
    traj = places(name, shape)
    x = normal((n_coils, *shape), torch.complex64)
    grids = np.meshgrid(*[np.arange(n) - n // 2 for n in shape], indexing="ij")
    phase = sum(traj[:, -1 - a, None] * g.ravel() / n for a, (g, n) in enumerate(zip(grids, shape, strict=True)))
    expected = x.flatten(1).numpy() @ np.exp(-2j * np.pi * phase).T / np.sqrt(np.prod(shape))
    assert np.abs(Nufft(traj, shape, n_coils=n_coils)(x).numpy() - expected).max() < 2e-4


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_the_toeplitz_operator_is_the_normal_operator(name: str, shape: tuple[int, ...]) -> None:
    traj = places(name, shape)
    transform = Nufft(traj, shape, n_coils=2)
    weights = torch.rand(len(traj), generator=torch.Generator().manual_seed(1))
    x = normal((2, *shape), torch.complex64)
    expected = transform.adjoint(transform(x) * weights)
    toeplitz = Toeplitz(traj, weights, shape=shape)
    found = toeplitz(x)
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()
    maps = normal((2, *shape), torch.complex64, 5)
    through = (maps.conj() * toeplitz(maps * x[:1])).sum(0)
    assert (toeplitz.sense(maps)(x[0]) - through).abs().max() < 1e-5 * through.abs().max()


@pytest.mark.parametrize(
    ("traj", "shape", "message"),
    [
        (np.zeros((4, 3)), (8, 8), "2 dimensions for an image of 8 x 8, got 3"),
        (np.full((4, 2), np.nan), (8, 8), "finite numbers"),
        (np.full((4, 2), 6.0), (8, 8), "at most 4 cycles per field of view along y"),
    ],
)
def test_a_wrong_trajectory_is_refused(traj: np.ndarray, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Nufft(traj.astype(np.float32), shape)
