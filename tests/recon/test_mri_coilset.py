"""Grids that transform fast, the noise read from the outermost lines, the coils of a slice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from acquisition.errors import ReconError
from acquisition.items import READOUT_HEAD
from recon.mri.coilset import CoilOptions, CoilStore, compression, fast_size, noise_level, own_middle
from recon.mri.items import Calibration, Frame, FrameKey
from tests.properties import normal
from tests.recon.helpers import centred, coils, phantom


@pytest.mark.parametrize(("n", "fast"), [(1, 1), (90, 90), (97, 100), (128, 128), (181, 192), (225, 225), (230, 240)])
def test_grids(n: int, fast: int) -> None:
    assert fast_size(n) == fast


@pytest.mark.parametrize("level", [0.3, 5.0])
def test_the_noise_is_found_beside_a_bright_object(level: float) -> None:
    shape = (1, 96, 80)
    kspace = centred(phantom(shape) * coils(4, shape) * 40, (1, 2))
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape)
    counts = (rng.random((1, 96)) < 0.4).astype(np.uint16)
    measured = torch.from_numpy(((kspace + level * noise / np.sqrt(2)) * counts[..., None]).astype(np.complex64))
    assert noise_level(measured, counts) == pytest.approx(level, rel=0.15)


def test_no_lines_have_no_noise() -> None:
    assert noise_level(torch.zeros(2, 1, 8, 8, dtype=torch.complex64), np.zeros((1, 8), np.uint16)) == 0


def test_virtual_coils_keep_noise_white_and_the_energy_asked_for() -> None:
    mixing = normal((8, 3), torch.complex64, 1)
    region = mixing @ normal((3, 500), torch.complex64, 2) + 0.01 * normal((8, 500), torch.complex64, 3)
    few = compression(region, 0.99)
    assert len(few) <= 3
    assert torch.allclose(few @ few.mH, torch.eye(len(few), dtype=few.dtype), atol=1e-5)
    assert (few @ region).abs().square().sum() > 0.99 * region.abs().square().sum()
    assert len(compression(region, 1.0)) == 8


def frame(kspace: torch.Tensor, measured: np.ndarray) -> Frame:
    counts = measured[None].astype(np.uint16)
    return Frame(kspace=kspace, counts=counts, key=FrameKey(0, 2, 1, 0, 3, 0), head=np.zeros((), READOUT_HEAD))


def test_a_new_calibration_replaces_the_old_one() -> None:
    store, lines = CoilStore(CoilOptions(crop=0.0)), np.arange(32) % 2 == 0
    key = FrameKey(0, 2, 0, 0, 0, 0)
    for seed, n_coils in ((1, 3), (2, 4)):
        maps = coils(n_coils, (1, 32, 32), seed)
        kspace = torch.from_numpy(centred(maps * phantom((1, 32, 32)), (1,)).astype(np.complex64))
        store.learn(Calibration(kspace=kspace[:, :, 6:26], first=(0, 6), matrix=(1, 32), key=key))
        assert store.of(frame(kspace, lines)).compression.shape[1] == n_coils
    with pytest.raises(ReconError, match="the same number, got 4 and 3"):
        store.of(frame(kspace[:3], lines))


def test_a_frame_without_a_middle_has_no_coils() -> None:
    kspace, lines = normal((2, 1, 16, 8), torch.complex64), np.ones(16, bool)
    lines[8] = False
    with pytest.raises(ReconError, match="measure calibration lines"):
        own_middle(frame(kspace, lines))
