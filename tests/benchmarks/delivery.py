"""Delivery: images per second against pynetdicom as shipped, and the time from the spool to the archive's word.

One association, 512 x 512 x 16 bit, to DCMTK's storescp, Orthanc and our own archive, all on this machine's
loopback. Run as ``python -m tests.benchmarks.delivery``.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pynetdicom import AE

from integration.delivery.rows import Delivery
from integration.delivery.sender import SenderProcess
from integration.dicom.scu import connect
from tests.integration.delivery_samples import MR, Box, destination, until
from tests.integration.test_archive import launch
from tests.peers import PROGRAMS, Orthanc, StoreScp, program

N_IMAGES, SIZE, N_LATENCY = 60, 512, 100
Inside = Callable[[Callable[[], Any]], Any]


def ours(port: int, title: str, deliveries: list[Delivery]) -> float:
    """Send over one kept-open association; return images per second."""
    link = connect(destination(port=port, ae_title=title, timeout_s=30))
    began = time.perf_counter()
    for d in deliveries:
        link.store(d)
    rate = len(deliveries) / (time.perf_counter() - began)
    link.close()
    return rate


def shipped(port: int, title: str, deliveries: list[Delivery]) -> float:
    """The same with pynetdicom, reading the files beforehand."""
    ae = AE("ISOCENTER")
    ae.add_requested_context(MR, "1.2.840.10008.1.2.1")
    assoc = ae.associate("127.0.0.1", port, ae_title=title)
    datasets = [dcmread(d.path) for d in deliveries]
    began = time.perf_counter()
    for ds in datasets:
        assert assoc.send_c_store(ds).Status == 0
    rate = len(deliveries) / (time.perf_counter() - began)
    assoc.release()
    return rate


@contextmanager
def peers(folder: Path) -> Iterator[dict[str, tuple[int, str, Inside]]]:
    """Start what is installed; gives port, AE title and how to get into its network."""
    found: dict[str, tuple[int, str, Inside]] = {}
    networks = []
    if all(program(p) for p in PROGRAMS["dcmtk"]) and os.geteuid() == 0:
        scp = StoreScp(folder / "storescp")
        networks.append(scp.network)
        found["DCMTK storescp"] = (scp._PORT, scp.ae_title, scp.network.inside)
    if all(program(p) for p in PROGRAMS["orthanc"]) and os.geteuid() == 0:
        orthanc = Orthanc(folder / "orthanc")
        networks.append(orthanc.network)
        found["Orthanc"] = (orthanc._DICOM, orthanc.ae_title, orthanc.network.inside)
    (folder / "own").mkdir()
    process, port = launch(folder / "own", "--log-level", "ERROR")
    found["our archive"] = (port, "ISOARCHIVE", lambda work: work())
    try:
        yield found
    finally:
        process.terminate()
        process.wait()
        for network in networks:
            network.close()


def throughput(folder: Path) -> None:
    """Print images per second by sender and archive."""
    box = Box(folder / "box")
    box.put(range(2 * N_IMAGES), ["x"], size=SIZE)
    rows = box.journal.deliveries()
    box.journal.close()
    print(f"| archive | ours [img/s] | pynetdicom as shipped [img/s] | ratio |\n|{'---|' * 4}")
    with peers(folder) as found:
        for name, (port, title, inside) in found.items():
            fast = inside(lambda p=port, t=title: ours(p, t, rows[:N_IMAGES]))
            slow = inside(lambda p=port, t=title: shipped(p, t, rows[N_IMAGES:]))
            print(f"| {name} | {fast:.0f} | {slow:.0f} | {fast / slow:.1f} |", flush=True)


def latency(folder: Path) -> None:
    """Print the times from the moment an image is in the spool and the journal."""
    (folder / "late").mkdir()
    process, port = launch(folder / "late", "--log-level", "ERROR")
    box = Box(folder / "box")
    with SenderProcess(box.data, [destination(port=port, commit_timeout_s=60)], ["--log-level", "ERROR"]) as sender:
        box.put([0], ["pacs"], size=256)
        until(lambda: box.counts("pacs") == {"COMMITTED": 1})
        for i in range(1, N_LATENCY + 1):
            box.put([i], ["pacs"], size=256)
            sender.wake()
            time.sleep(0.05)
        until(lambda: box.counts("pacs") == {"COMMITTED": N_LATENCY + 1})
    rows = box.journal.deliveries()[1:]
    box.journal.close()
    process.terminate()
    process.wait()
    print(f"\n| spool -> our archive, 256 x 256, one every 50 ms | p50 [ms] | p99 [ms] |\n|{'---|' * 3}")
    for name, field in (("C-STORE answered", "sent_at"), ("vouched for", "committed_at")):
        p50, p99 = np.percentile([1e3 * (getattr(d, field) - d.queued_at) for d in rows], [50, 99])
        print(f"| {name} | {p50:.1f} | {p99:.1f} |")


def main() -> None:
    """Print both tables."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    python = sys.version.split()[0]
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {python}, commit {commit.strip()}, {SIZE} x {SIZE} MR\n"
    )
    for table in (throughput, latency):
        with tempfile.TemporaryDirectory() as name:
            table(Path(name))


if __name__ == "__main__":
    main()
