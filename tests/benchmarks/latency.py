"""From the last readout to the archive's answer, at the scanner's pace: 20 slices of 256 x 256, 16 coils, R = 2.

Run as ``python -m tests.benchmarks.latency [RUNS]``. Scanner, service and archive are processes of their own, as in
``isocenter demo``; the service is fresh for each run, so its first slice is the first of its life (after warm-up on
another size). "At the scanner" is measured by the scanner: last readout about to be sent to last pixel received.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from acquisition.sources.phantom.exam import demo_exam
from acquisition.sources.phantom.mri import Simulation
from integration.demo import House, delivered, house
from integration.doors.mrd_client import MrdClient

RUNS = 2
STATIONS = {"made_ms": "pixels ready", "wire_ms": "last byte handed to the network", "spool_ms": "durable on disk"}


def exam(place: House, simulation: Simulation, readouts: list[Any]) -> dict[str, list[float]]:
    """Run one exam; return the latencies of its slices in the order in which they were measured [ms]."""
    with MrdClient("127.0.0.1", place.mrd_port) as client:
        answer = client.send(simulation.scan, readouts, config="auto", speed=1.0)
    assert answer.troubles() == [], answer.troubles()
    row = delivered(place, place.ask("exams")["exams"][0]["job"])
    found = {text: [moment[key] for moment in row["timeline"]] for key, text in STATIONS.items()}
    found["at the scanner"] = [arrival.latency_ms or 0.0 for arrival in answer.arrivals]
    found["archive has answered"] = [moment["archive_ms"]["archive"] for moment in row["timeline"]]
    return found


def main() -> None:
    """Print the table."""
    runs = int(sys.argv[1]) if sys.argv[1:] and sys.argv[1].isdecimal() else RUNS
    simulation = Simulation(demo_exam())
    readouts = list(simulation.readouts())
    results = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder, house(Path(folder)) as place:
            results.append(exam(place, simulation, readouts))
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    print(f"{machine}, {runs} exams of {len(readouts)} readouts\n")
    print("| after the last readout of a slice | p50 [ms] | p99 [ms] | largest [ms] | first slice [ms] |")
    print("|---|---|---|---|---|")
    for station in results[0]:
        values = np.array([value for result in results for value in result[station]])
        first = max(result[station][0] for result in results)
        p50, p99 = np.percentile(values, [50, 99])
        print(f"| {station} | {p50:.1f} | {p99:.1f} | {values.max():.1f} | {first:.1f} |")
    if "--raw" in sys.argv:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
