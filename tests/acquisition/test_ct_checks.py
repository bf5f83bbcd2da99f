"""What a technologist must hear before the patient leaves: found when planted, silent when not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.ct_checks import CheckCentre, CheckMetal, CheckMotion, CheckTurn
from acquisition.errors import ConfigError, DataError
from acquisition.items import Projections
from acquisition.sources.phantom.ct import CtExam
from acquisition.sources.phantom.ct_faults import CtFaults, Motion
from acquisition.sources.phantom.ct_matter import STEEL, TITANIUM
from acquisition.sources.phantom.ct_people import ball, inserted, person
from acquisition.stream import Step
from acquisition.verdict import Level, Verdict
from tests.acquisition.ct_samples import AXIAL, HELICAL, line_blocks, sent, verdict

CHECKS = ("check.ct_centre", "check.ct_motion", "check.ct_metal", "check.ct_turn")
HELIX = CtExam(ct=HELICAL, turns=2.2, feed_mm=20.0, start_z_mm=-22.0, photons=3e5)
TURN = CtExam(ct=AXIAL, turns=1.1, photons=3e5)


def all_checks() -> list[Step]:
    return [CheckCentre(), CheckMotion(), CheckMetal(), CheckTurn()]


def moved(at: float, *shift: float, angle: float = 0.0) -> CtFaults:
    return CtFaults(
        motion=Motion(
            turns=(at - 0.03, at + 0.03),
            shifts_mm=((0, 0, 0), (shift[0], shift[1], shift[2])),
            angles_deg=((0, 0, 0), (0, 0, angle)),
        )
    )


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("exam", [TURN, HELIX, replace(HELIX, feed_mm=-20.0, start_z_mm=22.0, direction=-1)])
def test_a_good_scan_is_silent(seed: int, exam: CtExam) -> None:
    regions = ("chest", "abdomen", "head")
    for region in regions if exam is TURN else regions[seed % 3 :][:1]:
        simulation, blocks = line_blocks(replace(exam, seed=seed), person(region, seed, iodine_mg_per_ml=6.0))
        items = sent(all_checks(), simulation, blocks)
        assert [i for i in items if isinstance(i, Projections)] == blocks
        for check in CHECKS:
            assert verdict(items, check).level is Level.PASS, (region, verdict(items, check))


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (0.0, 45.0, "raise the table by"),
        (0.0, -45.0, "lower the table by"),
        (40.0, 0.0, "to the right"),
        (-40.0, 0.0, "to the left"),
    ],
)
def test_an_off_centre_patient_is_told_which_way(x: float, y: float, words: str) -> None:
    for exam in (TURN, HELIX, replace(TURN, turns=0.75, direction=-1)):
        reference = verdict(sent([CheckCentre()], *line_blocks(exam, person("abdomen", 1))), "check.ct_centre")
        simulation, blocks = line_blocks(replace(exam, patient_mm=(x, y, 0)), person("abdomen", 1))
        found = verdict(sent([CheckCentre()], simulation, blocks), "check.ct_centre")
        assert found.level is Level.FLAG and words in found.advice
        assert found.value == pytest.approx(np.hypot(x, y), abs=3 + (reference.value or 0))


def test_centring_is_said_after_the_first_turn() -> None:
    simulation, blocks = line_blocks(replace(HELIX, patient_mm=(0, 50, 0)), person("chest", 1))
    step = CheckCentre()
    step.open(simulation.scan)
    when = [n for n, block in enumerate(blocks) for out in step.feed(block) if isinstance(out, Verdict)]
    assert when == [288 // 32] or when == [288 // 32 - 1]
    assert list(step.close()) == []


@pytest.mark.parametrize(
    ("region", "exam", "at"),
    [
        ("chest", TURN, 0.5),
        ("head", replace(TURN, direction=-1), 0.45),
        ("abdomen", HELIX, 1.1),
        ("head", replace(HELIX, direction=-1), 0.9),
    ],
)
def test_motion_is_found_and_measured(region: str, exam: CtExam, at: float) -> None:
    for fault, size in ((moved(at, 3, -2, 0), 3.6), (moved(at, 0, 0, 0, angle=4), None)):
        simulation, blocks = line_blocks(replace(exam, faults=fault), person(region, 2))
        found = verdict(sent([CheckMotion()], simulation, blocks), "check.ct_motion")
        assert found.level is Level.FLAG and "repeat" in found.advice
        if size:
            assert found.value == pytest.approx(size, rel=0.25)
    [place] = [float(word) for word in found.evidence.split("z = ")[1].split(" mm")[:1]]
    assert abs(place - np.interp(at, [0, 2.2], [-22, 22])) < 12 or exam.ct.mode == "axial"


def test_motion_between_table_positions_is_no_motion() -> None:
    first = line_blocks(replace(TURN, turns=1.0), person("chest", 1))
    second = line_blocks(replace(TURN, turns=1.0, start_z_mm=8.0, patient_mm=(5, 0, 0)), person("chest", 1))
    items = sent([CheckMotion()], first[0], [*first[1], *second[1]])
    assert verdict(items, "check.ct_motion").level is Level.PASS
    assert "66 directions" not in verdict(items, "check.ct_motion").evidence


def test_a_short_turn_or_a_flying_focal_spot_is_not_called_checked() -> None:
    found = verdict(sent([CheckMotion()], *line_blocks(replace(TURN, turns=0.55))), "check.ct_motion")
    assert found.value is None and "not checked: too short a turn" in found.advice
    flying = replace(TURN, focal_spot_shifts=((0.0, 0.0, 0.0), (0.001, 0.0, 0.0)))
    found = verdict(sent([CheckMotion()], *line_blocks(flying)), "check.ct_motion")
    assert found.level is Level.PASS and "the focal spot flies" in found.advice


@pytest.mark.parametrize(
    ("region", "place", "radii", "tissue"),
    [
        ("abdomen", (0, -95, 0), (6, 4, 20), TITANIUM),
        ("chest", (0, 95, 0), (3, 3, 30), STEEL),
        ("head", (0, -88, 0), (12, 3, 10), STEEL),
        ("abdomen", (-120, 60, 0), (14, 14, 60), TITANIUM),
    ],
)
def test_metal_is_found(region: str, place, radii, tissue) -> None:
    patient = person(region, 1)
    metal = inserted(patient, ball(_inside(patient, place), radii, tissue), name="metal")
    for beam in ("monochromatic", "polychromatic"):
        simulation, blocks = line_blocks(replace(TURN, beam=beam), metal)
        found = verdict(sent([CheckMetal()], simulation, blocks), "check.ct_metal")
        assert found.level is Level.FLAG and "streaks" in found.advice and "from z = 0" in found.evidence


def _inside(patient, place):
    """The point pulled towards the middle until it lies well inside the outermost structure."""
    point = np.array(place, float)
    while (np.abs(patient.ellipsoids[0].unit(point)) ** 2).sum() > 0.72:
        point *= 0.98
    return tuple(point.tolist())


@pytest.mark.parametrize(("exam", "short"), [(TURN, 0.5), (HELIX, 0.45)])
def test_a_cut_off_turn_is_held(exam: CtExam, short: float) -> None:
    simulation, blocks = line_blocks(replace(exam, turns=short))
    found = verdict(sent([CheckTurn()], simulation, blocks), "check.ct_turn")
    assert found.level is Level.HOLD and "repeat the scan there" in found.advice
    assert found.value == pytest.approx(360 * short, abs=2) and found.limit == pytest.approx(180 + 49.9, abs=0.5)
    enough = verdict(sent([CheckTurn()], *line_blocks(replace(exam, turns=0.64))), "check.ct_turn")
    assert enough.level is Level.PASS


def test_the_shortest_of_several_table_positions_counts() -> None:
    full, cut = line_blocks(TURN), line_blocks(replace(TURN, start_z_mm=9.0, turns=0.4))
    found = verdict(sent([CheckTurn()], full[0], [*full[1], *cut[1]]), "check.ct_turn")
    assert found.level is Level.HOLD and "z = 9 mm" in found.advice and "1 of 2 table positions" in found.evidence


@pytest.mark.parametrize("check", all_checks())
def test_checks_refuse_counts_and_say_nothing_of_nothing(check: Step) -> None:
    simulation, blocks = line_blocks(replace(TURN, turns=0.2))
    check.open(simulation.scan)
    assert list(check.feed("other")) == ["other"]
    assert [v for v in check.close() if isinstance(v, Verdict) and v.value is not None] == []
    check.open(simulation.scan)
    with pytest.raises(DataError, match=r"put ct\.air before"):
        list(check.feed(replace(blocks[0], domain="counts")))
    with pytest.raises(DataError, match="2 x 184 elements"):
        list(check.feed(replace(blocks[0], data=blocks[0].data[..., :9])))


def test_limits_are_checked() -> None:
    for make in (lambda: CheckCentre(limit_mm=0), lambda: CheckMotion(limit_mm=-1), lambda: CheckMetal(views=1.0)):
        with pytest.raises(ConfigError, match="above 0"):
            make()
