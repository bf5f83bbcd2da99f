"""Figures for Prometheus, in its text form 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/).

No patient, scan or user is named in a label: jobs and names stay in the journal.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from integration.console.load import Meter
from integration.timeline import latencies

if TYPE_CHECKING:
    from integration.service import Service

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_RECENT = 20  # exams whose latencies are told
Sample = tuple[Mapping[str, str], float]


def text(service: Service, meter: Meter) -> str:
    """Return all figures of a service."""
    return "".join(_rows(service, meter))


def _rows(service: Service, meter: Meter) -> Iterator[str]:
    journal, load = service.console, meter.read()
    yield family("isocenter_ready", "gauge", "1 when a scan would be taken.", [({}, float(not service.troubles()))])
    uptime = time.monotonic() - service.started_s
    yield family("isocenter_uptime_seconds", "gauge", "Since the start of the service.", [({}, uptime)])
    yield family("isocenter_scans_running", "gauge", "Scans that run now.", [({}, len(service.house.sessions()))])
    states = journal.progress.states()
    yield family("isocenter_exams", "gauge", "Exams in the journal.", [({"state": s}, n) for s, n in states.items()])
    status = journal.status().values()
    images = [({"destination": d.name, "state": s}, float(n)) for d in status for s, n in d.counts.items()]
    yield family("isocenter_deliveries", "gauge", "Images by destination and state.", images)
    up = [({"destination": d.name}, float(d.down_since is None)) for d in status]
    yield family("isocenter_destination_up", "gauge", "1 when the destination answers.", up)
    yield family("isocenter_sender_restarts_total", "counter", "New senders.", [({}, service.sender.restarts)])
    yield family("isocenter_disk_free_bytes", "gauge", "Free on the disk of the spool.", [({}, load.free_bytes)])
    yield family("process_resident_memory_bytes", "gauge", "Of the service.", [({}, load.process_bytes)])
    used = service.house.gallery.used_bytes
    yield family("isocenter_picture_bytes", "gauge", "Pictures kept for the console.", [({}, used)])
    if load.cpu is not None:
        yield family("isocenter_cpu_busy_ratio", "gauge", "Busy part of all cores.", [({}, load.cpu)])
    yield family("isocenter_latency_seconds", "gauge", "After the last readout, recent exams.", _latencies(service))


def _latencies(service: Service) -> list[Sample]:
    journal, timeline = service.console, service.house.timeline
    moments = [m for job in journal.jobs(_RECENT) for m in timeline.of(job.job)]
    found = latencies(moments)
    return [
        ({"station": station, "quantile": quantile}, values[name] / 1e3)
        for station, values in found.items()
        for name, quantile in (("p50", "0.5"), ("p99", "0.99"))
    ]


def family(name: str, kind: str, words: str, samples: Iterable[Sample]) -> str:
    """Return one metric with all its samples."""
    lines = [f"# HELP {name} {words}\n# TYPE {name} {kind}\n"]
    for labels, number in samples:
        inside = ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items())
        lines.append(f"{name}{{{inside}}} {number:.15g}\n" if inside else f"{name} {number:.15g}\n")
    return "".join(lines)


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
