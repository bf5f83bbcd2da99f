"""What contradicts the header is refused at the raw stream's door: kernels index with these numbers."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from acquisition.errors import HeaderError, LimitError
from acquisition.items import VIEW_HEAD, Projections
from acquisition.sources.mrd_limits import StreamLimits
from integration.doors.incoming import Broken
from integration.doors.stream.checks import check_scan, checked
from integration.doors.stream.messages import End, Opened
from tests.integration.stream_samples import Wire, assert_same, ct, listening, mr, pet


def blank(n: int, rows: int = 8, channels: int = 92) -> Projections:
    return Projections(head=np.zeros(n, VIEW_HEAD), data=np.zeros((n, rows, channels), np.float32))


@pytest.mark.parametrize("sample", [mr, ct, pet])
def test_what_a_scanner_measures_passes(sample: Any) -> None:
    scan, items = sample()
    assert check_scan(scan) is scan
    for item in items:
        assert_same(checked(item, scan, StreamLimits()), item)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"n_rows": 0}, r"ct\.n_rows: expected at least 1, got 0"),
        ({"n_rows": 1 << 20}, r"ct\.n_rows: expected at most 8192"),
        ({"views_per_rotation": 1 << 30}, "views_per_rotation: expected at most 100000"),
        ({"pitch_mm": (0.0, 1.0)}, "pitch_mm: expected at least 0.001"),
    ],
)
def test_a_header_that_lies_is_refused(change: dict[str, Any], match: str) -> None:
    scan, _ = ct()
    with pytest.raises((HeaderError, LimitError), match=match):
        check_scan(replace(scan, ct=replace(scan.ct, **change)))


def test_headers_of_mri_and_pet_that_lie_are_refused() -> None:
    (m_scan, _), (p_scan, _) = mr(), pet()
    encoding = m_scan.mr.encodings[0]
    for scan, match in (
        (replace(m_scan, mr=replace(m_scan.mr, encodings=())), r"mr\.encodings: expected at least 1"),
        (replace(m_scan, mr=replace(m_scan.mr, encodings=(replace(encoding, matrix=(1, 1, 9000)),))), "at most 8192"),
        (
            replace(m_scan, mr=replace(m_scan.mr, encodings=(replace(encoding, matrix=(2048,) * 3),))),
            "at most 1073741824",
        ),
        (replace(m_scan, modality="CT"), "modality CT and that part alone, got parts MR"),
        (replace(m_scan, equipment=replace(m_scan.equipment, n_coils=5000)), "at most 1024"),
        (replace(p_scan, pet=replace(p_scan.pet, n_rings=9999, n_crystals=9999)), "at most 1000000"),
        (replace(p_scan, pet=replace(p_scan.pet, radius_mm=-1.0)), "positive sizes"),
        (replace(p_scan, pet=replace(p_scan.pet, detectors_mm=np.zeros((5, 3), np.float32))), r"shape \(96, 3\)"),
    ):
        with pytest.raises((HeaderError, LimitError), match=match):
            check_scan(scan)


def lies() -> list[tuple[Any, Any, str]]:
    (m_scan, m_items), (c_scan, c_items), (p_scan, p_items) = mr(), ct(), pet()
    head = m_items[0].head.copy()
    head["n_coils"] = 7
    space = m_items[0].head.copy()
    space["encoding"] = 9
    far = np.full((1, 2), 96, np.int32)
    nan = c_items[0].head.copy()
    nan["angle_rad"][0] = np.nan
    event = p_items[1]
    return [
        (m_scan, replace(m_items[0], head=head), r"head\.n_coils: expected 2 as in the data, got 7"),
        (m_scan, replace(m_items[0], head=space), r"head\.encoding: expected below 1, got 9"),
        (m_scan, replace(m_items[0], head=m_items[0].head[:0]), "at least one record"),
        (m_scan, replace(m_items[0], domain="x"), "samples as measured"),
        (m_scan, c_items[0], "expected a CT scan, got"),
        (c_scan, blank(2, rows=9), r"shape \(2, 8, 92\), got \(2, 9, 92\)"),
        (c_scan, replace(c_items[0], head=nan), "angle_rad: expected finite numbers"),
        (p_scan, replace(event, prompts=far, tof=None), "detectors from 0 to 95, got 96 to 96"),
        (p_scan, replace(event, prompts=-far, tof=None), "detectors from 0 to 95, got -96"),
        (p_scan, replace(event, start_s=2.0, stop_s=1.0), "0 <= start_s <= stop_s"),
        (p_scan, replace(event, prompts=np.zeros((), np.int32)), r"shape \(0, 2\), got \(\)"),
    ]


@pytest.mark.parametrize("case", range(11))
def test_a_block_that_contradicts_its_header_is_refused(case: int) -> None:
    heard: list[Any] = []
    scan, item, match = lies()[case]
    with listening(lambda call: heard.extend(call.incoming())) as server, Wire(server.port) as wire:
        wire.open(scan)
        wire.until(Opened)
        wire.block(1, item)
        wire.until(End)
    assert isinstance(heard[-1], Broken) and re.search(match, str(heard[-1].error))
