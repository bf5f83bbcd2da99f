"""Several positions of the table: activity, decay, attenuation and places are those of the patient, without a seam."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from acquisition.errors import DataError
from acquisition.geometry import Grid
from acquisition.items import Events, Image, Position
from acquisition.scan import Patient, Scan, Tracer
from acquisition.verdict import Level
from integration.dicom.pet import PetSeries
from recon.pet.beds import BedImage, joined
from recon.pet.gather import Gathered
from recon.pet.osem import Osem
from recon.pet.preview import Preview
from recon.pet.project import LineProjector
from recon.pet.sensitivity import Attenuation, LineModel, lines_of
from recon.pet.volume import at_table, gantry_grid
from tests.integration.dicom_samples import parsed
from tests.recon.test_pet_osem import BQ_PER_ML, MU, PET, VOXELS, VoxelOptions, disc, normalisation, scan_of

BRIEF = Tracer(nuclide="^82^Rubidium", half_life_s=75.0, branching=0.95)
BEDS = (0.0, -30.0, -60.0)
STARTS = (0.0, 40.0, 80.0)
LENGTH_S = 30.0
MORE = 12
"""Counts against those of the activity, for less noise."""
AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def patient(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Activity [Bq/mL] and attenuation [1/mm] of a rod on a grid in the patient: both change along its length."""
    z = grid.origin_mm[2] + grid.spacing_mm[0] * np.arange(grid.shape[0])
    inside = disc(grid)
    activity = BQ_PER_ML * (1 + 0.008 * z)[:, None, None] * inside
    mu = MU * np.maximum(1.3 - 0.012 * z, 0)[:, None, None] * inside
    return activity.astype(np.float32), mu.astype(np.float32)


@cache
def scan() -> Scan:
    found = scan_of(tracer=BRIEF, beds_mm=BEDS)
    return replace(found, pet=replace(found.require_pet(), n_tof=1, tof_bin_mm=0.0, tof_fwhm_mm=0.0))


@cache
def counted() -> tuple[Events, ...]:
    """Poisson counts with the table at each position in turn, the tracer decaying all the while."""
    pet, rng = scan().require_pet(), np.random.default_rng(4)
    fine = gantry_grid(PET, VoxelOptions(voxel_mm=4.0, slice_mm=2.5, fov_mm=152.0))
    pairs = np.concatenate([p for p, _ in lines_of(pet, reach_mm=120.0, most_lines=10**9)])
    norm, found = replace(normalisation(), pet=pet), []
    for bed, start in zip(BEDS, STARTS, strict=True):
        activity, mu = patient(at_table(fine, bed))
        factors = LineModel(pet, norm, Attenuation(mu, fine)).factors(pairs)
        rate = LineProjector(pet, fine, pairs)(torch.from_numpy(activity)).numpy() * factors
        rate *= BRIEF.branching / pet.calibration_bq_per_cps
        decays = -np.expm1(-np.log(2) * LENGTH_S / 75.0) * 0.5 ** (start / 75.0) * 75.0 / np.log(2)
        line = np.repeat(np.arange(len(pairs)), rng.poisson(MORE * rate * decays))
        for part in np.array_split(rng.permutation(line), 3):
            n = sum(e.bed_mm == bed for e in found)
            at = start + n * LENGTH_S / 3
            none = np.zeros((0, 2), np.int32)
            block = Events(start_s=at, stop_s=at + LENGTH_S / 3, prompts=pairs[part], delayeds=none, bed_mm=bed)
            found.append(block)
    return tuple(found)


def given() -> list[object]:
    grid = Grid.from_centre((0, 0, 30.0), shape=(64, 38, 38), spacing_mm=(2.5, 4.0, 4.0), directions=AXES)
    return [
        replace(normalisation(), pet=scan().require_pet()),
        Image(data=patient(grid)[1], grid=grid, unit="1/mm", output="mu"),
    ]


def run(step: Osem | Preview, items: list[object]) -> list:
    step.open(scan())
    return [*(out for item in items for out in step.feed(item)), *step.close()]


@cache
def image() -> Image:
    step = Osem(**VOXELS, n_iterations=6, n_subsets=4, scatter="none")
    (found,) = run(step, [*given(), *counted()])
    return found


def profile(found: Image) -> np.ndarray:
    """Mean of each slice within the rod against what is there."""
    truth, _ = patient(found.grid)
    core = disc(found.grid, 38.0)[0]
    return found.data[:, core].mean(axis=1) / MORE / truth[:, core].mean(axis=1)


def test_activity_is_that_of_the_patient_in_every_slice() -> None:
    found = image()
    ends = [found.grid.world((z, 0, 0))[2] for z in (0, found.grid.shape[0] - 1)]
    np.testing.assert_allclose(ends, [-25.0, 85.0], atol=1e-6)
    values = profile(found)
    np.testing.assert_allclose(values[1:-1], 1, atol=0.03)
    assert np.abs(np.diff(values[1:-1])).max() < 0.03  # no seam
    assert [v.level for v in found.verdicts if v.check == "pet.beds"] == [Level.PASS]


def test_decay_and_attenuation_that_do_not_follow_the_table_show() -> None:
    """The test above would see them: each position taken as the first, or the tracer as one that does not decay."""
    step = Osem(**VOXELS, n_iterations=4, n_subsets=4, scatter="none")
    step.open(replace(scan(), pet=replace(scan().require_pet(), tracer=replace(BRIEF, half_life_s=1e6))))
    for item in (*given(), *counted()):
        list(step.feed(item))
    *_, slow = step.close()
    assert profile(slow)[-3] < 0.75 * profile(slow)[2]
    assert {v.check: v.level for v in slow.verdicts}["pet.beds"] is Level.FLAG
    data = Gathered(scan().require_pet(), "scan")
    for item in given():
        data.takes(item)
    still = data.model.attenuation
    data.takes(counted()[0])
    assert data.shift_mm == 0 and data.model.attenuation is still
    last = next(e for e in counted() if e.bed_mm == -60.0)
    assert data.moves(last) and not data.moves(counted()[1])
    with pytest.raises(DataError, match="expected the table at 0 mm, got -60 mm"):
        data.takes(last)
    moved = data.moved()
    moved.takes(last)
    assert moved.shift_mm == -60.0
    assert moved.model.attenuation.grid.origin_mm[2] == pytest.approx(still.grid.origin_mm[2] - 60.0)


def test_each_slice_is_exported_with_its_place_and_its_time() -> None:
    found = replace(image(), output="conventional")
    made = [parsed(i) for i in PetSeries(replace(scan(), uid="whole body"), "job").instances(found)]
    assert len(made) == found.grid.shape[0] == 23 and len({d.SeriesInstanceUID for d in made}) == 1
    assert {tuple(d.SeriesType) for d in made} == {("WHOLE BODY", "IMAGE")}
    z = np.array([d.ImagePositionPatient[2] for d in made])
    np.testing.assert_allclose(np.sort(z), -25.0 + 5.0 * np.arange(23), atol=1e-6)
    for d, place in zip(made, z, strict=True):
        bed = int(np.argmin(np.abs(place + np.array(BEDS))))
        if abs(abs(place + BEDS[bed]) - 15.0) < 1.0:
            continue  # both see it equally well
        assert clock_s(d.AcquisitionTime) == STARTS[bed] and clock_s(d.SeriesTime) == 0
        assert int(d.ActualFrameDuration) == 30_000 and d.DecayCorrection == "START"
        seconds = float(d.FrameReferenceTime) / 1000
        assert STARTS[bed] < seconds < STARTS[bed] + 15.0
        assert float(d.DecayFactor) == pytest.approx(2 ** (seconds / 75.0), rel=1e-4)
    assert sorted({clock_s(d.AcquisitionTime) for d in made}) == list(STARTS)


def clock_s(time: str) -> float:
    return (int(time[:2]) - 12) * 3600 + int(time[2:4]) * 60 + float(time[4:])


def test_a_preview_follows_the_table() -> None:
    step = Preview(**VOXELS, slice_mm=5.0, every_s=30.0)
    pictures = [i for i in run(step, [*given(), *counted()]) if isinstance(i, Image) and i.output == "preview"]
    assert sorted({i.grid.centre_mm[2] for i in pictures}) == [0.0, 30.0, 60.0]


def test_a_position_comes_once() -> None:
    again = replace(counted()[0], start_s=200.0, stop_s=210.0)
    with pytest.raises(DataError, match="expected each position of the table once, got 0 mm again"):
        run(Osem(**VOXELS, n_iterations=1, scatter="none"), [*counted(), again])


# Joining alone


def part(z_mm: float, values: list[float], weights: list[float], **changes: object) -> BedImage:
    shape = (len(values), 2, 3)
    grid = Grid.from_centre(
        (0, 0, z_mm + 2.0 * (len(values) - 1)), shape=shape, spacing_mm=(4.0, 5.0, 5.0), directions=AXES
    )
    told = {"frame_start_s": f"{100 * z_mm:g}", "frame_stop_s": f"{100 * z_mm + 50:g}", "corrected": "DECY NORM"}
    told["quantitative"] = "yes"

    def full(row: list[float]) -> np.ndarray:
        return np.broadcast_to(np.array(row, np.float32)[:, None, None], shape)

    found = Image(data=full(values), grid=grid, unit="Bq/mL", attributes=told)
    return BedImage(replace(found, **changes), full(weights))


def test_voxels_are_weighted_means() -> None:
    one, other = part(0.0, [10, 10, 10, 10], [1, 2, 2, 1]), part(8.0, [12, 12, 12, 12], [1, 3, 2, 1])
    (found,) = joined([one, other])
    np.testing.assert_allclose(found.data[:, 0, 0], [10, 10, (20 + 12) / 3, (10 + 36) / 4, 12, 12], rtol=1e-6)
    assert found.grid.origin_mm[2] == 0.0 and found.grid.shape == (6, 2, 3)
    assert found.attributes["slice_frames"] == "0:50 0:50 0:50 800:850 800:850 800:850"
    assert (found.attributes["frame_start_s"], found.attributes["frame_stop_s"]) == ("0", "850")
    (turned,) = joined([other, one])
    np.testing.assert_allclose(turned.data, found.data)
    assert turned.grid == found.grid
    broken = replace(other.image, attributes={**other.image.attributes, "corrected": "DECY", "quantitative": "no"})
    (mixed,) = joined([one, BedImage(broken, other.weight)])
    assert (mixed.attributes["corrected"], mixed.attributes["quantitative"]) == ("DECY", "no")


def test_positions_between_slices_are_interpolated() -> None:
    """A ramp stays a ramp where the table moved by one slice and a quarter."""
    one = part(0.0, [0, 4, 8, 12], [1, 1, 1, 1])
    other = part(5.0, [5, 9, 13, 17], [1, 1, 1, 1])
    (found,) = joined([one, other])
    np.testing.assert_allclose(found.data[:, 1, 1], [0, 4, 8, 12, 16], rtol=1e-6)


def test_frames_stay_apart_and_feet_first_is_the_same() -> None:
    late = Position(repetition=1)
    parts = [part(0.0, [1, 1], [1, 1]), part(4.0, [2, 2], [1, 1])]
    parts += [BedImage(replace(p.image, position=late), p.weight) for p in parts]
    first, second = joined(parts)
    assert (first.position.repetition, second.position.repetition) == (0, 1)
    feet = [BedImage(replace(p.image, grid=p.image.grid.flipped(0)), p.weight) for p in parts[:2]]
    (found,) = joined(feet)
    assert found.grid.z_dir == (0.0, 0.0, -1.0) and found.grid.origin_mm[2] == 8.0
    np.testing.assert_allclose(found.data[:, 0, 0], [2, 1.5, 1])


def test_gaps_and_differences_are_told() -> None:
    (gap,) = joined([part(0.0, [1, 1], [1, 1]), part(20.0, [1, 1], [1, 1])])
    assert gap.verdicts[0].level is Level.FLAG and "do not overlap" in gap.verdicts[0].advice
    assert not gap.data[2:5].any()
    (step,) = joined([part(0.0, [10] * 4, [1] * 4), part(4.0, [12] * 4, [1] * 4)])
    (verdict,) = step.verdicts
    assert verdict.level is Level.FLAG and verdict.value == pytest.approx(200 / 11, rel=1e-5)
    (fine,) = joined([part(0.0, [10] * 4, [1] * 4), part(4.0, [10.5] * 4, [1] * 4)])
    assert fine.verdicts[0].level is Level.PASS


def test_the_patient_may_lie_feet_first() -> None:
    """The table's way is the gantry's: feet first, the second position lies the other way in the patient."""
    step = Osem(**VOXELS, n_iterations=1, scatter="none")
    step.open(replace(scan(), patient=Patient(position="FFS")))
    for item in (e for e in counted() if e.bed_mm > -60.0):
        list(step.feed(item))
    (found,) = step.close()
    ends = sorted(found.grid.world((z, 0, 0))[2] for z in (0, found.grid.shape[0] - 1))
    np.testing.assert_allclose(ends, [-55.0, 25.0], atol=1e-6)
