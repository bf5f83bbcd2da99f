"""Shipped PET protocols, from coincidences to Bq/mL, as the runner runs them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from acquisition.items import Image
from acquisition.scan import Study
from acquisition.sources.phantom.pet import PetSimulation
from acquisition.sources.phantom.pet_exam import PetExam, gantry
from acquisition.sources.phantom.pet_objects import cylinder
from integration.export import series_of
from integration.protocol import Library
from integration.router import choose
from integration.runner import Run
from recon.pet.osem import Osem

LIBRARY = Library()


def test_counts_become_a_preview_and_activity() -> None:
    pet = gantry(n_rings=8, n_crystals=120, ring_pitch_mm=16.0)
    exam = PetExam(pet=pet, duration_s=2.0, block_s=0.5, scatter="single", efficiency=0.4)
    simulation = PetSimulation(exam, cylinder(radius_mm=70.0, length_mm=80.0))
    scan = simulation.scan
    protocol = choose(LIBRARY, scan)
    assert protocol.name == "pet_osem"
    changes = {"pet.osem.voxel_mm": 9.0, "pet.osem.slice_mm": 8.0, "pet.osem.fov_mm": 250.0}
    changes |= {"pet.preview.voxel_mm": 12.0, "pet.preview.slice_mm": 16.0, "pet.preview.fov_mm": 250.0}
    run = Run(scan, protocol.with_changes(changes))
    run.open()
    (grid,) = (step._grid for step in run._chain.steps if isinstance(step, Osem))
    y, x = (np.arange(n) - (n - 1) / 2 for n in grid.shape[1:])
    z = grid.origin_mm[2] + 8.0 * np.arange(grid.shape[0])
    inside = (np.hypot(x[None], y[:, None]) * 9.0 <= 70.0)[None] & (np.abs(z) <= 40.0)[:, None, None]
    mu = Image(data=(0.096 * inside).astype(np.float32), grid=grid, unit="1/cm", output="mu")
    items = [simulation.normalisation, mu, *simulation.events()]
    early = [i for item in items for i in run.feed(item)]
    late = list(run.close())
    assert [i.output for i in early] == ["preview", "preview"]
    (image,) = late
    uncorrected = Run(scan, protocol.with_changes(changes | {"pet.osem.scatter": "none"}))
    uncorrected.open()
    assert all(i.output == "preview" for item in items for i in uncorrected.feed(item))
    (scattered,) = uncorrected.close()
    assert image.unit == "Bq/mL" and image.provenance.protocol == "pet_osem"
    inner = (np.hypot(x[None], y[:, None]) * 9.0 <= 45.0)[None] & (np.abs(z) <= 24.0)[:, None, None]
    assert abs(image.data[inner].mean() / 10e3 - 1) < 0.05
    assert scattered.data[inner].mean() > 1.08 * image.data[inner].mean()
    assert image.attributes["corrected"] == "DECY NORM ATTN RAN SCAT"
    assert image.attributes["quantitative"] == "yes"
    assert len(series_of(scan, "job").instances(image)) == grid.shape[0]
    assert not [v for v in run.verdicts if v.check == "protocol.unused"]
    assert {"check.pet_dose", "check.pet_blocks", "check.pet_rate"} <= {v.check for v in run.verdicts}


def test_the_body_has_a_protocol_of_its_own_that_differs_in_the_image_alone() -> None:
    scan = PetSimulation(PetExam(), cylinder()).scan
    parts = {"CHEST": "pet_torso", "WHOLEBODY": "pet_torso", "HEAD": "pet_osem", None: "pet_osem"}
    for part, name in parts.items():
        assert choose(LIBRARY, replace(scan, study=Study(body_part=part))).name == name
    body, other = (dict(LIBRARY[name].steps) for name in ("pet_torso", "pet_osem"))
    assert list(body) == list(other)
    assert [name for name in body if body[name] != other[name]] == ["pet.osem"]


def test_the_preview_alone_is_only_for_those_who_ask_for_it() -> None:
    assert LIBRARY["pet_preview"].match.never
