"""Our sending side against archives of all tempers: pynetdicom's, bare sockets that misbehave."""

from __future__ import annotations

import io
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless
from pynetdicom import AE, build_role, evt

from integration.delivery.destination import Destination
from integration.delivery.link import BrokenLinkError, PermanentError, TransientError, UnreachableError
from integration.delivery.rows import Delivery
from integration.delivery.spool import digest
from integration.dicom.commit import PUSH_MODEL, listen
from integration.dicom.fastsocket import serve
from integration.dicom.negotiate import STORAGE_CLASSES, Agreement
from integration.dicom.part10 import split, to_implicit
from integration.dicom.scu import Association, connect, judge
from tests.integration.delivery_samples import MR, Box, destination, dicom, settled, uid

Server = Callable[..., Destination]

# pynetdicom's reactor threads raise when an association is aborted from both ends at once.
pytestmark = pytest.mark.filterwarnings("ignore:Exception in thread:pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture
def delivery(tmp_path: Path) -> Delivery:
    box = Box(tmp_path / "box")
    box.put([1], ["pacs"], size=128)
    (found,) = box.journal.deliveries()
    box.journal.close()
    return found


@pytest.fixture
def scp() -> Iterator[Server]:
    """Start a pynetdicom SCP with handlers; `syntaxes` and `classes` say what it accepts."""
    running: list[AE] = []

    def start(
        *handlers: tuple[Any, ...],
        classes: tuple[str, ...] = (MR,),
        syntaxes: tuple[str, ...] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
        commitment: bool = False,
        **changes: object,
    ) -> Destination:
        ae = AE(ae_title="ISOARCHIVE")
        ae.require_called_aet = True
        ae.add_supported_context("1.2.840.10008.1.1")
        for c in classes:
            ae.add_supported_context(c, list(syntaxes))
        if commitment:
            ae.add_supported_context(PUSH_MODEL)
        running.append(ae)
        return destination(port=serve(ae, ("127.0.0.1", 0), list(handlers)).server_address[1], **changes)

    yield start
    settled()
    for ae in running:
        ae.shutdown()
    settled()


@pytest.fixture
def bare() -> Iterator[Server]:
    """Start a TCP server whose behaviour on each connection is a function."""
    stopping, threads, servers = threading.Event(), [], []

    def start(behaviour: Callable[[socket.socket], None], **changes: object) -> Destination:
        server = socket.create_server(("127.0.0.1", 0))
        server.settimeout(0.05)
        servers.append(server)

        def attend() -> None:
            while not stopping.is_set():
                try:
                    client, _ = server.accept()
                except TimeoutError:
                    continue
                with client:
                    client.settimeout(3)
                    behaviour(client)

        threads.append(threading.Thread(target=attend, daemon=True))
        threads[-1].start()
        return destination(port=server.getsockname()[1], **({"timeout_s": 0.3} | changes))

    yield start
    stopping.set()
    for t in threads:
        t.join(5)
    for s in servers:
        s.close()


def kept(into: list[bytes], status: int | Dataset = 0) -> tuple[Any, ...]:
    def take(event: evt.Event) -> int | Dataset:
        into.append(event.encoded_dataset())
        return status

    return (evt.EVT_C_STORE, take)


def test_the_bytes_arrive_as_they_were_spooled(scp: Server, delivery: Delivery) -> None:
    got: list[bytes] = []
    link = connect(scp(kept(got)), [delivery])
    assert link.carries(delivery)
    assert link.alive
    link.echo()
    assert [link.store(delivery) for _ in range(3)] == ["store-status"] * 3
    link.close()
    sent = split(Path(delivery.path).read_bytes(), "sent")
    assert [bytes(split(g, "got").data) for g in got] == [bytes(sent.data)] * 3
    assert {split(g, "got").transfer_syntax for g in got} == {ExplicitVRLittleEndian}


def test_an_archive_of_implicit_little_endian_only_gets_the_same_content(scp: Server, delivery: Delivery) -> None:
    got: list[bytes] = []
    link = connect(scp(kept(got), syntaxes=(ImplicitVRLittleEndian,)))
    link.store(delivery)
    link.close()
    ours, theirs = dcmread(delivery.path), dcmread(io.BytesIO(got[0]))
    assert theirs.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    assert theirs.PixelData == ours.PixelData
    assert {e.keyword: str(e.value) for e in theirs if e.keyword != "PixelData"} == {
        e.keyword: str(e.value) for e in ours if e.keyword != "PixelData"
    }


def test_implicit_encoding_is_lossless() -> None:
    stored = split(dicom(1), "x")
    assert to_implicit(stored).transfer_syntax == ImplicitVRLittleEndian
    assert bytes(to_implicit(stored).data).endswith(bytes(stored.data)[-2048:])


def test_a_refused_sop_class_is_permanent_and_named(scp: Server, delivery: Delivery) -> None:
    link = connect(scp(kept([]), classes=("1.2.840.10008.5.1.4.1.1.2",)))
    with pytest.raises(PermanentError, match=r"takes MR Image in transfer syntax .*pacs refuses it.*then resend"):
        link.store(delivery)
    assert link.alive
    link.close()


def test_a_compressed_kind_is_asked_for_when_it_is_needed(scp: Server, delivery: Delivery, tmp_path: Path) -> None:
    data = bytearray(Path(delivery.path).read_bytes())
    ds = dcmread(io.BytesIO(data))
    ds.file_meta.TransferSyntaxUID = JPEGLSLossless
    path = tmp_path / "c.dcm"
    with path.open("wb") as file:
        file.write(b"\0" * 128 + b"DICM")
        write_file_meta_info(file, ds.file_meta)
        file.write(bytes(split(bytes(data), "x").data))
    other = replace(delivery, path=str(path), sha256=digest(path.read_bytes()))
    got: list[bytes] = []
    where = scp(kept(got), syntaxes=(ExplicitVRLittleEndian, JPEGLSLossless))
    plain = connect(where)
    assert not plain.carries(other)
    plain.close()
    link = connect(where, [other])
    assert link.carries(other)
    link.store(other)
    link.close()
    assert split(got[0], "x").transfer_syntax == JPEGLSLossless


@pytest.mark.parametrize(
    ("status", "kind"),
    [(0xA700, TransientError), (0xA801, TransientError), (0x0110, TransientError), (0xA900, PermanentError),
     (0xC123, PermanentError), (0x0122, PermanentError), (0x0124, PermanentError), (0x0117, PermanentError)],
)  # fmt: skip
def test_refusals_are_judged(scp: Server, delivery: Delivery, status: int, kind: type[Exception]) -> None:
    answer = Dataset()
    answer.Status, answer.ErrorComment = status, "because"
    link = connect(scp(kept([], answer)))
    with pytest.raises(kind, match=f"status 0x{status:04X} because from pacs") as caught:
        link.store(delivery)
    assert not isinstance(caught.value, BrokenLinkError)
    link.echo()
    link.close()


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007, 0x0111, 0x0107])
def test_warnings_are_kept_as_evidence(delivery: Delivery, status: int) -> None:
    assert judge(delivery, status, "") == f"store-status 0x{status:04X}"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.unlink(), "expected its file in the spool"),
        (lambda p: p.write_bytes(p.read_bytes()[:-2]), "a damaged file"),
        (lambda p: p.write_bytes(b""), "a damaged file"),
    ],
)
def test_a_spool_file_that_is_not_what_it_was_is_never_sent(
    scp: Server, delivery: Delivery, damage: Callable[[Path], object], message: str
) -> None:
    got: list[bytes] = []
    damage(Path(delivery.path))
    link = connect(scp(kept(got)), [delivery])
    with pytest.raises(PermanentError, match=message):
        link.store(delivery)
    link.close()
    assert got == []


def test_a_file_of_another_uid_is_never_sent(scp: Server, delivery: Delivery) -> None:
    link = connect(scp(kept([])))
    with pytest.raises(PermanentError, match="its own UID in the file"):
        link.store(replace(delivery, sop_uid=uid(2)))
    link.close()


@pytest.mark.parametrize(
    "data", [b"", b"x" * 200, b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM\x02\0\0\0UL\x04\0\xff\xff"]
)
def test_what_is_no_dicom_file_is_said(data: bytes) -> None:
    with pytest.raises(PermanentError, match="a DICOM file with its meta header"):
        split(data, "x")


# Peers that break off


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UnreachableError, match=rf"pacs \(ISOARCHIVE at 127\.0\.0\.1:{port}\): .*refused"):
        connect(destination(port=port))


def test_a_wrong_called_title_is_named(scp: Server) -> None:
    with pytest.raises(UnreachableError, match="rejected: called AE title not recognised"):
        connect(scp(kept([]), ae_title="SOMEONE"))


def test_it_listens_but_never_answers(bare: Server) -> None:
    began = time.monotonic()
    with pytest.raises(UnreachableError, match=r"silence for 0\.3 s"):
        connect(bare(lambda client: time.sleep(0.6)))
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "type 72"),
        (struct.pack(">BxLxBBB", 3, 4, 2, 3, 2), "rejected: local limit exceeded"),
        (struct.pack(">BxLxBBB", 3, 4, 1, 9, 9), "source 9, reason 9"),
        (struct.pack(">BxL4x", 7, 4), "got ABORT"),
        (struct.pack(">BxL", 2, 40) + b"\xff" * 40, "ASSOCIATE_AC of 40 bytes"),
        (struct.pack(">BxL", 2, 4) + b"abcd", "ASSOCIATE_AC of 4 bytes"),
        (struct.pack(">BxL", 2, 70) + b"\xff" * 70, "cut short"),
        (struct.pack(">BxL68xBxH2x", 2, 74, 0x50, 9), "cut short"),
        (b"", "closed|reset"),
    ],
)
def test_odd_answers_to_an_association_request(bare: Server, words: bytes, message: str) -> None:
    def answer(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(words)

    with pytest.raises(UnreachableError, match=message):
        connect(bare(answer))


def abort(event: evt.Event) -> int:
    event.assoc.abort()
    return 0


def test_an_abort_under_an_image_is_seen_at_once(scp: Server, delivery: Delivery) -> None:
    link = connect(scp((evt.EVT_C_STORE, abort)))
    began = time.monotonic()
    with pytest.raises(BrokenLinkError, match=r"got ABORT|closed|reset"):
        link.store(delivery)
    assert time.monotonic() - began < 1
    assert not link.alive
    link.abort()


def test_a_slow_archive_runs_into_the_timeout(scp: Server, delivery: Delivery) -> None:
    def sleep(event: evt.Event) -> int:
        time.sleep(1)
        return 0

    link = connect(scp((evt.EVT_C_STORE, sleep), timeout_s=0.3))
    with pytest.raises(BrokenLinkError, match=r"silence for 0\.3 s"):
        link.store(delivery)
    began = time.monotonic()
    link.abort()
    assert time.monotonic() - began < 0.5


def test_release_does_not_wait_for_an_archive_that_is_gone(bare: Server) -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(0.2)
    link = Association(ours, Agreement(max_pdu=0, offered=frozenset(), accepted={}))  # type: ignore[arg-type]
    began = time.monotonic()
    link.close()
    assert time.monotonic() - began < 1
    theirs.close()


def test_a_release_by_the_archive_is_noticed_before_sending(scp: Server) -> None:
    where = scp((evt.EVT_C_ECHO, lambda e: 0))
    link = connect(where)
    assert link.alive
    (server_side,) = [t for t in threading.enumerate() if "AcceptorThread" in t.name]
    server_side.abort()
    assert not link.alive
    link.abort()


def test_all_our_kinds_fit_into_one_association() -> None:
    assert 2 * len(STORAGE_CLASSES) + 2 + 3 * 8 <= 128


# Commitment


def test_a_report_on_an_association_of_its_own_arrives_at_our_door() -> None:
    reports: list[Any] = []
    ae, port = listen(("127.0.0.1", 0), "ISOCENTER", reports.append)
    peer = AE("ARCHIVE")
    peer.add_requested_context(PUSH_MODEL)
    assoc = peer.associate("127.0.0.1", port, ae_title="ISOCENTER", ext_neg=[build_role(PUSH_MODEL, scp_role=True)])
    assert assoc.is_established
    report = Dataset()
    report.TransactionUID, report.ReferencedSOPSequence, report.FailedSOPSequence = "2.25.5", [Dataset()], [Dataset()]
    report.ReferencedSOPSequence[0].ReferencedSOPClassUID = report.FailedSOPSequence[0].ReferencedSOPClassUID = MR
    report.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = uid(1)
    report.FailedSOPSequence[0].ReferencedSOPInstanceUID, report.FailedSOPSequence[0].FailureReason = uid(2), 0x0112
    status, _ = assoc.send_n_event_report(report, 2, PUSH_MODEL, "1.2.840.10008.1.20.1.1")
    assert status.Status == 0
    nonsense = Dataset()
    nonsense.PatientID = "x"
    status, _ = assoc.send_n_event_report(nonsense, 2, PUSH_MODEL, "1.2.840.10008.1.20.1.1")
    assert status.Status == 0x0110
    assoc.release()
    ae.shutdown()
    (got,) = reports
    assert (got.transaction_uid, got.kept, got.failed) == ("2.25.5", {uid(1)}, {uid(2): 0x0112})


def test_a_refused_commitment_request_is_transient(scp: Server, delivery: Delivery) -> None:
    where = scp((evt.EVT_N_ACTION, lambda e: (0x0110, None)), commitment=True)
    link = connect(where)
    assert link.offers_commitment
    with pytest.raises(TransientError, match="status 0x0000, got 0x0110"):
        link.request_commitment("2.25.9", [delivery])
    assert link.await_report(0.01) is None
    link.close()


def test_without_the_service_there_is_no_request(scp: Server, delivery: Delivery) -> None:
    link = connect(scp(kept([])))
    assert not link.offers_commitment
    with pytest.raises(TransientError, match="not accepted"):
        link.request_commitment("2.25.9", [delivery])
    link.close()
