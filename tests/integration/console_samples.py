"""What the tests of the console share: a service with pictures, and questions to it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from acquisition.geometry import Grid
from acquisition.items import Image, SlicePlan
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from integration.console.access import Guard
from integration.delivery.destination import Destination
from integration.delivery.journal import Journal
from integration.delivery.spool import Spool
from integration.doors.request import Request
from integration.house import Hooks
from integration.service import Plan, Service
from integration.session import Prepared
from tests.integration.doors_samples import as_bytes, plan, rooms, stream, talk

DEAD = Destination(
    name="dead", host="127.0.0.1", port=1, ae_title="NOBODY", backoff_first_s=0.05, max_outage_s=0.05, timeout_s=1
)
PLAN = SlicePlan(
    name="brain-acpc",
    centre_mm=(1.0, 2.0, 25.0),
    normal=(0.0, 0.0, 1.0),
    in_plane=(1.0, 0.0, 0.0),
    fov_mm=(200.0, 180.0),
    n_slices=5,
    slice_distance_mm=6.0,
    confidence=0.9,
)
FLAG = Verdict(
    check="check.ghost",
    level=Level.FLAG,
    advice="A ghost was seen.",
    value=0.12,
    limit=0.05,
    unit="1",
    evidence="row 3",
)
PROTOCOLS = ({"name": "plain", "modality": "MR", "description": "sum of squares", "steps": []},)


def console_rooms(plan: Plan, journal: Journal, spool: Spool) -> Hooks:
    """The plain reconstruction; each image carries a finding, the scan a plan."""
    hooks = rooms(plan, journal, spool)

    def prepare(request: Request, scan: Scan, job: str) -> Prepared:
        made = hooks.prepare(request, scan, job)
        feed, close = made.run.feed, made.run.close
        made.run.feed = lambda item: (image.with_verdicts(FLAG) for image in feed(item))  # type: ignore[method-assign]
        made.run.close = lambda: (image.with_verdicts(FLAG) for image in close())  # type: ignore[method-assign]
        return replace(made, plans=[PLAN])

    return replace(hooks, prepare=prepare, protocols=PROTOCOLS)


@contextmanager
def console(data: Path, *destinations: Destination, scans: int = 1, **changes: object) -> Iterator[Service]:
    """A service with the console and some exams that are over."""
    changes = {"http_port": 0, "picture_bytes": 64 << 20} | changes
    with Service(plan(data, *destinations, **changes), console_rooms) as service:
        for _ in range(scans):
            talk(service.mrd_port, as_bytes(stream()))
        yield service


class Reply:
    """What the service said."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    service: Service, path: str, *, method: str = "GET", body: object = None, raw: bytes | None = None, **headers: str
) -> Reply:
    """Ask the console; errors are answers, too."""
    data = json.dumps(body).encode() if body is not None else raw
    if data is not None:
        headers = {"Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
    request = urllib.request.Request(
        f"http://127.0.0.1:{service.http_port}{path}", data=data, method=method, headers=headers
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return Reply(answer.status, answer.headers, answer.read())
    except urllib.error.HTTPError as error:
        return Reply(error.code, error.headers, error.read())


def job_of(service: Service) -> str:
    """Return the newest exam."""
    return str(ask(service, "/api/exams").json["exams"][0]["job"])


def events(service: Service, n: int, path: str = "/api/events") -> list[tuple[str, Any]]:
    """Listen to the first `n` events."""
    found: list[tuple[str, Any]] = []
    with urllib.request.urlopen(f"http://127.0.0.1:{service.http_port}{path}", timeout=20) as stream:
        name = ""
        while len(found) < n:
            line = stream.readline().decode().rstrip("\n")
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                found.append((name, json.loads(line[6:])))
    return found


def image(data: np.ndarray, **changes: Any) -> Image:
    """An image (z, y, x) of 2 mm voxels."""
    grid = Grid.from_centre(
        (0, 0, 0), shape=data.shape, spacing_mm=(5.0, 2.0, 2.0), directions=((1, 0, 0), (0, 1, 0), (0, 0, 1))
    )
    return Image(**({"data": data, "grid": grid} | changes))


__all__ = ["DEAD", "FLAG", "PLAN", "Guard", "Reply", "ask", "console", "events", "image", "job_of"]
