"""The documentation of the HTTP interface, made of its table: OpenAPI 3.1 for programs, a plain page for people."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

from integration.console.table import Address
from integration.dicom.common import software_version

_ERROR = {
    "type": "object",
    "required": ["error", "where", "expected", "got", "action"],
    "properties": {name: {"type": "string"} for name in ("error", "where", "expected", "got", "action")},
}
_EVENTS = (
    "Server-sent events. Everything that there is comes first, then what changes: `exam` (a row of /api/exams), "
    "`images` (slices by output), `plan`, `destination`, `load`, `ready`. Each has the data {key, value}; "
    "value null: it is gone."
)


def document(table: Sequence[Address], views: type) -> dict[str, Any]:
    """Return the OpenAPI document.

    Parameters
    ----------
    table
        The addresses.
    views
        The class whose methods answer; their docstrings are the descriptions.
    """
    paths: dict[str, dict[str, Any]] = {}
    schemas: dict[str, Any] = {"Error": _ERROR}
    for row in table:
        if row.body is not None:
            schema = row.body.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= schema.pop("$defs", {}) | {row.body.__name__: schema}
        paths.setdefault(_plain(row.path), {})[row.method.lower()] = _operation(row, views)
    paths["/api/events"] = {"get": {"summary": _EVENTS, "responses": _answer("text/event-stream", "Events.")}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Isocenter", "version": software_version(), "description": "Loopback only; no password yet."},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def page(paths: dict[str, Any]) -> str:
    """Return the documentation as HTML, without anything from elsewhere."""
    rows = "".join(
        f"<tr><td><code>{method.upper()}</code></td><td><code>{escape(path)}</code></td><td>{escape(row['summary'])}"
        f"{_parameters(row)}</td></tr>"
        for path, methods in paths.items()
        for method, row in methods.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Isocenter: HTTP interface</title>'
        '<link rel="stylesheet" href="/console/docs.css"></head><body><h1>Isocenter: HTTP interface</h1>'
        '<p>For programs: <a href="/api/openapi.json">openapi.json</a> (OpenAPI 3.1). Errors are JSON with '
        "<code>where</code>, <code>expected</code>, <code>got</code> and <code>action</code>.</p>"
        f"<table><tbody>{rows}</tbody></table></body></html>"
    )


def _parameters(row: dict[str, Any]) -> str:
    listed = "".join(
        f"<li><code>{escape(p['name'])}</code> {escape(p['description'])}</li>" for p in row.get("parameters", ())
    )
    return f"<ul>{listed}</ul>" if listed else ""


def _operation(row: Address, views: type) -> dict[str, Any]:
    words = " ".join((getattr(views, row.view).__doc__ or "").split())
    named = [
        {"name": name, "in": place, "required": place == "path", "description": text, "schema": {"type": "string"}}
        for place, given in (("path", row.parameters), ("query", row.query))
        for name, text in given.items()
    ]
    operation: dict[str, Any] = {"operationId": row.view, "summary": words, "responses": _answer(row.answers, words)}
    if named:
        operation["parameters"] = named
    if row.body is not None:
        schema = {"$ref": f"#/components/schemas/{row.body.__name__}"}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


def _answer(media: str, words: str) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "2XX": {"description": words, "content": {media: {}}},
        "default": {"description": "What is wrong, and what to do.", "content": error},
    }


def _plain(path: str) -> str:
    """Return the path with Starlette's types of parameters left out."""
    return re.sub(r"\{(\w+):\w+\}", r"{\1}", path)
