"""Elements that fail during the scan: found, named, interpolated; needles and people are no defects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.ct import Air
from acquisition.ct_channels import Channels
from acquisition.errors import ConfigError, DataError
from acquisition.sources.phantom.ct import CtExam, CtSimulation
from acquisition.sources.phantom.ct_faults import CtFaults
from acquisition.sources.phantom.ct_matter import STEEL
from acquisition.sources.phantom.ct_objects import built
from acquisition.sources.phantom.ct_people import person
from acquisition.verdict import Level
from tests.acquisition.ct_samples import AXIAL, HELICAL, through, verdict, views

FOUR = replace(AXIAL, n_rows=4, centre=(1.5, 91.75))


@pytest.mark.parametrize("first", [0, 40, 100, 144])
@pytest.mark.parametrize("block", [1, 37, 500])
def test_an_element_that_dies_is_interpolated_from_then_on(first: int, block: int) -> None:
    exam = CtExam(ct=AXIAL, turns=1.0, photons=3e5, faults=CtFaults(dying=((1, 88, first), (1, 89, first))))
    simulation = CtSimulation(exam, person("abdomen", 1))
    items = through([Channels(), Air()], simulation, block=block)
    truth = simulation.lines()
    assert np.abs(views(items) - truth)[:, 1, 88:90].max() < 0.6
    assert np.abs(views(through([Air()], simulation)) - truth)[first:, 1, 88:90].max() > 0.7
    found = verdict(items, "ct.channels")
    assert found.level is Level.FLAG and found.value == 2 and "call service" in found.advice
    assert f"row 1 channel 88 from view {first}" in found.evidence


def test_only_the_dead_views_are_touched() -> None:
    exam = CtExam(ct=AXIAL, turns=1.0, faults=CtFaults(dying=((0, 70, 100),)))
    simulation = CtSimulation(exam, person("chest", 3))
    repaired, plain = (views(through([*steps, Air()], simulation)) for steps in ([Channels()], []))
    changed = np.argwhere(np.abs(repaired - plain) > 1e-4)
    assert set(map(tuple, changed[:, 1:])) == {(0, 70)} and changed[:, 0].min() == 100


@pytest.mark.parametrize("seed", range(1, 6))
def test_people_have_no_failed_channels(seed: int) -> None:
    for region in ("chest", "abdomen", "head"):
        exam = CtExam(ct=AXIAL, turns=1.0, photons=1e5, seed=seed)
        items = through([Channels()], CtSimulation(exam, person(region, seed)))
        assert verdict(items, "ct.channels").level is Level.PASS


def test_a_needle_in_the_axis_is_not_taken_for_a_defect() -> None:
    needle = built(
        {"body": (None, 0.0, (0, 0, 0), (80, 80, 500)), "needle": ("body", STEEL, (0, 0, 0), (1.2, 1.2, 400))}
    )
    items = through([Channels()], CtSimulation(CtExam(ct=FOUR, turns=1.0), needle))
    assert verdict(items, "ct.channels").level is Level.PASS
    single = CtExam(ct=FOUR, turns=1.0, faults=CtFaults(dying=((2, 100, 0),)))
    assert verdict(through([Channels()], CtSimulation(single, needle)), "ct.channels").value == 1


def test_a_helical_scan_keeps_its_order_and_its_current() -> None:
    exam = CtExam(ct=HELICAL, turns=1.3, feed_mm=12.0, modulation=0.4, faults=CtFaults(dying=((3, 90, 200),)))
    simulation = CtSimulation(exam, person("abdomen", 2))
    lines = views(through([Channels(), Air()], simulation, block=50))
    np.testing.assert_allclose(lines, simulation.lines(), atol=0.25)
    assert np.percentile(np.abs(lines - simulation.lines())[200:, 3, 90], 90) < 0.1


def test_wrong_input_is_refused() -> None:
    simulation = CtSimulation(CtExam(ct=AXIAL, turns=0.5))
    dark, air, patient, *_ = simulation.projections()
    step = Channels()
    step.open(simulation.scan)
    assert list(step.feed("other")) == ["other"] and list(step.close()) == []
    assert next(iter(step.feed(replace(patient, domain="lines")))).domain == "lines"
    assert next(iter(step.feed(dark))).data.shape == dark.data.shape
    with pytest.raises(DataError, match="AIR views before those"):
        list(step.feed(patient))
        list(step.close())
    with pytest.raises(DataError, match=r"counts of \(2, 184\) elements"):
        list(step.feed(replace(air, data=air.data[:, :1])))
    with pytest.raises(ConfigError, match=r"views above 0\.5"):
        Channels(views=0.3)
