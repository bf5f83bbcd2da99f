"""Every address of the HTTP interface, once: what answers it, who may ask, and what the documentation says."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import BaseModel

from integration.console.access import Right
from integration.console.models import AnswerBody, PlanBody

_JSON = "application/json"
_JOB = {"job": "Identifier of the exam, from /api/exams."}
_OUTPUT = {**_JOB, "output": "Name of the result, e.g. conventional."}
_FRAME = {**_OUTPUT, "number": "Number of the slice within the output."}


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One row: method and path, and all that depends on them."""

    path: str
    """Path, parameters in braces."""
    view: str
    """Name of the method of `Views` that answers; its docstring is the description."""
    method: str = "GET"
    """HTTP method."""
    right: Right = Right.LOOK
    """What a sender must be allowed to do."""
    body: type[BaseModel] | None = None
    """What is sent with it."""
    parameters: dict[str, str] = field(default_factory=dict)
    """Of the path: name and meaning."""
    query: dict[str, str] = field(default_factory=dict)
    """Of the query: name and meaning."""
    answers: str = _JSON
    """Media type of the answer."""


_WINDOW = {
    "centre": "Window centre [image's unit].",
    "width": "Window width [image's unit].",
    "size": "Longest side [pixels].",
}

TABLE: tuple[Address, ...] = (
    Address(path="/api/exams", view="exams", query={"limit": "At most so many, 1 to 200.", "patient": "Patient's id."}),
    Address(path="/api/exams/{job}", view="exam", parameters=_JOB),
    Address(path="/api/exams/{job}/verdicts", view="findings", parameters=_JOB),
    Address(path="/api/exams/{job}/images", view="images", parameters=_JOB),
    Address(
        path="/api/exams/{job}/images/{output}",
        view="frames",
        parameters=_OUTPUT,
        query={"after": "First number that is wanted."},
    ),
    Address(
        path="/api/exams/{job}/images/{output}/{number:int}.png",
        view="png",
        parameters=_FRAME,
        query=_WINDOW,
        answers="image/png",
    ),
    Address(
        path="/api/exams/{job}/images/{output}/{number:int}.raw",
        view="raw",
        parameters=_FRAME,
        answers="application/octet-stream",
    ),
    Address(path="/api/exams/{job}/answers", view="answers", parameters=_JOB),
    Address(
        path="/api/exams/{job}/answers",
        view="answer",
        method="POST",
        right=Right.ANSWER,
        body=AnswerBody,
        parameters=_JOB,
    ),
    Address(path="/api/exams/{job}/plan", view="plan", parameters=_JOB),
    Address(
        path="/api/exams/{job}/plan", view="replan", method="PUT", right=Right.PLAN, body=PlanBody, parameters=_JOB
    ),
    Address(path="/api/exams/{job}/plan", view="unplan", method="DELETE", right=Right.PLAN, parameters=_JOB),
    Address(path="/api/protocols", view="protocols"),
    Address(path="/api/protocols/{name}", view="protocol", parameters={"name": "Name of the protocol."}),
    Address(path="/api/destinations", view="destinations"),
    Address(
        path="/api/destinations/{name}/retry",
        view="retry",
        method="POST",
        right=Right.DELIVER,
        parameters={"name": "Name of the destination, or all."},
        query={"job": "Only images of this exam."},
    ),
    Address(path="/api/load", view="load"),
    Address(path="/metrics", view="metrics", answers="text/plain"),
)
"""In the order in which the documentation lists them."""
