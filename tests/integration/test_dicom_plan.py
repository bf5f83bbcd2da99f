"""A plan over a localizer: valid objects, lines at the right places, and a page on which they can be seen."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from acquisition.errors import DataError, FileFormatError
from acquisition.geometry import Grid
from acquisition.items import Image, Position
from acquisition.plan_lines import plan_lines
from acquisition.scan import Scan
from acquisition.slice_plan import SlicePlan
from integration.dicom.mr import MrSeries
from integration.dicom.plan import GSPS, SECONDARY_CAPTURE, Localizer, localizer, plan_objects
from integration.letters import lettered
from integration.plan_page import page
from tests.integration.dicom_samples import NOW, bare_scan, full_scan, parsed, validate
from tests.peers import program

PLAN = SlicePlan(
    name="brain-acpc",
    centre_mm=(0.0, 0.0, 10.0),
    normal=(0.0, -0.2588190451, 0.9659258263),
    in_plane=(1.0, 0.0, 0.0),
    fov_mm=(220.0, 200.0),
    n_slices=9,
    slice_distance_mm=12.0,
    slice_thickness_mm=5.0,
    confidence=0.93,
)
DIRECTIONS = {
    "sagittal": ([0, 1, 0], [0, 0, -1], [-1, 0, 0]),
    "coronal": ([1, 0, 0], [0, 0, -1], [0, 1, 0]),
    "axial": ([1, 0, 0], [0, 1, 0], [0, 0, 1]),
}


def localizers(scan: Scan | None = None) -> list[Localizer]:
    """Three planes through a ball."""
    series = MrSeries(scan or full_scan(), "loc", clock=lambda: NOW)
    found = []
    for number, directions in enumerate(DIRECTIONS.values()):
        grid = Grid.from_centre((0, 0, 0), shape=(1, 96, 128), spacing_mm=(6, 2.5, 2.0), directions=directions)
        y, x = np.mgrid[-48:48, -64:64]
        ball = (np.hypot(y * 2.5, x * 2.0) < 90) * (100.0 + x) + 1
        image = Image(data=ball[None].astype(np.float32), grid=grid, position=Position(slice=number))
        found += [localizer(made.data) for made in series.instances(image)]
    return found


@pytest.mark.peer("dciodvfy")
@pytest.mark.parametrize(
    "scan", [full_scan(), bare_scan(), replace(full_scan(), study=replace(full_scan().study, body_part="KNEE"))]
)
def test_both_objects_are_valid(scan: Scan, tmp_path: Path) -> None:
    state, burned_in = plan_objects(localizers(scan), PLAN, "job-1", now=NOW)
    assert validate(state.data, tmp_path, "GrayscaleSoftcopyPresentationState") == []
    assert validate(burned_in.data, tmp_path, "SCImage") == []


@pytest.mark.peer("dcmtk")
def test_dcmtk_takes_the_presentation_state(tmp_path: Path) -> None:
    state, _ = plan_objects(localizers(), PLAN, "job-1", now=NOW)
    path = tmp_path / "state.dcm"
    path.write_bytes(state.data)
    tool = program("dcmpschk")
    if tool is None:
        pytest.skip("dcmpschk is not installed")
    answer = subprocess.run([tool, str(path)], capture_output=True, text=True, errors="replace", check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "Test passed." in answer.stdout + answer.stderr, answer.stdout + answer.stderr


def test_the_lines_lie_in_the_planned_slices() -> None:
    shown = localizers()
    state, _ = plan_objects(shown, PLAN, "job-1", now=NOW)
    ds = parsed(state)
    assert (ds.SOPClassUID, ds.PatientID, ds.StudyInstanceUID) == (GSPS, "P-77", "1.2.3.4")
    by_uid = {one.reference.sop_uid: one for one in shown}
    normal, checked = np.asarray(PLAN.normal), 0
    for annotation in ds.GraphicAnnotationSequence:
        one = by_uid[annotation.ReferencedImageSequence[0].ReferencedSOPInstanceUID]
        for drawn in annotation.GraphicObjectSequence:
            x0, y0, x1, y1 = (float(v) - 0.5 for v in drawn.GraphicData)
            for x, y in ((x0, y0), (x1, y1)):
                height = (np.asarray(one.grid.world((0, y, x))) - PLAN.centre_mm) @ normal / 12.0
                assert height == pytest.approx(round(height), abs=1e-3)
                assert abs(round(height)) <= 4
                checked += 1
    assert checked >= 2 * 9
    referenced = ds.ReferencedSeriesSequence[0].ReferencedImageSequence
    assert len(referenced) == len(ds.GraphicAnnotationSequence) >= 2


def test_the_page_shows_lines_and_words() -> None:
    _, made = plan_objects(localizers(), PLAN, "job-1", now=NOW)
    ds = parsed(made)
    assert (ds.SOPClassUID, ds.BurnedInAnnotation, ds.Modality) == (SECONDARY_CAPTURE, "YES", "OT")
    picture = ds.pixel_array.astype(int)
    assert picture.shape == (ds.Rows, ds.Columns, 3)
    yellow = (picture == (255, 220, 0)).all(axis=-1)
    red = (picture == (255, 70, 40)).all(axis=-1)
    assert yellow.sum() > 2000
    assert red.sum() > 500
    words = lettered("PROPOSED SLICES: BRAIN-ACPC", 2)
    found = [
        (y, x)
        for y in range(384, ds.Rows - words.shape[0])
        for x in (10,)
        if (yellow[y : y + words.shape[0], x : x + words.shape[1]] == words).all()
    ]
    assert len(found) == 1


def test_the_page_tells_the_sides_of_each_image() -> None:
    shown = sorted(localizers(), key=lambda one: int(np.argmax(np.abs(one.grid.normal))))
    picture = page([(one.pixels, one.grid, plan_lines(PLAN, one.grid)) for one in shown], PLAN)
    white = (picture == (235, 235, 235)).all(axis=-1)
    for k, (left, top) in enumerate((("A", "H"), ("R", "H"), ("R", "A"))):
        x, middle = 10 + k * 394, (384 - 14) // 2
        assert (white[10 + middle :, x + 2 :][:14, :12] == lettered(left, 2)).all()
        assert (white[10 + 2 :, x + middle :][:14, :12] == lettered(top, 2)).all()


def test_the_same_plan_has_the_same_uids() -> None:
    shown = localizers()
    first, again = (plan_objects(shown, PLAN, "job-1") for _ in range(2))
    other = plan_objects(shown, replace(PLAN, name="hippocampus"), "job-1")
    assert [a.sop_instance_uid for a in first] == [a.sop_instance_uid for a in again]
    assert len({i.sop_instance_uid for i in (*first, *other)}) == 4


@pytest.mark.parametrize(
    "plan", [replace(PLAN, centre_mm=(900.0, 0.0, 0.0)), replace(PLAN, frame_of_reference_uid="1.2.99")]
)
def test_a_plan_for_other_images_is_refused(plan: SlicePlan) -> None:
    with pytest.raises(DataError, match="expected images of one study and frame of reference"):
        plan_objects(localizers(), plan, "job-1")


def test_what_is_no_image_is_no_localizer() -> None:
    with pytest.raises(FileFormatError, match="expected a DICOM image"):
        localizer(b"nothing")


def test_letters_are_seven_high_and_unknown_ones_are_asked_for() -> None:
    assert lettered("AB").shape == (7, 12)
    assert lettered("a", 3).shape == (21, 18)
    assert (lettered("ä") == lettered("?")).all()
    assert not (lettered("8") == lettered("B")).all()
    assert lettered("").shape == (7, 6)
