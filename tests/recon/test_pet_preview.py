"""The picture while counting: one pass over the events finds the activity, forgets what was, and grows no dearer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from acquisition.errors import ConfigError, DataError
from acquisition.geometry import Grid
from acquisition.items import Events, Image
from acquisition.verdict import Level
from recon.pet.onepass import OnePass
from recon.pet.preview import Preview
from recon.pet.sensitivity import LineModel, sensitivity
from recon.pet.volume import VoxelOptions, gantry_grid, inside
from tests.recon.test_pet_osem import BQ_PER_ML, PET, VOXELS, disc, events, fine_grid, mu_image, normalisation, scan_of


def pictures(step: Preview, items: list) -> list[Image]:
    step.open(scan_of())
    out = [o for item in items for o in step.feed(item)] + list(step.close())
    return [o for o in out if isinstance(o, Image) and o.output == "preview"]


def activity(image: Image) -> np.ndarray:
    """In Bq/mL, as the final image counts."""
    pet = scan_of().pet
    return image.data * pet.calibration_bq_per_cps / pet.tracer.branching


def contrast(image: Image) -> float:
    return float(image.data[disc(image.grid, 40.0)].mean() / image.data[~disc(image.grid, 65.0)].mean())


def test_a_preview_comes_each_second_and_the_events_go_on() -> None:
    step = Preview(**VOXELS, slice_mm=8.0, every_s=20.0)
    step.open(scan_of())
    out = [o for b in (normalisation(), *events()) for o in step.feed(b)] + list(step.close())
    images = [o for o in out if isinstance(o, Image)]
    assert [o for o in out if not isinstance(o, Image)] == [out[0], *events()]
    assert [i.attributes["frame_stop_s"] for i in images] == ["20", "40", "60"]
    assert {i.attributes["frame_start_s"] for i in images} == {"0"}
    assert [i.position.repetition for i in images] == [0, 1, 2]
    for image in images:
        assert image.attributes["quantitative"] == "no"
        assert image.verdicts[0].level is Level.FLAG and image.unit == "a.u."
        assert contrast(image) > 4
    assert contrast(images[2]) > contrast(images[0])


def test_with_attenuation_and_normalisation_it_finds_the_activity() -> None:
    items = [normalisation(), mu_image(fine_grid()), *events()]
    (*_, last) = pictures(Preview(**VOXELS, every_s=10.0), items)
    assert activity(last)[1:-1][disc(last.grid, 40.0)[1:-1]].mean() == pytest.approx(BQ_PER_ML, rel=0.04)
    (*_, late) = pictures(Preview(**VOXELS, every_s=10.0), [*events()[:2], *items[:2], *events()[2:]])
    assert activity(late)[1:-1][disc(late.grid, 40.0)[1:-1]].mean() == pytest.approx(BQ_PER_ML, rel=0.08)


def test_a_part_of_the_events_stands_for_all() -> None:
    items = [normalisation(), mu_image(fine_grid()), *events()]
    n = sum(len(b) for b in events())
    (*_, few) = pictures(Preview(**VOXELS, every_s=20.0, most_per_s=max(map(len, events())) // 30 + 1), items)
    used, of, total = few.provenance.notes["events"].split()
    assert (of, int(total)) == ("of", n) and int(used) == pytest.approx(n / 3, rel=0.01)
    assert activity(few)[1:-1][disc(few.grid, 40.0)[1:-1]].mean() == pytest.approx(BQ_PER_ML, rel=0.06)


def test_a_scan_that_is_too_short_has_one_and_an_empty_one_none() -> None:
    assert [i.attributes["frame_stop_s"] for i in pictures(Preview(**VOXELS, every_s=100.0), [*events()])] == ["60"]
    empty = [replace(b, prompts=b.prompts[:0], tof=b.tof[:0]) for b in events()]
    assert pictures(Preview(**VOXELS, every_s=10.0), empty) == []
    assert len(pictures(Preview(**VOXELS, every_s=10.0), [*empty[:3], *events()[3:]])) == 3


def test_what_cannot_be_is_refused() -> None:
    for changes in ({"every_s": 0.0}, {"batch_events": 0}, {"most_per_s": 0}, {"power": -1.0}, {"filter_mm": -1.0}):
        with pytest.raises(ConfigError, match=r"pet\.preview: expected every_s above 0, batch_events and most_per_s"):
            Preview(**changes)
    step, block = Preview(**VOXELS), events()[0]
    step.open(scan_of())
    for item in events()[:3]:
        list(step.feed(item))
    for broken, message in [
        (block, "expected blocks after 30 s, got one at 0 s"),
        (replace(block, start_s=30.0, tof=None), "expected a time-of-flight bin for each event"),
    ]:
        with pytest.raises(DataError, match=message):
            list(step.feed(broken))


def one_pass(power: float) -> tuple[OnePass, Grid]:
    pet = scan_of().pet
    grid = gantry_grid(pet, VoxelOptions(**VOXELS, slice_mm=10.0))
    made = OnePass(pet, grid, power=power)
    made.sees(torch.where(inside(grid), sensitivity(LineModel(pet, normalisation()), grid).image, 0.0))
    return made, grid


def add(made: OnePass, block: Events, n: int = 4) -> None:
    for k in range(n):
        made.add(np.ascontiguousarray(block.prompts[k::n]), np.ascontiguousarray(block.tof[k::n]), 10.0 / n)


def test_an_update_keeps_the_counts() -> None:
    """Those of the lines that meet the field of view, as expectation maximisation does."""
    found = sensitivity(LineModel(PET, normalisation()), one_pass(0.0)[1]).image
    for power in (0.0, 2.0):
        made, _ = one_pass(power)
        for block in events()[:3]:
            add(made, block, 1)
        total = sum(len(b) for b in events()[:3])
        assert float((made.image * found).sum()) * 30.0 == pytest.approx(total, rel=0.02)


def test_what_was_before_is_forgotten_the_faster_the_higher_the_power() -> None:
    """A source in one half of the rings at first, in the other half afterwards."""
    left = []
    for power in (0.0, 2.0, 4.0):
        made, _ = one_pass(power)
        for n, block in enumerate(events()):
            keep = ((block.prompts // PET.n_crystals < PET.n_rings // 2) == (n < 3)).all(1)
            add(made, replace(block, prompts=block.prompts[keep], tof=block.tof[keep]))
        image = made.image
        left.append(float(image[:2].sum() / (image[:2].sum() + image[3:].sum())))
    assert left[0] == pytest.approx(0.5, abs=0.1)
    assert left[1] == pytest.approx(1 / 8, abs=0.05) and left[2] == pytest.approx(1 / 32, abs=0.03)


def test_noise_is_that_of_all_counts_and_not_of_the_latest() -> None:
    spread = []
    for power in (2.0, 30.0):
        made, grid = one_pass(power)
        for block in (*events(), *events()):
            add(made, block)
        values = made.image.numpy()[1:-1][disc(grid, 30.0)[1:-1]]
        spread.append(float(values.std() / values.mean()))
    assert spread[0] < 0.6 * spread[1]


def test_the_number_of_threads_changes_nothing() -> None:
    before, images = torch.get_num_threads(), []
    try:
        for threads in ((1, 1), (1, 3), (3, 1)):
            made, _ = one_pass(2.0)
            for n, block in zip(threads, events(), strict=False):
                torch.set_num_threads(n)
                add(made, block)
            images.append(made.image.numpy())
    finally:
        torch.set_num_threads(before)
    for image in images[1:]:
        np.testing.assert_allclose(image, images[0], rtol=1e-3, atol=1e-4 * images[0].max())
