"""Programs of other projects that we are tested against, each in a network of its own (a pytest plugin).

They listen on all addresses of their network, so they get one with nothing but a loopback; doors forward the
ports that a test needs to 127.0.0.1. A missing program skips the test with the reason; with
``ISOCENTER_REQUIRE_PEERS=1`` it fails.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SYSTEM_PATH = "/usr/bin:/usr/sbin:/usr/local/bin:/usr/local/sbin:/bin:/sbin"
"""Searched first: a virtual environment may hold namesakes (pynetdicom has its own storescp)."""
PROGRAMS = {
    "orthanc": ["Orthanc", "unshare", "ip"],
    "dcmtk": ["storescp", "storescu", "unshare", "ip"],
    "dciodvfy": ["dciodvfy"],
    "bart": ["bart"],
    "g++": ["g++"],
    "chromium": ["chromium"],
}
_CLONE_NEWNET = 0x40000000


def program(name: str) -> str | None:
    """Return the path of an installed program, or None."""
    return shutil.which(name, path=f"{SYSTEM_PATH}:{os.environ.get('PATH', '')}")


def missing(reason: str) -> None:
    """Skip the running test, or fail it where peers are required."""
    if os.environ.get("ISOCENTER_REQUIRE_PEERS") == "1":
        pytest.fail(f"required peer: {reason}")
    pytest.skip(reason)


def require(peer: str) -> None:
    """Skip (or fail) the running test unless all programs of `peer` are there."""
    for name in PROGRAMS[peer]:
        if program(name) is None:
            missing(f"{name} is not installed (`make peers` installs it on Debian as root)")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Honour ``@pytest.mark.peer("orthanc")``."""
    for mark in item.iter_markers("peer"):
        for name in mark.args:
            require(name)


class Network:
    """A program in a network namespace of its own, with a loopback and nothing else."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._log = log.open("wb")
        script = "ip link set lo up && exec " + " ".join(f"'{part}'" for part in command)
        self.process = subprocess.Popen(
            [program("unshare") or "unshare", "-n", "sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PATH": SYSTEM_PATH},
        )
        self._log_path, self._doors = log, contextlib.ExitStack()
        self._namespace: int | None = None

    def inside(self, work: Callable[[], Any]) -> Any:
        """Run `work` in a thread that has entered the network; return its result."""
        outcome: list[Any] = []

        def enter() -> None:
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(self.namespace, _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
                outcome.append(work())
            except OSError as error:
                outcome.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if isinstance(outcome[0], OSError):
            raise outcome[0]
        return outcome[0]

    @property
    def namespace(self) -> int:
        """File descriptor of the network; skips the test where there may be none."""
        own, deadline = Path("/proc/self/ns/net").readlink(), time.monotonic() + 5
        while self._namespace is None:
            path = Path(f"/proc/{self.process.pid}/ns/net")
            with contextlib.suppress(OSError):
                if path.readlink() != own:
                    self._namespace = os.open(path, os.O_RDONLY)
                    break
            if self.process.poll() is not None or time.monotonic() > deadline:
                text = self._log_path.read_text(errors="replace").strip()
                missing(f"no network namespace of its own (needs root): {text[-200:]}")
            time.sleep(0.01)
        return self._namespace

    def connect(self, port: int) -> socket.socket:
        """Connect to a port inside."""
        return self.inside(lambda: socket.create_connection(("127.0.0.1", port), timeout=10))

    def wait_for(self, port: int, timeout_s: float = 20.0) -> None:
        """Wait until the program listens."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self.connect(port).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    text = self._log_path.read_text(errors="replace")
                    raise RuntimeError(f"{self.process.args} does not listen: {text[-2000:]}") from None
                time.sleep(0.05)

    def door_in(self, inner: int, outer: int = 0) -> int:
        """Forward a port of ours (0: a free one) to a port inside; return ours."""
        server = socket.create_server(("127.0.0.1", outer))
        return self._doors.enter_context(door(server, lambda: self.connect(inner)))

    def door_out(self, inner: int, outer: int) -> None:
        """Forward a port inside to a port of ours."""
        server = self.inside(lambda: socket.create_server(("127.0.0.1", inner)))
        self._doors.enter_context(door(server, lambda: socket.create_connection(("127.0.0.1", outer), timeout=10)))

    def close(self) -> None:
        """Kill the program and close all doors."""
        self._doors.close()
        self.process.kill()
        self.process.wait()
        if self._namespace is not None:
            os.close(self._namespace)
            self._namespace = None
        self._log.close()


@contextlib.contextmanager
def door(server: socket.socket, connect: Callable[[], socket.socket]) -> Iterator[int]:
    """Forward every connection that `server` gets to one that `connect` makes; gives the server's port."""
    stopping = threading.Event()
    pumps: list[threading.Thread] = []

    def attend() -> None:
        while not stopping.is_set():
            if select.select([server], [], [], 0.05)[0]:
                client, _ = server.accept()
                pumps.append(threading.Thread(target=_pump, args=(client, connect, stopping), daemon=True))
                pumps[-1].start()

    thread = threading.Thread(target=attend, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        stopping.set()
        for t in (thread, *pumps):
            t.join(5)
        server.close()


def _pump(client: socket.socket, connect: Callable[[], socket.socket], stopping: threading.Event) -> None:
    with client:
        try:
            peer = connect()
        except OSError:
            return
        with peer:
            other = {client: peer, peer: client}
            for end in other:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while not stopping.is_set():
                for end in select.select([client, peer], [], [], 0.05)[0]:
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                    try:
                        data = end.recv(1 << 16)
                        other[end].sendall(data)
                    except OSError:
                        return
                    if not data:
                        return


class Orthanc:
    """A real archive. It knows us as ISOCENTER and sends commitment reports to the door `report_to` opens."""

    ae_title = "ORTHANC"
    _DICOM, _HTTP, _REPORT = 14242, 18042, 11114

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        us = {"AET": "ISOCENTER", "Host": "127.0.0.1", "Port": self._REPORT, "AllowStorageCommitment": True}
        config = {
            "Name": "peer",
            "StorageDirectory": str(folder / "db"),
            "IndexDirectory": str(folder / "db"),
            "DicomAet": self.ae_title,
            "DicomPort": self._DICOM,
            "DicomCheckCalledAet": True,
            "HttpPort": self._HTTP,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomModalities": {"isocenter": us},
            "HttpTimeout": 10,
        }
        (folder / "orthanc.json").write_text(json.dumps(config | settings))
        self.start()

    def start(self, dicom_port: int = 0) -> None:
        """Start it, at `dicom_port` or at a free port of ours."""
        command = [program("Orthanc") or "Orthanc", str(self.folder / "orthanc.json")]
        self.network = Network(command, self.folder / "orthanc.log")
        self.network.wait_for(self._HTTP)
        self.network.wait_for(self._DICOM)
        self.http_port = self.network.door_in(self._HTTP)
        self.dicom_port = self.network.door_in(self._DICOM, dicom_port)
        self.url = f"http://127.0.0.1:{self.http_port}"

    def report_to(self, port: int) -> None:
        """Let its storage commitment reports arrive at our `port`."""
        self.network.door_out(self._REPORT, port)

    def kill(self) -> None:
        """End it as a power cut would; `start` brings it back with its data."""
        self.network.close()

    def get(self, path: str) -> Any:
        """GET from its REST interface; JSON is decoded, all else is bytes."""
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            body = answer.read()
            return json.loads(body) if "json" in answer.headers.get("Content-Type", "") else body

    def instances(self) -> list[str]:
        """SOP instance UIDs of all it keeps."""
        found = self.get("/instances?expand") or []
        return sorted(i["MainDicomTags"]["SOPInstanceUID"] for i in found)

    def file(self, sop_uid: str) -> bytes:
        """Return one object as a DICOM file."""
        found = self._post("/tools/lookup", sop_uid.encode())
        return self.get(f"/instances/{found[0]['ID']}/file")

    def clear(self) -> None:
        """Delete all it keeps."""
        for patient in self.get("/patients"):
            request = urllib.request.Request(f"{self.url}/patients/{patient}", method="DELETE")
            urllib.request.urlopen(request, timeout=10).close()

    def _post(self, path: str, body: bytes) -> Any:
        request = urllib.request.Request(self.url + path, data=body, method="POST")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())


class StoreScp:
    """DCMTK's storescp, with flags (``--refuse``, ``--abort-after``, ``--sleep-after 3`` ...)."""

    ae_title = "STORESCP"
    _PORT = 11112

    def __init__(self, folder: Path, *flags: str) -> None:
        self.folder = folder / "received"
        self.folder.mkdir(parents=True)
        command = [program("storescp") or "storescp", *flags, "-od", str(self.folder), str(self._PORT)]
        self.network = Network(command, folder / "storescp.log")
        self.network.wait_for(self._PORT)
        self.port = self.network.door_in(self._PORT)


@pytest.fixture(scope="session")
def _orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    require("orthanc")
    peer = Orthanc(tmp_path_factory.mktemp("orthanc"))
    yield peer
    peer.kill()


@pytest.fixture
def orthanc(_orthanc: Orthanc) -> Orthanc:
    """A running Orthanc, empty."""
    with contextlib.suppress(urllib.error.URLError):
        _orthanc.clear()
    if _orthanc.network.process.poll() is not None:
        _orthanc.start()
        _orthanc.clear()
    return _orthanc


@pytest.fixture
def storescp(tmp_path: Path) -> Iterator[Callable[..., StoreScp]]:
    """Start DCMTK's storescp with the given flags; all end with the test."""
    require("dcmtk")
    started: list[StoreScp] = []

    def start(*flags: str) -> StoreScp:
        started.append(StoreScp(tmp_path / f"storescp{len(started)}", *flags))
        return started[-1]

    yield start
    for peer in started:
        peer.network.close()
