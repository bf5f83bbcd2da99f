"""One scan through one protocol: origin stamped, findings kept, the gate closed for what is doubtful."""

from __future__ import annotations

import numpy as np
import pytest

from acquisition.errors import IsocenterError
from acquisition.items import Events, Image
from acquisition.scan import Scan
from acquisition.verdict import Level
from integration.gate import holds
from integration.protocol import Library, Protocol
from integration.runner import Run
from integration.steps import STEPS
from tests.phantoms import nrmse, small_simulation


def protocol(*more: str) -> Protocol:
    steps = Library()["mri_cartesian"].steps
    return Library()["mri_cartesian"].model_copy(update={"steps": (*steps, *((name, {}) for name in more))})


def images(run: Run, simulation) -> list[Image]:
    run.open()
    found = [image for block in simulation.readouts() for image in run.feed(block)]
    return found + list(run.close())


def test_images_come_while_the_scan_runs_and_say_where_they_come_from() -> None:
    simulation = small_simulation()
    run = Run(simulation.scan, Library()["mri_cartesian"])
    run.open()
    during = [image for block in simulation.readouts() for image in run.feed(block)]
    assert len(during) == 3
    assert list(run.close()) == []
    for image in during:
        assert image.provenance.protocol == "mri_cartesian"
        assert "mri.grappa kernel=[4, 5]" in image.provenance.steps
        assert image.provenance.software.startswith("Isocenter 0.")
        truth = simulation.truth(image.position.slice).data
        assert nrmse(image.data * (image.data * truth).sum() / (image.data**2).sum(), truth) < 0.01
    assert run.summary.images == {"conventional": 3}
    assert run.summary.readouts == 3 * 64


def test_findings_of_the_scan_are_kept_and_the_severe_ones_first() -> None:
    simulation = small_simulation(n_noise=0)
    run = Run(simulation.scan, Library()["mri_cartesian"])
    images(run, simulation)
    assert "mri.noise" in {v.check for v in run.verdicts}
    levels = [v.level for v in run.verdicts]
    assert levels == sorted(levels, key=lambda level: level is Level.PASS)


def test_the_gate_holds_doubtful_extras_and_never_the_conventional_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STEPS, "test.doubter", "tests.integration.wiring_samples:Doubter")
    simulation = small_simulation()
    run = Run(simulation.scan, protocol("test.doubter"))
    found = images(run, simulation)
    assert [i.output for i in found] == ["conventional", "smooth", "sharp"] * 3
    assert [i.output for i in found if holds(i)] == ["smooth"] * 3
    assert run.summary.images == {"conventional": 3, "sharp": 3}
    assert all(v.level is Level.HOLD for i in found if i.output == "conventional" for v in i.verdicts[-1:])
    checks = {v.check: v for v in run.verdicts}
    assert checks["gate.held"].value == 3
    assert "smooth" in checks["gate.held"].advice
    assert checks["test.scan"].level is Level.FLAG


def test_data_that_become_no_image_are_told_of() -> None:
    simulation = small_simulation()
    whole = Library()["mri_cartesian"]
    frames = [name for name, _ in whole.steps].index("mri.assemble") + 1
    run = Run(simulation.scan, whole.model_copy(update={"steps": whole.steps[:frames]}))
    assert images(run, simulation) == []
    (wasted,) = [v for v in run.verdicts if v.check == "protocol.unused"]
    assert wasted.evidence == "3 x Frame reached the end of the protocol"


def test_a_scan_that_cannot_be_handled_is_refused_when_it_opens() -> None:
    from dataclasses import replace

    with pytest.raises(IsocenterError, match="MR scan"):
        Run(replace(small_simulation().scan, mr=None, modality="CT"), Library()["mri_cartesian"]).open()


def test_coincidences_are_counted_and_told_of_when_nothing_uses_them() -> None:
    ends = np.zeros((5, 2), np.int32)
    blocks = [Events(start_s=k, stop_s=k + 1, prompts=ends, delayeds=ends[:k]) for k in range(3)]
    empty = Library()["mri_cartesian"].model_copy(update={"steps": ()})
    run = Run(Scan(uid="p", modality="PT"), empty)
    run.open()
    assert [image for block in blocks for image in run.feed(block)] == []
    assert (run.summary.prompts, run.summary.delayeds, run.summary.readouts) == (15, 3, 0)
    (wasted,) = run.verdicts
    assert wasted.evidence == "3 x Events reached the end of the protocol"
