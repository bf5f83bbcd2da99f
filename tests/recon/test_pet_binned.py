"""Sinograms give the image that list-mode gives; two ways to the maximum of likelihood and prior meet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from acquisition.items import Events, Histogram, Image
from acquisition.pet_sinogram import sinogram_bin
from acquisition.sources import open_raw
from recon.pet.gather import Gathered
from recon.pet.likelihood import ListMode, Relaxation, bsrem, osem, svrg
from recon.pet.osem import Bsrem, Osem, Svrg
from recon.pet.prior import RelativeDifference
from recon.pet.psf import GaussianPsf
from recon.pet.sensitivity import CACHE
from recon.pet.volume import VoxelOptions, gantry_grid
from tests.recon.test_pet_osem import (
    BQ_PER_ML,
    PET,
    VOXELS,
    corrected,
    events,
    fine_grid,
    middle,
    mu_image,
    normalisation,
    scan_of,
)

N_BINS = 53
HEADER = """!INTERFILE  :=
name of data file := sino.s
imagedata byte order := LITTLEENDIAN
!PET data type := Emission
!number format := float
!number of bytes per pixel := 4
number of dimensions := {dimensions}
matrix axis label [5] := {timing}
!matrix size [5] := {n_tof}
matrix axis label [4] := segment
!matrix size [4] := 11
matrix axis label [3] := view
!matrix size [3] := 36
matrix axis label [2] := axial coordinate
!matrix size [2] := {{ {axial} }}
matrix axis label [1] := tangential coordinate
!matrix size [1] := 53
minimum ring difference per segment := {{ {segments} }}
maximum ring difference per segment := {{ {segments} }}
TOF mashing factor := 1
Number of rings := 6
Number of detectors per ring := 72
Inner ring diameter (cm) := 24
Average depth of interaction (cm) := 0
Distance between rings (cm) := 1
View offset (degrees) := 90
Size of unmashed TOF time bins (ps) := 200.1384571
TOF timing resolution (ps) := 300.2076857
image duration (sec) [1] := 60
"""
SEGMENTS = range(-5, 6)


def sinogram_of(folder: Path, *, n_tof: int) -> Path:
    """Sort the events of `events` into a sinogram as STIR would store it."""
    sums = [np.zeros((n_tof, 6 - abs(s), 36, N_BINS), "<f4") for s in SEGMENTS]
    pairs = np.concatenate([b.prompts for b in events()])
    tof = np.concatenate([b.tof for b in events()]) if n_tof > 1 else np.zeros(len(pairs), np.int16)
    view, place, swapped = sinogram_bin(pairs % 72, 72, N_BINS)
    ring = np.where(swapped[:, None], pairs[:, ::-1], pairs) // 72
    tof = np.where(swapped, n_tof - 1 - tof, tof)
    assert place.min() >= 0 and place.max() < N_BINS
    for segment, total in zip(SEGMENTS, sums, strict=True):
        at = ring[:, 0] - ring[:, 1] == segment
        np.add.at(total, (tof[at], ring[at].min(axis=1), view[at], place[at]), 1)
    flat = np.concatenate([t[:, ::-1].swapaxes(1, 2).reshape(n_tof, -1) for t in sums], axis=1)
    flat.tofile(folder / "sino.s")
    path = folder / "sino.hs"
    told = {"axial": ", ".join(str(6 - abs(s)) for s in SEGMENTS), "segments": ", ".join(map(str, SEGMENTS))}
    timing = "timing positions" if n_tof > 1 else ""
    path.write_text(HEADER.format(**told, n_tof=n_tof, timing=timing, dimensions=5 if n_tof > 1 else 4))
    return path


@pytest.mark.parametrize("n_tof", [9, 1])
def test_sinogram_and_list_mode_give_one_image(tmp_path: Path, n_tof: int) -> None:
    raw = open_raw(sinogram_of(tmp_path, n_tof=n_tof))
    (block,) = raw.items()
    assert isinstance(block, Histogram) and block.counts.sum() == pytest.approx(sum(map(len, events())))
    assert [v.check for v in raw.scan.verdicts] == (["pet.tof_direction"] if n_tof > 1 else [])
    timing = {} if n_tof > 1 else {"n_tof": 1, "tof_bin_mm": 0.0, "tof_fwhm_mm": 0.0}
    scan, pet = scan_of(**timing), raw.scan.pet
    ours = scan.pet
    assert pet.n_tof == ours.n_tof and pet.radius_mm == ours.radius_mm and pet.ring_pitch_mm == ours.ring_pitch_mm
    assert pet.tof_fwhm_mm == pytest.approx(ours.tof_fwhm_mm) and pet.first_angle_rad == pytest.approx(0)
    blocks = [b if n_tof > 1 else replace(b, tof=None) for b in events()]
    for options, tolerance in (
        ({"n_iterations": 3, "n_subsets": 1}, 1e-3),
        ({"n_iterations": 2, "n_subsets": 4}, 0.15),
    ):
        images = []
        for counted in (blocks, [block]):
            step = Osem(**VOXELS, **options, scatter="none")
            step.open(scan)
            for item in (replace(normalisation(), pet=ours), mu_image(fine_grid()), *counted):
                assert not list(step.feed(item))
            images += list(step.close())
        listed, sorted_ = images
        assert np.sqrt(np.square(sorted_.data - listed.data).mean()) < tolerance * BQ_PER_ML
        assert middle(sorted_) == pytest.approx(middle(listed), rel=5e-3)


def test_subsets_of_a_sinogram_see_all_sides(tmp_path: Path) -> None:
    (block,) = open_raw(sinogram_of(tmp_path, n_tof=1)).items()
    angle = (block.prompts % 72).sum(axis=1) % 72 * 2 * np.pi / 72  # of the line, twice over
    for subset in range(4):
        part = slice(subset, None, 4)
        assert abs((np.exp(1j * angle[part]) * block.counts[part]).sum()) < 0.1 * block.counts[part].sum()


def _data() -> ListMode:
    scan, grid = scan_of(), gantry_grid(PET, VoxelOptions(**VOXELS))
    data = Gathered(scan.require_pet(), "test")
    for item in (normalisation(), mu_image(fine_grid()), *events()):
        assert data.takes(item)
    pairs, tof = np.concatenate([b.prompts for b in events()]), np.concatenate([b.tof for b in events()])
    part, psf = slice(None, None, 4), GaussianPsf(grid, 0.0)
    sensitivity = CACHE.get(data.model, grid).image * 15.0
    return ListMode(scan.require_pet(), grid, pairs[part], tof[part], None, psf, sensitivity)


def test_svrg_and_bsrem_reach_one_maximum() -> None:
    data = _data()
    start = osem(data, data.start(), n_iterations=1, n_subsets=4, report=lambda *_: None)
    prior = RelativeDifference(
        data.grid, 0.03, kappa=data.sensitivity.clamp_min(0).sqrt(), epsilon=1e-3 * float(start.max())
    )

    def goal(x: torch.Tensor) -> float:
        return data.value(x) - prior.value(x)

    common = {"n_subsets": 4}
    common = {"n_subsets": 4}
    slow = bsrem(data, start, prior, n_iterations=12, steps=Relaxation(decay=0.3), **common)
    fast = svrg(data, start, prior, n_iterations=8, steps=Relaxation(first=0.5, decay=0.02), **common)
    gained = goal(fast) - goal(start)
    assert gained > 300
    assert abs(goal(slow) - goal(fast)) < 0.01 * gained
    where = data.seen & (fast > 0.3 * fast.max())
    assert float((slow - fast)[where].abs().mean() / fast[where].mean()) < 0.02


def test_counts_weigh_as_repeated_events_do() -> None:
    data, twice = _data(), np.full(1, 2.0, np.float32)
    one = replace(data, pairs=data.pairs[:500], tof=data.tof[:500])
    weighed = replace(one, counts=np.repeat(twice, 500))
    repeated = replace(one, pairs=np.repeat(one.pairs, 2, axis=0), tof=np.repeat(one.tof, 2))
    x = torch.rand(data.grid.shape, generator=torch.Generator().manual_seed(1)) + 0.1
    torch.testing.assert_close(weighed.ratio(x, slice(None)), repeated.ratio(x, slice(None)), rtol=1e-4, atol=1e-7)
    assert weighed.total == repeated.total == 1000
    assert weighed.value(x) == pytest.approx(repeated.value(x), rel=1e-6)
    torch.testing.assert_close(weighed.start(), repeated.start())


def test_the_step_gives_the_same_image_as_bsrem() -> None:
    blocks: tuple[Events, ...] = events()
    slow: Image
    (slow,) = corrected(Bsrem(**VOXELS, n_iterations=8, n_subsets=4), blocks)
    (fast,) = corrected(Svrg(**VOXELS, n_iterations=4, n_subsets=4), blocks)
    assert fast.attributes["method"] == "pet.svrg"
    assert middle(fast) == pytest.approx(middle(slow), rel=0.01)
    assert middle(fast) == pytest.approx(BQ_PER_ML, rel=0.02)
