"""Scattered radiation: planted in the counts, taken out again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.ct import Air
from acquisition.ct_scatter import ConstantScatter, Scatter
from acquisition.errors import ConfigError, DataError
from acquisition.sources.phantom.ct import CtExam, CtSimulation
from acquisition.sources.phantom.ct_faults import CtFaults
from acquisition.sources.phantom.ct_objects import water
from acquisition.stream import Step
from acquisition.verdict import Level
from tests.acquisition.ct_samples import AXIAL, through, verdict, views

QUICK = replace(AXIAL, views_per_rotation=24)


def worst(scatter: float, *steps: Step) -> float:
    """Largest error of a line integral in 20 cm of water."""
    exam = CtExam(ct=QUICK, modulation=0.3, faults=CtFaults(scatter=scatter))
    simulation = CtSimulation(exam, water(100).transformed(np.eye(3), (10, -20, 0)))
    return float(np.abs(views(through([*steps, Air()], simulation)) - simulation.lines()).max())


def test_scatter_of_the_model_goes_away() -> None:
    assert worst(0.05) > 0.2
    assert worst(0.05, Scatter(ratio=0.05)) < 0.005
    assert worst(0.05, Scatter(ratio=0.05, iterations=1)) > worst(0.05, Scatter(ratio=0.05))


@pytest.mark.parametrize("spread_mm", [60.0, 130.0])
def test_a_rough_idea_of_its_spread_is_enough(spread_mm: float) -> None:
    assert worst(0.05, Scatter(ratio=0.05, spread_mm=spread_mm)) < 0.3 * worst(0.05)


def test_a_constant_takes_out_most() -> None:
    exam = CtExam(ct=QUICK, faults=CtFaults(scatter=0.05))
    simulation = CtSimulation(exam, water(100))
    ideal = verdict(through([Scatter(ratio=0.05)], simulation), "ct.scatter")
    assert ideal.level is Level.PASS and ideal.value is not None and 4 < ideal.value < 12
    rest = [
        views(through([*steps, Air()], simulation))[..., 82:102] - simulation.lines()[..., 82:102]
        for steps in ([], [ConstantScatter(ratio=ideal.value / 100)])
    ]
    assert abs(rest[1].mean()) < 0.5 * abs(rest[0].mean())


def test_without_scatter_nothing_is_lost() -> None:
    assert worst(0.0, Scatter(ratio=0.0)) < 1e-3 and worst(0.0, ConstantScatter(ratio=0.0)) < 1e-3


def test_too_much_leaves_a_tenth() -> None:
    exam = CtExam(ct=QUICK)
    simulation = CtSimulation(exam, water(150))
    plain = views(through([], simulation)) - 120
    left = views(through([ConstantScatter(ratio=1.9)], simulation)) - 120
    np.testing.assert_array_less(0.0999 * plain - 0.01, left)
    assert (left < 0.11 * plain).any()


def test_wrong_input_is_refused() -> None:
    simulation = CtSimulation(CtExam(ct=QUICK))
    _, air, patient, *_ = simulation.projections()
    step = Scatter()
    step.open(simulation.scan)
    assert list(step.feed("other")) == ["other"] and list(step.close()) == []
    assert next(iter(step.feed(replace(patient, domain="lines")))).domain == "lines"
    with pytest.raises(DataError, match="DARK views before those"):
        list(step.feed(patient))
    with pytest.raises(DataError, match="counts of"):
        list(step.feed(replace(air, data=air.data[:, :1])))
    with pytest.raises(ConfigError, match="spread_mm above 0"):
        Scatter(spread_mm=0)
    with pytest.raises(ConfigError, match="ratio from 0"):
        ConstantScatter(ratio=-1)
