"""Line integrals through voxels against a slow reference, part by part, and their transpose."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.ct_project import project, smear

Arrays = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
SHAPES = [(4, 5, 3), (5, 4, 1), (1, 7, 2), (6, 1, 1), (3, 3, 8)]
PLACE = (-9.0, 5.0, -11.0, 4.0, -2.0, 1.5)


def rays(n_views: int = 7, n_channels: int = 6, n_rows: int = 3) -> Arrays:
    """Spots all around at changing heights, detectors opposite, no direction special."""
    angle = 0.37 + np.arange(n_views) * 2 * np.pi / n_views
    spots = np.stack([60 * np.cos(angle), 60 * np.sin(angle), np.linspace(-3, 4, n_views)], -1)
    fan = np.linspace(-0.3, 0.33, n_channels)
    ends = np.stack([-50 * np.cos(angle[:, None] + fan), -50 * np.sin(angle[:, None] + fan)], -1)
    columns = np.concatenate([ends, np.broadcast_to(spots[:, None, 2:] + 0.7, (n_views, n_channels, 1))], -1)
    return spots, columns, np.linspace(-6, 5, n_rows)


def reference(volume: NDArray, spot: NDArray, end: NDArray) -> float:
    """One ray, plane by plane, as Joseph's method says."""
    ny, nx, nz = volume.shape
    x0, dx, y0, dy, z0, dz = PLACE
    way = end - spot
    steep = abs(way[0]) >= abs(way[1])
    n, start, step, axis = (nx, x0, dx, 0) if steep else (ny, y0, dy, 1)
    total = 0.0
    for i in range(n):
        t = (start + i * step - spot[axis]) / way[axis]
        if not 0 < t < 1:
            continue
        x, y, z = (spot + t * way - (x0, y0, z0)) / (dx, dy, dz)
        z = min(max(z, 0.0), nz - 1.0)
        across = y if steep else x
        for j in (int(np.floor(across)), int(np.floor(across)) + 1):
            for k in (int(z), int(z) + 1):
                if 0 <= j < (ny if steep else nx) and k < nz:
                    weight = max(0.0, 1 - abs(across - j)) * max(0.0, 1 - abs(z - k))
                    total += weight * (volume[j, i, k] if steep else volume[i, j, k])
    return total * step / abs(way[axis]) * float(np.linalg.norm(way))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_ray_is_the_reference_s(shape: tuple[int, int, int]) -> None:
    volume = np.random.default_rng(1).normal(size=shape)
    spots, columns, heights = rays()
    out = np.full((7, 3, 6), np.nan)
    project(volume, PLACE, spots, columns, heights, out)
    expected = [
        [[reference(volume, s, c + np.array([0, 0, h])) for c in row] for h in heights]
        for s, row in zip(spots, columns, strict=True)
    ]
    np.testing.assert_allclose(out, expected, atol=1e-10)
    assert np.abs(out).max() > 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_smear_is_the_transpose_in_slabs_of_any_size(
    shape: tuple[int, int, int], dtype: type, tolerance: float
) -> None:
    rng = np.random.default_rng(2)
    volume, lines = rng.normal(size=shape).astype(dtype), rng.normal(size=(7, 3, 6)).astype(dtype)
    spots, columns, heights = rays()
    forward = np.empty_like(lines)
    project(volume, PLACE, spots, columns, heights, forward)
    whole, parts = np.zeros_like(volume), np.zeros_like(volume)
    smear(lines, PLACE, spots, columns, heights, (0, whole))
    for y in range(shape[0]):
        smear(lines, PLACE, spots, columns, heights, (y, parts[y : y + 1]))
    size = np.linalg.norm(forward) * np.linalg.norm(lines)
    assert abs(np.vdot(forward, lines) - np.vdot(volume, whole)) < tolerance * size
    np.testing.assert_allclose(parts, whole, atol=10 * tolerance)


def test_what_lies_behind_the_detector_is_not_seen() -> None:
    volume = np.ones((9, 9, 1))
    place = (-40.0, 10.0, -40.0, 10.0, 0.0, 1.0)
    out = np.empty((1, 1, 2))
    spots, ends = np.array([[100.0, 0.0, 0.0]]), np.array([[[-60.0, 0.0, 0.0], [2.0, 0.0, 0.0]]])
    project(volume, place, spots, ends, np.zeros(1), out)
    np.testing.assert_allclose(out[0, 0], [90.0, 40.0])
