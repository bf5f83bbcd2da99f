"""The embedded archive keeps what it says it keeps, where it should, and vouches only for what it can read."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom import AE

from acquisition.errors import SetupError
from integration.delivery.link import BrokenLinkError, PermanentError, TransientError, UnreachableError
from integration.delivery.rows import Delivery
from integration.dicom.archive import DIFFERENT_BYTES, OUT_OF_RESOURCES, SUCCESS, Archive, Folder, main, safe_name
from integration.dicom.part10 import split
from integration.dicom.scu import connect
from tests.integration.delivery_samples import MR, Box, destination, dicom, settled, uid, until
from tests.peers import program

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "archive", reserve_bytes=0)


@pytest.fixture
def server(folder: Folder) -> Iterator[int]:
    archive = Archive(folder)
    archive._ae.acse_timeout = 0.3
    yield archive.start("127.0.0.1", 0)
    settled()
    archive.stop()
    settled()


def deliveries(tmp_path: Path, n: int, **options: object) -> list[Delivery]:
    box = Box(tmp_path / "box")
    box.put(range(n), ["pacs"], **options)
    found = box.journal.deliveries()
    box.journal.close()
    return found


def files(folder: Folder) -> list[str]:
    return sorted(str(p.relative_to(folder.directory)) for p in folder.directory.rglob("*") if p.is_file())


# The folder


def test_an_object_lies_under_patient_and_series(folder: Folder) -> None:
    assert folder.store(MR, uid(1), dicom(1)) == (SUCCESS, "")
    assert files(folder) == [f"P1/2.25.2/{uid(1)}.dcm"]
    assert (folder.directory / files(folder)[0]).read_bytes() == dicom(1)


@pytest.mark.parametrize(
    "patient", ["../../../etc", "..", ".", "a/b", "a\\b", "/etc/passwd", "", "x" * 60, "Ä Ö", "a b"]
)
def test_no_patient_identifier_leads_out_of_the_folder(folder: Folder, patient: str) -> None:
    assert folder.store(MR, uid(1), dicom(1, patient=patient))[0] == SUCCESS
    (found,) = folder.directory.rglob("*.dcm")
    assert len(found.relative_to(folder.directory).parts) == 3
    assert found.resolve().is_relative_to(folder.directory.resolve())
    assert list(folder.directory.parent.iterdir()) == [folder.directory]


@given(st.text(max_size=80), st.text(max_size=80))
def test_names_are_safe_and_distinct(one: str, other: str) -> None:
    name = safe_name(one)
    assert name
    assert name not in (".", "..")
    assert not set(name) & set("/\\\0: ")
    assert len(name.encode()) <= 80
    if one != other:
        assert name != safe_name(other)


def test_the_same_object_again_is_success_and_kept_once(folder: Folder) -> None:
    assert [folder.store(MR, uid(1), dicom(1))[0] for _ in range(3)] == [SUCCESS] * 3
    assert len(files(folder)) == 1


def test_other_bytes_of_the_same_uid_are_refused_even_under_another_patient(folder: Folder) -> None:
    folder.store(MR, uid(1), dicom(1))
    status, comment = folder.store(MR, uid(1), dicom(1, patient="P2"))
    assert status == DIFFERENT_BYTES
    assert "another object" in comment
    assert (folder.directory / f"P1/2.25.2/{uid(1)}.dcm").read_bytes() == dicom(1)
    assert len(files(folder)) == 1


def test_an_object_that_is_not_what_the_command_says_is_refused(folder: Folder) -> None:
    assert folder.store(MR, uid(2), dicom(1))[0] == 0xA900
    assert folder.store("1.2.3", uid(1), dicom(1))[0] == 0xA900
    assert folder.store(MR, uid(1), b"junk")[0] == 0xC000
    assert files(folder) == []


def test_below_the_watermark_it_takes_nothing(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "archive", reserve_bytes=1 << 62)
    assert folder.store(MR, uid(1), dicom(1)) == (OUT_OF_RESOURCES, "archive is out of disk space")
    assert files(folder) == []
    assert folder.vouch(MR, uid(1)) == 0x0112


def test_it_vouches_only_for_what_it_can_read(folder: Folder) -> None:
    for i in range(4):
        folder.store(MR, uid(i), dicom(i))
    paths = [folder.directory / f"P1/2.25.2/{uid(i)}.dcm" for i in range(4)]
    paths[1].unlink()
    paths[2].write_bytes(b"")
    paths[3].write_bytes(dicom(2))
    assert [folder.vouch(MR, uid(i)) for i in range(5)] == [None, 0x0112, 0x0110, 0x0110, 0x0112]
    assert folder.vouch("1.2.840.10008.5.1.4.1.1.2", uid(0)) == 0x0119


def test_a_restarted_archive_knows_what_it_kept(folder: Folder) -> None:
    folder.store(MR, uid(1), dicom(1))
    again = Folder(folder.directory, reserve_bytes=0)
    assert again.vouch(MR, uid(1)) is None
    assert again.store(MR, uid(1), dicom(1))[0] == SUCCESS
    assert again.store(MR, uid(1), dicom(1, patient="P2"))[0] == DIFFERENT_BYTES


def test_many_at_once_keep_one(folder: Folder) -> None:
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(folder.store(MR, uid(1), dicom(1))[0])) for _ in range(8)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert statuses == [SUCCESS] * 8
    assert len(files(folder)) == 1


# The server


def test_store_echo_and_commitment_on_one_association(server: int, folder: Folder, tmp_path: Path) -> None:
    sent = deliveries(tmp_path, 5)
    link = connect(destination(port=server))
    link.echo()
    assert link.offers_commitment
    for d in sent[:4]:
        link.store(d)
    link.request_commitment("2.25.42", sent)
    report = link.await_report(5)
    assert report is not None
    assert (report.transaction_uid, report.kept) == ("2.25.42", {d.sop_uid for d in sent[:4]})
    assert report.failed == {sent[4].sop_uid: 0x0112}
    link.store(sent[4])
    link.request_commitment("2.25.43", sent)
    report = link.await_report(5)
    assert report is not None and (len(report.kept), report.failed) == (5, {})
    link.close()
    for d in sent:
        path = folder.directory / f"P1/2.25.2/{d.sop_uid}.dcm"
        assert bytes(split(path.read_bytes(), "a").data) == bytes(split(Path(d.path).read_bytes(), "b").data)


def test_full_and_different_are_told_apart_over_the_wire(server: int, folder: Folder, tmp_path: Path) -> None:
    (first,) = deliveries(tmp_path / "1", 1)
    (other,) = deliveries(tmp_path / "2", 1, patient="P2")
    link = connect(destination(port=server))
    folder._disk.reserve_bytes = 1 << 62
    with pytest.raises(TransientError, match="0xA700 archive is out of disk space"):
        link.store(first)
    folder._disk.reserve_bytes = 0
    link.store(first)
    with pytest.raises(PermanentError, match="0xC001 another object of this SOP instance UID"):
        link.store(other)
    link.close()


def test_a_wrong_called_title_is_rejected(server: int) -> None:
    with pytest.raises(UnreachableError, match="called AE title not recognised"):
        connect(destination(port=server, ae_title="WRONG"))


def test_deflated_objects_are_not_negotiated(server: int) -> None:
    ae = AE()
    ae.add_requested_context(MR, "1.2.840.10008.1.2.1.99")
    assoc = ae.associate("127.0.0.1", server, ae_title="ISOARCHIVE")
    assert not assoc.is_established or not assoc.accepted_contexts
    assoc.abort()


def test_pynetdicom_s_own_client_is_served(server: int, folder: Folder, tmp_path: Path) -> None:
    (d,) = deliveries(tmp_path, 1)
    ae = AE()
    ae.add_requested_context(MR, "1.2.840.10008.1.2.1")
    assoc = ae.associate("127.0.0.1", server, ae_title="ISOARCHIVE")
    assert assoc.send_c_store(d.path).Status == 0
    assoc.release()
    assert len(files(folder)) == 1


@pytest.mark.peer("dcmtk")
def test_dcmtk_s_clients_are_served(server: int, folder: Folder, tmp_path: Path) -> None:
    sent = deliveries(tmp_path, 3)
    call = ["-aec", "ISOARCHIVE", "127.0.0.1", str(server)]
    for command in ([program("echoscu"), *call], [program("storescu"), *call, *(d.path for d in sent)]):
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert result.returncode == 0, result.stderr
    assert files(folder) == [f"P1/2.25.2/{d.sop_uid}.dcm" for d in sent]


def test_garbage_and_half_open_connections_disturb_nobody(server: int, tmp_path: Path) -> None:
    (d,) = deliveries(tmp_path, 1)
    for words in (b"GET / HTTP/1.1\r\n\r\n", b"\x01\0\xff\xff\xff\xff", b"\x04" * 40, b""):
        with socket.create_connection(("127.0.0.1", server)) as client:
            client.sendall(words)
    with socket.create_connection(("127.0.0.1", server)):
        link = connect(destination(port=server))
        link.store(d)
        link.close()


def test_a_busy_port_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(SetupError, match=f"archive at 127.0.0.1:{port}: expected a free port"):
            Archive(Folder(tmp_path, reserve_bytes=0)).start("127.0.0.1", port)


# The process


def launch(folder: Path, *options: str) -> tuple[subprocess.Popen[bytes], int]:
    ready = folder / "ready.json"
    ready.unlink(missing_ok=True)
    command = [sys.executable, "-m", "integration.dicom.archive", "--dir", str(folder / "archive"), "--port", "0"]
    process = subprocess.Popen([*command, "--ready-file", str(ready), "--reserve-mb", "0", *options], cwd=ROOT)
    until(lambda: ready.exists() or process.poll() is not None)
    assert process.poll() is None
    return process, json.loads(ready.read_text())["port"]


def test_the_process_survives_nothing_but_its_files_do(tmp_path: Path) -> None:
    sent = deliveries(tmp_path, 30)
    process, port = launch(tmp_path)
    acknowledged: list[str] = []

    def send() -> None:
        link = connect(destination(port=port))
        try:
            for d in sent:
                link.store(d)
                acknowledged.append(d.sop_uid)
        except BrokenLinkError:
            pass
        link.abort()

    thread = threading.Thread(target=send)
    thread.start()
    until(lambda: len(acknowledged) > 5)
    process.kill()
    process.wait()
    thread.join()
    folder = Folder(tmp_path / "archive", reserve_bytes=0)
    assert [folder.vouch(MR, u) for u in acknowledged] == [None] * len(acknowledged)
    process, port = launch(tmp_path)
    link = connect(destination(port=port))
    for d in sent:
        link.store(d)
    link.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0
    assert len(list((tmp_path / "archive").rglob("*.dcm"))) == 30


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-m', 'integration.dicom.archive', '--dir', sys.argv[1], '--port', '0',"
        " '--ready-file', sys.argv[2], '--exit-with-parent'])\n"
        "time.sleep(60)\n"
    )
    ready = tmp_path / "ready.json"
    parent = subprocess.Popen([sys.executable, "-c", script, tmp_path / "archive", ready], cwd=ROOT)
    until(ready.exists)
    pid = json.loads(ready.read_text())["pid"]
    parent.kill()
    parent.wait()
    until(lambda: gone(pid))


def gone(pid: int) -> bool:
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0]
    except OSError:
        return True


def test_a_busy_port_ends_the_process_with_a_message(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        code = main(["--dir", str(tmp_path / "a"), "--port", str(busy.getsockname()[1])])
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])
    assert code == 1
    assert "expected a free port" in caplog.text
