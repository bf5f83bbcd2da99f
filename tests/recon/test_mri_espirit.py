"""ESPIRiT: maps of known coils, on odd sizes, with one coil, in 3D, and what cannot be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from acquisition.errors import ReconError
from kernels.registry import kernel
from recon.mri import espirit
from recon.mri.espirit import espirit_maps
from tests.recon.helpers import coils, phantom


def scene(shape: tuple[int, int, int], n_coils: int, acs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return true maps (coil, *shape), the object's mask, and the calibration region."""
    true = torch.from_numpy(coils(n_coils, shape)).to(torch.complex64)
    pixels = torch.from_numpy(phantom(shape)).to(torch.complex64)
    kspace = kernel("centred_fft")(true * pixels, (1, 2, 3))
    for axis in (1, 2, 3):
        kspace = kernel("resize")(kspace, min(acs, shape[axis - 1]), axis)
    squeeze = shape[0] == 1
    inside = pixels.abs() > 0.3
    return (true[:, 0], inside[0], kspace[:, 0]) if squeeze else (true, inside, kspace)


def agreement(maps: Tensor, true: Tensor) -> Tensor:
    """Return |<s, t>| / |t| at each voxel: 1 where the maps agree."""
    return (maps.conj() * true).sum(0).abs() / true.abs().square().sum(0).sqrt()


@pytest.mark.parametrize(
    ("shape", "n_coils"), [((1, 64, 64), 8), ((1, 57, 71), 5), ((1, 64, 64), 2), ((18, 32, 27), 6)]
)
def test_maps_of_known_coils(shape: tuple[int, int, int], n_coils: int) -> None:
    true, inside, region = scene(shape, n_coils, 20)
    found = espirit_maps(region, tuple(true.shape[1:]), crop=0.0)
    agree = agreement(found.maps[0], true)[inside]
    assert agree.median() > 0.999
    assert (agree > 0.98).float().mean() > 0.95
    assert found.eigenvalues[0][inside].median() > 0.98


def test_maps_have_unit_norm_and_end_with_the_object() -> None:
    _, inside, region = scene((1, 64, 64), 8, 24)
    found = espirit_maps(region, (64, 64), crop=0.9)
    norm = found.maps[0].abs().square().sum(0)
    kept = norm > 0
    assert torch.allclose(norm[kept], torch.ones(int(kept.sum())), atol=1e-4)
    assert (kept & inside).sum() > 0.98 * inside.sum()
    assert kept.float().mean() < 0.9


def test_one_coil_is_one() -> None:
    _, inside, region = scene((1, 48, 48), 1, 20)
    maps = espirit_maps(region, (48, 48), crop=0.0).maps[0]
    assert torch.allclose(maps.abs()[0][inside], torch.ones(int(inside.sum())), atol=1e-4)


def test_two_sets_where_the_object_wraps() -> None:
    true = torch.from_numpy(coils(8, (1, 96, 64))).to(torch.complex64)
    pixels = torch.from_numpy(phantom((1, 96, 64))).to(torch.complex64)
    folded = (true * pixels)[:, 0]
    folded = folded[:, 24:72] + torch.roll(torch.cat([folded[:, 72:], folded[:, :24]], 1), 0, 1)
    region = kernel("resize")(kernel("resize")(kernel("centred_fft")(folded, (1, 2)), 24, 1), 24, 2)
    found = espirit_maps(region, (48, 64), n_sets=2, crop=0.0)
    assert (found.eigenvalues[1] > 0.9).float().mean() > 0.05
    overlap = (found.maps[0].conj() * found.maps[1]).sum(0).abs()
    assert overlap.median() < 0.05


def test_the_coarse_grid_changes_little(monkeypatch: pytest.MonkeyPatch) -> None:
    _, inside, region = scene((1, 128, 128), 8, 24)
    fast = espirit_maps(region, (128, 128), crop=0.0)
    monkeypatch.setattr(espirit, "_COARSE", 1000.0)
    full = espirit_maps(region, (128, 128), crop=0.0)
    assert ((fast.maps - full.maps)[0].abs().square().sum(0).sqrt()[inside]).quantile(0.99) < 0.02
    assert (fast.eigenvalues - full.eigenvalues)[0][inside].abs().max() < 0.02


def test_the_phase_is_smooth() -> None:
    _, inside, region = scene((1, 64, 64), 8, 24)
    maps = espirit_maps(region, (64, 64), crop=0.0).maps[0]
    step = (maps[:, 1:] - maps[:, :-1]).abs().square().sum(0).sqrt()
    assert step[inside[1:] & inside[:-1]].max() < 0.35


@pytest.mark.parametrize(
    ("region", "shape", "message"),
    [
        (torch.ones(4, 5, 6, dtype=torch.complex64), (32, 32), "larger than the kernel of 6"),
        (torch.zeros(4, 20, 20, dtype=torch.complex64), (32, 32), "a calibration region with signal"),
        (torch.full((4, 20, 20), torch.nan, dtype=torch.complex64), (32, 32), "zeros or NaN"),
        (torch.ones(4, 20, 20, dtype=torch.complex64), (8, 32, 32), "2 or 3 axes"),
    ],
)
def test_what_is_no_calibration_is_refused(region: Tensor, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ReconError, match=message):
        espirit_maps(region, shape)
