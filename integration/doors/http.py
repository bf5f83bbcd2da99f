"""The status page: what came in, what became of it, where it went. Reads the journal; shows no patient data.

Listens on the loopback address unless told otherwise. Requests that name another host are refused, so that a web
page from elsewhere cannot talk to it through the user's browser.
"""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from acquisition.errors import IsocenterError, SetupError
from integration.console.app import Console
from integration.console.replies import refused, told
from integration.delivery.rows import Delivery, Job
from integration.delivery.states import DeliveryState
from integration.doors.page import PAGE
from integration.timeline import latencies

if TYPE_CHECKING:
    from integration.service import Service

_START_S = 10.0
_MOST_JOBS = 500


class StatusPage:
    """A small web server in a thread of its own.

    Parameters
    ----------
    service
        What it tells of.
    """

    def __init__(self, service: Service) -> None:
        self.port = 0
        self._service = service
        shown = service.plan.picture_bytes > 0
        self._console = Console(service, service.house.hooks.protocols) if shown else None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self, host: str, port: int) -> int:
        """Listen; return the port (a free one if `port` is 0).

        Raises
        ------
        SetupError
            The address cannot be had.
        """
        try:
            sock = socket.create_server((host, port))
        except OSError as error:
            raise SetupError(
                f"status page at {host}:{port}",
                expected="a free port",
                got=str(error),
                action="stop what uses it, or choose another with --http-port",
            ) from error
        self.port = int(sock.getsockname()[1])
        app = application(self._service, [host, "127.0.0.1", "localhost", "[::1]"], self._console)
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=3, ws="none"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [sock]}, name="status-page", daemon=True
        )
        self._thread.start()
        deadline = time.monotonic() + _START_S
        while not self._server.started and self._thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.port

    def stop(self) -> None:
        """Stop listening."""
        if self._console is not None:
            self._console.close()
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(_START_S)


def application(service: Service, hosts: list[str], console: Console | None = None) -> Starlette:
    """Return the web application.

    Parameters
    ----------
    service
        What it tells of.
    hosts
        Names under which it may be addressed.
    console
        What is at the root instead of this page; None: no console.
    """
    views = _Views(service)
    routes = [
        *(console.routes() if console is not None else [Route("/", views.page)]),
        Route("/status", views.page),
        Route("/healthz", views.health),
        Route("/readyz", views.ready),
        Route("/exams", views.exams),
        Route("/exams/{job}", views.exam),
        Route("/deliveries", views.deliveries),
        Route("/deliveries/{destination}/resend", views.resend, methods=["POST"]),
    ]
    trusted = Middleware(TrustedHostMiddleware, allowed_hosts=["*"] if "0.0.0.0" in hosts else hosts)
    return Starlette(
        routes=routes,
        middleware=[trusted],
        exception_handlers={IsocenterError: told, HTTPException: refused},  # type: ignore[dict-item]
    )


class _Views:
    """The answers. They run in Starlette's thread pool: none of them is `async`."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def page(self, request: Request) -> Response:
        """The page for people."""
        return HTMLResponse(PAGE, headers={"Content-Security-Policy": "default-src 'self' 'unsafe-inline'"})

    def health(self, request: Request) -> Response:
        """The process is alive."""
        return JSONResponse({"status": "ok", "uptime_s": round(time.monotonic() - self.service.started_s, 1)})

    def ready(self, request: Request) -> Response:
        """A scan would be taken now."""
        troubles = self.service.troubles()
        return JSONResponse({"ready": not troubles, "troubles": troubles}, status_code=503 if troubles else 200)

    def exams(self, request: Request) -> Response:
        """The latest scans."""
        limit = _whole(request, "limit", 50, _MOST_JOBS)
        journal = self.service.console
        live = {row["job"]: row for row in self.service.house.live()}
        jobs = journal.jobs(limit)
        rows = [self._row(job, journal.deliveries(job.job), live.pop(job.job, None)) for job in jobs]
        waiting = [row | {"state": "OPENING"} for row in live.values()]
        destinations = {name: asdict(status) for name, status in journal.status().items()}
        free = self.service.spool.free_bytes
        return JSONResponse(
            {"exams": [*waiting, *rows], "destinations": destinations, "free_bytes": free, "now": time.time()}
        )

    def exam(self, request: Request) -> Response:
        """One scan in full."""
        journal, name = self.service.console, request.path_params["job"]
        job = journal.job(name)
        if job is None:
            raise HTTPException(404, f"no exam {name}; see /exams")
        deliveries = journal.deliveries(name)
        live = {row["job"]: row for row in self.service.house.live()}
        moments = self.service.house.timeline.of(name, deliveries)
        return JSONResponse(
            self._row(job, deliveries, live.get(name))
            | {
                "deliveries": [_delivery(d) for d in deliveries],
                "timeline": [m.as_dict() for m in moments],
                "latency_ms": latencies(moments),
                "answers": [answer.as_dict() for answer in journal.answers.of(name)],
                "waiting": len(journal.answers.held(name)),
            }
        )

    def _row(self, job: Job, deliveries: list[Delivery], live: dict[str, object] | None) -> dict[str, Any]:
        made = {uid for moments in self.service.house.timeline.of(job.job) for uid in moments.sop_uids}
        row = _exam(job, deliveries) | {"images": len(made | {d.sop_uid for d in deliveries})}
        return row | ({"readouts": live["readouts"], "made": live["images"]} if live else {})

    def deliveries(self, request: Request) -> Response:
        """All deliveries, or those of one state or exam."""
        given = request.query_params.get("state")
        try:
            state = DeliveryState(given) if given else None
        except ValueError:
            raise HTTPException(400, f"state {given}: expected one of {', '.join(DeliveryState)}") from None
        found = self.service.console.deliveries(request.query_params.get("job"), state=state)
        return JSONResponse([_delivery(d) for d in found])

    def resend(self, request: Request) -> Response:
        """Queue the dead letters of one destination, or of `all`, again."""
        origin = request.headers.get("origin")
        if origin is not None and origin.split("//")[-1] != request.headers.get("host"):
            raise HTTPException(403, "this request comes from another site")
        name = request.path_params["destination"]
        if name != "all" and name not in self.service.console.status():
            raise HTTPException(404, f"no destination {name}; see /deliveries")
        n = self.service.resend(None if name == "all" else name, request.query_params.get("job"))
        return JSONResponse({"resent": n})


def _exam(job: Job, deliveries: list[Delivery]) -> dict[str, Any]:
    counts: dict[str, dict[str, int]] = {}
    for d in deliveries:
        states = counts.setdefault(d.destination, {})
        states[d.state] = states.get(d.state, 0) + 1
    return {
        "job": job.job,
        "scan": job.scan_uid,
        "modality": job.modality,
        "protocol": job.protocol,
        "source": job.source,
        "state": job.state.value,
        "reason": job.reason,
        "opened_at": job.opened_at,
        "finished_at": job.finished_at,
        "verdicts": list(job.verdicts),
        "delivered": counts,
    }


def _delivery(d: Delivery) -> dict[str, Any]:
    names = ("sop_uid", "series_uid", "job", "destination", "attempts", "last_error", "evidence", "description")
    times = ("queued_at", "sent_at", "committed_at")
    return {"state": d.state.value, **{name: getattr(d, name) for name in (*names, *times)}}


def _whole(request: Request, name: str, default: int, largest: int) -> int:
    text = request.query_params.get(name, str(default))
    if not text.isdecimal() or not 1 <= int(text) <= largest:
        raise HTTPException(400, f"{name}={text}: expected a whole number from 1 to {largest}")
    return int(text)
