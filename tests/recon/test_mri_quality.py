"""Image quality of MR: each planted artefact is found, clean heads pass, numbers agree with what was put in."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from acquisition.errors import ConfigError
from acquisition.items import Kind
from acquisition.verdict import Level
from recon import quality
from recon.mri.quality import CheckQuality
from recon.planes import Planes
from tests.recon.quality_samples import (
    Plant,
    as_image,
    folded,
    found,
    from_k,
    ghosted,
    grid,
    head_slice,
    interfered,
    moved,
    noisy,
    to_k,
)

NAMES = {"snr", "contrast", "sharpness", "entropy", "ghost", "wrap", "zipper"}


def levels(*slices: np.ndarray, **changes: float) -> dict[str, Level]:
    verdicts = found(CheckQuality(**changes), [as_image(slices)])
    assert all(v.advice.endswith(".") for v in verdicts.values())
    return {name.removeprefix("quality."): v.level for name, v in verdicts.items()}


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("snr", [12.0, 20.0, 60.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_clean_head_passes(seed: int, snr: float, transposed: bool) -> None:
    image = noisy(head_slice(seed), snr, seed)
    said = levels(image.T if transposed else image)
    assert set(said) == NAMES
    assert {name for name, level in said.items() if level is not Level.PASS} == set()


DEFECTS: dict[str, tuple[str, Plant]] = {
    "noise": ("snr", lambda h: noisy(h, 3.0)),
    "ghost": ("ghost", lambda h: noisy(ghosted(h, 0.2))),
    "motion": ("ghost", lambda h: noisy(moved(h, 4.0))),
    "wrap": ("wrap", lambda h: noisy(folded(h, 0.62))),
    "shifted wrap": ("wrap", lambda h: noisy(np.roll(h, len(h) // 3, 0))),
    "zipper": ("zipper", lambda h: noisy(interfered(h, 0.002))),
    "blur": ("sharpness", lambda h: noisy(gaussian_filter(h, 3.0))),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_found_along_either_axis(name: str, seed: int) -> None:
    check, plant = DEFECTS[name]
    image = plant(head_slice(seed))
    assert levels(image)[check] is not Level.PASS
    assert levels(image.T)[check] is not Level.PASS


def test_the_worse_the_defect_the_graver_the_verdict() -> None:
    base = head_slice()
    assert levels(noisy(base, 1.8))["snr"] is Level.HOLD
    assert levels(noisy(base, 3.5))["snr"] is Level.FLAG
    assert levels(noisy(ghosted(base, 0.5)))["ghost"] is Level.HOLD
    assert levels(noisy(ghosted(base, 0.12)))["ghost"] is Level.FLAG
    assert levels(noisy(ghosted(base, 0.02)))["ghost"] is Level.PASS


def test_one_bad_slice_of_many_is_named() -> None:
    slices = [noisy(head_slice(), 30, s) for s in range(9)]
    slices[5] = noisy(interfered(head_slice(), 0.003))
    verdicts = found(CheckQuality(), [as_image(slices)])
    assert verdicts["quality.zipper"].level is Level.FLAG
    assert "slice 6" in verdicts["quality.zipper"].advice
    assert "column" in verdicts["quality.zipper"].advice
    assert verdicts["quality.snr"].level is Level.PASS


def test_the_axis_of_a_ghost_is_told() -> None:
    image = noisy(ghosted(head_slice(), 0.3))
    for data, axis in ((image, "columns"), (image.T, "rows")):
        assert axis in found(CheckQuality(), [as_image([data])])["quality.ghost"].advice


def test_nothing_but_noise_is_held() -> None:
    rng = np.random.default_rng(0)
    nothing = np.abs(rng.standard_normal((64, 64)) + 1j * rng.standard_normal((64, 64)))
    assert levels(nothing) == {"snr": Level.HOLD}
    assert levels(np.zeros((64, 64))) == {"snr": Level.HOLD}


def test_tissues_within_the_noise_are_told_of() -> None:
    disc = (np.hypot(*np.mgrid[-64:64, -64:64]) < 45).astype(float)
    assert levels(noisy(disc, 30, 3), contrast_flag=2.0)["contrast"] is Level.FLAG
    half = disc * np.where(np.arange(128) < 64, 1.0, 1.6)
    assert levels(noisy(half, 30, 3), contrast_flag=2.0)["contrast"] is Level.PASS


def test_the_noise_is_the_one_that_was_added() -> None:
    base = head_slice(0, 192)
    where = quality.parts(noisy(base, 20, 5).astype(np.float32))
    assert where is not None
    sigma = np.median(base[base > 0.2 * base.max()]) / 20
    image = noisy(base, 20, 5).astype(np.float32)
    assert 0.9 < quality.noise_level(image, where.inside) / sigma < 1.6  # folds add to it
    assert quality.air_noise(image, where) == pytest.approx(sigma, rel=0.1)


def test_measures_have_their_known_values() -> None:
    one = np.zeros((32, 32), np.float32)
    one[4, 4] = 7
    assert quality.entropy_focus(one) == pytest.approx(0.0, abs=1e-6)
    assert quality.entropy_focus(np.ones((32, 32), np.float32)) == pytest.approx(1.0, abs=1e-6)
    assert quality.entropy_focus(np.zeros((8, 8), np.float32)) == 0.0
    disc = (np.hypot(*np.mgrid[-32:32, -32:32]) < 20).astype(np.float32)
    where = quality.parts(disc)
    assert where is not None
    assert quality.energy_ratio(disc, where) == float("inf")
    assert quality.energy_ratio(disc + np.float32(0.1), where) == pytest.approx(1 / 0.01, rel=1e-3)
    assert quality.edge_width(disc, where) == pytest.approx(2.0)
    assert quality.edge_width(gaussian_filter(disc, 2.0), where) > 4.0
    two = np.where(np.arange(64) < 32, 100.0, 160.0)[None].repeat(64, 0).astype(np.float32)
    everywhere = replace(where, inside=np.ones((64, 64), bool))
    assert quality.contrast(two, everywhere) == pytest.approx(60.0)


def test_an_object_cut_off_on_both_sides_is_not_taken_for_wrapped() -> None:
    rng = np.random.default_rng(4)
    body = 1.0 + 0.5 * gaussian_filter(rng.standard_normal((128, 128)), 4) * 10
    body[:, :20] = body[:, -20:] = 0
    assert levels(noisy(body, 40))["wrap"] is Level.PASS


def test_a_finer_grid_of_the_same_measurement_passes() -> None:
    space = np.zeros((256, 256), complex)
    space[64:192, 64:192] = to_k(noisy(head_slice(), 25))
    said = levels(np.abs(from_k(space)))
    assert {name for name, level in said.items() if level is not Level.PASS} == set()


def test_images_of_other_outputs_and_small_ones_are_not_judged() -> None:
    image = as_image([noisy(head_slice(), 2.0)])
    assert found(CheckQuality(), [replace(image, output="map"), replace(image, kind=Kind.PHASE)]) == {}
    assert found(CheckQuality(), [as_image([np.ones((8, 8))])]) == {}
    assert found(CheckQuality(), []) == {}


def test_complex_images_are_judged_by_their_magnitude() -> None:
    clean = noisy(head_slice(), 30)
    turned = as_image([clean])
    turned = replace(turned, data=(turned.data * np.exp(1j)).astype(np.complex64), kind=Kind.COMPLEX)
    assert found(CheckQuality(), [turned])["quality.snr"].level is Level.PASS


def test_many_slices_are_thinned_evenly() -> None:
    planes = Planes(8)
    for n in range(200):
        planes.add(as_image([np.full((32, 32), n)], position=replace(as_image([np.ones((2, 2))]).position, slice=n)))
        assert len(planes.kept) <= 16
    assert planes.n == 200
    assert len(planes.middle) <= 8
    steps = np.diff([p.index for p in planes.kept])
    assert np.ptp(steps) == 0
    assert [p.data[0, 0] for p in planes.kept] == [p.index for p in planes.kept]


def test_a_volume_is_judged_within_a_second_of_processor_time() -> None:
    volume = np.stack([noisy(head_slice(), 30, s) for s in range(4)])
    image = as_image(np.tile(np.kron(volume, np.ones((1, 2, 2))), (40, 1, 1)))
    assert image.data.shape == (160, 256, 256)
    step = CheckQuality()
    step.open(None)  # type: ignore[arg-type]
    list(step.feed(image))
    before = time.process_time()
    assert len(list(step.close())) == len(NAMES)
    assert time.process_time() - before < 1.5


@pytest.mark.parametrize(
    "changes", [{"snr_flag": -1.0}, {"snr_hold": 9.0}, {"ghost_hold": 0.001}, {"edge_flag_px": float("nan")}]
)
def test_wrong_limits_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="limits of 0 or more"):
        CheckQuality(**changes)


def test_a_limit_of_zero_switches_a_check_off() -> None:
    bad = noisy(interfered(ghosted(head_slice(), 0.4), 0.003))
    said = levels(bad, ghost_flag=0.0, zipper_flag=0.0, wrap_flag=0.0, edge_flag_px=0.0)
    assert {"ghost", "zipper", "wrap"} & set(said) == set()
    assert said["sharpness"] is Level.PASS


def test_the_grid_of_the_samples_is_centred() -> None:
    assert grid((3, 4, 5)).centre_mm == pytest.approx((0, 0, 0))
