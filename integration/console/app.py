"""The console as routes of the status page's web server: the page, its files, the HTTP interface, the events."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from anyio import CapacityLimiter
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from integration.console.access import Guard, Right, own_page
from integration.console.openapi import document, page
from integration.console.pulse import Pulse, View
from integration.console.replies import body, missing
from integration.console.table import TABLE, Address
from integration.console.views import ProtocolRow, Views

if TYPE_CHECKING:
    from integration.service import Service

STATIC = Path(__file__).parent / "static"
_THREADS = 3  # the console never takes more of the computer than this
_EXAMS = 50  # that are told by events
_SAFE = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".json": "application/json",
}


class Console:
    """The console of one service.

    Parameters
    ----------
    service
        What it tells of.
    protocols
        Its protocols, as JSON.
    guard
        Who may do what.
    """

    def __init__(self, service: Service, protocols: Sequence[ProtocolRow] = (), *, guard: Guard = own_page) -> None:
        self._service, self._views, self._guard = service, Views(service, protocols), guard
        self._limiter = CapacityLimiter(_THREADS)
        self.pulse = Pulse(self._view, self._limiter)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rows: tuple[object, dict[str, dict[str, Any]]] = (None, {})

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        made: list[BaseRoute] = [Route("/", self._file), Route("/console/{name}", self._file)]
        made += [Route("/api", self._docs), Route("/api/openapi.json", self._openapi)]
        made += [Route("/api/events", self._events)]
        return made + [Route(row.path, self._endpoint(row), methods=[row.method]) for row in TABLE]

    def close(self) -> None:
        """Let all listeners go; may be called from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.pulse.close)

    def _endpoint(self, row: Address) -> Any:
        view = getattr(self._views, row.view)

        async def answer(request: Request) -> Response:
            self._guard(request, row.right)
            given = [] if row.body is None else [await body(request)]
            reply: Response = await anyio.to_thread.run_sync(view, request, *given, limiter=self._limiter)
            reply.headers.setdefault("Cache-Control", "no-store")
            reply.headers["X-Content-Type-Options"] = "nosniff"
            return reply

        return answer

    async def _file(self, request: Request) -> Response:
        """Answer with a file of the page; only names that lie in the folder exist."""
        name = request.path_params.get("name", "index.html")
        if name not in {path.name for path in STATIC.iterdir() if path.suffix in _TYPES}:
            raise missing("file", name, "/")
        path = STATIC / name
        return FileResponse(path, media_type=_TYPES[path.suffix], headers=_SAFE)

    async def _docs(self, request: Request) -> Response:
        return HTMLResponse(page(document(TABLE, Views)["paths"]), headers=_SAFE)

    async def _openapi(self, request: Request) -> Response:
        return JSONResponse(document(TABLE, Views))

    async def _events(self, request: Request) -> Response:
        self._guard(request, Right.LOOK)
        self._loop = asyncio.get_running_loop()
        stream = self.pulse.listen(self.pulse.join())
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    def _view(self) -> View:
        """Return all that events tell of."""
        view: dict[tuple[str, str], object] = {}
        for job, row in self._exams().items():
            view["exam", job] = row
            if (plans := self._views.planned(job))["automatic"]:
                view["plan", job] = plans
        view |= {("images", job): counts for job, counts in self._service.house.gallery.counts().items()}
        view |= {("destination", name): row for name, row in self._views.fares().items()}
        view["load", ""] = asdict(self._views.meter.read())
        view["ready", ""] = self._service.troubles()
        return view

    def _exams(self) -> dict[str, dict[str, Any]]:
        """Return the latest exams; read anew only when something has changed."""
        running = [session.job for session in self._service.house.sessions()]
        stamp = running, self._service.console.progress.stamp(), dict(self._service.house.gallery.counts())
        if running or self._rows[0] != stamp:
            self._rows = stamp, {row["job"]: row for row in self._views.all_exams.rows(_EXAMS)}
        return self._rows[1]
