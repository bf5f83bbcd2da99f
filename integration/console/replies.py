"""What the HTTP interface reads and answers: JSON of bounded size, and errors that say where, what and what to do."""

from __future__ import annotations

import json
import logging
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from acquisition.errors import ConfigError, InputError, IsocenterError

LOG = logging.getLogger(__name__)

LARGEST_BODY = 64 << 10
"""Of a request [bytes]."""
_Body = TypeVar("_Body", bound=BaseModel)


class RefusedError(InputError):
    """A request that cannot be answered.

    Parameters
    ----------
    where, expected, got, action
        As in every error of ours.
    status
        HTTP status.
    """

    def __init__(self, where: str, *, status: int, expected: str = "", got: str = "", action: str = "") -> None:
        super().__init__(where, expected=expected, got=got, action=action)
        self.status = status


def missing(what: str, name: str, see: str) -> RefusedError:
    """Return the refusal of something that is not there."""
    action = f"see {see}"
    return RefusedError(
        f"{what} {name[:100]}", status=404, expected=f"a known {what}", got="an unknown one", action=action
    )


def number(request: Request, name: str, default: int, *, low: int, high: int) -> int:
    """Return a whole number from the query.

    Raises
    ------
    RefusedError
        It is none, or out of range.
    """
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 19 and low <= int(text) <= high):
        raise RefusedError(
            name, status=400, expected=f"a whole number from {low} to {high}", got=text[:40], action="correct it"
        )
    return int(text)


def value(request: Request, name: str) -> float | None:
    """Return a finite number from the query, None when it is not given.

    Raises
    ------
    RefusedError
        It is no number.
    """
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        found = float(text)
    except ValueError:
        found = float("nan")
    if not abs(found) < 1e30:
        raise RefusedError(
            name, status=400, expected="a finite number", got=text[:40], action="correct it or leave it out"
        )
    return found


async def body(request: Request) -> Any:
    """Return the JSON of a request.

    Raises
    ------
    RefusedError
        It is too long, of another type, or no JSON object.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    where = f"{request.method} {request.url.path}"
    if kind != "application/json":
        got = kind[:60] or "none"
        raise RefusedError(where, status=415, expected="content type application/json", got=got, action="send JSON")
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > LARGEST_BODY:
            expected = f"at most {LARGEST_BODY} bytes"
            raise RefusedError(where, status=413, expected=expected, got="more", action="send less")
    try:
        document = json.loads(bytes(raw))
    except (ValueError, RecursionError) as error:
        raise RefusedError(where, status=400, expected="JSON", got=str(error)[:100], action="correct it") from error
    if not isinstance(document, dict):
        got = type(document).__name__
        raise RefusedError(where, status=400, expected="a JSON object", got=got, action="correct it")
    return document


def parsed(model: type[_Body], document: Any, where: str) -> _Body:
    """Return `document` as a `model`.

    Raises
    ------
    RefusedError
        A key or value is wrong; the message names the first.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "body"
        got = repr(first["input"])[:80]
        raise RefusedError(
            f"{where}: {place}", status=422, expected=first["msg"], got=got, action="correct it"
        ) from error


def told(request: Request, error: IsocenterError) -> Response:
    """Answer with an error of ours."""
    status = error.status if isinstance(error, RefusedError) else 422 if isinstance(error, ConfigError) else 500
    if status == 500:
        LOG.error("%s: %s", request.url.path, error)
    return JSONResponse(_document(error), status_code=status)


def refused(request: Request, error: HTTPException) -> Response:
    """Answer with an error of the web server's."""
    if error.status_code == 404 and error.detail == "Not Found":
        return told(request, missing("address", request.url.path, "/api"))
    problem = RefusedError(error.detail, status=error.status_code)
    return JSONResponse(_document(problem), status_code=error.status_code, headers=error.headers)


def _document(error: IsocenterError) -> dict[str, str]:
    parts = {name: getattr(error, name) for name in ("where", "expected", "got", "action")}
    return {"error": str(error), **parts}
