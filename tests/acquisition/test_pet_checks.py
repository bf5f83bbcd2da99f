"""Checks of a PET scan: what was planted is found, with time and size; what is clean stays silent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial

import numpy as np
import pytest

from acquisition.errors import ConfigError, HeaderError
from acquisition.items import Events, Movement
from acquisition.pet_checks import CheckBlocks, CheckDose, CheckRate, Looking, nuclide
from acquisition.pet_motion import CheckMotion, first_component, step
from acquisition.scan import Scan
from acquisition.sources.phantom.pet import PetSimulation
from acquisition.sources.phantom.pet_exam import PetExam
from acquisition.sources.phantom.pet_faults import PetFaults, drift, jump
from acquisition.sources.phantom.pet_objects import PetObject, brain, nema_body, torso
from acquisition.verdict import Level, Verdict

EXAM = PetExam(duration_s=12.0, block_s=0.5, scatter="none")


def _weak_torso(seed: int, breath: float = 0.0) -> PetObject:
    return torso(seed, breath=breath, bq_per_ml_per_suv=200.0, centre_mm=(0.0, 0.0, -30.0))


def _weak_nema() -> PetObject:
    return nema_body(background_bq_per_ml=400.0)


def _found(check: Looking, exam: PetExam, patient: PetObject | Callable[[float], PetObject]) -> list[Verdict]:
    simulation = PetSimulation(exam, patient)
    check.open(simulation.scan)
    out: list[object] = []
    for events in simulation.events():
        first, *rest = check.feed(events)
        assert first is events
        out += rest
    out += check.close()
    verdicts = [v for v in out if isinstance(v, Verdict)]
    moved = [m for m in out if isinstance(m, Movement)]
    assert len(verdicts) + len(moved) == len(out)
    assert len(moved) == sum(v.check == "check.pet_motion" and v.level is Level.FLAG for v in verdicts)
    return verdicts


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_a_clean_scan_is_silent(seed: int) -> None:
    simulation = PetSimulation(replace(EXAM, seed=seed), _weak_torso(seed))
    blocks = list(simulation.events())
    for check in (CheckMotion(), CheckBlocks(), CheckRate(), CheckDose()):
        check.open(simulation.scan)
        verdicts = [v for e in blocks for v in check.feed(e) if isinstance(v, Verdict)] + list(check.close())
        assert [v.level for v in verdicts] == [Level.PASS], verdicts


def test_a_table_that_moves_is_no_patient_who_does() -> None:
    simulation = PetSimulation(replace(EXAM, duration_s=6.0, beds_mm=(0.0, -60.0), bed_pause_s=5.0), _weak_torso(2))
    moved = list(simulation.events())
    untold = [replace(e, bed_mm=0.0) for e in moved]
    for check, n in ((CheckMotion(settle_s=2.0), 2), (CheckBlocks(), 2), (CheckRate(), 2), (CheckDose(), 1)):
        check.open(simulation.scan)
        verdicts = [v for e in moved for v in check.feed(e) if isinstance(v, Verdict)] + list(check.close())
        assert [v.level for v in verdicts] == [Level.PASS] * n, verdicts
        check.open(simulation.scan)
        verdicts = [v for e in untold for v in check.feed(e) if isinstance(v, Verdict)] + list(check.close())
        assert (verdicts[0].level is Level.FLAG) == isinstance(check, CheckMotion | CheckRate), verdicts


@pytest.mark.parametrize("shift", [(8.0, 0.0, 0.0), (-8.0, 0.0, 0.0), (0.0, 7.0, 0.0)])
def test_a_jump_is_found_with_time_and_size(shift: tuple[float, float, float]) -> None:
    exam = replace(EXAM, faults=PetFaults(motion=jump(6.0, shift)))
    (verdict,) = _found(CheckMotion(), exam, _weak_nema())
    assert verdict.level is Level.FLAG and verdict.value == pytest.approx(np.linalg.norm(shift), abs=2.0)
    time_s = float(verdict.advice.split(" moved at ")[1].split(" s ")[0])
    assert time_s == pytest.approx(6.0, abs=1.0)
    axis = int(np.argmax(np.abs(shift)))
    told = float(verdict.evidence.split("xyz"[axis] + " ")[1].split(" ")[0].rstrip(","))
    assert told == pytest.approx(shift[axis], abs=2.0)


@pytest.mark.parametrize(("seed", "way_mm"), [(1, 12.0), (2, -12.0), (3, 12.0), (4, -20.0)])
def test_a_body_longer_than_the_scanner_that_slides_is_found_with_its_way(seed: int, way_mm: float) -> None:
    body = torso(seed, bq_per_ml_per_suv=400.0, centre_mm=(0.0, 0.0, -10.0))
    exam = replace(EXAM, seed=seed, faults=PetFaults(motion=jump(6.0, (0.0, 0.0, way_mm))))
    (verdict,) = _found(CheckMotion(), exam, body)
    assert verdict.level is Level.FLAG and verdict.value == pytest.approx(abs(way_mm), abs=4.0)
    told = float(verdict.evidence.split("z ")[1].split(" ")[0])
    assert told == pytest.approx(way_mm, abs=4.0)
    assert float(verdict.advice.split(" moved at ")[1].split(" s ")[0]) == pytest.approx(6.0, abs=1.5)


@pytest.mark.parametrize("way_mm", [12.0, -12.0])
def test_a_body_that_moves_across_is_not_told_to_slide(way_mm: float) -> None:
    body = torso(3, bq_per_ml_per_suv=400.0, centre_mm=(0.0, 0.0, -10.0))
    exam = replace(EXAM, faults=PetFaults(motion=jump(6.0, (way_mm, 0.0, 0.0))))
    (verdict,) = _found(CheckMotion(), exam, body)
    x, _, z = (float(verdict.evidence.split(f"{axis} ")[1].split(" ")[0].rstrip(",")) for axis in "xyz")
    assert x == pytest.approx(way_mm, abs=3.0) and abs(z) < 4.0


def test_identical_blocks_are_no_motion() -> None:
    simulation = PetSimulation(replace(EXAM, duration_s=0.5), _weak_nema())
    (block,) = simulation.events()
    check = CheckMotion()
    check.open(simulation.scan)
    blocks = [replace(block, start_s=0.5 * n, stop_s=0.5 * n + 0.5) for n in range(30)]
    verdicts = [v for e in blocks for v in check.feed(e) if isinstance(v, Verdict)] + list(check.close())
    assert [v.level for v in verdicts] == [Level.PASS]


def test_a_slide_and_a_head_that_nods_are_found_and_breath_is_not_motion() -> None:
    slide = replace(EXAM, faults=PetFaults(motion=drift(3.0, 9.0, (9.0, 0.0, 0.0))))
    assert any(v.level is Level.FLAG for v in _found(CheckMotion(), slide, _weak_nema()))
    weak = brain(1, white_bq_per_ml=300.0)
    down = replace(EXAM, faults=PetFaults(motion=jump(6.0, (0.0, 0.0, 8.0))), patient_mm=(0.0, 0.0, -70.0))
    (verdict,) = _found(CheckMotion(), down, weak)
    assert verdict.level is Level.FLAG and "z +" in verdict.evidence
    turned = replace(EXAM, faults=PetFaults(motion=jump(6.0, (0.0, 0.0, 0.0), turn_deg=15.0)))
    (verdict,) = _found(CheckMotion(), turned, _weak_nema())
    assert verdict.level is Level.FLAG and "coarse sinograms" in verdict.evidence
    breathing = replace(EXAM, breath_s=4.0)
    (verdict,) = _found(CheckMotion(), breathing, lambda breath: _weak_torso(3, breath))
    assert verdict.level is Level.PASS


def test_a_failing_block_is_named() -> None:
    for since_s, left in ((0.0, 0.3), (6.0, 0.0)):
        exam = replace(EXAM, faults=PetFaults(blocks=((29, since_s, left),)))
        (verdict,) = _found(CheckBlocks(), exam, _weak_nema())
        assert "Detector block 29" in verdict.advice and verdict.level is not Level.PASS
        assert f"from {since_s:.1f} s" in verdict.evidence
        assert verdict.value == pytest.approx(100 * left, abs=12)


def test_lost_counts_and_lost_time_are_found() -> None:
    exam = replace(EXAM, faults=PetFaults(dropouts=((9.0, 10.0, 0.3),)))
    (verdict,) = _found(CheckRate(), exam, _weak_nema())
    assert verdict.level is Level.FLAG and verdict.value == pytest.approx(30, abs=5) and "9.0 s" in verdict.advice
    check = CheckRate()
    check.open(PetSimulation(EXAM, _weak_nema()).scan)
    pairs = np.zeros((100, 2), np.int32)
    blocks = [Events(start_s=t, stop_s=t + 0.5, prompts=pairs, delayeds=pairs[:0]) for t in (0.0, 0.5, 3.0)]
    (verdict,) = [v for e in blocks for v in check.feed(e) if isinstance(v, Verdict)]
    assert verdict.value == 0 and "since 1.0 s" in verdict.advice


def _scan(**changes: object) -> Scan:
    scan = PetSimulation(EXAM, _weak_nema()).scan
    return replace(scan, pet=replace(scan.require_pet(), tracer=replace(scan.require_pet().tracer, **changes)))


def test_a_dose_that_cannot_be_is_flagged() -> None:
    scan = _scan()
    tracer = scan.require_pet().tracer
    cases = {
        "no dose": _scan(dose_bq=None),
        "a dose of 0 Bq": _scan(dose_bq=0.0),
        "a dose of 0.00025 MBq": _scan(dose_bq=250.0),
        "where ^18^Fluorine has 6586.2 s": _scan(half_life_s=1221.8),
        "is not known": _scan(nuclide="^99m^Technetium"),
        "no time of the injection": _scan(injected=None),
        "30 min after the start": _scan(injected=scan.started + timedelta(minutes=30)),
        "24 h before the scan": _scan(injected=scan.started - timedelta(hours=24)),
        "no tracer": replace(scan, pet=replace(scan.require_pet(), tracer=None)),
        "no weight": replace(scan, patient=replace(scan.patient, weight_kg=None)),
    }
    for words, wrong in cases.items():
        check = CheckDose()
        check.open(wrong)
        (verdict,) = check.close()
        assert verdict.level is Level.FLAG and words in verdict.advice, verdict.advice
        assert list(check.close()) == []
    assert tracer is not None and {nuclide(n) for n in ("^18^Fluorine", "F-18", "18F")} == {"F18"}


def test_a_step_is_told_from_noise() -> None:
    rng = np.random.default_rng(5)
    series = rng.normal(size=(60, 3))
    quiet = step(series, np.ones((60, 3)), 8)
    series[35:, 1] += 3.0
    found = step(series, np.ones((60, 3)), 8)
    assert quiet.strength < 40 < found.strength and abs(found.at - 35) <= 1
    assert found.size[1] == pytest.approx(3, abs=0.8)
    mixed = np.abs(rng.normal(1, 0.01, (60, 20)))
    mixed[30:, 4] *= 1.5
    assert abs(step(first_component(mixed), np.full((60, 1), 1e-6), 8).at - 30) <= 1


def test_what_makes_no_sense_is_refused() -> None:
    makers = (
        (partial(CheckMotion, limit_mm=0.0), "check.pet_motion: expected numbers above 0"),
        (partial(CheckBlocks, limit=1.5), "a limit between 0 and 1"),
        (partial(CheckRate, memory_s=-1.0), "a memory above 0 s"),
        (partial(CheckDose, longest_h=0.0), "limits above 0"),
    )
    for make, words in makers:
        with pytest.raises(ConfigError, match=words):
            make()
    with pytest.raises(HeaderError, match="expected a PET scan"):
        CheckMotion().open(Scan(uid="m", modality="MR"))
