"""Shipped CT protocols, from detector counts to HU, as the runner runs them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.sources.phantom.ct import CtExam, CtSimulation, gantry
from acquisition.sources.phantom.ct_objects import water
from integration.protocol import Library
from integration.router import choose
from integration.runner import Run

LIBRARY = Library()


@pytest.mark.parametrize(
    ("exam", "body_part", "protocol"),
    [
        (CtExam(ct=gantry(mode="axial"), turns=1.2, photons=3e5), None, "ct_axial"),
        (CtExam(turns=3, feed_mm=15.0, start_z_mm=-22.0, photons=3e5, modulation=0.3), None, "ct_helical"),
        (CtExam(turns=3, feed_mm=-15.0, start_z_mm=22.0, photons=3e5), "CHEST", "ct_helical_chest"),
    ],
)
def test_counts_become_hu(exam: CtExam, body_part: str | None, protocol: str) -> None:
    simulation = CtSimulation(exam, water(90).transformed(np.eye(3), (20.0, -10.0, 0.0)))
    scan = simulation.scan
    chosen = choose(LIBRARY, replace(scan, study=replace(scan.study, body_part=body_part)))
    assert chosen.name == protocol
    step = next(n for n in chosen.step_names if n in ("ct.fbp", "ct.helical"))
    run = Run(scan, chosen.with_changes({f"{step}.matrix": 64}))
    run.open()
    images = [i for block in simulation.projections() for i in run.feed(block)] + list(run.close())
    assert images and run.summary.readouts == 32 + len(simulation.head)
    assert [v.level.value for v in run.verdicts] == ["PASS"] * len(run.verdicts)
    assert {"ct.starvation", "ct.bad_elements"} <= {v.check for v in run.verdicts}
    for image in images:
        assert image.unit == "HU" and image.provenance.protocol == protocol
        x = image.grid.origin_mm[0] + np.arange(64) * image.grid.spacing_mm[2]
        r = np.hypot(x[None, :] - 20, x[:, None] + 10)
        assert abs(image.data[0][r < 70].mean()) < 2
        assert abs(image.data[0][(r > 110) & (r < 140)].mean() + 1000) < 5
