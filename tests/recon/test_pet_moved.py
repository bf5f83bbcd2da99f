"""A patient who moves at half-time: the parts are brought together, the lesion is as hot as if he had lain still."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from acquisition.errors import ConfigError
from acquisition.geometry import Vector
from acquisition.items import Events, Image, Item, Movement
from acquisition.pet_geometry import detectors_mm
from acquisition.pet_motion import CheckMotion
from acquisition.sources.phantom.pet import PetSimulation
from acquisition.sources.phantom.pet_faults import PetFaults, jump
from acquisition.stream import Chain
from acquisition.verdict import Level, Verdict
from recon.pet.motion import OsemMotion, around
from recon.pet.project import LineProjector
from recon.pet.volume import VoxelOptions, gantry_grid
from recon.rigid import STILL, Rigid
from tests.acquisition.pet_chests import GANTRY, LESION_MM, LESION_RADIUS_MM, breathing_exam, chest, mu_image

VOXELS = {"voxel_mm": 6.0, "slice_mm": 4.0, "fov_mm": 350.0}
AT_S = 10.0


def _measured(shift_mm: Vector, turn_deg: float = 0.0) -> tuple[PetSimulation, list[Item]]:
    """Return a chest that holds its breath and moves at half-time, and what is known and measured of it."""
    faults = PetFaults(motion=jump(AT_S, shift_mm, turn_deg=turn_deg))
    exam = breathing_exam(breath_s=0.0, duration_s=2 * AT_S, block_s=0.5, faults=faults)
    simulation = PetSimulation(exam, chest(bq_per_ml=80.0))
    mu = mu_image(chest(), gantry_grid(GANTRY, VoxelOptions(**VOXELS)))
    return simulation, [simulation.normalisation, mu, *simulation.events()]


def _run(shift_mm: Vector, turn_deg: float = 0.0, **changes: object) -> list[Item]:
    simulation, items = _measured(shift_mm, turn_deg)
    options = {"n_iterations": 3, "n_subsets": 6, "filter_mm": 4.0, "scatter": "none", **VOXELS, **changes}
    step = OsemMotion(**options)
    chain = Chain([CheckMotion(), step])
    chain.open(simulation.scan)
    out = [o for i in items for o in chain.feed(i)]
    return [*out, *chain.close()]


@cache
def _shifted() -> tuple[Item, ...]:
    return tuple(_run((12.0, 0.0, 0.0)))


def _lesion(image: Image) -> float:
    grid = image.grid
    axes = [grid.origin_mm[2 - k] + grid.spacing_mm[k] * np.arange(grid.shape[k]) for k in range(3)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    away = np.sqrt((x - LESION_MM[0]) ** 2 + (y - LESION_MM[1]) ** 2 + (z - LESION_MM[2]) ** 2)
    return float(image.data[away < LESION_RADIUS_MM].mean())


def _way(verdict: Verdict) -> np.ndarray:
    """Return the motion [mm] that a verdict tells."""
    words = verdict.evidence.replace(",", "").split()
    return np.array([float(words[words.index(axis) + 1]) for axis in "xyz"])


def test_the_lesion_comes_back_beside_the_uncorrected_image() -> None:
    (plain,) = (o for o in _run((0.0, 0.0, 0.0)) if isinstance(o, Image))
    blurred, corrected = (o for o in _shifted() if isinstance(o, Image))
    assert (plain.output, blurred.output, corrected.output) == ("conventional", "conventional", "motion_corrected")
    still = _lesion(plain)
    assert _lesion(blurred) < 0.7 * still and _lesion(corrected) == pytest.approx(still, rel=0.1)
    assert corrected.attributes["corrected"].split()[-1] == "MOTN" and "MOTN" not in blurred.attributes["corrected"]
    assert float(corrected.attributes["live_s"]) == pytest.approx(2 * AT_S - 1.0)
    assert corrected.data.mean() == pytest.approx(plain.data.mean(), rel=0.03)
    verdict = corrected.verdicts[-1]
    assert verdict.check == "pet.motion" and verdict.level is Level.PASS
    np.testing.assert_allclose(_way(verdict), [12.0, 0.0, 0.0], atol=1.5)


@pytest.mark.parametrize(("shift", "turn"), [((0.0, 0.0, -12.0), 0.0), ((7.0, -4.0, 8.0), 5.0)])
def test_any_rigid_motion_is_found(shift: Vector, turn: float) -> None:
    *_, corrected = (o for o in _run(shift, turn) if isinstance(o, Image))
    assert corrected.output == "motion_corrected"
    verdict = corrected.verdicts[-1]
    assert np.linalg.norm(_way(verdict) - shift) < 2.0
    assert float(verdict.evidence.split(", ")[-1].split(" ")[0]) == pytest.approx(turn, abs=1.5)


def test_scatter_is_simulated_where_the_patient_then_lay() -> None:
    coarse = {"voxel_mm": 14.0, "slice_mm": 10.0, "n_iterations": 1}
    blurred, corrected = (o for o in _run((12.0, 0.0, 0.0), scatter="single", **coarse) if isinstance(o, Image))
    *_, plain = (o for o in _run((12.0, 0.0, 0.0), **coarse) if isinstance(o, Image))
    assert "SCAT" in corrected.attributes["corrected"] and "SCAT" in blurred.attributes["corrected"]
    assert "SCAT" not in plain.attributes["corrected"] and corrected.data.mean() < 0.98 * plain.data.mean()
    assert corrected.data.mean() == pytest.approx(blurred.data.mean(), rel=0.05)


def test_parts_that_are_too_short_are_told() -> None:
    out = _run((12.0, 0.0, 0.0), least_s=15.0)
    assert [o.output for o in out if isinstance(o, Image)] == ["conventional"]
    (verdict,) = (o for o in out if isinstance(o, Verdict) and o.check == "pet.motion")
    assert verdict.level is Level.FLAG and verdict.evidence.startswith("0 parts of 15 s")


def test_parts_are_whole_blocks() -> None:
    simulation, items = _measured((0.0, 0.0, 0.0))
    step = OsemMotion(**VOXELS, guard_s=0.7)
    step.open(simulation.scan)
    for item in [*items, Movement(time_s=4.0, shift_mm=(9.0, 0.0, 0.0)), Movement(time_s=5.0, shift_mm=(0, 0, 0))]:
        passed = list(step.feed(item))
        assert passed == ([item] if isinstance(item, Movement) else [])
    assert [p.spans for p in step._parts()] == [((0.0, 3.0),), ((6.0, 2 * AT_S),)]
    blocks = [i for i in items if isinstance(i, Events)]
    assert len(step._data.events(step._parts()[0])[0]) == sum(len(b) for b in blocks[:6])


def test_lines_that_move_back_see_the_patient_at_rest() -> None:
    angle = np.deg2rad(10.0)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    motion = Rigid(turn, np.array([8.0, -5.0, 12.0]))
    grid = gantry_grid(GANTRY, VoxelOptions(**VOXELS))
    axes = [grid.origin_mm[2 - k] + grid.spacing_mm[k] * np.arange(grid.shape[k]) for k in range(3)]
    z, y, x = np.meshgrid(*axes, indexing="ij")

    def ball(place: np.ndarray) -> np.ndarray:
        return np.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2 + (z - place[2]) ** 2) / 2 / 20**2).astype(np.float32)

    at = np.array([40.0, 20.0, -10.0])
    later = motion.rotation @ at + motion.shift_mm
    np.testing.assert_allclose(motion.moved(ball(at), grid), ball(later), atol=0.03)
    np.testing.assert_allclose(motion.inverse.undone(motion.undone(at[None])), at[None], rtol=1e-5)
    both = motion.after(motion.inverse)
    np.testing.assert_allclose(both.rotation, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(both.shift_mm, 0, atol=1e-12)
    pairs = np.random.default_rng(4).integers(0, 20 * 200, (3000, 2)).astype(np.int32)
    seen = LineProjector(GANTRY, grid, pairs)(torch.from_numpy(ball(later)))
    moved = LineProjector(around(GANTRY, motion), grid, pairs)(torch.from_numpy(ball(at)))
    np.testing.assert_allclose(moved.numpy(), seen.numpy(), atol=0.03 * float(seen.max()))
    assert around(GANTRY, STILL) is GANTRY
    one, other = detectors_mm(GANTRY), detectors_mm(around(GANTRY, motion))
    np.testing.assert_allclose(
        np.linalg.norm(one - one[7], axis=1), np.linalg.norm(other - other[7], axis=1), rtol=1e-4
    )


def test_what_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for values in ({"limit_mm": 0.0}, {"guard_s": -1.0}, {"least_s": -1.0}):
        with pytest.raises(ConfigError, match=r"pet\.osem_motion: expected a limit above 0 mm"):
            OsemMotion(**values)
    with pytest.raises(ConfigError, match=r"pet\.osem_motion: expected n_iterations"):
        OsemMotion(n_iterations=0)

    def missing(name: str) -> None:
        raise ModuleNotFoundError("no", name="SimpleITK")

    monkeypatch.setattr("recon.rigid.importlib.import_module", missing)
    with pytest.raises(ConfigError, match="expected the package SimpleITK, got not installed"):
        OsemMotion(**VOXELS).open(replace(PetSimulation(breathing_exam(), chest()).scan))
