"""Gating: the breath of belt and events, its sign, what becomes of each second, and what is said if there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.errors import ConfigError, HeaderError
from acquisition.items import Events, TimeFrame, Waveform
from acquisition.pet import decay_factor
from acquisition.pet_breath import Breath, Pictures, belt_breath
from acquisition.pet_gate import Gate, by_amplitude, by_phase, parts_of, quietest
from acquisition.scan import Patient, Scan
from acquisition.sources.phantom.pet import PetSimulation
from acquisition.sources.phantom.pet_exam import F18
from acquisition.verdict import Level, Verdict
from tests.acquisition.pet_chests import breathing, breathing_exam, chest


def _blocks() -> list[Events]:
    return [i for i in breathing()[1] if isinstance(i, Events)]


def _from_events(blocks: list[Events], *, towards_head: float = 1.0) -> tuple[Breath, float]:
    """Return the breath that events show, and its correlation with the true one."""
    starts, stops = (np.array([getattr(b, name) for b in blocks]) for name in ("start_s", "stop_s"))
    simulation = breathing()[0]
    pictures = Pictures(simulation.scan.require_pet(), towards_head=towards_head)
    for block in blocks:
        pictures.add([block])
    found = pictures.breath(starts, stops)
    return found, float(np.corrcoef(found.depth, simulation.breath((starts + stops) / 2))[0, 1])


@pytest.mark.parametrize("timed", [True, False])
def test_events_tell_the_breath_and_which_way_is_in(timed: bool) -> None:
    blocks = [b if timed else replace(b, tof=None) for b in _blocks()]
    found, correlation = _from_events(blocks)
    assert correlation > 0.95 and found.trust == pytest.approx(correlation, abs=0.06)
    assert found.period_s == pytest.approx(4.0, abs=0.2) and found.direction > 0.3
    _, other_way = _from_events(blocks, towards_head=-1.0)
    assert other_way == pytest.approx(-correlation)


def test_feet_first_the_diaphragm_goes_the_other_way() -> None:
    simulation, items = breathing()
    mirrored = [replace(b, prompts=(19 - b.prompts // 200) * 200 + b.prompts % 200) for b in _blocks()]
    scan = replace(simulation.scan, patient=Patient(position="FFP"))
    frames = [f for f in _gated(Gate(signal="events"), mirrored, scan) if isinstance(f, TimeFrame)]
    truth = [f for f in _gated(Gate(signal="belt"), items, simulation.scan) if isinstance(f, TimeFrame)]
    for one, other in zip(frames, truth, strict=True):
        middles = np.array([(a + b) / 2 for a, b in other.spans])
        assert one.counts(middles).mean() > 0.6


def test_no_breath_no_gates() -> None:
    exam = breathing_exam(breath_s=0.0, duration_s=20.0)
    blocks = list(PetSimulation(exam, chest(bq_per_ml=30.0)).events())
    (verdict,) = _gated(Gate(), blocks, breathing()[0].scan)
    assert isinstance(verdict, Verdict) and verdict.level is Level.FLAG and "trust" in verdict.evidence
    long = [replace(b, start_s=4 * b.start_s, stop_s=4 * b.stop_s) for b in blocks]
    (verdict,) = _gated(Gate(), long, breathing()[0].scan)
    assert isinstance(verdict, Verdict) and "blocks of events up to 0.8 s, got 1 s" in verdict.evidence
    (verdict,) = _gated(Gate(signal="belt"), blocks, breathing()[0].scan)
    assert isinstance(verdict, Verdict) and "its signal over the whole scan" in verdict.evidence
    moved = [replace(b, bed_mm=0.0 if b.start_s < 10 else 100.0) for b in blocks]
    (verdict,) = _gated(Gate(), moved, breathing()[0].scan)
    assert isinstance(verdict, Verdict) and "the table at rest, got 2 positions" in verdict.evidence
    (verdict,) = _gated(Gate(), blocks[:10], breathing()[0].scan)
    assert isinstance(verdict, Verdict) and "32 samples or more" in verdict.evidence


def _gated(step: Gate, items: object, scan: Scan) -> list[object]:
    step.open(scan)
    for item in items:  # type: ignore[attr-defined]
        assert list(step.feed(item)) == [item]
    return list(step.close())


@pytest.mark.parametrize("sort", ["amplitude", "phase"])
def test_gates_share_out_the_time(sort: str) -> None:
    simulation, items = breathing()
    *frames, verdict = _gated(Gate(sort=sort, n_gates=4), items, simulation.scan)
    assert isinstance(verdict, Verdict) and verdict.level is Level.PASS and verdict.value == pytest.approx(4.0)
    *gates, quiet = frames
    middles = np.array([(b.start_s + b.stop_s) / 2 for b in _blocks()])
    inside = np.array([g.counts(middles) for g in gates])
    assert inside.sum(axis=0).max() == 1 and [g.gate for g in gates] == [0, 1, 2, 3]
    assert inside.sum(axis=0).mean() > (0.99 if sort == "amplitude" else 0.85)  # before the first breath: no phase
    assert [g.duration_s for g in gates] == pytest.approx([0.25 * i.sum() for i in inside])
    depth = simulation.breath(middles)
    means = [depth[i].mean() for i in inside]
    if sort == "amplitude":
        assert means == sorted(means) and means[0] < 0.02 and means[3] > 0.7
        assert [len(depth[i]) for i in inside] == pytest.approx([40] * 4, abs=5)
    else:
        assert np.argmax(means) == 0 and np.argmin(means) == 2
    assert quiet.output == "quiet" and depth[quiet.counts(middles)].max() < 0.15
    assert quiet.duration_s == pytest.approx(0.35 * 40.0, abs=1.5)


def test_the_belt_is_believed_only_over_the_whole_scan() -> None:
    simulation, items = breathing()
    waveforms = [i for i in items if isinstance(i, Waveform)]
    blocks = _blocks()
    starts, stops = (np.array([getattr(b, name) for b in blocks]) for name in ("start_s", "stop_s"))
    found = belt_breath(waveforms, starts, stops)
    assert found is not None and found.source == "belt"
    assert np.corrcoef(found.depth, simulation.breath((starts + stops) / 2))[0, 1] > 0.999
    assert belt_breath(waveforms[:100], starts, stops) is None
    assert belt_breath([replace(w, id=0) for w in waveforms], starts, stops) is None
    assert belt_breath([replace(w, data=0 * w.data) for w in waveforms], starts, stops) is None
    half = [i for i in items if not isinstance(i, Waveform) or i.time_stamp < 20_000]
    *_, verdict = _gated(Gate(), half, simulation.scan)
    assert isinstance(verdict, Verdict) and "signal: events" in verdict.evidence


def test_what_is_sorted_how() -> None:
    depth = np.array([0.0, 5.0, 1.0, 1.1, 1.2, 4.0, 9.0, 1.3])
    ones = np.ones(8)
    assert quietest(depth, ones, 0.5).tolist() == [False, False, True, True, True, False, False, True]
    heavy = np.where(depth == 9.0, 10.0, 1.0)
    assert quietest(depth, heavy, 0.5).tolist() == (depth == 9.0).tolist()
    time_s = np.arange(8.0)
    breath = Breath(start_s=time_s, stop_s=time_s + 1, depth=depth, source="belt", period_s=4.0)
    assert by_amplitude(breath, ones, 2).tolist() == [0, 1, 0, 0, 0, 1, 1, 1]
    assert by_phase(replace(breath, depth=ones), ones, 4).tolist() == [-1] * 8
    assert parts_of(time_s, time_s + 1, depth > 1) == ((1.0, 2.0), (3.0, 8.0))


def test_a_frame_of_parts_counts_their_seconds_and_their_decay() -> None:
    frame = TimeFrame(start_s=0.0, stop_s=9000.0, parts=((0.0, 60.0), (6586.2, 6646.2)))
    assert frame.duration_s == 120.0
    early, late = (decay_factor(F18, TimeFrame(start_s=a, stop_s=b)) for a, b in frame.parts)
    assert late == pytest.approx(2 * early)
    assert decay_factor(F18, frame) == pytest.approx(2 / (1 / early + 1 / late))
    times = np.array([-1.0, 0.0, 59.9, 60.0, 6586.2, 6646.2, 8000.0])
    assert frame.counts(times).tolist() == [False, True, True, False, True, False, False]


def test_what_makes_no_sense_is_refused() -> None:
    for values in ({"n_gates": 1}, {"quiet_percent": 100.0}, {"window_s": 0.0}, {"trust": 1.0}):
        with pytest.raises(ConfigError, match=r"pet\.gate: expected 0 or 2 to 32 gates"):
            Gate(**values)
    with pytest.raises(HeaderError, match="expected a PET scan"):
        Gate().open(Scan(uid="m", modality="MR"))
