"""Shipped CT protocols, from detector counts to HU, as the runner runs them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.items import Image
from acquisition.sources.phantom.ct import CtExam, CtSimulation, gantry
from acquisition.sources.phantom.ct_faults import CtFaults, Motion
from acquisition.sources.phantom.ct_objects import ABDOMEN, built, water
from acquisition.sources.phantom.ct_people import person
from acquisition.sources.phantom.objects import Phantom
from acquisition.verdict import Level, Verdict
from integration.protocol import Library
from integration.router import choose
from integration.runner import Run

LIBRARY = Library()


@pytest.mark.parametrize(
    ("exam", "body_part", "protocol"),
    [
        (CtExam(ct=gantry(mode="axial"), turns=1.2, photons=3e5), None, "ct_axial"),
        (CtExam(ct=gantry(mode="axial", detector="flat"), photons=3e5), None, "ct_cone"),
        (CtExam(turns=3, feed_mm=15.0, start_z_mm=-22.0, photons=3e5, modulation=0.3), None, "ct_helical"),
        (CtExam(turns=3, feed_mm=-15.0, start_z_mm=22.0, photons=3e5), "CHEST", "ct_helical_chest"),
    ],
)
def test_counts_become_hu(exam: CtExam, body_part: str | None, protocol: str) -> None:
    simulation = CtSimulation(exam, water(90).transformed(np.eye(3), (20.0, -10.0, 0.0)))
    scan = simulation.scan
    chosen = choose(LIBRARY, replace(scan, study=replace(scan.study, body_part=body_part)))
    assert chosen.name == protocol
    step = next(n for n in chosen.step_names if n in ("ct.fbp", "ct.fdk", "ct.helical"))
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


def checked(exam: CtExam, phantom: Phantom, **values: object) -> tuple[dict[str, Verdict], list[Image]]:
    simulation = CtSimulation(exam, phantom)
    run = Run(simulation.scan, choose(LIBRARY, simulation.scan).with_changes({"ct.fbp.matrix": 64, **values}))
    run.open()
    images = [i for block in simulation.projections() for i in run.feed(block)] + list(run.close())
    return {v.check: v for v in run.verdicts}, images


FLAGGED = {
    "check.ct_centre": {"patient_mm": (5.0, 50.0, 0.0)},
    "check.ct_motion": {"faults": CtFaults(motion=Motion(turns=(0.5, 0.6), shifts_mm=((0, 0, 0), (4, 2, 0))))},
    "ct.channels": {"faults": CtFaults(dying=((0, 180, 200),))},
    "ct.rings": {"faults": CtFaults(gains=((1, 170, 0.03),))},
    "check.ct_range": {},
}


@pytest.mark.parametrize("check", FLAGGED)
def test_what_is_wrong_with_a_scan_is_said_and_nothing_else(check: str) -> None:
    ct = gantry(mode="axial", n_rows=2, centre=(0.5, 183.75))
    exam = CtExam(ct=ct, turns=1.1, photons=3e5, **FLAGGED[check])
    values = {"check.ct_range.planned_mm": (-6.0, 6.0)} if check == "check.ct_range" else {}
    found, images = checked(exam, person("abdomen", 1), **values)
    assert len(images) == 2
    assert [name for name, v in found.items() if v.level is not Level.PASS] == [check]
    assert found[check].advice.endswith((".", "scan."))


def test_rings_and_dead_channels_leave_no_trace_in_the_image() -> None:
    ct = gantry(mode="axial", n_rows=2, centre=(0.5, 183.75))
    gains = tuple((r, c, 0.02 * (-1) ** c) for r in (0, 1) for c in range(150, 215, 9))
    good = CtExam(ct=ct, turns=1.0)
    bad = replace(good, faults=CtFaults(gains=gains, dying=((0, 160, 0), (1, 205, 100))))
    phantom = person("abdomen", 3)
    reference = np.stack([i.data for i in checked(good, phantom)[1]])
    repaired = np.stack([i.data for i in checked(bad, phantom)[1]])
    without = {"ct.rings.drift": 1e-6, "ct.channels.differs": 99.0}
    spoilt = np.stack([i.data for i in checked(bad, phantom, **without)[1]])

    def error(images: np.ndarray) -> float:
        return float(np.sqrt(np.square(images - reference).mean()))

    assert error(spoilt) > 5
    assert error(repaired) < 0.2 * error(spoilt)


def test_iterative_and_metal_protocols_only_by_name() -> None:
    """Both take what ct_axial takes; the second gives a series of its own where there is metal."""
    ct = gantry(mode="axial", n_rows=1, n_channels=184, centre=(0.0, 91.75), pitch_mm=(2.2, 5.1432))
    exam = CtExam(ct=replace(ct, views_per_rotation=288), turns=1.2, photons=3e5, electronic=5.0)
    screw = built({**ABDOMEN, "screw": ("body", 9000, (40.0, -5.0, 0.0), (6.0, 5.0, 30.0))})
    made = {}
    for name, phantom, step in (
        ("ct_axial_pwls", water(90), "ct.pwls"),
        ("ct_axial_metal", screw, "ct.metal"),
    ):
        simulation = CtSimulation(exam, phantom)
        assert choose(LIBRARY, simulation.scan).name == "ct_axial"
        run = Run(simulation.scan, choose(LIBRARY, simulation.scan, name).with_changes({f"{step}.matrix": 64}))
        run.open()
        made[name] = [i for block in simulation.projections() for i in run.feed(block)] + list(run.close())
        flagged = {v.check for v in run.verdicts if v.level is not Level.PASS}
        assert flagged == ({"check.ct_metal", "ct.metal"} if name == "ct_axial_metal" else set())
    [pwls] = made["ct_axial_pwls"]
    assert pwls.output == "conventional" and abs(np.median(pwls.data[0, 24:40, 24:40])) < 3
    assert [i.output for i in made["ct_axial_metal"]] == ["conventional", "metal_reduced"]
    assert all(i.provenance.protocol == "ct_axial_metal" and i.unit == "HU" for i in made["ct_axial_metal"])
