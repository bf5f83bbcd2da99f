"""Protocols with a denoising network, from counts and readouts to both images, as the runner runs them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from acquisition.items import Image, Item, Kind
from acquisition.scan import Scan
from acquisition.sources.phantom.ct import CtExam, CtSimulation, gantry
from acquisition.sources.phantom.ct_people import person
from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.mri import Simulation
from acquisition.sources.phantom.pet import PetSimulation
from acquisition.sources.phantom.pet_exam import PetExam
from acquisition.sources.phantom.pet_exam import gantry as pet_gantry
from acquisition.sources.phantom.pet_objects import cylinder
from acquisition.verdict import Level, Verdict
from integration.protocol import Library
from integration.runner import Run
from recon.pet.osem import Osem

LIBRARY = Library()


def shown(scan: Scan, body_part: str) -> Scan:
    return replace(scan, study=replace(scan.study, body_part=body_part))


def played(
    scan: Scan, name: str, items: Iterable[Item], **changes: Any
) -> tuple[dict[str, list[Image]], list[Verdict]]:
    """Run a protocol; images by output, and what the network's Step says of the scan."""
    run = Run(scan, LIBRARY[name].with_changes(changes))
    run.open()
    out = [made for item in items for made in run.feed(item)] + list(run.close())
    images: dict[str, list[Image]] = {}
    for image in (o for o in out if isinstance(o, Image)):
        images.setdefault(image.output, []).append(image)
    return images, [v for v in run.verdicts if v.check.startswith("model.denoise.")]


def chest(n_rows: int = 2) -> CtSimulation:
    return CtSimulation(CtExam(ct=gantry(mode="axial", n_rows=n_rows), turns=1.2, photons=3e5), person("chest", 1))


CT = {"ct.fbp.matrix": 256, "ct.fbp.fov_mm": 400.0, "model.denoise.engine": "torch", "model.denoise.matrix": (256, 256)}


def test_a_chest_with_few_photons_goes_out_twice_and_the_first_is_untouched() -> None:
    simulation = chest()
    scan = shown(simulation.scan, "CHEST")
    images, said = played(scan, "ct_axial_denoise", simulation.projections(), **CT)
    plain, _ = played(scan, "ct_axial", simulation.projections(), **{k: v for k, v in CT.items() if k[:2] == "ct"})
    assert said == []
    assert {name: len(found) for name, found in images.items()} == dict.fromkeys(
        ("conventional", "noise", "denoised", "denoised_uncertainty"), len(plain["conventional"])
    )
    for before, after, alone in zip(images["conventional"], images["denoised"], plain["conventional"], strict=True):
        np.testing.assert_array_equal(before.data, alone.data)
        assert after.provenance.network is not None and after.provenance.network.card == "ct_denoise"
        assert after.attributes["DeepLearning"] == "true"
        soft = np.abs(before.data - 40) < 120
        bend = [np.abs(np.diff(i.data, 3, axis=2))[soft[..., 3:]].mean() for i in (before, after)]
        assert bend[1] < 0.85 * bend[0]
        assert abs(float((after.data - before.data)[soft].mean())) < 2


def test_an_abdomen_stays_conventional_and_is_told_of() -> None:
    simulation = chest()
    images, said = played(shown(simulation.scan, "ABDOMEN"), "ct_axial_denoise", simulation.projections(), **CT)
    assert "denoised" not in images
    assert images["conventional"]
    (verdict,) = said
    assert (verdict.check, verdict.level) == ("model.denoise.anatomy", Level.FLAG)


PET = {"pet.osem.voxel_mm": 4.0, "pet.osem.slice_mm": 6.0, "pet.osem.fov_mm": 250.0, "pet.osem.scatter": "none"}
PET |= {"pet.preview.voxel_mm": 12.0, "pet.preview.slice_mm": 16.0, "pet.preview.fov_mm": 250.0}
PET |= {"model.denoise.engine": "torch", "model.denoise.matrix": (63, 63)}


def test_few_counts_lose_noise_and_keep_their_mean() -> None:
    exam = PetExam(
        pet=pet_gantry(n_rings=8, n_crystals=120, ring_pitch_mm=16.0),
        duration_s=0.5,
        block_s=0.5,
        scatter="none",
        efficiency=0.4,
    )
    simulation = PetSimulation(exam, cylinder(radius_mm=70.0, length_mm=80.0))
    scan = shown(simulation.scan, "LEG")
    run = Run(scan, LIBRARY["pet_osem_denoise"].with_changes(PET))
    run.open()
    (grid,) = (step._grid for step in run._chain.steps if isinstance(step, Osem))
    y, x = (np.arange(n) - (n - 1) / 2 for n in grid.shape[1:])
    z, radius = grid.origin_mm[2] + 6.0 * np.arange(grid.shape[0]), np.hypot(x, y[:, None]) * 4.0
    body = (radius <= 70)[None] & (np.abs(z) <= 40)[:, None, None]
    mu = Image(data=(0.096 * body).astype(np.float32), grid=grid, unit="1/cm", output="mu")
    images, said = played(scan, "pet_osem_denoise", [simulation.normalisation, mu, *simulation.events()], **PET)
    assert said == []
    (before,), (after,) = images["conventional"], images["denoised"]
    inner = (radius < 55)[None] & (np.abs(z) < 25)[:, None, None]
    means, spreads = ([f(i.data.reshape(grid.shape)[inner]) for i in (before, after)] for f in (np.mean, np.std))
    assert spreads[1] < 0.7 * spreads[0]
    assert abs(means[1] / means[0] - 1) < 0.03
    assert (images["denoised_uncertainty"][0].data.reshape(grid.shape)[inner] > 0).all()


def test_a_head_goes_out_as_two_magnitudes() -> None:
    simulation = Simulation(MriExam(matrix=(1, 192, 192), n_coils=8, snr=12.0, n_noise=64, acceleration=2))
    scan = shown(simulation.scan, "HEAD")
    images, said = played(scan, "mri_tse_denoise", simulation.readouts(), **{"model.denoise.engine": "torch"})
    assert [v.check for v in said] == []
    (before,), (after,) = images["conventional"], images["denoised"]
    assert {before.kind, after.kind} == {Kind.MAGNITUDE}
    assert images["gfactor"][0].data.shape == before.data.shape
    air = before.data < np.percentile(before.data, 30)
    assert after.data[air].mean() < 0.8 * before.data[air].mean()
