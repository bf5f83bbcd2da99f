"""Delivery to real archives: Orthanc and DCMTK's storescp, healthy and ill."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from integration.delivery.destination import Destination
from integration.delivery.link import BrokenLinkError, UnreachableError
from integration.delivery.sender import SenderProcess
from integration.dicom.part10 import split
from integration.dicom.scu import connect
from tests import peers
from tests.integration.delivery_samples import Box, destination, dicom, uid, until
from tests.peers import Orthanc, StoreScp

StoreScps = Callable[..., StoreScp]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path / "data")
    yield box
    box.journal.close()


def to_orthanc(orthanc: Orthanc, **changes: object) -> Destination:
    return destination("orthanc", orthanc.dicom_port, ae_title=orthanc.ae_title, **changes)


def to_scp(peer: StoreScp, **changes: object) -> Destination:
    return destination(str(changes.pop("name", "scp")), peer.port, ae_title=peer.ae_title, **changes)


def open_door(box: Box, orthanc: Orthanc) -> None:
    """Let Orthanc's commitment reports arrive at the sender's listener."""
    said = box.data / "sender.json"
    until(lambda: said.exists() and said.read_text().endswith("}"))
    orthanc.report_to(json.loads(said.read_text())["commit_port"])


@pytest.mark.parametrize(("required", "outcome"), [("0", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_a_missing_peer_is_skipped_or_failed_with_its_name(
    monkeypatch: pytest.MonkeyPatch, required: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("ISOCENTER_REQUIRE_PEERS", required)
    monkeypatch.setitem(peers.PROGRAMS, "orthanc", ["no-such-program"])
    with pytest.raises(outcome, match="no-such-program is not installed"):
        peers.require("orthanc")


# Orthanc


@pytest.mark.peer("orthanc")
def test_orthanc_gets_all_and_vouches_for_it_at_our_door(box: Box, orthanc: Orthanc) -> None:
    box.put(range(20), ["orthanc"])
    with SenderProcess(box.data, [to_orthanc(orthanc, commitment="require")], ["--commit-port", "0"]):
        open_door(box, orthanc)
        until(lambda: box.counts("orthanc") == {"COMMITTED": 20}, 30)
        until(lambda: box.spooled() == [])
    assert {d.evidence for d in box.journal.deliveries()} == {"commitment"}
    assert orthanc.instances() == [uid(i) for i in range(20)]
    for i in (0, 7, 19):
        kept = orthanc.file(uid(i))
        assert bytes(split(kept, "kept").data) == bytes(split(dicom(i), "sent").data)


@pytest.mark.peer("orthanc")
def test_orthanc_that_never_reports_rests_on_the_store(box: Box, orthanc: Orthanc) -> None:
    box.put([0], ["orthanc"])
    with SenderProcess(box.data, [to_orthanc(orthanc, commit_timeout_s=0.3)]):
        until(lambda: box.counts("orthanc") == {"COMMITTED": 1}, 20)
    assert box.journal.deliveries()[0].evidence == "store-status, commitment unanswered"


@pytest.mark.peer("orthanc")
def test_a_wrong_title_keeps_the_images_waiting_and_says_so(box: Box, orthanc: Orthanc) -> None:
    box.put([0], ["orthanc"])
    with SenderProcess(box.data, [to_orthanc(orthanc).model_copy(update={"ae_title": "WRONG"})]):
        until(lambda: "called AE title" in box.journal.status()["orthanc"].last_error)
    assert box.counts("orthanc") == {"QUEUED": 1}


@pytest.mark.peer("orthanc")
def test_orthanc_killed_in_the_middle_gets_every_image_once(box: Box, tmp_path: Path) -> None:
    own = Orthanc(tmp_path / "own")
    try:
        port = own.dicom_port
        with SenderProcess(box.data, [to_orthanc(own, commitment="off")]) as sender:
            box.put(range(40), ["orthanc"], size=64)
            sender.wake()
            until(lambda: box.counts("orthanc").get("COMMITTED", 0) >= 5)
            own.kill()
            box.put(range(40, 50), ["orthanc"], size=64)
            until(lambda: box.journal.status()["orthanc"].down_since is not None)
            own.start(dicom_port=port)
            until(lambda: box.counts("orthanc") == {"COMMITTED": 50}, 30)
        assert own.instances() == [uid(i) for i in range(50)]
    finally:
        own.kill()


@pytest.mark.peer("orthanc")
def test_what_orthanc_lost_is_found_out_by_commitment(box: Box, tmp_path: Path) -> None:
    """Over its quota it deletes the oldest patients and still answers Success: no spool file may go for that."""
    own = Orthanc(tmp_path / "own", MaximumPatientCount=1)
    try:
        where = to_orthanc(own, commitment="require", max_attempts=2, associations=1)
        for i in range(3):
            box.put([i], ["orthanc"], patient=f"P{i}")
        with SenderProcess(box.data, [where], ["--commit-port", "0"]):
            open_door(box, own)
            until(lambda: {"QUEUED", "SENT"}.isdisjoint(box.counts("orthanc")), 30)
            until(lambda: len(box.spooled()) == box.counts("orthanc")["DEAD"])
        errors = [d.last_error for d in box.journal.deliveries() if d.state == "DEAD"]
        assert errors
        assert all("does not vouch for it: 0x0112" in e for e in errors)
    finally:
        own.kill()


# DCMTK


@pytest.mark.peer("dcmtk")
def test_storescp_gets_all_though_it_takes_one_association_at_a_time(box: Box, storescp: StoreScps) -> None:
    peer = storescp()
    box.put(range(30), ["scp"], size=128)
    with SenderProcess(box.data, [to_scp(peer, timeout_s=1)]):
        until(lambda: box.counts("scp") == {"COMMITTED": 30})
        assert box.journal.status()["scp"].down_since is None
    assert {d.evidence for d in box.journal.deliveries()} == {"store-status"}
    assert len(list(peer.folder.iterdir())) == 30


@pytest.mark.peer("dcmtk")
def test_storescp_that_refuses_associations(storescp: StoreScps) -> None:
    with pytest.raises(UnreachableError, match="rejected: no reason given"):
        connect(to_scp(storescp("--refuse")))


@pytest.mark.peer("dcmtk")
@pytest.mark.parametrize("flag", ["--abort-after", "--abort-during"])
def test_storescp_that_aborts_every_association_ends_in_a_dead_letter(box: Box, storescp: StoreScps, flag: str) -> None:
    peer = storescp(flag)
    box.put([0], ["scp"])
    began = time.monotonic()
    with SenderProcess(box.data, [to_scp(peer, max_attempts=3, timeout_s=5)]):
        until(lambda: box.counts("scp") == {"DEAD": 1})
    assert time.monotonic() - began < 8, "an abort is seen at once, not after a timeout"
    (d,) = box.journal.deliveries()
    assert d.attempts == 3
    assert "attempt 3, the last" in d.last_error
    assert len(box.spooled()) == 1


@pytest.mark.peer("dcmtk")
def test_storescp_that_sleeps_longer_than_we_wait(box: Box, storescp: StoreScps) -> None:
    peer = storescp("--sleep-during", "3")
    box.put([0], ["scp"])
    (d,) = box.journal.deliveries()
    link = connect(to_scp(peer, timeout_s=0.5))
    with pytest.raises(BrokenLinkError, match=r"silence for 0\.5 s"):
        link.store(d)
    link.abort()


@pytest.mark.peer("dcmtk")
def test_storescp_of_implicit_little_endian_only(box: Box, storescp: StoreScps) -> None:
    peer = storescp("+xi")
    box.put([0], ["scp"])
    (d,) = box.journal.deliveries()
    link = connect(to_scp(peer))
    assert link.store(d) == "store-status"
    link.close()
    until(lambda: list(peer.folder.iterdir()))
    (kept,) = peer.folder.iterdir()
    assert kept.read_bytes().endswith(bytes(split(dicom(0), "x").data)[-2048:])


@pytest.mark.peer("dcmtk")
def test_three_destinations_one_healthy(box: Box, storescp: StoreScps) -> None:
    where = [
        to_scp(storescp(), name="healthy"),
        to_scp(storescp("--refuse"), name="refuses"),
        to_scp(storescp("--abort-after"), name="aborts", max_attempts=2),
    ]
    box.put(range(10), [d.name for d in where])
    with SenderProcess(box.data, where):
        until(lambda: box.counts("healthy") == {"COMMITTED": 10})
        until(lambda: box.counts("aborts").get("DEAD", 0) >= 1)
        assert box.counts("refuses") == {"QUEUED": 10}
    assert len(box.spooled()) == 10
