"""The raw stream against the MRD door and the way within a process: throughput, and the time of one block.

Run as ``python -m tests.benchmarks.stream``. The doors are in a process of their own; each scan's blocks are thrown
away there, but for every one of a latency run, which is answered with an image of 64 x 64. MRD has no message for CT.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from acquisition.items import VIEW_HEAD, Image, Projections, Readouts
from acquisition.scan import CtHeader, Scan
from acquisition.sources.mrd_wire import Close, ConfigFile
from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.mri import Simulation
from integration.doors.incoming import Incoming, size_of
from integration.doors.mailbox import Mailbox
from integration.doors.mrd_client import MrdClient
from integration.doors.mrd_server import MrdServer
from integration.doors.stream.client import StreamClient
from integration.doors.stream.keys import KeyPair, make_keys, read_keys
from integration.doors.stream.server import Keys, StreamServer
from kernels.memory import keep_memory

COILS, SAMPLES = 32, 512
READOUTS = 1500
CT_BLOCK, CT_BLOCKS = (32, 64, 736), 60
RING = 64 << 20
ECHO = "echo"
N_LATENCY = 300


def _answered(call: Any) -> None:
    """Take a scan: throw blocks away; where the protocol is `ECHO`, answer each with an image."""
    grid = replace(Simulation(MriExam(matrix=(1, 64, 64), n_coils=1)).exam.grid.plane(0), shape=(1, 64, 64))
    image = Image(data=np.ones((1, 64, 64), np.float32), grid=grid)
    echo = False
    for item in call.incoming():
        echo |= ECHO in str(getattr(item, "name", "")) + str(getattr(item, "text", ""))
        if echo and isinstance(item, Readouts | Projections):
            call.image(image)


def serve(folder: Path) -> None:
    """Open the doors, tell their ports, wait until killed."""
    keep_memory()
    own, scanner = make_keys(folder / "own.key"), make_keys(folder / "scanner.key")
    mrd = MrdServer(_answered)
    plain = StreamServer(_answered, lambda: "job")
    curve = StreamServer(_answered, lambda: "job", keys=Keys(own=own, clients={scanner.public: "scanner"}))
    ports = {"mrd": mrd.start("127.0.0.1", 0), "plain": plain.start("127.0.0.1", 0)}
    print(json.dumps(ports | {"curve": curve.start("127.0.0.1", 0)}), flush=True)
    threading.Event().wait()


@contextmanager
def doors() -> Iterator[tuple[dict[str, int], KeyPair, KeyPair]]:
    """Give the ports, and the keys of scanner and service."""
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "tests.benchmarks.stream", "--serve", name]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                ports = json.loads(process.stdout.readline())
                folder = Path(name)
                yield ports, read_keys(folder / "scanner.key"), read_keys(folder / "own.key")
            finally:
                process.kill()


def mr_blocks() -> tuple[Scan, list[Readouts]]:
    """Readouts one by one, 131 kB each."""
    simulation = Simulation(MriExam(matrix=(1, 64, 64), n_coils=2, n_noise=0))
    first = next(iter(simulation.readouts()))
    head = first.head[:1].copy()
    head["n_samples"], head["n_coils"], head["available_coils"], head["flags"] = SAMPLES, COILS, COILS, 0
    data = np.random.default_rng(1).normal(size=(1, COILS, SAMPLES)).astype(np.complex64)
    return replace(simulation.scan, header=""), [Readouts(head=head, data=data)] * READOUTS


def ct_blocks() -> tuple[Scan, list[Projections]]:
    """Views in blocks of 6 MB."""
    n, rows, channels = CT_BLOCK
    ct = CtHeader(
        mode="helical",
        detector="cylindrical",
        n_rows=rows,
        n_channels=channels,
        pitch_mm=(1.0, 1.0),
        centre=((rows - 1) / 2, (channels - 1) / 2),
        source_isocentre_mm=595.0,
        source_detector_mm=1085.6,
        views_per_rotation=1152,
    )
    data = np.random.default_rng(1).normal(size=CT_BLOCK).astype(np.float32)
    return Scan(uid="ct", modality="CT", ct=ct), [Projections(head=np.zeros(n, VIEW_HEAD), data=data)] * CT_BLOCKS


def within(scan: Scan, blocks: list[Any]) -> float:
    """Put blocks into a box that another thread empties; return the time [s]."""
    box: Mailbox[Incoming] = Mailbox(256 << 20)
    taker = threading.Thread(target=lambda: [None for _ in box])
    start = time.perf_counter()
    taker.start()
    for block in blocks:
        box.put(block, size_of(block))
    box.close()
    taker.join()
    return time.perf_counter() - start


def over_mrd(port: int, scan: Scan, blocks: list[Any]) -> float:
    """Send over MRD until Close has come back; return the time [s]."""
    with MrdClient("127.0.0.1", port) as client:
        start = time.perf_counter()
        client.send(scan, blocks, config="none", speed=float("inf"))
        return time.perf_counter() - start


def over_stream(scan: Scan, blocks: list[Any], **options: Any) -> float:
    """Send over the raw stream until its end has come back; return the time [s]."""
    port = options.pop("port")
    with StreamClient(f"tcp://127.0.0.1:{port}", **options) as client:
        start = time.perf_counter()
        answers = client.send([ConfigFile("none"), scan, *blocks, Close()])
        assert answers.end is not None and not answers.texts, answers.texts
        return time.perf_counter() - start


def latencies(scan: Scan, blocks: list[Any], *, mrd_port: int = 0, **options: Any) -> list[float]:
    """Send a block, wait for its image, send the next; return the times [s]."""
    times: list[float] = []
    arrived = threading.Semaphore(0)

    def one_by_one() -> Iterator[Any]:
        for block in blocks[:N_LATENCY]:
            start = time.perf_counter()
            yield block
            assert arrived.acquire(timeout=10)
            times.append(time.perf_counter() - start)

    if mrd_port:
        with MrdClient("127.0.0.1", mrd_port, on_event=lambda event: arrived.release()) as client:
            client.send(scan, one_by_one(), config=ECHO, speed=float("inf"))
        return times
    with StreamClient(f"tcp://127.0.0.1:{options.pop('port')}", **options) as client:

        def awaited() -> Iterator[Any]:
            yield from (ConfigFile(ECHO), scan)
            for block in blocks[:N_LATENCY]:
                seen, start = len(client.answers.images), time.perf_counter()
                yield block
                while len(client.answers.images) == seen:
                    client._hear(1000)
                times.append(time.perf_counter() - start)
            yield Close()

        client.send(awaited())
    return times


def main() -> None:
    """Print both tables."""
    if "--serve" in sys.argv:
        serve(Path(sys.argv[-1]))
        return
    keep_memory()
    load = os.getloadavg()[0]
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f}{' (measured under load)' if load > 1 else ''}\n"
    )
    with doors() as (ports, scanner, own):
        curve = {"port": ports["curve"], "keys": scanner, "service_key": own.public}
        ways: dict[str, dict[str, Any]] = {
            "raw stream": {"port": ports["plain"]},
            "raw stream, ring in /dev/shm": {"port": ports["plain"], "ring_bytes": RING},
            "raw stream, CURVE": curve,
            "raw stream, CURVE, ring in /dev/shm": {**curve, "ring_bytes": RING},
        }
        for name, (scan, blocks), mrd in (
            (f"MRI, {READOUTS} readouts of {COILS} x {SAMPLES}, one by one", mr_blocks(), ports["mrd"]),
            (f"CT, {CT_BLOCKS} blocks of {' x '.join(map(str, CT_BLOCK))}", ct_blocks(), 0),
        ):
            _table(name, scan, blocks, mrd_port=mrd, ways=ways)


def _table(name: str, scan: Scan, blocks: list[Any], *, mrd_port: int, ways: dict[str, dict[str, Any]]) -> None:
    size = sum(block.data.nbytes for block in blocks)
    print(f"{name}\n\n| way | MB/s | blocks/s | block to image p50 [ms] | p99 [ms] |\n|---|---|---|---|---|")
    rows: list[tuple[str, Callable[[], float], Callable[[], list[float]]]] = [
        ("within the process, by reference", lambda: within(scan, blocks), list)
    ]
    if mrd_port:
        rows.append(
            (
                "MRD over TCP",
                lambda: over_mrd(mrd_port, scan, blocks),
                lambda: latencies(scan, blocks, mrd_port=mrd_port),
            )
        )
    for way, options in ways.items():
        rows.append(
            (way, lambda o=options: over_stream(scan, blocks, **o), lambda o=options: latencies(scan, blocks, **o))  # type: ignore[misc]
        )
    for way, throughput, latency in rows:
        took = sorted(throughput() for _ in range(3))[1]
        times = 1e3 * np.array(latency() or [np.nan])
        p50, p99 = np.percentile(times, [50, 99])
        print(f"| {way} | {size / took / 1e6:.0f} | {len(blocks) / took:.0f} | {p50:.2f} | {p99:.2f} |", flush=True)
    print()


if __name__ == "__main__":
    main()
