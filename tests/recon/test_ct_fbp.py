"""Axial and helical CT against the analytic object, in HU."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from acquisition.ct_geometry import patient_axes
from acquisition.errors import ConfigError, DataError, HeaderError, ReconError
from acquisition.items import Image, Item, Projections
from acquisition.sources.phantom.ct import CtExam, CtSimulation, gantry
from acquisition.sources.phantom.ct_objects import built, chest, water
from acquisition.sources.phantom.objects import Phantom
from acquisition.verdict import Level
from recon.ct.fbp import Axial, Helical
from recon.ct.kernel import KERNELS, modulation, response

FEED = 15.0


def scanned(exam: CtExam, phantom: Phantom | None = None, *, block: int = 40) -> tuple[CtSimulation, list[Projections]]:
    simulation = CtSimulation(exam, phantom)
    head, lines = simulation.head, simulation.lines()
    cuts = range(0, len(head), block)
    blocks = [Projections(head=head[c : c + block], data=lines[c : c + block], domain="lines") for c in cuts]
    return simulation, blocks


def reconstructed(step: Axial | Helical, simulation: CtSimulation, blocks: Iterable[Projections]) -> list[Image]:
    step.open(simulation.scan)
    items: list[Item] = [item for block in blocks for item in step.feed(block)]
    items += step.close()
    assert all(isinstance(i, Image) for i in items)
    return [i for i in items if isinstance(i, Image)]


def truth(simulation: CtSimulation, image: Image) -> np.ndarray:
    """The object's HU at the voxel centres."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in image.grid.shape), indexing="ij"), -1)[..., ::-1]
    points = index @ image.grid.affine[:3, :3].T + image.grid.affine[:3, 3]
    return 1000 * (simulation.phantom.signal(points) - 1)


def replace_field(head: np.ndarray, **values: float) -> np.ndarray:
    head = head.copy()
    for name, value in values.items():
        head[name] = value
    return head


def flat(values: np.ndarray) -> np.ndarray:
    """Where a slice's truth is constant 5 pixels around."""
    low, high = values.copy(), values.copy()
    for axis in (1, 2):
        for shift in (-5, -3, -1, 1, 3, 5):
            low = np.minimum(low, np.roll(values, shift, axis))
            high = np.maximum(high, np.roll(values, shift, axis))
    return low == high


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("feed", [FEED, -FEED])
def test_a_helical_chest_has_the_right_hu_everywhere(direction: int, feed: float) -> None:
    exam = CtExam(turns=3, direction=direction, feed_mm=feed, start_z_mm=-1.5 * feed)
    simulation, blocks = scanned(exam)
    images = reconstructed(Helical(matrix=128, fov_mm=340, kernel="soft"), simulation, blocks)
    assert len(images) >= 15
    z = [i.grid.origin_mm[2] for i in images]
    np.testing.assert_allclose(np.diff(z), np.sign(feed) * 1.2, atol=0.01)
    assert [i.position.slice for i in images] == list(range(len(images)))
    for image in images[:: len(images) - 1] + images[len(images) // 2 :][:1]:
        expected = truth(simulation, image)
        error = image.data - expected
        inside = flat(expected)
        assert abs(np.median(error[inside])) < 1
        assert np.percentile(np.abs(error[inside]), 95) < 6
        assert (np.abs(error)[inside] > 60).mean() < 5e-4
        for axis in (1, 2):
            assert (np.abs(np.flip(image.data, axis) - expected)[inside] > 60).mean() > 3e-3


def test_water_is_0_and_air_is_minus_1000() -> None:
    phantom = water(100).transformed(np.eye(3), (23.0, -14.0, 0.0))
    for exam, step in (
        (CtExam(ct=gantry(mode="axial"), turns=1.2), Axial(matrix=100, fov_mm=300)),
        (CtExam(turns=3, feed_mm=FEED, start_z_mm=-22), Helical(matrix=100, fov_mm=300)),
    ):
        simulation, blocks = scanned(exam, phantom)
        for image in reconstructed(step, simulation, blocks):
            expected = truth(simulation, image)
            inside = flat(expected)
            assert abs(image.data[inside & (expected > -1)].mean()) < 2
            assert abs(image.data[inside & (expected < -999)].mean() + 1000) < 5


def test_no_row_is_flipped_and_no_stairs_appear() -> None:
    """A tilted rod far from the axis: its centre moves straight with z, to a tenth of a pixel."""
    tilt = 0.6
    rod = built({"rod": (None, 1000.0, (0.0, 0.0, 0.0), (6.0, 6.0, 400.0))})
    shear = np.eye(3)
    shear[0, 2] = tilt
    phantom = rod.transformed(shear, (90.0, 20.0, 0.0))
    exam = CtExam(turns=4, feed_mm=FEED, start_z_mm=-30)
    simulation, blocks = scanned(exam, phantom)
    step = Helical(matrix=64, fov_mm=64, centre_mm=(90.0, 20.0))
    images = reconstructed(step, simulation, blocks)
    centres = []
    for image in images:
        mass = np.clip(image.data[0] + 1000, 100, None) - 100
        xs = image.grid.origin_mm[0] + np.arange(64) * image.grid.spacing_mm[2]
        centres.append((mass.sum(0) * xs).sum() / mass.sum())
    z = np.array([i.grid.origin_mm[2] for i in images])
    np.testing.assert_allclose(centres, 90 + tilt * z, atol=0.12)


def test_slices_come_while_the_gantry_turns_from_bounded_memory() -> None:
    rings = []
    for turns in (5, 7):
        simulation, blocks = scanned(CtExam(turns=turns, feed_mm=FEED))
        step = Helical(matrix=32, fov_mm=300)
        step.open(simulation.scan)
        early = [(n, i) for n, block in enumerate(blocks) for i in step.feed(block)]
        assert step._views is not None
        rings.append(step._views.ring.nbytes)
        late = list(step.close())
        assert len(early) > 1.5 * len(late)
        for n, image in early[:8]:
            behind = blocks[n].head["z_mm"][-1] - image.grid.origin_mm[2]
            assert behind < FEED + 19.2 + 8 * 1.2
    assert rings[0] == rings[1]


def test_blocks_of_any_size_give_the_same_slices() -> None:
    exam = CtExam(turns=3, feed_mm=FEED, start_z_mm=-22)
    made = []
    for block in (1, 37, 5000):
        simulation, blocks = scanned(exam, chest(), block=block)
        made.append(np.stack([i.data for i in reconstructed(Helical(matrix=24), simulation, blocks)]))
    np.testing.assert_allclose(made[1], made[0], atol=0.05)
    np.testing.assert_allclose(made[2], made[0], atol=0.05)


def test_thick_slices_are_the_mean_of_the_thin_ones_and_the_increment_is_free() -> None:
    simulation, blocks = scanned(CtExam(turns=4, feed_mm=FEED, start_z_mm=-30), chest())
    thin = reconstructed(Helical(matrix=32, thickness_mm=1.2, increment_mm=1.2), simulation, blocks)
    thick = reconstructed(Helical(matrix=32, thickness_mm=4.8, increment_mm=2.7), simulation, blocks)
    assert thick[0].grid.thickness_mm == 4.8 and thick[0].grid.spacing_mm[0] == 2.7
    z = np.array([i.grid.origin_mm[2] for i in thick])
    np.testing.assert_allclose(np.diff(z), 2.7)
    thin_z = np.array([i.grid.origin_mm[2] for i in thin])
    for image in thick[1:-1]:
        offset = np.abs(thin_z - image.grid.origin_mm[2])
        weight = np.clip((2.4 + 0.6 - offset) / 1.2, 0, 1)
        mean = np.tensordot(weight / weight.sum(), np.stack([i.data for i in thin]), 1)
        assert np.sqrt(np.square(mean - image.data).mean()) < 12


def test_axial_from_part_of_a_turn_and_at_several_table_positions() -> None:
    ct = gantry(mode="axial", n_rows=1, centre=(0.0, 183.75))
    full, short = CtExam(ct=ct, turns=1.2), CtExam(ct=ct, turns=0.68)
    made = []
    for exam in (full, short):
        simulation, blocks = scanned(exam)
        [image] = reconstructed(Axial(matrix=128, fov_mm=340, kernel="soft"), simulation, blocks)
        expected = truth(simulation, image)
        assert np.percentile(np.abs(image.data - expected)[flat(expected)], 95) < 12
        made.append(image)
    assert np.sqrt(np.square(made[0].data - made[1].data).mean()) < 12
    second, more = scanned(replace(full, start_z_mm=10.0))
    images = reconstructed(Axial(matrix=16), second, [*scanned(full)[1], *more])
    assert [i.grid.origin_mm[2] for i in images] == [0.0, 10.0]


def test_kernels_rank_by_sharpness_and_noise() -> None:
    ct = gantry(mode="axial", n_rows=1, centre=(0.0, 183.75))
    simulation = CtSimulation(CtExam(ct=ct, turns=1.2), water(100))
    rng = np.random.default_rng(2)
    clean = simulation.lines()
    lines = clean + rng.normal(0, 0.01, (len(simulation.head), 1, 368)).astype(np.float32)
    noise = []
    for kernel in ("soft", "standard", "bone"):
        made = []
        for data in (lines, clean):
            block = Projections(head=simulation.head, data=data, domain="lines")
            made += reconstructed(Axial(matrix=128, fov_mm=120, kernel=kernel), simulation, [block])
        noise.append((made[0].data - made[1].data).std())
        assert abs(made[1].data).max() < 1
    assert noise[0] < 0.75 * noise[1] and noise[1] < 0.6 * noise[2]
    for values in KERNELS.values():
        shape = response(512, 0.5, values) / response(512, 0.5, "ramp").clip(1e-9)
        np.testing.assert_allclose(shape[[128, 256]], [values[2], values[4]], atol=0.01)


def test_a_patient_beyond_the_fan_is_flagged() -> None:
    exam = CtExam(ct=gantry(mode="axial", n_rows=1, centre=(0.0, 183.75)))
    simulation, blocks = scanned(replace(exam, turns=1.2), water(300))
    [image] = reconstructed(Axial(matrix=16), simulation, blocks)
    assert image.verdicts[0].check == "ct.truncation" and image.verdicts[0].level is Level.FLAG
    assert (image.data[0, 0, 0], image.unit) == (-1000, "HU")


def test_what_cannot_be_reconstructed_is_refused() -> None:
    exam = CtExam(turns=0.5, feed_mm=FEED)
    simulation, blocks = scanned(exam)
    with pytest.raises(ReconError, match="cut short"):
        reconstructed(Helical(matrix=8), simulation, blocks)
    with pytest.raises(HeaderError, match="expected axial"):
        Axial().open(simulation.scan)
    with pytest.raises(ConfigError, match="one of bone, ramp, soft, standard"):
        Helical(kernel="b30").open(simulation.scan)
    with pytest.raises(ConfigError, match="the first one 1"):
        modulation((0.5, 1.0))
    with pytest.raises(ConfigError, match="sizes from 0 up"):
        Helical(fov_mm=-1).open(simulation.scan)
    with pytest.raises(HeaderError, match="the attenuation of water"):
        Helical().open(replace(simulation.scan, ct=gantry(mu_water_per_mm=None)))
    with pytest.raises(HeaderError, match=r"expected HFS, HFP, .*, got SITTING"):
        Helical().open(replace(simulation.scan, patient=replace(simulation.scan.patient, position="SITTING")))
    step = Helical(matrix=8)
    step.open(simulation.scan)
    assert list(step.feed("other")) == ["other"]
    with pytest.raises(DataError, match=r"put ct\.air before"):
        list(step.feed(replace(blocks[0], domain="counts")))
    with pytest.raises(DataError, match="16 x 368 elements"):
        list(step.feed(replace(blocks[0], data=blocks[0].data[:, :3])))
    moving = blocks[0].head.copy()
    moving["z_shift_mm"] = np.arange(len(moving))
    with pytest.raises(DataError, match="repeats after 1, 2 or 4 views"):
        list(step.feed(replace(blocks[0], head=moving)))
    list(step.feed(blocks[0]))
    moving["z_shift_mm"] = 0.3
    with pytest.raises(DataError, match="flies as in the first 1 views"):
        list(step.feed(replace(blocks[1], head=replace_field(blocks[1].head, z_shift_mm=0.3))))
    with pytest.raises(DataError, match="none missing"):
        list(step.feed(blocks[2]))


IN_PLANE, ALONG_Z, BACK = 1.31e-3, 0.66, 5.4  # a quarter of an element at the axis, and what the anode's slope adds
FLIGHTS = {
    "in plane": ((IN_PLANE, 0, 0), (-IN_PLANE, 0, 0)),
    "along z": ((0, ALONG_Z, BACK), (0, -ALONG_Z, -BACK)),
    "both": tuple((a, z, BACK * np.sign(z)) for z in (ALONG_Z, -ALONG_Z) for a in (IN_PLANE, -IN_PLANE)),
}


@pytest.mark.parametrize("flight", FLIGHTS)
@pytest.mark.parametrize("direction", [1, -1])
def test_a_flying_focal_spot_keeps_hu_and_place(flight: str, direction: int) -> None:
    ct = gantry(views_per_rotation=288 * len(FLIGHTS[flight]))
    exam = CtExam(ct=ct, turns=3, direction=direction, feed_mm=FEED, start_z_mm=-22, focal_spot_shifts=FLIGHTS[flight])
    simulation, blocks = scanned(exam)
    images = reconstructed(Helical(matrix=96, fov_mm=340, kernel="soft"), simulation, blocks)
    image = images[len(images) // 2]
    expected = truth(simulation, image)
    inside = flat(expected)
    error = (image.data - expected)[inside]
    assert abs(np.median(error)) < 1
    still = CtExam(ct=gantry(views_per_rotation=288), turns=3, direction=direction, feed_mm=FEED, start_z_mm=-22)
    rest = reconstructed(Helical(matrix=96, fov_mm=340, kernel="soft"), *scanned(still))[len(images) // 2]
    shift = abs(image.data - expected).mean() / abs(rest.data - expected).mean()
    assert shift < 1.02


def test_flying_in_plane_resolves_finer_bars_and_along_z_thinner_plates() -> None:
    """Objects near the sampling limit of the resting spot: the flying one sees more of their contrast."""
    seen = {}
    for name, phantom in (("in plane", bars(2.2)), ("along z", plates(1.3))):
        for flight in (((0, 0, 0), (0, 0, 0)), FLIGHTS[name]):
            ct = gantry(views_per_rotation=1152)
            exam = CtExam(ct=ct, turns=2.4, feed_mm=FEED, start_z_mm=-18, focal_spot_shifts=flight)
            step = Helical(matrix=48, fov_mm=24, kernel="ramp", thickness_mm=0.3, increment_mm=0.3)
            images = reconstructed(step, *scanned(exam, phantom))
            middle = np.stack([i.data[0] for i in images if abs(i.grid.origin_mm[2]) < 3])
            truths = np.stack(
                [truth(CtSimulation(exam, phantom), i)[0] for i in images if abs(i.grid.origin_mm[2]) < 3]
            )
            middle, truths = middle[:, 18:30, 12:36], truths[:, 18:30, 12:36]
            seen[name, flight == FLIGHTS[name]] = np.polyfit(truths.ravel(), middle.ravel(), 1)[0]
    for name in ("in plane", "along z"):
        assert seen[name, True] > 1.5 * abs(seen[name, False]) and seen[name, True] > 0.15, seen


def bars(period_mm: float) -> Phantom:
    """Plates upright along y, a period apart along x, in water."""
    parts = {f"bar {k}": ("water", 1000.0, (k * period_mm, 0.0, 0.0), (period_mm / 4, 8.0, 50.0)) for k in range(-5, 6)}
    return built({"water": (None, 0.0, (0, 0, 0), (40, 40, 300)), **parts})


def plates(period_mm: float) -> Phantom:
    """Plates across z, a period apart, in water."""
    parts = {
        f"plate {k}": ("water", 1000.0, (0.0, 0.0, k * period_mm), (14.0, 14.0, period_mm / 4)) for k in range(-5, 6)
    }
    return built({"water": (None, 0.0, (0, 0, 0), (40, 40, 300)), **parts})


@pytest.mark.parametrize(("feed", "match"), [(0.0, "a moving table"), (60.0, "a feed of at most")])
def test_a_table_too_slow_or_too_fast_is_refused(feed: float, match: str) -> None:
    simulation, blocks = scanned(CtExam(turns=0.2, feed_mm=feed))
    with pytest.raises(DataError, match=match):
        reconstructed(Helical(matrix=8), simulation, blocks)


@pytest.mark.parametrize("position", ["HFS", "FFS", "HFP", "FFP", "HFDR", "HFDL", "FFDR", "FFDL"])
def test_slices_lie_where_the_patient_is_however_he_lies(position: str) -> None:
    ct = gantry(mode="axial", n_rows=2, centre=(0.5, 183.75))
    simulation, blocks = scanned(CtExam(ct=ct, turns=1.2, start_z_mm=4.0), chest())
    lying = replace(simulation.scan, patient=replace(simulation.scan.patient, position=position))
    step = Axial(matrix=48, fov_mm=200, centre_mm=(12.0, -20.0))
    step.open(lying)
    images = [i for block in blocks for i in step.feed(block)] + list(step.close())
    axes = np.array(patient_axes(position))
    for image in images:
        assert isinstance(image, Image)
        np.testing.assert_allclose(image.grid.centre_mm[:2], (12.0, -20.0), atol=1e-9)
        index = np.stack(np.meshgrid(*(np.arange(n) for n in image.grid.shape), indexing="ij"), -1)[..., ::-1]
        points = (index @ image.grid.affine[:3, :3].T + image.grid.affine[:3, 3]) @ axes.T
        expected = 1000 * (simulation.phantom.signal(points) - 1)
        assert np.percentile(np.abs(image.data - expected)[flat(expected)], 90) < 15


def test_a_short_axial_turn_is_refused() -> None:
    simulation, blocks = scanned(CtExam(ct=gantry(mode="axial"), turns=0.5))
    with pytest.raises(ReconError, match="half a turn and the fan angle"):
        reconstructed(Axial(matrix=8), simulation, blocks)


def test_nothing_measured_gives_no_image() -> None:
    step = Axial()
    step.open(CtSimulation(CtExam(ct=gantry(mode="axial"))).scan)
    with pytest.raises(ReconError, match="cut short"):
        list(step.close())


def test_a_field_extended_beyond_the_fan_keeps_hu_inside_and_most_of_the_patient_outside() -> None:
    exam = CtExam(ct=gantry(mode="axial", n_rows=1, centre=(0.0, 183.75)), turns=1.2)
    phantom = water(220).transformed(np.eye(3), (60.0, 0.0, 0.0))
    errors = {}
    for extend in (0.0, 60.0):
        simulation, blocks = scanned(exam, phantom)
        [image] = reconstructed(Axial(matrix=160, fov_mm=600, extend_mm=extend), simulation, blocks)
        x = image.grid.origin_mm[0] + np.arange(160) * image.grid.spacing_mm[2]
        axis, body = np.hypot(x[None, :], x[:, None]), np.hypot(x[None, :] - 60, x[:, None])
        errors[extend] = [
            np.sqrt(np.square(image.data[0] - np.where(body < 220, 0, -1000))[area].mean())
            for area in ((axis < 235) & (abs(body - 220) > 8), (axis > 245) & (body < 210))
        ]
        assert image.verdicts[0].level is Level.FLAG
        assert ("estimates" in image.verdicts[0].advice) == (extend > 0)
    inside, outside = zip(*errors.values(), strict=True)
    assert inside[1] < 20 and inside[1] < 0.35 * inside[0], errors
    assert outside[1] < 0.3 * outside[0], errors
    with pytest.raises(ConfigError, match="sizes from 0 up"):
        Axial(extend_mm=-5).open(scanned(exam, phantom)[0].scan)


@pytest.mark.parametrize("flight", [((0.0, 0.0, 0.0),), ((0.0005, 0.0, 0.0), (-0.0005, 0.0, 0.0))])
@pytest.mark.parametrize("direction", [1, -1])
def test_one_turn_is_a_closed_circle_of_which_nothing_is_wasted(direction: int, flight: tuple) -> None:
    """Noise of exactly one turn is that of a longer one, 0.71 times that of half a turn; both show water as 0."""
    ct = gantry(mode="axial", n_rows=1, centre=(0.0, 183.75), views_per_rotation=288)
    wanted = Axial(matrix=96, fov_mm=220, kernel="soft")

    def slices(turns: float) -> tuple[np.ndarray, np.ndarray]:
        exam = CtExam(ct=ct, turns=turns, direction=direction, focal_spot_shifts=flight)
        simulation, blocks = scanned(exam, water(100), block=23)
        rng = np.random.default_rng(2)
        noisy = [replace(b, data=b.data + rng.normal(0, 0.02, b.data.shape).astype(np.float32)) for b in blocks]
        (clean,), (image,) = reconstructed(wanted, simulation, blocks), reconstructed(wanted, simulation, noisy)
        return clean.data[0, 24:-24, 24:-24], (image.data - clean.data)[0, 24:-24, 24:-24]

    (_, half), (clean, one), (_, longer) = slices(0.72), slices(1.0), slices(1.2)
    assert one.std() == pytest.approx(half.std() / np.sqrt(2), rel=0.08)
    assert one.std() == pytest.approx(longer.std(), rel=0.08)
    assert abs(clean.mean()) < 2 and np.abs(clean).max() < 30
