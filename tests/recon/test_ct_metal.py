"""Metal artefact reduction against the same patient without metal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from acquisition.ct_geometry import patient_axes
from acquisition.errors import ConfigError, HeaderError
from acquisition.items import Image, Item, Projections
from acquisition.scan import CtHeader
from acquisition.sources.phantom.ct import CtExam, CtSimulation, gantry
from acquisition.sources.phantom.ct_matter import matter
from acquisition.sources.phantom.ct_objects import ABDOMEN, Anatomy, built
from acquisition.stream import Step
from acquisition.verdict import Level, Verdict
from recon.ct.fbp import Axial
from recon.ct.metal import Metal, interpolated, normalised

FIELD = {"matrix": 128, "fov_mm": 360.0}
PATIENT: Anatomy = {
    **{name: row for name, row in ABDOMEN.items() if name not in ("cyst", "kidney_left", "liver")},
    "liver": ("body", 60, (-55, -25, 10), (50, 40, 70)),
    "lesion": ("liver", 30, (-65, -30, 12), (9, 8, 9)),
}
HIPS = {"right": (-110.0, 30.0), "left": (100.0, 25.0)}
BOLT = {"bolt": ("body", 8000, (40.0, 25.0, 3.0), (6.0, 8.0, 9.0))}


def scanner(**changes: object) -> CtHeader:
    fields = {"mode": "axial", "n_rows": 1, "n_channels": 184, "pitch_mm": (4.4, 5.1432), "centre": (0.0, 91.75)}
    return gantry(**(fields | {"views_per_rotation": 288} | changes))


def measured(exam: CtExam, anatomy: Anatomy) -> tuple[CtSimulation, Projections]:
    """Line integrals with the noise of 3e5 photons and electronics, cut off below one photon."""
    simulation = CtSimulation(exam, built(anatomy))
    rng = np.random.default_rng(exam.seed)
    lines = simulation.lines()
    counts = rng.poisson(3e5 * np.exp(-lines.astype(float))) + rng.normal(0, 10, lines.shape)
    data = -np.log(np.maximum(counts, 1) / 3e5).astype(np.float32)
    return simulation, Projections(head=simulation.head, data=data, domain="lines", received_s=2.0)


def run(step: Step, simulation: CtSimulation, *blocks: Projections) -> tuple[dict[str, list[Image]], list[Verdict]]:
    step.open(simulation.scan)
    items: list[Item] = [item for block in blocks for item in step.feed(block)]
    items += step.close()
    images: dict[str, list[Image]] = {}
    for item in items:
        if isinstance(item, Image):
            images.setdefault(item.output, []).append(item)
    return images, [i for i in items if isinstance(i, Verdict)]


def places(image: Image, position: str = "HFS") -> NDArray[np.float64]:
    """x, y, z of the voxels in the gantry."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in image.grid.shape), indexing="ij"), -1)[..., ::-1]
    points = index @ image.grid.affine[:3, :3].T + image.grid.affine[:3, 3]
    return np.moveaxis(points @ np.array(patient_axes(position)).T, -1, 0)


def test_two_iron_hips_in_a_polychromatic_beam() -> None:
    """The dark band and the streaks fall by more than a factor of five; the conventional image is as it always was."""
    iron = {name: ("body", matter({"iron": 7.87}), (x, y, 0.0), (9.0, 8.0, 40.0)) for name, (x, y) in HIPS.items()}
    exam = CtExam(ct=scanner(), turns=1.2, beam="polychromatic")
    simulation, views = measured(exam, PATIENT | iron)
    images, [verdict] = run(Metal(**FIELD), simulation, views)
    [conventional], [reduced] = images["conventional"], images["metal_reduced"]
    [plain] = run(Axial(**FIELD), simulation, views)[0]["conventional"]
    np.testing.assert_array_equal(conventional.data, plain.data)
    clean = replace(views, data=CtSimulation(exam, built(PATIENT)).lines())
    [wanted] = run(Axial(**FIELD), simulation, clean)[0]["conventional"]
    x, y, _ = places(wanted)
    near = np.any([np.hypot(x - a, y - b) < 16 for a, b in HIPS.values()], axis=0)
    body = ((x / 148) ** 2 + (y / 104) ** 2 < 1) & ~near & (np.abs(wanted.data) < 500)
    before, after = (float(np.sqrt(np.square(i.data - wanted.data)[body].mean())) for i in (conventional, reduced))
    assert before > 80 and after < before / 5
    for a, b in HIPS.values():
        assert reduced.data[np.hypot(x - a, y - b) < 3].min() > 3000
    assert reduced.grid == conventional.grid and reduced.position == conventional.position
    assert verdict.check == "ct.metal" and verdict.level is Level.FLAG
    assert 1 < verdict.value / (2 * np.pi * 9 * 8 * 2.41) < 2  # blurred iron is still brighter than the limit
    assert verdict in reduced.verdicts and reduced.last_readout_s == 2.0


def test_without_metal_nothing_is_replaced() -> None:
    simulation, views = measured(CtExam(ct=scanner(), turns=1.2), PATIENT)
    images, [verdict] = run(Metal(**FIELD), simulation, views)
    assert set(images) == {"conventional"} and verdict.level is Level.PASS and verdict.value == 0


@pytest.mark.parametrize("position", ["HFS", "FFP"])
def test_rows_table_positions_and_a_patient_who_lies_otherwise(position: str) -> None:
    """A bolt in one of two positions, seen by some rows only; the metal is where it was, in any patient position."""
    ct = scanner(n_rows=6, centre=(2.5, 45.75), n_channels=92, pitch_mm=(6.0, 10.2864), views_per_rotation=96)
    exam = CtExam(ct=ct, turns=1.3)
    simulation, first = measured(exam, PATIENT | BOLT)
    _, second = measured(replace(exam, start_z_mm=60.0), PATIENT | BOLT)
    scan = replace(simulation.scan, patient=replace(simulation.scan.patient, position=position))
    simulation.__dict__["scan"] = scan
    images, [verdict] = run(Metal(matrix=64, fov_mm=360.0), simulation, first, second)
    assert len(images["conventional"]) == 12 and len(images["metal_reduced"]) == 6
    assert [i.position.slice for i in images["metal_reduced"]] == list(range(6))
    clean, _ = run(Axial(matrix=64, fov_mm=360.0), simulation, measured(exam, PATIENT)[1])
    triples = zip(images["metal_reduced"], images["conventional"], clean["conventional"], strict=False)
    for reduced, before, wanted in triples:
        x, y, z = places(reduced, position)
        assert reduced.grid == before.grid == wanted.grid
        bolt = before.data[np.hypot(x - 40, y - 25) < 4].max()
        if abs(z.mean() - 3) < 6:
            assert bolt > 2500 and reduced.data[np.hypot(x - 40, y - 25) < 4].max() == bolt
        away = np.hypot(x - 40, y - 25) > 25
        assert np.sqrt(np.square(reduced.data - wanted.data)[away].mean()) < 25
    assert verdict.value == pytest.approx(4 / 3 * np.pi * 6 * 8 * 9, rel=0.6)


def test_a_helical_scan() -> None:
    ct = scanner(mode="helical", n_rows=6, centre=(2.5, 45.75), n_channels=92, pitch_mm=(5.0, 10.2864))
    exam = CtExam(ct=replace(ct, views_per_rotation=144), turns=3, feed_mm=12.0, start_z_mm=-18.0)
    simulation, views = measured(exam, PATIENT | BOLT)
    images, [verdict] = run(Metal(matrix=64, fov_mm=360.0), simulation, views)
    assert [i.grid for i in images["metal_reduced"]] == [i.grid for i in images["conventional"]]
    assert verdict.level is Level.FLAG


def test_a_normalised_gap_keeps_what_the_prior_knows() -> None:
    channels = np.arange(40)
    prior = (np.where(np.abs(channels - 18) < 4, 3.0, 1.0) * np.ones((2, 1, 1))).astype(np.float32)
    lines = prior * np.float32(1.2)
    trace = np.zeros(lines.shape, bool)
    trace[0, 0, 10:25] = trace[1, 0, :6] = True
    damaged = np.where(trace, 9.0, lines).astype(np.float32)
    np.testing.assert_allclose(normalised(damaged, trace, prior), lines, rtol=1e-6)
    straight = interpolated(damaged, trace)
    np.testing.assert_allclose(straight[0, 0, 10:25], 1.2, rtol=1e-6)
    np.testing.assert_allclose(straight[1], lines[1], rtol=1e-6)
    np.testing.assert_array_equal(damaged[trace], 9.0)
    everywhere = np.ones_like(trace)
    np.testing.assert_array_equal(interpolated(damaged, everywhere), damaged)


def test_bad_parameters_and_scans_are_refused() -> None:
    with pytest.raises(ConfigError, match="0 < bone_above_hu < metal_above_hu"):
        Metal(metal_above_hu=200.0)
    with pytest.raises(ConfigError, match="least_mm3 from 0"):
        Metal(least_mm3=-1.0)
    simulation = CtSimulation(CtExam(ct=scanner()), built(PATIENT))
    with pytest.raises(HeaderError, match="the attenuation of water"):
        Metal().open(replace(simulation.scan, ct=scanner(mu_water_per_mm=None)))
    step = Metal(matrix=8)
    step.open(simulation.scan)
    assert list(step.feed("other")) == ["other"]
