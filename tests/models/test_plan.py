"""Planning: a head whose pose is known gets the plan of that pose, one that is not understood gets none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from acquisition.errors import ConfigError, DataError, FileFormatError
from acquisition.geometry import Grid
from acquisition.items import Image, Kind
from models.plan import LEAST, TARGETS, Planned, planned, prescribed
from models.plan_fit import AFFINE, SIMILARITY, Fit, fitted
from models.plan_pose import gathered, turned_deg
from models.plan_prior import carried, transferred
from models.plan_step import PlanBrain, stacks_of
from models.template import load_template
from recon.rigid import Rigid
from tests.models.samples import scan

T1 = np.array([1.0, 0.72, 0.85, 0.25, 0.08, 0.55, 0.95])
T2 = np.array([0.45, 0.62, 0.42, 1.0, 0.06, 0.3, 0.6])


def head(motion: Rigid, brightness: NDArray, *, grid: Grid, noise: float = 0.02) -> Image:
    """Return the template as a head of the usual size after a motion from AC-PC level, on a grid."""
    template = load_template()
    maps, stretch = template.fine, template.prior.stretch
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1).reshape(-1, 3)
    places = index[:, ::-1] @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    own = (places - motion.shift_mm) @ motion.rotation @ stretch.T  # template LPS
    voxels = ((own - maps.first_mm) / maps.step_mm)[:, ::-1].T
    values = map_coordinates(maps.parts @ brightness.astype(np.float32), voxels, order=1)
    chance = np.random.default_rng(5)
    noisy = np.hypot(values + noise * chance.standard_normal(len(values)), noise * chance.standard_normal(len(values)))
    return Image(data=noisy.astype(np.float32).reshape(grid.shape), grid=grid)


def volume_grid(side: float = 3.5) -> Grid:
    """Return a volume about the origin."""
    return Grid.from_centre(
        (0.0, 15.0, 0.0), shape=(64, 64, 58), spacing_mm=(side, side, side), directions=np.eye(3).tolist()
    )


MOTIONS = [
    Rigid(Rotation.from_euler("xyz", angles, degrees=True).as_matrix(), np.array(shift))
    for angles, shift in (((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)), ((-24.0, 9.0, -14.0), (8.0, -10.0, 12.0)))
]


def marks(motion: Rigid) -> dict[str, NDArray]:
    """Return the true places."""
    template = load_template()
    back = np.linalg.inv(template.prior.stretch)
    return {n: motion.rotation @ back @ p + motion.shift_mm for n, p in template.landmarks.items()}


@pytest.fixture(scope="module", params=[(0, "T1"), (1, "T2")], ids=["level-t1", "turned-t2"])
def posed(request: pytest.FixtureRequest) -> tuple[Rigid, Image, Planned]:
    number, contrast = request.param
    image = head(MOTIONS[number], {"T1": T1, "T2": T2}[contrast], grid=volume_grid())
    return MOTIONS[number], image, planned([image], "brain-acpc", frame_of_reference_uid="1.2.3")


def degrees(a: object, b: object) -> float:
    return float(np.rad2deg(np.arccos(np.clip(np.dot(np.asarray(a), np.asarray(b)), -1, 1))))


def test_plan_lies_as_the_head_does(posed: tuple[Rigid, Image, Planned]) -> None:
    motion, _, made = posed
    assert made.plan is not None
    true = marks(motion)
    assert np.linalg.norm(np.asarray(made.plan.landmarks_mm["AC"]) - true["AC"]) < 1.5
    assert np.linalg.norm(np.asarray(made.plan.landmarks_mm["PC"]) - true["PC"]) < 1.5
    left = motion.rotation @ [1.0, 0.0, 0.0]
    along = true["PC"] - true["AC"]
    assert degrees(made.plan.in_plane, left) < 1.0
    assert degrees(made.plan.normal, np.cross(left, along / np.linalg.norm(along))) < 2.0
    assert made.plan.confidence >= LEAST
    assert made.plan.frame_of_reference_uid == "1.2.3"


def test_slab_holds_the_brain(posed: tuple[Rigid, Image, Planned]) -> None:
    motion, _, made = posed
    assert made.plan is not None
    template = load_template()
    brain = template.surface_mm @ np.linalg.inv(template.prior.stretch).T @ motion.rotation.T + motion.shift_mm
    away = (brain - np.asarray(made.plan.centre_mm)) @ np.asarray(made.plan.normal)
    assert np.abs(away).max() < made.plan.coverage_mm / 2
    assert made.plan.coverage_mm < np.ptp(away) + 30


def test_noise_gets_no_plan() -> None:
    chance = np.random.default_rng(0)
    image = Image(data=np.abs(chance.standard_normal((40, 48, 48))).astype(np.float32), grid=GRID)
    made = planned([image], "brain-acpc")
    assert made.plan is None
    assert "plan by hand" in made.verdict.advice


def test_few_slices_of_a_head_get_no_plan() -> None:
    image = head(MOTIONS[0], T1, grid=volume_grid())
    for n in (1, 2):
        grid = replace(image.grid.plane(31), shape=(n, *image.grid.shape[1:]))
        made = planned([replace(image, data=image.data[31 : 31 + n], grid=grid)], "brain-acpc")
        assert made.plan is None


def test_ball_gets_no_plan() -> None:
    z, y, x = np.indices((40, 48, 48)) - np.array([20, 24, 24])[:, None, None, None]
    ball = (z**2 + y**2 + x**2 < 17**2).astype(np.float32)
    assert planned([Image(data=ball, grid=GRID)], "brain-acpc").plan is None


GRID = Grid.from_centre((0.0, 0.0, 0.0), shape=(40, 48, 48), spacing_mm=(5, 5, 5), directions=np.eye(3).tolist())


def test_unknown_target_names_the_known() -> None:
    with pytest.raises(ConfigError, match="brain-acpc"):
        planned([], "brain-acp")


def test_nothing_to_see() -> None:
    image = Image(data=np.zeros((40, 48, 48), np.float32), grid=GRID)
    with pytest.raises(DataError, match="nothing above 0"):
        planned([image], "brain-acpc")
    with pytest.raises(DataError, match="magnitude images"):
        planned([replace(image, kind=Kind.COMPLEX)], "brain-acpc")


def test_template_must_be_one(tmp_path) -> None:
    with pytest.raises(FileFormatError, match="tissue maps"):
        load_template(tmp_path / "none.npz")


def test_fit_comes_back_from_a_known_error() -> None:
    template = load_template()
    image = head(MOTIONS[1], T1, grid=volume_grid())
    samples = gathered([image]).chosen(np.arange(0, 60_000, 7))
    true = Fit(template.prior.stretch @ MOTIONS[1].rotation.T, np.zeros(3))
    true = Fit(true.matrix, -true.matrix @ MOTIONS[1].shift_mm)
    wrong = Fit(
        true.matrix @ Rotation.from_euler("x", 6, degrees=True).as_matrix(), true.shift_mm + np.array([4.0, -3.0, 2.0])
    )
    for basis in (SIMILARITY, AFFINE):
        back = fitted(wrong, template.middle, samples, basis=basis, n_steps=10, prior=template.prior)
        assert turned_deg(back, true) < 1.0 < 5.0 < turned_deg(wrong, true)
        assert back.explained > 0.8


@pytest.mark.parametrize("name", [n for n in TARGETS if n != "brain-acpc"])
def test_every_target_is_right_handed_and_through_the_head(posed: tuple[Rigid, Image, Planned], name: str) -> None:
    motion, _, made = posed
    plan = prescribed(name, made.landmarks, load_template())
    middle = marks(motion)["AC"]
    assert np.linalg.norm(np.asarray(plan.centre_mm) - middle) < 75
    lateral = abs(np.dot(motion.rotation @ [1.0, 0.0, 0.0], plan.normal))
    assert (lateral > 0.999) if name == "brain-sagittal" else (lateral < 0.03)


def test_earlier_plan_moves_with_the_head(posed: tuple[Rigid, Image, Planned]) -> None:
    motion, image, made = posed
    assert made.plan is not None
    earlier = head(MOTIONS[0], T1, grid=volume_grid())
    before = replace(made.plan, centre_mm=(0.0, 20.0, 10.0), normal=(0.0, 0.0, 1.0), in_plane=(1.0, 0.0, 0.0))
    plan, verdict = transferred([image], [earlier], before)
    assert plan is not None
    assert degrees(plan.normal, motion.rotation @ [0.0, 0.0, 1.0]) < 2.0
    wanted = motion.rotation @ [0.0, 20.0, 10.0] + motion.shift_mm
    assert np.linalg.norm(np.asarray(plan.centre_mm) - wanted) < 3.0
    assert "carried over" in verdict.advice


def test_carrying_there_and_back_is_nothing(posed: tuple[Rigid, Image, Planned]) -> None:
    plan = posed[2].plan
    assert plan is not None
    back = carried(carried(plan, MOTIONS[1]), MOTIONS[1].inverse)
    np.testing.assert_allclose(back.centre_mm, plan.centre_mm, atol=1e-9)
    np.testing.assert_allclose(back.normal, plan.normal, atol=1e-9)


def test_step_gives_what_the_function_gives(posed: tuple[Rigid, Image, Planned]) -> None:
    _, image, made = posed
    step = PlanBrain()
    step.open(scan())
    slices = [replace(image, data=image.data[z : z + 1], grid=image.grid.plane(z)) for z in range(image.grid.shape[0])]
    assert [i for s in slices for i in step.feed(s)] == slices
    items = list(step.close())
    assert made.plan is not None
    np.testing.assert_allclose(items[0].normal, made.plan.normal, atol=1e-6)
    assert items[-1].check == "plan.brain"


def test_uneven_slices_stay_alone() -> None:
    image = Image(data=np.ones((40, 48, 48), np.float32), grid=GRID)
    some = [replace(image, data=image.data[:1], grid=GRID.plane(z)) for z in (0, 1, 5)]
    assert len(stacks_of(some)) == 3
    assert len(stacks_of(some[:2])) == 1
