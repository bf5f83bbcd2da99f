"""UIDs are valid, distinct, and the same for the same names."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from acquisition.scan import Patient, Scan, Study
from integration.dicom.uid import frame_of_reference_uid, instance_uid, is_uid, series_uid, study_uid, uid_of
from tests.integration.dicom_samples import bare_scan

NAME = st.text(max_size=30)


@given(NAME, NAME, st.integers(0, 2**128))
def test_uids_are_valid_and_the_same_again(job: str, output: str, index: int) -> None:
    uid = instance_uid(job, output, index)
    assert is_uid(uid)
    assert UID(uid).is_valid
    assert uid.startswith("2.25.")
    assert len(uid) <= 44
    assert uid == instance_uid(job, output, index)


@given(st.lists(st.tuples(NAME, NAME, st.integers(0, 3)), unique=True, max_size=30))
def test_different_names_have_different_uids(names: list[tuple[str, str, int]]) -> None:
    assert len({instance_uid(*name) for name in names}) == len(names)


def test_names_are_not_run_together() -> None:
    assert uid_of("a", "bc") != uid_of("ab", "c")
    assert uid_of("a", "1") != uid_of("a", 1)
    assert series_uid("j", "o") != instance_uid("j", "o", 0)


def test_uids_never_change() -> None:
    """A change would store every image of a replayed job a second time."""
    assert instance_uid("job", "conventional", 0) == "2.25.119641128675210626206802244662430809426"
    assert series_uid("job", "conventional") == "2.25.172087883920821408787311152720411974716"


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("1.2.840.10008.1.1", True),
        ("2.25.0", True),
        ("0.0", True),
        ("1." + "2" * 62, True),
        ("1." + "2" * 63, False),
        ("1.02", False),
        ("1..2", False),
        ("1.2.", False),
        ("1", False),
        ("", False),
        (None, False),
        ("1.2\n", False),
        ("1.٢", False),
    ],
)
def test_what_a_uid_is(text: str | None, fine: bool) -> None:
    assert is_uid(text) is fine


def scan_of(patient: str | None = None, **study: str | None) -> Scan:
    return replace(bare_scan(), patient=Patient(id=patient), study=Study(**study))  # type: ignore[arg-type]


def test_the_scanners_study_and_frame_are_kept() -> None:
    scan = scan_of(instance_uid="1.2.3", frame_of_reference_uid="1.2.4")
    assert study_uid(scan, "job") == "1.2.3"
    assert frame_of_reference_uid(scan, "job") == "1.2.4"
    broken = scan_of(instance_uid="x", frame_of_reference_uid="1.02")
    assert is_uid(study_uid(broken, "job"))
    assert is_uid(frame_of_reference_uid(broken, "job"))


def test_scans_of_one_order_share_a_study_and_no_others() -> None:
    same = [scan_of("p", accession_number="a", id=i) for i in ("1", "2")]
    assert len({study_uid(s, j) for s, j in zip(same, "ab", strict=True)}) == 1
    dated = [scan_of("p", id="1", date="20260101") for _ in range(2)]
    assert len({study_uid(s, j) for s, j in zip(dated, "ab", strict=True)}) == 1
    others = [
        scan_of("p", accession_number="a"),
        scan_of("q", accession_number="a"),
        scan_of(None, accession_number="a"),
        scan_of("p", id="1", date="20260101"),
        scan_of("p", id="1", date="20260102"),
        scan_of("p", id="1"),
        scan_of("p"),
        scan_of(None, id="1", date="20260101"),
    ]
    assert len({study_uid(s, f"job {i}") for i, s in enumerate(others)}) == len(others)


def test_a_frame_of_reference_is_the_jobs_own() -> None:
    scan = scan_of("p", accession_number="a")
    assert frame_of_reference_uid(scan, "a") != frame_of_reference_uid(scan, "b")
