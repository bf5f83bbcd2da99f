"""The noise of a PET frame from the halves of its counts: as large as what repeated scans differ by."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from acquisition.items import Kind
from recon.pet.likelihood import ListMode
from recon.pet.osem import Osem
from recon.pet.psf import GaussianPsf
from recon.pet.volume import VoxelOptions, gantry_grid
from tests.recon.test_pet_osem import PET, VOXELS, corrected, disc, events, middle

STEP = {**VOXELS, "n_iterations": 3, "n_subsets": 4, "filter_mm": 8.0}


def test_the_map_is_the_noise_and_the_image_is_the_same() -> None:
    (plain,) = corrected(Osem(**STEP), events(stop_s=20.0))
    image, noise = corrected(Osem(**STEP, noise_map=True), events(stop_s=20.0))
    np.testing.assert_array_equal(image.data, plain.data)
    assert (noise.output, noise.unit, noise.kind) == ("noise", "Bq/mL", Kind.MAGNITUDE)
    assert noise.position == image.position
    inner = disc(image.grid, 35.0)[2:-2]
    spread = (image.data - image.data[2:-2][inner].mean())[2:-2][inner].std()
    assert np.median(noise.data[2:-2][inner]) == pytest.approx(spread, rel=0.3)
    assert middle(image) > 5 * np.median(noise.data[2:-2][inner])


def test_four_times_the_counts_have_half_of_the_noise() -> None:
    few, many = (corrected(Osem(**STEP, noise_map=True), events(stop_s=s)) for s in (10.0, 40.0))
    inner = disc(few[0].grid, 35.0)
    ratio = np.median(few[1].data[inner]) / np.median(many[1].data[inner])
    assert ratio == pytest.approx(2, rel=0.25)


@pytest.mark.parametrize("counts", [None, np.arange(200, dtype=np.float32) % 7], ids=["events", "bins"])
def test_both_halves_are_the_whole(counts: np.ndarray | None) -> None:
    pairs = np.stack([np.arange(200), np.arange(200) + 300], axis=1).astype(np.int32)
    grid = gantry_grid(PET, VoxelOptions(voxel_mm=8.0, fov_mm=80.0))
    data = ListMode(PET, grid, pairs, None, None, GaussianPsf(grid, 0.0), torch.ones(grid.shape), counts)
    one, other = data.half(0), data.half(1)
    assert one.total + other.total == data.total
    assert abs(one.total - other.total) < 4 * np.sqrt(data.total)
    assert float(one.sensitivity.max()) == 0.5
    if counts is not None:
        np.testing.assert_array_equal(one.counts + other.counts, counts)  # type: ignore[operator]
        assert (one.counts != other.counts).any()
