"""The CUDA kernels of CT, compiled for the CPU (and run on a GPU where there is one), against their numba twins."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kernels import ct_cuda, registry
from kernels.ct_cuda import ConeBackprojection, Rays
from kernels.ct_tile import BLOCK, MISS
from recon.ct.backend import HostRays, host_cone, host_hyperbola
from tests.kernels.test_ct_project import PLACE, SHAPES, Arrays, rays

Size = tuple[int, int, int]
PRECISION = [(torch.float32, 3e-6), (torch.float64, 1e-8)]


def normal(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def surrounded(shape: Size, dtype: torch.dtype) -> torch.Tensor:
    """Noise (z, y, x) that lies in memory as the kernels read it, with nothing around it that may be read."""
    nz, ny, nx = shape
    memory = torch.full((ny + 2, nx, nz), torch.nan, dtype=dtype)
    memory[1:-1] = normal((ny, nx, nz), dtype)
    return memory[1:-1].permute(2, 0, 1)


def close(made: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    assert made.dtype == expected.dtype and made.shape == expected.shape
    assert torch.isfinite(made).all()
    assert (made - expected).abs().max() <= tolerance * expected.abs().max()


def both(shape: Size, given: Arrays, place: ct_cuda.Place = PLACE) -> tuple[Rays, HostRays]:
    """The rays on the GPU and on the processor."""
    spots, columns, heights = given
    named = {"spots": spots, "columns": columns, "heights": heights}
    return Rays(shape, place, **named), HostRays(shape, place, **named)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISION, ids=str)
@pytest.mark.parametrize("shape", [(nz, ny, nx) for ny, nx, nz in SHAPES])
@pytest.mark.parametrize("counts", [(7, 6, 3), (1, 1, 1), (3, 150, 2), (2, 9, 70)])
def test_rays_and_their_transpose_are_numba_s(shape: Size, counts: Size, dtype: torch.dtype, tolerance: float) -> None:
    n_views, n_channels, n_rows = counts
    fast, host = both(shape, rays(n_views, n_channels, n_rows))
    volume, lines = surrounded(shape, dtype), normal((n_views, n_rows, n_channels), dtype, seed=1)
    close(fast.forward(volume), host.forward(volume), tolerance)
    close(fast.adjoint(lines), host.adjoint(lines), 10 * tolerance)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)], ids=str)
@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 5, 4), (8, 3, 3), (40, 33, 1)])
def test_smear_is_the_transpose(shape: Size, dtype: torch.dtype, tolerance: float) -> None:
    fast, _ = both(shape, rays(9, 40, 5))
    volume, lines = normal(shape, dtype), normal((9, 5, 40), dtype, seed=1)
    forward, back = fast.forward(volume), fast.adjoint(lines)
    size = forward.norm() * lines.norm()
    assert size > 0
    assert abs(torch.vdot(forward.ravel(), lines.ravel()) - torch.vdot(volume.ravel(), back.ravel())) < tolerance * size


@pytest.mark.usefixtures("gpu")
def test_along_an_axis_beside_the_voxels_and_behind_the_detector() -> None:
    place = (-40.0, 10.0, -40.0, 10.0, 0.0, 1.0)
    spots = np.array([[100.0, 0.0, 0.0], [100.0, 5.0, 0.0], [0.0, -100.0, 0.0], [100.0, 2e9, 0.0], [100.0, 2e9, 0.0]])
    ends = np.array(
        [
            [[-60.0, 0.0, 0.0], [2.0, 0.0, 0.0]],
            [[-60.0, 5.0, 0.0], [-60.0, 4e7, 0.0]],
            [[0.0, 80.0, 0.0], [80.0, -20.0, 0.0]],
            [[-100.0, 2e9 + 1e-5, 0.0], [-100.0, -2e9, 0.0]],
            [[-100.0, 2e9 - 1e-5, 0.0], [-100.0, 2e9, 0.0]],
        ]
    )
    fast, host = both((1, 9, 9), (spots, ends, np.zeros(1)), place)
    ones = torch.ones((1, 9, 9), dtype=torch.float64)
    made = fast.forward(ones)
    np.testing.assert_allclose(made[0, 0], [90.0, 40.0])
    assert not made[3, 0, 0] and not made[4].any()
    close(made, host.forward(ones), 1e-8)
    close(fast.adjoint(made), host.adjoint(made), 1e-8)


@pytest.mark.usefixtures("gpu")
def test_a_long_way_keeps_its_place_in_single_precision() -> None:
    """600 planes of a ramp: places kept in single precision would be off by more."""
    spots, columns = np.array([[2000.0, 31.7, 0.0]]), np.array([[[-2000.0, -93.1, 0.0], [-2000.0, 210.9, 0.0]]])
    place, shape = (-299.5, 1.0, -299.5, 1.0, 0.0, 1.0), (1, 600, 600)
    fast, host = both(shape, (spots, columns, np.zeros(1)), place)
    stripes = (torch.arange(600) % 2 * 2.0 - 1)[None, :, None].expand(shape)
    exact = host.forward(stripes.double())
    assert (fast.forward(stripes.contiguous()) - exact).abs().max() < 2e-4


@dataclass(frozen=True)
class Setting:
    """Filtered views around a circle, and voxels."""

    curved: float = 0.0
    sign: float = 1.0
    n_rows: int = 20
    n_channels: int = 60
    centre: tuple[float, float] = (9.3, 29.2)
    planes: int = 19
    pixels: tuple[int, int] = (21, 18)

    @property
    def detector(self) -> tuple[float, ...]:
        return (500.0, 900.0, self.centre[1], self.centre[0], 6.0, 4.0, self.curved)

    @property
    def angles(self) -> NDArray[np.float64]:
        return 0.3 + self.sign * np.arange(30) * 2 * np.pi / 29

    @property
    def axes(self) -> tuple[NDArray[np.float64], ...]:
        ny, nx = self.pixels
        return np.linspace(-95, 88, nx), np.linspace(-90, 97, ny), np.linspace(-25, 21, self.planes)

    def views(self, *, rough: bool) -> torch.Tensor:
        """Noise with nothing around it that may be read; or waves."""
        v, r, c = np.ogrid[: len(self.angles), : self.n_rows, : self.n_channels]
        smooth = 1 + np.cos(0.11 * c + 0.2 * v) * np.cos(0.1 * r - 0.3 * v)
        noise = np.random.default_rng(3).normal(size=smooth.shape)
        nothing = np.nan if rough and self.n_channels > 1 else 0
        around = np.full((len(smooth) + 1, self.n_rows, self.n_channels + BLOCK), nothing, np.float32)
        around[:-1, :, : self.n_channels] = noise if rough else smooth
        return torch.from_numpy(around)[:-1]

    def exact(self, views: torch.Tensor) -> NDArray[np.float64]:
        """The definition, in double precision: every voxel's own row and channel, both interpolated."""
        far, reach, middle, row0, pitch_c, pitch_r, curved = self.detector
        x, y, z = (a.reshape(s) for a, s in zip(self.axes, [(1, 1, -1), (1, -1, 1), (-1, 1, 1)], strict=True))
        total = np.zeros((z.size, y.size, x.size))
        for view, angle in zip(views.numpy().astype(float), self.angles, strict=True):
            away, across = far - x * np.cos(angle) - y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
            turn, distance = (np.arctan2(across, away), np.hypot(away, across)) if curved else (across / away, away)
            channel = middle + turn * reach / pitch_c + 0 * z
            seen = (channel >= -0.5) & (channel <= self.n_channels - 0.5)
            channel = np.clip(channel, 0, self.n_channels - 1)
            row = np.clip(row0 + z * reach / (distance * pitch_r), 0, self.n_rows - 1)
            c, r = channel.astype(int), row.astype(int)
            c2, r2 = np.minimum(c + 1, self.n_channels - 1), np.minimum(r + 1, self.n_rows - 1)
            low = view[r, c] + (channel - c) * (view[r, c2] - view[r, c])
            high = view[r2, c] + (channel - c) * (view[r2, c2] - view[r2, c])
            total += seen * (far / distance) ** 2 * (low + (row - r) * (high - low))
        return total


SETTINGS = {
    "flat": Setting(),
    "flat, other way": Setting(sign=-1),
    "cylinder": Setting(curved=1),
    "cylinder, other way, aside": Setting(curved=1, sign=-1, centre=(4.0, 11.0)),
    "flat, aside": Setting(centre=(13.2, 50.3)),
    "one row": Setting(n_rows=1, centre=(0.0, 29.0), planes=1),
    "one channel": Setting(n_channels=1, centre=(9.0, 0.0)),
    "many planes and pixels": Setting(planes=33, pixels=(5, 70)),
}


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_cone_backprojection_is_its_definition(setting: Setting) -> None:
    views = setting.views(rough=True)
    made = ConeBackprojection()(views, setting.angles, setting.detector, setting.axes)
    close(made.double(), torch.from_numpy(setting.exact(views)), 1e-4)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("setting", [s for name, s in SETTINGS.items() if name != "one channel"])
def test_cone_backprojection_is_numba_s_where_rows_change_slowly(setting: Setting) -> None:
    views = setting.views(rough=False)
    made, twin = (
        way(views, setting.angles, setting.detector, setting.axes) for way in (ConeBackprojection(), host_cone())
    )
    close(made, twin, 0.02 * MISS)
    assert (made.flip(1) - twin).abs().max() > 0.05 * twin.abs().max()


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str)
@pytest.mark.parametrize("shape", [(3, 6, 40), (1, 5, 1), (4, 1, 3)])
def test_the_prior_is_numba_s(shape: Size, dtype: torch.dtype, tolerance: float) -> None:
    rng = np.random.default_rng(4)
    steps = np.array([s for s in np.ndindex(3, 3, 3) if s != (1, 1, 1)]) - 1
    tables = (normal((26,), dtype, 5).abs().numpy(), rng.uniform(0.2, 2, 26).astype(str(dtype).removeprefix("torch.")))
    volume, sums = normal(shape, dtype, 6), []
    for hyperbola, where in ((ct_cuda.hyperbola, registry.device()), (host_hyperbola, torch.device("cpu"))):
        slope, bend = normal(shape, dtype, 7).to(where), normal(shape, dtype, 8).to(where)
        hyperbola(volume.to(where), (steps, *tables), slope, bend)
        sums.append(torch.stack([slope, bend]).cpu())
    close(sums[0], sums[1], tolerance)


def test_without_cupy_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    ct_cuda.compiled.cache_clear()
    with pytest.raises(LookupError, match=r"ISOCENTER_DEVICE=cuda: CT needs CuPy.*isocenter\[gpu\]"):
        ConeBackprojection()


def test_cupy_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, recon.ct.cone, recon.ct.iterative; sys.exit('cupy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
