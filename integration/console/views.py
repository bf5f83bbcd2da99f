"""The answers of the HTTP interface, one method per address; they run in a few threads and only read what is kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from acquisition.items import SlicePlan
from integration.console import metrics
from integration.console.exams import MOST, Exams, grouped
from integration.console.gallery import Picture, Series, frames
from integration.console.load import Meter
from integration.console.models import AnswerBody, PlanBody
from integration.console.pictures import SIZES, as_png, as_raw, summary
from integration.console.replies import RefusedError, missing, number, parsed, value
from integration.delivery.answers import Answer

if TYPE_CHECKING:
    from integration.service import Service

_MOST_FRAMES = 4000
_KEEP = "private, max-age=3600, immutable"
ProtocolRow = dict[str, Any]


class Views:
    """What one service answers.

    Parameters
    ----------
    service
        The service.
    protocols
        Its protocols, as JSON.
    """

    def __init__(self, service: Service, protocols: Sequence[ProtocolRow] = ()) -> None:
        self.service, self.all_exams, self.meter = service, Exams(service), Meter(service.plan.data)
        self._protocols = {str(row["name"]): row for row in protocols}

    def exams(self, request: Request) -> Response:
        """The latest exams, newest first, and the same by patient and study."""
        rows = self.all_exams.rows(number(request, "limit", 50, low=1, high=MOST))
        patient = request.query_params.get("patient")
        rows = [row for row in rows if patient is None or row["patient"].get("id") == patient]
        groups = [group | {"exams": [row["job"] for row in group["exams"]]} for group in grouped(rows)]
        return JSONResponse({"exams": rows, "patients": groups, "now": time.time()})

    def exam(self, request: Request) -> Response:
        """One exam."""
        return JSONResponse(self._exam(request))

    def findings(self, request: Request) -> Response:
        """What was found, the most severe first; `pictures` are the images that show it."""
        found = self.all_exams.findings(request.path_params["job"])
        if found is None:
            raise missing("exam", request.path_params["job"], "/api/exams")
        return JSONResponse({"verdicts": found})

    def images(self, request: Request) -> Response:
        """The outputs of an exam that are in memory."""
        self._exam(request)
        return JSONResponse(
            {"series": [summary(s) for s in self.service.house.gallery.series(request.path_params["job"])]}
        )

    def frames(self, request: Request) -> Response:
        """Place, counters and white value of the slices of one output, from number `after`."""
        series = self._series(request)
        found = frames(series, number(request, "after", 0, low=0, high=10**9))[:_MOST_FRAMES]
        return JSONResponse(summary(series) | {"frames": found})

    def png(self, request: Request) -> Response:
        """One slice as 8-bit PNG; `centre` and `width` in the image's unit, `size` of the longer side at most."""
        picture = self._picture(request)
        centre, width = value(request, "centre"), value(request, "width")
        if width is not None and width <= 0:
            raise RefusedError("width", status=400, expected="a number above 0", got=f"{width:g}", action="correct it")
        size = number(request, "size", SIZES[1], low=SIZES[0], high=SIZES[1])
        data = as_png(picture, centre=centre, width=width, size=size)
        return Response(data, media_type="image/png", headers={"Cache-Control": _KEEP})

    def raw(self, request: Request) -> Response:
        """One slice as stored integers (y, x), little endian; `X-Slope` and `X-Intercept` make values of them."""
        data, headers = as_raw(self._picture(request))
        return Response(data, media_type="application/octet-stream", headers=headers | {"Cache-Control": _KEEP})

    def answers(self, request: Request) -> Response:
        """All answers to an exam, the first one first; the last one counts."""
        self._exam(request)
        found = self.service.console.answers.of(request.path_params["job"])
        return JSONResponse({"answers": [answer.as_dict() for answer in found]})

    def answer(self, request: Request, document: Any) -> Response:
        """Accept, repeat or reject an exam that is over."""
        self._exam(request)
        job = request.path_params["job"]
        body = parsed(AnswerBody, document, f"answer to {job}")
        outcome = self.service.answer(Answer(job=job, word=body.word, who=body.who, why=body.why))
        said = {"sent": outcome.sent, "told": list(outcome.told), "note": outcome.note}
        return JSONResponse(outcome.answer.as_dict() | said, status_code=201)

    def plan(self, request: Request) -> Response:
        """The slice plan made on an exam, and as a person moved it; null: there is none."""
        self._exam(request)
        return JSONResponse(self.planned(request.path_params["job"]))

    def replan(self, request: Request, document: Any) -> Response:
        """Move the slice plan; directions are unit vectors, LPS."""
        job, plan = self._plan(request)
        self.service.house.gallery.adjust(job, parsed(PlanBody, document, f"plan of {job}").over(plan))
        return JSONResponse(self.planned(job))

    def unplan(self, request: Request) -> Response:
        """Forget how the plan was moved: the automatic one counts again."""
        job, _ = self._plan(request)
        self.service.house.gallery.adjust(job, None)
        return JSONResponse(self.planned(job))

    def planned(self, job: str) -> dict[str, Any]:
        """Return both plans of a scan."""
        made, adjusted = self.service.house.gallery.plans(job)
        return {"automatic": made and made.as_dict(), "adjusted": adjusted and adjusted.as_dict()}

    def protocols(self, request: Request) -> Response:
        """All protocols."""
        short = ("name", "modality", "description")
        return JSONResponse({"protocols": [{key: row[key] for key in short} for row in self._protocols.values()]})

    def protocol(self, request: Request) -> Response:
        """One protocol with its steps."""
        name = request.path_params["name"]
        if name not in self._protocols:
            raise missing("protocol", name, "/api/protocols")
        return JSONResponse(self._protocols[name])

    def destinations(self, request: Request) -> Response:
        """How each destination fares."""
        return JSONResponse({"destinations": list(self.fares().values())})

    def retry(self, request: Request) -> Response:
        """Queue the dead letters of one destination, or of `all`, again; of one exam, if `job` names it."""
        name = request.path_params["name"]
        if name != "all" and name not in self.fares():
            raise missing("destination", name, "/api/destinations")
        n = self.service.resend(None if name == "all" else name, request.query_params.get("job"))
        return JSONResponse({"resent": n}, status_code=202)

    def load(self, request: Request) -> Response:
        """How busy this computer is."""
        return JSONResponse(asdict(self.meter.read()))

    def metrics(self, request: Request) -> Response:
        """Figures for Prometheus."""
        return PlainTextResponse(metrics.text(self.service, self.meter), media_type=metrics.CONTENT_TYPE)

    def fares(self) -> dict[str, dict[str, Any]]:
        """Return the state of each destination, also of those to which nothing went yet."""
        found = {name: asdict(status) for name, status in self.service.console.status().items()}
        for destination in self.service.plan.destinations:
            empty: dict[str, Any] = {"name": destination.name, "counts": {}, "down_since": None, "last_error": ""}
            found.setdefault(destination.name, empty)
            found[destination.name]["enabled"] = destination.enabled
        return found

    def _exam(self, request: Request) -> dict[str, Any]:
        job = request.path_params["job"]
        row = self.all_exams.row(job)
        if row is None:
            raise missing("exam", job, "/api/exams")
        return row

    def _series(self, request: Request) -> Series:
        job, output = request.path_params["job"], request.path_params["output"]
        for series in self.service.house.gallery.series(job):
            if series.output == output:
                return series
        raise missing("output", output, f"/api/exams/{job}/images")

    def _picture(self, request: Request) -> Picture:
        job, output, n = (request.path_params[name] for name in ("job", "output", "number"))
        picture = self.service.house.gallery.picture(job, output, n)
        if picture is None:
            raise RefusedError(
                f"image {output}/{n} of {job}"[:200],
                status=404,
                expected="an image that is in memory",
                got="none, or one that made room for newer ones",
                action="look into the archive",
            )
        return picture

    def _plan(self, request: Request) -> tuple[str, SlicePlan]:
        self._exam(request)
        job = request.path_params["job"]
        made, _ = self.service.house.gallery.plans(job)
        if made is None:
            raise missing("plan", f"of {job}", f"/api/exams/{job}")
        return job, made
