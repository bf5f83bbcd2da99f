"""Orphans in the spool are queued or set aside; none is deleted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.delivery.link import PermanentError
from integration.dicom.recover import describe, recover
from tests.integration.delivery_samples import MR, Box, dicom, uid


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    yield box
    box.journal.close()


def test_written_but_not_queued_is_queued_everywhere(box: Box) -> None:
    box.put([0], ["pacs"])
    box.spool.write(uid(1), dicom(1))
    box.spool.write(uid(2), dicom(2))
    found = recover(box.spool, box.journal, ["pacs", "ws"])
    assert [i.sop_uid for i in found] == [uid(1), uid(2)]
    assert (found[0].sop_class, found[0].study_uid, found[0].series_uid) == (MR, "2.25.1", "2.25.2")
    assert box.counts("pacs") == {"QUEUED": 3}
    assert box.counts("ws") == {"QUEUED": 2}
    assert recover(box.spool, box.journal, ["pacs", "ws"]) == []


def test_a_clean_spool_gives_nothing_and_opens_no_job(box: Box) -> None:
    box.put([0], ["pacs"])
    assert recover(box.spool, box.journal, ["pacs"]) == []
    assert box.journal.job("recovered") is None


def test_what_a_replay_made_again_is_set_aside_not_sent_twice(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    orphan = box.spool.write(uid(0), dicom(0, patient="P2"))
    box.put([0], ["pacs"])
    before = orphan.read_bytes()
    assert recover(box.spool, box.journal, ["pacs"]) == []
    assert box.counts("pacs") == {"QUEUED": 1}
    assert (box.spool.directory / "set-aside" / orphan.name).read_bytes() == before
    assert "job job has made this image again" in caplog.text


def test_what_cannot_be_read_is_set_aside(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    junk = box.spool.write(uid(0), b"junk")
    assert recover(box.spool, box.journal, ["pacs"]) == []
    assert (box.spool.directory / "set-aside" / junk.name).read_bytes() == b"junk"
    assert "expected a DICOM file" in caplog.text


def test_a_delivered_image_whose_file_came_back_is_set_aside(box: Box) -> None:
    box.put([0], ["pacs"])
    (d,) = box.journal.deliveries()
    box.journal.mark_sent(d, "e")
    box.journal.mark_committed(d, "e")
    box.journal.mark_removed(d.sop_uid)
    assert recover(box.spool, box.journal, ["pacs"]) == []
    assert box.counts("pacs") == {"COMMITTED": 1}
    assert box.spooled() == []
    assert len(list((box.spool.directory / "set-aside").iterdir())) == 1


def test_describe_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_bytes(b"x")
    with pytest.raises(PermanentError, match=r"x\.dcm: expected a DICOM file"):
        describe(tmp_path / "x.dcm")
