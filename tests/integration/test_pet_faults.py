"""What goes wrong in a PET scan is told by the shipped protocol: coincidences to verdicts, as the runner runs it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from acquisition.items import Image
from acquisition.sources.phantom.pet import PetSimulation
from acquisition.sources.phantom.pet_exam import F18, PetExam
from acquisition.sources.phantom.pet_faults import PetFaults, jump
from acquisition.verdict import Level, Verdict
from integration.protocol import Library
from integration.router import choose
from integration.runner import Run
from tests.acquisition.pet_chests import GANTRY, breathing, breathing_exam, chest

LIBRARY = Library()
_COARSE = {"voxel_mm": 10.0, "slice_mm": 8.0, "fov_mm": 340.0}


def _run(exam: PetExam, name: str = "auto") -> tuple[list[Image], dict[str, Verdict]]:
    """Return the images of a scan, and the findings that are no PASS by their check."""
    simulation = PetSimulation(exam, chest(bq_per_ml=80.0))
    protocol = choose(LIBRARY, simulation.scan, name)
    changes = {
        f"{step}.{key}": value for step in ("pet.preview", protocol.step_names[-2]) for key, value in _COARSE.items()
    }
    run = Run(simulation.scan, protocol.with_changes(changes | {"pet.preview.every_s": 8.0}))
    run.open()
    images = [i for item in (simulation.normalisation, *simulation.events()) for i in run.feed(item)]
    images += run.close()
    assert not [v for v in run.verdicts if v.check == "protocol.unused"]
    checks = [v for v in run.verdicts if v.check.startswith("check.pet_")]
    assert {v.check for v in checks} >= {f"check.pet_{word}" for word in ("dose", "blocks", "rate", "motion")}
    return images, {v.check: v for v in checks if v.level is not Level.PASS}


def _exam(**changes: object) -> PetExam:
    return breathing_exam(breath_s=0.0, duration_s=16.0, block_s=0.5, randoms="delayed", **changes)


def test_a_clean_scan_has_no_findings() -> None:
    images, found = _run(_exam())
    assert not found and [i.output for i in images] == ["preview", "preview", "conventional"]


FAULTS = {
    "check.pet_rate": ({"faults": PetFaults(dropouts=((9.0, 10.5, 0.3),))}, "lost since 9.0 s"),
    "check.pet_blocks": ({"faults": PetFaults(blocks=((13, 4.0, 0.0),))}, "Detector block 13"),
    "check.pet_motion": ({"faults": PetFaults(motion=jump(8.0, (12.0, 0.0, 0.0)))}, "moved at 8.0 s"),
    "check.pet_dose": ({"dose_bq": 0.0}, "no dose"),
}


@pytest.mark.parametrize("check", FAULTS)
def test_a_planted_fault_is_told_and_the_image_goes_out(check: str) -> None:
    changes, words = FAULTS[check]
    images, found = _run(_exam(**changes))
    assert check in found and words in found[check].advice, found
    assert images[-1].output == "conventional" and images[-1].data.max() > 0
    assert set(found) <= {check, "check.pet_motion"}  # a dead block shifts the centre of the events too


def test_a_wrong_half_life_is_told() -> None:
    wrong = replace(GANTRY, tracer=replace(F18, half_life_s=1221.8))
    _, found = _run(_exam(pet=wrong, dose_bq=250e6))
    assert set(found) == {"check.pet_dose"} and "where ^18^Fluorine has 6586.2 s" in found["check.pet_dose"].advice


def test_the_protocol_for_motion_gives_a_second_image() -> None:
    images, found = _run(_exam(faults=PetFaults(motion=jump(8.0, (12.0, 0.0, 0.0)))), "pet_osem_motion")
    assert set(found) == {"check.pet_motion"}
    assert [i.output for i in images if i.output != "preview"] == ["conventional", "motion_corrected"]
    assert images[-1].provenance.protocol == "pet_osem_motion"


def test_the_protocol_for_gates_gives_all_images() -> None:
    simulation, items = breathing()
    protocol = LIBRARY["pet_osem_gated"]
    changes = {f"{step}.{key}": value for step in ("pet.preview", "pet.osem") for key, value in _COARSE.items()}
    run = Run(
        simulation.scan, protocol.with_changes(changes | {"pet.preview.every_s": 20.0, "pet.osem.n_iterations": 1})
    )
    run.open()
    images = [i for item in (simulation.normalisation, *items) for i in run.feed(item)] + list(run.close())
    assert [i.output for i in images if i.output != "preview"] == ["conventional"] + ["gated"] * 4 + ["quiet"]
    assert "signal: belt" in next(v.evidence for v in run.verdicts if v.check == "pet.gate")
