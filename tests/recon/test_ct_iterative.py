"""Iterative CT: photon statistics, subsets, and slices against the analytic object and filtered backprojection."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from acquisition.errors import ConfigError, DataError, HeaderError, ReconError
from acquisition.items import Image, Item, Projections
from acquisition.scan import CtHeader
from acquisition.sources.phantom.ct import CtExam, CtSimulation, gantry
from acquisition.sources.phantom.ct_objects import chest, water
from acquisition.sources.phantom.objects import Phantom
from acquisition.stream import Step
from acquisition.verdict import Level
from recon.ct.fbp import Axial
from recon.ct.iterative import Pwls, Sirt
from recon.ct.iterative import TotalVariationCt as Tv
from recon.ct.ordered import Subset, curvature, nesterov, ordered_subsets, split
from recon.ct.statistics import estimated, trust
from tests.properties import cone

FIELD = {"matrix": 128, "fov_mm": 360.0}


def scanner(**changes: object) -> CtHeader:
    """A coarse scanner: 184 channels of 2.8 mm at the axis, 288 views in a turn."""
    fields = {"mode": "axial", "n_rows": 1, "n_channels": 184, "pitch_mm": (4.4, 5.1432), "centre": (0.0, 91.75)}
    return gantry(**(fields | {"views_per_rotation": 288} | changes))


def measured(exam: CtExam, phantom: Phantom | None = None) -> tuple[CtSimulation, Projections]:
    """Line integrals with the noise of the exam's photons (no bowtie)."""
    simulation = CtSimulation(exam, phantom)
    lines = simulation.lines()
    if np.isfinite(exam.photons):
        rng = np.random.default_rng(exam.seed)
        current = (simulation.head["ma"] / (exam.ct.ma or 200.0))[:, None, None]
        counts = rng.poisson(exam.photons * current * np.exp(-lines)) + rng.normal(0, exam.electronic, lines.shape)
        lines = -np.log(np.maximum(counts, 1) / (exam.photons * current)).astype(np.float32)
    return simulation, Projections(head=simulation.head, data=lines, domain="lines", received_s=3.0)


def reconstructed(step: Step, simulation: CtSimulation, *blocks: Projections) -> list[Image]:
    step.open(simulation.scan)
    items: list[Item] = [item for block in blocks for item in step.feed(block)]
    items += step.close()
    assert all(isinstance(i, Image) for i in items)
    return [i for i in items if isinstance(i, Image)]


def truth(simulation: CtSimulation, image: Image) -> NDArray[np.float64]:
    """HU averaged over 4 x 4 points in each pixel."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in image.grid.shape), indexing="ij"), -1)[..., ::-1]
    points = index @ image.grid.affine[:3, :3].T + image.grid.affine[:3, 3]
    shifts = [np.array([x, y, 0]) * image.grid.spacing_mm[1] for x in FINE for y in FINE]
    return 1000 * (np.mean([simulation.phantom.signal(points + s) for s in shifts], axis=0) - 1)


FINE = (-0.375, -0.125, 0.125, 0.375)


def errors(simulation: CtSimulation, image: Image) -> tuple[float, float]:
    """Root mean square errors where the tissue is uniform, and everywhere within the field [HU]."""
    expected = truth(simulation, image)
    y, x = np.indices(expected.shape[1:]) - (expected.shape[1] - 1) / 2
    field = (np.hypot(y, x) < 0.48 * expected.shape[1])[None]
    edge = sum(np.abs(np.gradient(expected, axis=a)) for a in (1, 2)) > 1
    wide = edge.copy()
    for axis in (1, 2):
        for shift in (-2, -1, 1, 2):
            wide |= np.roll(edge, shift, axis)
    error = np.square(image.data - expected)
    flat = field & ~wide & (expected > -500)
    return float(np.sqrt(error[flat].mean())), float(np.sqrt(error[field].mean()))


@pytest.mark.parametrize("photons", [5e4, 2e5])
def test_pwls_has_less_noise_and_sharper_edges_than_filtered_backprojection(photons: float) -> None:
    simulation, views = measured(CtExam(ct=scanner(), turns=1.2, photons=photons), chest())
    [standard], [sharp], [pwls] = (
        reconstructed(step, simulation, views)
        for step in (Axial(kernel="standard", **FIELD), Axial(kernel="bone", **FIELD), Pwls(**FIELD))
    )
    noise, everywhere = errors(simulation, pwls)
    assert noise < errors(simulation, standard)[0] and everywhere < 0.6 * errors(simulation, standard)[1]
    assert noise < 0.6 * errors(simulation, sharp)[0] and everywhere < 0.9 * errors(simulation, sharp)[1]
    assert pwls.unit == "HU" and pwls.last_readout_s == 3.0 and pwls.data.min() >= -1000
    assert [(v.check, v.level) for v in pwls.verdicts] == [("ct.misfit", Level.PASS), ("ct.truncation", Level.PASS)]


def test_few_views_and_a_limited_angle() -> None:
    ct = scanner(views_per_rotation=48)
    simulation, views = measured(CtExam(ct=ct, turns=1.5, photons=1e5), chest())
    [fbp] = reconstructed(Axial(kernel="soft", **FIELD), simulation, views)
    [tv] = reconstructed(Tv(n_iterations=12, **FIELD), simulation, views)
    assert errors(simulation, tv)[0] < 0.35 * errors(simulation, fbp)[0]
    assert errors(simulation, tv)[1] < 0.5 * errors(simulation, fbp)[1]
    simulation, views = measured(CtExam(ct=scanner(), turns=0.36, photons=1e5), chest())
    [sirt], [pwls], [tv] = (reconstructed(step(**FIELD), simulation, views) for step in (Sirt, Pwls, Tv))
    assert errors(simulation, tv)[0] < 0.9 * errors(simulation, pwls)[0] < 0.9 * 0.7 * errors(simulation, sirt)[0]
    with pytest.raises(ReconError, match="half a turn"):
        reconstructed(Axial(**FIELD), simulation, views)


def test_a_cone_of_rows_a_flying_focal_spot_and_two_table_positions() -> None:
    """Outer rows see what lies above the slices; flying spots are where they are; blocks may be of any size."""
    ct = scanner(n_rows=4, centre=(1.5, 45.75), n_channels=92, pitch_mm=(6.0, 10.2864), views_per_rotation=96)
    shear = np.eye(3)
    shear[:2, 2] = 0.5, -0.3
    phantom = chest().transformed(shear, (0.0, 0.0, 0.0))
    coarse = {"matrix": 56, "fov_mm": 360.0, "n_iterations": 4}
    made = []
    for size in (37, 1000):
        blocks = []
        for z in (0.0, 13.0):
            exam = CtExam(ct=ct, focal_spot_shifts=((0.012, 2, 0), (-0.012, -2, 4)), start_z_mm=z)
            simulation, views = measured(exam, phantom)
            blocks.append(views)
        head, data = np.concatenate([b.head for b in blocks]), np.concatenate([b.data for b in blocks])
        cuts = range(0, len(head), size)
        parts = [Projections(head=head[c : c + size], data=data[c : c + size], domain="lines") for c in cuts]
        made.append(reconstructed(Pwls(**coarse), simulation, *parts))
        assert [i.position.slice for i in made[-1]] == list(range(8))
        z = [i.grid.origin_mm[2] for i in made[-1]]
        np.testing.assert_allclose(np.diff(z), [3.289] * 3 + [z[4] - z[3]] + [3.289] * 3, atol=0.01)
        assert z[4] - z[0] == pytest.approx(13.0)
        for image in made[-1]:
            assert errors(simulation, image)[0] < 12
    np.testing.assert_allclose([i.data for i in made[0]], [i.data for i in made[1]], atol=0.5)
    resting = parts[0].head.copy()
    resting["angle_shift_rad"] = 0
    [wrong, *_] = reconstructed(Pwls(**coarse), simulation, replace(parts[0], head=resting))
    assert wrong.verdicts[0].level is Level.FLAG and made[0][0].verdicts[0].level is Level.PASS
    assert wrong.verdicts[0].value > 2 * made[0][0].verdicts[0].value


@pytest.mark.parametrize("feed", [14.0, -14.0])
def test_a_short_helical_scan(feed: float) -> None:
    ct = scanner(mode="helical", n_rows=6, centre=(2.5, 45.75), n_channels=92, pitch_mm=(5.0, 10.2864))
    exam = CtExam(ct=replace(ct, views_per_rotation=96), turns=2, feed_mm=feed, start_z_mm=-feed)
    simulation, views = measured(exam, chest())
    images = reconstructed(Pwls(matrix=48, fov_mm=340.0, thickness_mm=5.0, n_iterations=6), simulation, views)
    z = [i.grid.origin_mm[2] for i in images]
    np.testing.assert_allclose(np.diff(z), np.sign(feed) * 5.0)
    assert len(images) >= 3 and abs(np.mean(z)) < 0.1 and max(np.abs(z)) < 14
    assert max(errors(simulation, image)[0] for image in images) < 12
    with pytest.raises(ReconError, match="a longer scan"):
        reconstructed(Pwls(matrix=64), simulation, replace(views, head=views.head[:20], data=views.data[:20]))


def test_a_small_field_is_a_part_of_the_large_one() -> None:
    simulation, views = measured(CtExam(ct=scanner(views_per_rotation=96, ma=100.0)), chest())
    [large] = reconstructed(Pwls(matrix=80, fov_mm=400.0), simulation, views)
    [small] = reconstructed(Pwls(matrix=20, fov_mm=100.0, centre_mm=(50.0, -25.0)), simulation, views)
    np.testing.assert_allclose(small.data, large.data[:, 25:45, 40:60], atol=3.0)
    feet = replace(simulation.scan, patient=replace(simulation.scan.patient, position="FFS"))
    step = Pwls(matrix=80, fov_mm=400.0)
    step.open(feet)
    [*_, turned] = [*step.feed(views), *step.close()]
    assert turned.grid.x_dir == (-1.0, 0.0, 0.0) and turned.grid.z_dir == (0.0, 0.0, -1.0)
    np.testing.assert_allclose(turned.data, large.data, atol=0.01)


def test_every_view_is_in_one_subset_and_the_curvature_is_that_of_the_data() -> None:
    projector, rng = cone((2, 4, 3)), np.random.default_rng(1)
    shape = projector.range
    whole = Subset(
        projector=projector,
        lines=torch.from_numpy(rng.normal(size=shape)),
        weights=torch.from_numpy(rng.uniform(0, 2, shape)),
    )
    parts = split(whole, 3)
    assert sum(len(p.lines) for p in parts) == shape[0]
    np.testing.assert_array_equal(
        np.sort(np.concatenate([p.projector.head["view"] for p in parts])), np.arange(shape[0])
    )
    bend = curvature(parts)
    torch.testing.assert_close(bend, curvature([whole]))
    for _ in range(20):
        d = torch.from_numpy(rng.normal(size=projector.domain))
        assert (whole.weights * projector(d).square()).sum() <= (bend * d.square()).sum() * (1 + 1e-9)


def test_ordered_subsets_find_the_least_squares_solution_and_momentum_is_faster() -> None:
    projector = cone((1, 4, 3), n_rows=1, centre=(0.0, 4.3))
    wanted = torch.rand(projector.domain, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    lines = projector(wanted)
    [whole] = split(Subset(projector=projector, lines=lines, weights=torch.ones_like(lines)), 1)
    bend = curvature([whole])
    left = {}
    for name, momentum in (("plain", iter(lambda: 0.0, 1.0)), ("nesterov", nesterov())):
        told: list[float] = []
        found = ordered_subsets(
            [whole],
            lambda z, down: z - down / bend,
            start=torch.zeros_like(wanted),
            n_iterations=60,
            momentum=momentum,
            report=lambda _, misfit, __, told=told: told.append(misfit),
        )
        left[name] = float((found - wanted).norm() / wanted.norm())
        assert told[-1] < 1e-3 * told[0]
    assert left["nesterov"] < 0.3 * left["plain"] and left["nesterov"] < 0.05


def test_photons_are_read_from_the_noise_of_an_object_with_edges() -> None:
    ct = scanner(ma=200.0)
    for photons, within in ((1e4, 0.1), (3e5, 0.3)):
        _, views = measured(CtExam(ct=ct, photons=photons, modulation=0.5), chest())
        current = views.head["ma"][:, None] / 200.0
        found = estimated(views.data, current)
        np.testing.assert_allclose(np.median(found), photons, rtol=within)
        wrong = estimated(views.data, np.ones_like(current))
        assert abs(np.median(wrong) / photons - 1) < 0.5
    quiet = measured(CtExam(ct=ct), water(100))[1]
    assert np.median(estimated(quiet.data, np.ones((288, 1)))) > 1e6


def test_weights_are_one_over_the_variance() -> None:
    rng = np.random.default_rng(6)
    counts = rng.poisson(2e3 * np.exp(-1.5), 40000) + rng.normal(0, 12.0, 40000)
    lines = -np.log(counts / 2e3).astype(np.float32).reshape(400, 1, 100)
    weights = trust(np.full((1, 1, 1), 1.5, np.float32), np.full((1, 1), 2e3), 12.0)
    assert 1 / weights[0, 0, 0] == pytest.approx(lines.var(), rel=0.03)


def test_the_source_s_photons_are_used_and_rays_without_photons_count_little() -> None:
    simulation, views = measured(CtExam(ct=scanner(views_per_rotation=96), photons=1e5), water(110))
    starved = views.data.copy()
    starved[:, :, ::4] += np.random.default_rng(7).normal(0, 0.5, (96, 1, 46)).astype(np.float32)
    photons = np.full((96, 184), 1e5, np.float32)
    photons[:, ::4] = 30.0
    told, untold = replace(views, data=starved, photons=photons), replace(views, data=starved)
    field = {"matrix": 64, "fov_mm": 320.0}
    noise = [
        errors(simulation, reconstructed(step, simulation, block)[0])[0]
        for step, block in ((Pwls(**field), told), (Pwls(photons=1e5, **field), untold))
    ]
    assert noise[0] < 0.5 * noise[1]


def test_progress_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    simulation, views = measured(CtExam(ct=scanner(views_per_rotation=96)), water(110))
    with caplog.at_level(logging.INFO, "recon.ct.iterative"):
        reconstructed(Pwls(matrix=32, n_iterations=4), simulation, views)
    lines = [r.message for r in caplog.records if "iteration" in r.message]
    assert "ct.pwls iteration 1 of 24" in lines[0] and "iteration 24 of 24" in lines[-1]
    assert simulation.scan.uid in lines[0]


def test_bad_input_is_refused() -> None:
    simulation, views = measured(CtExam(ct=scanner(views_per_rotation=8)), water(50))
    for step, match in (
        (Sirt, "n_iterations and n_subsets from 1"),
        (Pwls, "edge_hu_per_mm above 0"),
        (Tv, "slope_hu_per_mm above 0"),
    ):
        name = {"n_iterations": 0} if step is Sirt else {"slope_hu_per_mm": 0.0}
        with pytest.raises(ConfigError, match=match):
            step(**name)
    with pytest.raises(ConfigError, match="model_error from 0"):
        Pwls(electronic=-1.0)
    with pytest.raises(ConfigError, match="larger fov_mm"):
        reconstructed(Pwls(matrix=512, fov_mm=20.0), simulation, views)
    with pytest.raises(HeaderError, match="the attenuation of water"):
        Pwls().open(replace(simulation.scan, ct=replace(simulation.exam.ct, mu_water_per_mm=None)))
    step = Pwls(matrix=8)
    step.open(simulation.scan)
    assert list(step.feed("other")) == ["other"]
    with pytest.raises(DataError, match=r"put ct\.air before"):
        list(step.feed(replace(views, domain="counts")))
    with pytest.raises(DataError, match="1 x 184 elements"):
        list(step.feed(replace(views, data=views.data[..., :5])))
    with pytest.raises(ReconError, match="cut short"):
        list(step.close())
