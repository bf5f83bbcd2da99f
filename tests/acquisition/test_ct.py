"""CT corrections on planted defects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.ct import Air, BeamHardening
from acquisition.ct_geometry import checked
from acquisition.errors import ConfigError, DataError, HeaderError
from acquisition.items import Projections, View
from acquisition.sources.phantom.ct import CtExam, CtSimulation, gantry
from acquisition.sources.phantom.ct_faults import CtFaults
from acquisition.sources.phantom.ct_objects import water
from acquisition.verdict import Level, Verdict

SMALL = gantry(n_rows=3, n_channels=60, pitch_mm=(4.0, 15.0), centre=(1.0, 29.6), views_per_rotation=24)


def corrected(simulation: CtSimulation, step: Air | None = None) -> tuple[np.ndarray, dict[str, Verdict]]:
    step = step or Air()
    step.open(simulation.scan)
    made = [o for block in simulation.projections(block=7) for o in step.feed(block)]
    assert all(isinstance(m, Projections) and m.domain == "lines" for m in made)
    return np.concatenate([m.data for m in made]), {v.check: v for v in step.close()}


def test_counts_become_the_exact_line_integrals() -> None:
    simulation = CtSimulation(CtExam(ct=SMALL, modulation=0.4, bowtie=0.8), water(90))
    lines, verdicts = corrected(simulation)
    np.testing.assert_allclose(lines, simulation.lines(), atol=2e-4)
    assert {v.level for v in verdicts.values()} == {Level.PASS}


def test_dead_elements_are_interpolated_and_named() -> None:
    bad = ((0, 70), (0, 71), (2, 0), (1, 159))
    fine = gantry(n_rows=3, n_channels=160, pitch_mm=(4.0, 5.625), centre=(1.0, 79.6), views_per_rotation=24)
    simulation = CtSimulation(CtExam(ct=fine, bad_elements=bad), water(90))
    lines, verdicts = corrected(simulation)
    np.testing.assert_allclose(lines, simulation.lines(), atol=0.1)
    assert np.abs(lines[:, 0, 70] - simulation.lines()[:, 0, 70]).max() < 0.01 * lines.max()
    assert verdicts["ct.bad_elements"].level is Level.FLAG
    assert "row 0 channel 71" in verdicts["ct.bad_elements"].evidence


def test_starved_rays_stay_finite_are_smoothed_and_flagged() -> None:
    simulation = CtSimulation(CtExam(ct=SMALL, photons=300.0, electronic=4.0, bowtie=0.0), water(240))
    truth = simulation.lines()
    rough, verdicts = corrected(simulation, Air(smooth_below=0.0))
    smooth, _ = corrected(simulation)
    assert np.isfinite(rough).all() and verdicts["ct.starvation"].level is Level.FLAG
    dark = (300 * np.exp(-truth) > 2) & (300 * np.exp(-truth) < 12)
    assert np.square(smooth - truth)[dark].mean() < 0.6 * np.square(rough - truth)[dark].mean()


def test_a_bent_beam_is_straightened() -> None:
    p = np.linspace(0, 8, 100, dtype=np.float32).reshape(1, 1, 100)
    step = BeamHardening(coefficients=(1.05, 0.01, 0.002))
    step.open(CtSimulation(CtExam(ct=SMALL)).scan)
    head = CtSimulation(CtExam(ct=SMALL)).head[:1]
    [out] = step.feed(Projections(head=head, data=p, domain="lines"))
    assert isinstance(out, Projections)
    np.testing.assert_allclose(out.data, 1.05 * p + 0.01 * p**2 + 0.002 * p**3, rtol=1e-5)
    assert list(step.feed("other")) == ["other"] and list(step.close()) == []


def test_line_integrals_and_strangers_pass() -> None:
    simulation = CtSimulation(CtExam(ct=SMALL))
    step = Air()
    step.open(simulation.scan)
    block = Projections(head=simulation.head[:2], data=simulation.lines(0, 2), domain="lines")
    assert list(step.feed(block)) == [block] and list(step.feed("other")) == ["other"] and list(step.close()) == []


def test_what_cannot_be_corrected_is_refused() -> None:
    simulation = CtSimulation(CtExam(ct=SMALL))
    dark, air, patient, *_ = simulation.projections(block=4)
    step = Air()
    step.open(simulation.scan)
    with pytest.raises(DataError, match="DARK views before those of the patient"):
        list(step.feed(patient))
    list(step.feed(dark))
    with pytest.raises(DataError, match="AIR views before those of the patient"):
        list(step.feed(patient))
    with pytest.raises(DataError, match="1 not finite"):
        broken = patient.data.copy()
        broken[0, 0, 0] = np.nan
        list(step.feed(replace(patient, data=broken)))
    with pytest.raises(DataError, match="finite counts of"):
        list(step.feed(replace(patient, data=patient.data[:, :2])))
    half = air.data.copy()
    half[:, :, ::3] = 120
    list(step.feed(replace(air, data=half)))
    with pytest.raises(DataError, match="60 of 180"):
        list(step.feed(patient))
    with pytest.raises(ConfigError, match="least above 0"):
        Air(least=0)
    with pytest.raises(ConfigError, match="c1 above 0"):
        BeamHardening(coefficients=())


def test_all_zero_counts_do_not_become_an_image() -> None:
    simulation = CtSimulation(CtExam(ct=SMALL))
    step = Air()
    step.open(simulation.scan)
    for flag in View:
        head = simulation.head[:2].copy()
        head["flags"] = flag
        list(step.feed(Projections(head=head, data=np.zeros((2, 3, 60), np.float32))))
    block = Projections(head=simulation.head[:2], data=np.zeros((2, 3, 60), np.float32))
    [out] = step.feed(block)
    assert isinstance(out, Projections) and np.isfinite(out.data).all()
    assert {v.check: v.level for v in step.close()}["ct.starvation"] is Level.FLAG


WATCHED = replace(SMALL, reference_channels=(0, 1, 58, 59))


def test_reference_channels_tell_what_the_tube_gave() -> None:
    """The output varies by 5 % from view to view; without reference channels lines are off by as much."""
    faults = CtFaults(output_sd=0.05)
    errors = {}
    for ct in (SMALL, WATCHED):
        simulation = CtSimulation(CtExam(ct=ct, modulation=0.3, faults=faults), water(60.0))
        step = Air()
        step.open(simulation.scan)
        made = [i for b in simulation.projections() for i in step.feed(b) if isinstance(i, Projections)]
        errors[ct is WATCHED] = np.abs(np.concatenate([i.data for i in made]) - simulation.lines()).max()
        verdicts = {v.check: v for v in step.close() if isinstance(v, Verdict)}
        assert ("ct.reference" in verdicts) == (ct is WATCHED)
    assert errors[True] < 1e-3 < 0.05 < errors[False]
    assert verdicts["ct.reference"].level is Level.PASS


def test_a_covered_reference_channel_is_told_and_not_believed() -> None:
    simulation = CtSimulation(CtExam(ct=WATCHED), water(280.0))
    step = Air()
    step.open(simulation.scan)
    made = [i for b in simulation.projections() for i in step.feed(b) if isinstance(i, Projections)]
    error = np.abs(np.concatenate([i.data for i in made]) - simulation.lines())
    assert np.median(error) < 1e-3
    [verdict] = [v for v in step.close() if isinstance(v, Verdict) and v.check == "ct.reference"]
    assert verdict.level is Level.FLAG and verdict.value == len(simulation.head)
    with pytest.raises(HeaderError, match="channels from 0 to 59"):
        checked(replace(SMALL, reference_channels=(60,)), "scan")
