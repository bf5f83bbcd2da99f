"""Steps and operators of CT give the same with the CUDA kernels as with the numba ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from acquisition.geometry import Grid
from acquisition.items import Image, Projections
from acquisition.sources.phantom.ct import CtExam, CtSimulation, gantry
from acquisition.sources.phantom.ct_objects import head
from acquisition.stream import Step
from kernels import ct_cuda, registry
from recon.ct import backend
from recon.ct.cone import Cone
from recon.ct.iterative import Pwls, Sirt, TotalVariationCt
from recon.ct.project import ConeProjector
from tests import properties

AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
SHIFTS = ((0.002, 0.6, 0.0), (-0.001, 0.0, 3.0), (0.0, -0.4, 0.0))
EXAMS = {
    "circle": {"mode": "axial"},
    "flat, other way, aside": {"mode": "axial", "detector": "flat", "direction": -1, "centre": (1.7, 12.0)},
    "helix": {"feed_mm": 30.0, "start_z_mm": -15.0},
    "helix, other way, flying focal spot": {
        "feed_mm": -30.0, "direction": -1, "focal_spot_shifts": SHIFTS, "start_z_mm": 15.0,
    },
    "flat helix, aside": {"feed_mm": 30.0, "detector": "flat", "centre": (6.0, 50.0)},
}  # fmt: skip


def exam(*, n_rows: int = 8, n_channels: int = 70, views: int = 40, **changes: object) -> CtExam:
    """A coarse scanner."""
    names = ("mode", "detector", "centre")
    fields = {"centre": ((n_rows - 1) / 2, (n_channels - 1) / 2 + 0.25), "mode": "helical"}
    fields |= {k: changes.pop(k) for k in names if k in changes}
    pitch = {"pitch_mm": (5.0, 900 / n_channels), "views_per_rotation": views}
    ct = gantry(n_rows=n_rows, n_channels=n_channels, **pitch, **fields)
    return CtExam(ct=ct, turns=1.0, **changes)


@contextmanager
def on_host() -> Iterator[None]:
    """Compute by numba for a while."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(registry.ENVIRONMENT, "cpu")
        patch.setitem(backend.BACKENDS, "cpu", backend.HOST)
        registry.device.cache_clear()
        yield
    registry.device.cache_clear()


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("changes", EXAMS.values(), ids=EXAMS)
def test_projector(changes: dict[str, object]) -> None:
    measured = exam(**changes)
    views = CtSimulation(measured).head
    grid = Grid.from_centre((12, -7, 2), shape=(11, 30, 28), spacing_mm=(3.5, 13.0, 15.0), directions=AXES)
    fast = ConeProjector(measured.ct, views, grid)
    assert isinstance(fast._rays, ct_cuda.Rays)
    with on_host():
        host = ConeProjector(measured.ct, views, grid)
    volume, lines = (torch.randn(s, generator=torch.Generator().manual_seed(2)) for s in (host.domain, host.range))
    expected, back = host(volume), host.adjoint(lines)
    assert expected.abs().max() > 10
    torch.testing.assert_close(fast(volume), expected, rtol=0, atol=2e-5 * float(expected.abs().max()))
    torch.testing.assert_close(fast.adjoint(lines), back, rtol=0, atol=2e-5 * float(back.abs().max()))
    some = slice(1, None, 3)
    torch.testing.assert_close(fast.views(some)(volume), fast(volume)[some])


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("dtype", [torch.complex128, torch.complex64], ids=str)
@pytest.mark.parametrize("name", [name for name in properties.ALL if name.startswith("ConeProjector")])
@pytest.mark.parametrize("check", [properties.assert_adjoint, properties.assert_linear, properties.assert_dense])
def test_property(check, name: str, dtype: torch.dtype) -> None:
    check(properties.ALL[name](dtype), dtype)


FIELD = {"matrix": 40, "fov_mm": 210.0}
STEPS = {  # and how far slices may be apart [HU]; numba's FDK takes rows by steps of depth
    "fdk": (Cone(kernel="soft", thickness_mm=3, increment_mm=6, **FIELD), 3.0),
    "sirt": (Sirt(thickness_mm=6, increment_mm=6, n_iterations=2, n_subsets=4, **FIELD), 0.05),
    "pwls": (Pwls(thickness_mm=6, increment_mm=6, n_iterations=2, n_subsets=4, photons=1e5, **FIELD), 0.05),
    "tv": (TotalVariationCt(thickness_mm=6, increment_mm=6, n_iterations=1, n_subsets=4, photons=1e5, **FIELD), 0.05),
}


def slices(step: Step, simulation: CtSimulation) -> list[Image]:
    step.open(simulation.scan)
    views = Projections(head=simulation.head, data=simulation.lines(), domain="lines")
    items = [*step.feed(views), *step.close()]
    return [i for i in items if isinstance(i, Image)]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("step", "tolerance_hu"), STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("detector", ["flat", "cylindrical"])
def test_step(step: Step, tolerance_hu: float, detector: str) -> None:
    simulation = CtSimulation(exam(mode="axial", detector=detector, n_channels=120, views=90), head())
    made = slices(step, simulation)
    with on_host():
        expected = slices(step, simulation)
    assert len(made) == len(expected) > 1
    for one, other in zip(made, expected, strict=True):
        assert np.ptp(other.data) > 100 * tolerance_hu and one.grid == other.grid
        assert np.abs(one.data - other.data).max() < tolerance_hu
