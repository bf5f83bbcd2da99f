"""PET images from list-mode: activity comes back in Bq/mL, background and decay are undone, frames, what is missing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache

import numpy as np
import pytest
import torch

from acquisition.errors import ConfigError, DataError, HeaderError, ReconError
from acquisition.geometry import Grid
from acquisition.items import Events, Image, TimeFrame, Waveform
from acquisition.pet_norm import Normalisation, central_bq_per_cps
from acquisition.scan import Patient, PetHeader, Scan, Tracer
from acquisition.verdict import Level, Verdict
from recon.pet.osem import Bsrem, Osem
from recon.pet.project import LineProjector
from recon.pet.psf import GaussianPsf
from recon.pet.sensitivity import Attenuation, LineModel, SensitivityCache, lines_of, sensitivity
from recon.pet.volume import VoxelOptions, gantry_grid

STARTED = datetime(2026, 1, 2, 12, 0)
F18 = Tracer(nuclide="^18^Fluorine", half_life_s=6586.2, branching=0.9673, injected=STARTED - timedelta(seconds=6586.2))
PET = PetHeader(
    n_rings=6,
    n_crystals=72,
    radius_mm=120.0,
    ring_pitch_mm=10.0,
    n_tof=9,
    tof_bin_mm=30.0,
    tof_fwhm_mm=45.0,
    tracer=F18,
)
VOXELS = {"voxel_mm": 5.0, "fov_mm": 152.0}
BQ_PER_ML = 40e3
MU = 0.0096


def scan_of(**changes: object) -> Scan:
    fields = {"calibration_bq_per_cps": 200 * central_bq_per_cps(PET)}
    return Scan(uid="pet-1", modality="PT", started=STARTED, pet=replace(PET, **(fields | changes)))


def normalisation() -> Normalisation:
    """Crystals that differ by a factor of 4, one ring weaker, one crystal dead."""
    crystals = np.random.default_rng(3).uniform(0.5, 2.0, 6 * 72).astype(np.float32)
    crystals[72:144] *= 0.6
    crystals[300] = 0
    return Normalisation(pet=PET, crystals=crystals / crystals.mean(), fov_mm=90.0)


@dataclass(frozen=True)
class Flat:
    """As many randoms per second on every line and bin."""

    rate: float
    name: str = "randoms"

    def expected(self, pairs: np.ndarray, tof: np.ndarray | None, frame: TimeFrame) -> np.ndarray:
        return np.full(len(pairs), self.rate * frame.duration_s, np.float32)


def disc(grid: Grid, radius: float = 50.0) -> np.ndarray:
    x, y = (grid.origin_mm[a] + np.arange(grid.shape[2 - a]) * grid.spacing_mm[2 - a] for a in (0, 1))
    inside = np.hypot(x[None, :], y[:, None]) < radius
    return np.broadcast_to(inside, grid.shape)


def fine_grid() -> Grid:
    return gantry_grid(PET, VoxelOptions(voxel_mm=4.0, slice_mm=2.5, fov_mm=152.0))


@cache
def events(
    *, background: float = 0.0, blur_mm: float = 0.0, stop_s: float = 60.0, block_s: float = 10.0
) -> tuple[Events, ...]:
    """Poisson counts of a cylinder, from a projector on finer voxels than those of the image, block by block."""
    scan, rng = scan_of(), np.random.default_rng(1)
    fine = fine_grid()
    truth = GaussianPsf(fine, blur_mm)(torch.from_numpy((disc(fine) * BQ_PER_ML).astype(np.float32)))
    attenuation = Attenuation((disc(fine) * MU).astype(np.float32), fine)
    model = LineModel(scan.pet, normalisation(), attenuation)
    pairs = np.concatenate([p for p, _ in lines_of(scan.pet, reach_mm=120.0, most_lines=10**9)])
    factors = model.factors(pairs) * scan.pet.tracer.branching / scan.pet.calibration_bq_per_cps
    rates = np.stack(
        [LineProjector(scan.pet, fine, pairs, np.full(len(pairs), b, np.int16))(truth).numpy() for b in range(9)]
    )
    blocks = []
    for start in np.arange(0, stop_s, block_s):
        decay = 0.5 ** ((start + block_s / 2) / F18.half_life_s)
        counts = rng.poisson((rates * factors * decay + background * (factors > 0)) * block_s)
        b, line = np.repeat(np.indices(counts.shape).reshape(2, -1), counts.ravel(), axis=1)
        order = rng.permutation(len(b))
        empty = np.zeros((0, 2), np.int32)
        blocks.append(
            Events(
                start_s=start,
                stop_s=start + block_s,
                prompts=pairs[line[order]],
                tof=b[order].astype(np.int16),
                delayeds=empty,
            )
        )
    return tuple(blocks)


def _chance(expected: float) -> np.ndarray:
    """Delayed coincidences in all bins together of lines that all have as many."""
    lines = np.concatenate([p for p, _ in lines_of(PET, reach_mm=120.0, most_lines=10**9)])
    lines = lines[normalisation().efficiency(lines) > 0]
    return np.repeat(lines, np.random.default_rng(8).poisson(9 * expected, len(lines)), axis=0)


def mu_image(grid: Grid) -> Image:
    return Image(data=(disc(grid) * MU * 10).astype(np.float32), grid=grid, unit="1/cm", output="mu")


def run(step: Osem | Bsrem, items: list, scan: Scan | None = None) -> list:
    step.scatter = "none"  # the counts have none
    step.open(scan or scan_of())
    assert not [out for item in items for out in step.feed(item)]
    return list(step.close())


def corrected(step: Osem | Bsrem, blocks: tuple[Events, ...], *more: object) -> list:
    return run(step, [normalisation(), mu_image(fine_grid()), *more, *blocks])


def middle(image: Image) -> float:
    return float(image.data[1:-1][disc(image.grid, 40.0)[1:-1]].mean())


@pytest.mark.parametrize("make", [Osem, Bsrem])
def test_activity_comes_back(make: type) -> None:
    (image,) = corrected(make(**VOXELS, n_iterations=6, n_subsets=4), events())
    assert image.unit == "Bq/mL" and image.data.dtype == np.float32
    assert middle(image) == pytest.approx(BQ_PER_ML, rel=0.02)
    outside = ~disc(image.grid, 62.0)
    assert image.data[outside].mean() < 0.02 * BQ_PER_ML
    assert image.attributes["corrected"] == "DECY NORM ATTN" and image.attributes["quantitative"] == "no"
    assert image.verdicts[0].evidence == "missing: RAN, SCAT"


def test_without_time_of_flight_the_same() -> None:
    timeless = replace(PET, n_tof=1, tof_bin_mm=0.0, tof_fwhm_mm=0.0)
    norm = replace(normalisation(), pet=timeless)
    scan = replace(scan_of(), pet=replace(scan_of().pet, n_tof=1, tof_bin_mm=0.0, tof_fwhm_mm=0.0))
    mu = mu_image(fine_grid())
    blocks = [replace(b, tof=None) for b in events()]
    (image,) = run(Osem(**VOXELS, n_iterations=8, n_subsets=4), [norm, mu, *blocks], scan)
    assert middle(image) == pytest.approx(BQ_PER_ML, rel=0.02)


def test_the_prior_takes_noise_away_and_not_activity() -> None:
    noisy, *_ = corrected(Osem(**VOXELS, n_iterations=6, n_subsets=4), events())
    smooth, *_ = corrected(Bsrem(**VOXELS, n_iterations=8, n_subsets=4), events())
    inner = disc(noisy.grid, 30.0)[2:-2]
    assert smooth.data[2:-2][inner].std() < 0.5 * noisy.data[2:-2][inner].std()
    assert middle(smooth) == pytest.approx(middle(noisy), rel=0.03)


def test_background_is_undone_only_where_it_is_known() -> None:
    level = 0.5 * sum(len(b) for b in events()) / 60.0 / (6 * 6 * 72 * 71 / 2 * 9)
    blocks = events(background=level)
    step = {"n_iterations": 5, "n_subsets": 4, **VOXELS}
    (wrong,) = corrected(Osem(**step), blocks)
    (right,) = corrected(Osem(**step), blocks, Flat(level), Flat(0.0, "scatter"))
    assert middle(wrong) > 1.04 * BQ_PER_ML
    assert middle(right) == pytest.approx(BQ_PER_ML, rel=0.025)
    delayed = [replace(b, delayeds=_chance(level * 10.0)) for b in blocks]
    (measured,) = corrected(Osem(**step), tuple(delayed))
    assert middle(measured) == pytest.approx(middle(right), rel=0.01)
    assert measured.verdicts[0].evidence == "missing: SCAT"
    assert right.attributes["quantitative"] == "yes" and right.verdicts[0].level is Level.PASS


def test_decay_is_corrected_to_the_start_of_the_scan_or_to_the_injection() -> None:
    late = [replace(b, start_s=b.start_s + 6586.2, stop_s=b.stop_s + 6586.2) for b in events()]
    step = {"n_iterations": 2, "n_subsets": 4, **VOXELS}
    (first,), (second,) = corrected(Osem(**step), events()), corrected(Osem(**step), tuple(late))
    (injected,) = corrected(Osem(**step, decay_to="injection"), events())
    np.testing.assert_allclose(second.data, 2 * first.data, rtol=1e-3, atol=5)
    np.testing.assert_allclose(injected.data, 2 * first.data, rtol=1e-3, atol=5)
    assert (first.attributes["decay_corrected_to"], injected.attributes["decay_corrected_to"]) == ("start", "injection")
    with pytest.raises(HeaderError, match="expected tracer, time of injection and start"):
        Osem(decay_to="injection").open(scan_of(tracer=None))


def test_frames_are_images_of_their_time() -> None:
    step = Osem(**VOXELS, n_iterations=2, n_subsets=4, frames_s=(10, 20, 30, 30))
    blocks = tuple(replace(b, prompts=b.prompts[:0], tof=b.tof[:0]) if b.start_s == 0 else b for b in events())
    empty, *images = corrected(step, blocks)
    assert isinstance(empty, Verdict) and empty.evidence == "frame 0, 0 to 10 s"
    assert [i.attributes["frame_start_s"] for i in images] == ["10", "30"]
    assert [i.attributes["frame_stop_s"] for i in images] == ["30", "60"]
    assert [i.position.repetition for i in images] == [1, 2]
    for image in images:
        assert middle(image) == pytest.approx(BQ_PER_ML, rel=0.04)


def test_the_resolution_that_is_modelled_sharpens() -> None:
    step, blocks = {"n_iterations": 6, "n_subsets": 4, **VOXELS}, events(blur_mm=12.0)
    (plain,), (modelled,) = corrected(Osem(**step), blocks), corrected(Osem(**step, psf_mm=12.0), blocks)
    (filtered,) = corrected(Osem(**step, filter_mm=12.0), blocks)

    def spilt(image: Image) -> float:
        ring = disc(image.grid, 62.0) & ~disc(image.grid, 54.0)
        return float(image.data[2:-2][ring[2:-2]].mean() / middle(image))

    assert spilt(filtered) > 1.2 * spilt(plain)
    assert spilt(modelled) < 0.8 * spilt(plain)


def test_without_calibration_the_unit_says_so() -> None:
    (image,) = run(Osem(**VOXELS, n_iterations=1), [*events()], scan_of(calibration_bq_per_cps=None, tracer=None))
    assert image.unit == "a.u." and image.attributes["decay_corrected_to"] == "none"
    assert image.verdicts[0].level is Level.FLAG
    assert image.verdicts[0].evidence == "missing: DECY, NORM, ATTN, RAN, SCAT, calibration"


def test_the_image_lies_in_the_patient() -> None:
    scan = replace(scan_of(), patient=Patient(position="FFS"))
    block = events()[0]
    (image,) = run(Osem(**VOXELS, n_iterations=1), [block], scan)
    assert image.grid.x_dir == (-1.0, 0.0, 0.0) and image.grid.z_dir == (0.0, 0.0, -1.0)
    np.testing.assert_allclose(image.grid.centre_mm, (0, 0, 0), atol=1e-9)


def test_what_cannot_be_is_refused() -> None:
    block, step = events()[0], Osem(**VOXELS)
    with pytest.raises(ReconError, match="scan pet-1: expected coincidences, got none"):
        run(Osem(**VOXELS), [])
    step.open(scan_of())
    list(step.feed(block))
    for broken, message in [
        (block, "expected blocks after 10 s, got one at 0 s"),
        (replace(block, start_s=10.0, tof=None), "expected a time-of-flight bin for each event"),
        (replace(block, start_s=10.0, prompts=block.prompts + np.int32(999)), "expected detectors 0 to 431"),
    ]:
        with pytest.raises(DataError, match=message):
            list(step.feed(broken))
    other = Waveform(id=1, time_stamp=0, sample_time_us=1.0, data=np.zeros((1, 1), np.uint32))
    assert list(step.feed(other)) == [other]
    for values in ({"n_subsets": 0}, {"psf_mm": -1.0}, {"frames_s": (-1.0,)}):
        with pytest.raises(ConfigError, match=r"pet\.osem: expected n_iterations and n_subsets from 1"):
            Osem(**values)
    with pytest.raises(ConfigError, match="PET voxels: expected sizes above 0"):
        Osem(voxel_mm=-1.0).open(scan_of())
    with pytest.raises(HeaderError, match="expected a PET scan"):
        Osem().open(Scan(uid="m", modality="MR"))
    with pytest.raises(DataError, match="expected numbers of 0 or more"):
        list(step.feed(Image(data=np.full(fine_grid().shape, -1.0), grid=fine_grid(), unit="1/cm")))


def test_a_part_of_the_lines_stands_for_all() -> None:
    grid = gantry_grid(PET, VoxelOptions(**VOXELS))
    model = LineModel(PET, normalisation())
    whole, part = sensitivity(model, grid), sensitivity(model, grid, most_lines=30_000)
    assert whole.stride == 1 and part.stride == 3
    inner = torch.from_numpy(disc(grid, 60.0).copy())
    ratio = part.image[inner] / whole.image[inner]
    assert abs(float(ratio.mean()) - 1) < 0.005 and float(ratio.std()) < 0.06
    kept = SensitivityCache()
    assert kept.get(model, grid) is kept.get(LineModel(PET, normalisation()), grid)
    assert kept.get(model, grid) is not kept.get(LineModel(PET, replace(normalisation(), fov_mm=50.0)), grid)
