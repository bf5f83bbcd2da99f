"""The forward model of CT against the exact line integrals of the virtual scanner."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from acquisition.errors import HeaderError, ReconError
from acquisition.geometry import Grid
from acquisition.sources.phantom.ct import CtExam, CtSimulation, gantry
from acquisition.sources.phantom.ct_objects import chest
from acquisition.sources.phantom.objects import Phantom
from recon.ct.project import ConeProjector

AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
FLYING = ((0.02, 9.0, 0.0), (-0.02, -9.0, 8.0))


def small(**changes: object) -> CtExam:
    fields = {"n_rows": 4, "n_channels": 92, "pitch_mm": (4.0, 10.0), "centre": (1.2, 45.75), "views_per_rotation": 16}
    mode = str(changes.pop("mode", "axial"))
    detector = changes.pop("detector", "cylindrical")
    return CtExam(ct=gantry(mode=mode, detector=detector, **fields), turns=1.0, **changes)


def leaning() -> Phantom:
    """A chest in which nothing is the same at two heights."""
    shear = np.eye(3)
    shear[:2, 2] = 0.8, -0.5
    return chest().transformed(shear, (0.0, 0.0, 0.0))


def sampled(simulation: CtSimulation, grid: Grid) -> torch.Tensor:
    """The object on the grid, averaged over 2 x 2 x 2 points in each voxel."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1)[..., ::-1]
    points = index @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    shifts = np.stack(np.meshgrid(*[(-0.25, 0.25)] * 3), -1).reshape(-1, 3) * grid.spacing_mm[::-1]
    mean = np.mean([simulation.phantom.signal(points + s) for s in shifts], axis=0)
    return torch.from_numpy((mean * 0.0192).astype(np.float32))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"detector": "flat", "direction": -1},
        {"focal_spot_shifts": FLYING},
        {"mode": "helical", "feed_mm": 20.0, "start_z_mm": -10.0},
    ],
)
def test_a_chest_of_voxels_casts_the_shadow_of_the_chest(changes: dict[str, object]) -> None:
    simulation = CtSimulation(small(**changes), leaning())
    grid = Grid.from_centre((0, 0, 0), shape=(15, 110, 110), spacing_mm=(3.0, 3.4, 3.4), directions=AXES)
    projector = ConeProjector(simulation.exam.ct, simulation.head, grid)
    exact = simulation.lines()
    made = projector(sampled(simulation, grid)).numpy()
    assert np.sqrt(np.square(made - exact).mean()) < 0.012 * exact.max()
    for axis in (0, 1, 2):
        assert np.sqrt(np.square(np.flip(made, axis) - exact).mean()) > 0.024 * exact.max()


def test_a_flying_focal_spot_is_seen() -> None:
    simulation = CtSimulation(small(focal_spot_shifts=FLYING), leaning())
    grid = Grid.from_centre((0, 0, 0), shape=(15, 110, 110), spacing_mm=(3.0, 3.4, 3.4), directions=AXES)
    resting = simulation.head.copy()
    for name in ("angle_shift_rad", "z_shift_mm", "radius_shift_mm"):
        resting[name] = 0
    volume, exact = sampled(simulation, grid), simulation.lines()
    errors = [
        float(np.abs(ConeProjector(simulation.exam.ct, head, grid)(volume).numpy() - exact).mean())
        for head in (simulation.head, resting)
    ]
    assert errors[0] < 0.4 * errors[1]


def test_some_views_are_those_of_all_and_one_thread_gives_what_two_give() -> None:
    simulation = CtSimulation(small())
    grid = Grid.from_centre((0, 0, 0), shape=(3, 20, 21), spacing_mm=(6.0, 16.0, 15.0), directions=AXES)
    projector = ConeProjector(simulation.exam.ct, simulation.head, grid)
    volume = torch.rand(grid.shape, generator=torch.Generator().manual_seed(1))
    lines = projector(volume)
    torch.testing.assert_close(projector.views(slice(1, None, 5))(volume), lines[1::5])
    before, back = torch.get_num_threads(), projector.adjoint(lines)
    try:
        torch.set_num_threads(1 if before > 1 else 3)
        torch.testing.assert_close(projector(volume), lines)
        torch.testing.assert_close(projector.adjoint(lines), back)
    finally:
        torch.set_num_threads(before)


def test_a_tilted_grid_and_an_impossible_scanner_are_refused() -> None:
    exam = small()
    head = CtSimulation(exam).head
    tilted = Grid.from_centre(
        (0, 0, 0), shape=(2, 2, 2), spacing_mm=(1, 1, 1), directions=((0.6, 0.8, 0), (-0.8, 0.6, 0), AXES[2])
    )
    with pytest.raises(ReconError, match="along the gantry's axes"):
        ConeProjector(exam.ct, head, tilted)
    straight = Grid.from_centre((0, 0, 0), shape=(2, 2, 2), spacing_mm=(1, 1, 1), directions=AXES)
    with pytest.raises(HeaderError, match="positive sizes"):
        ConeProjector(gantry(n_rows=0), head, straight)
