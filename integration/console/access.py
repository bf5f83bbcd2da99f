"""Who may do what: the one place that every request passes.

Today everybody at this computer may do everything: the console listens on the loopback address only and refuses to be
opened to others (`settings`). Names, tokens and roles are to be put behind `Guard`, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from starlette.requests import Request

from integration.console.replies import RefusedError

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost", "[::1]"})
"""Hosts at which only this computer's own users are heard."""


class Right(StrEnum):
    """What a request wants."""

    LOOK = "look"
    """Read anything."""
    ANSWER = "answer"
    """Accept, repeat or reject an exam."""
    PLAN = "plan"
    """Change a slice plan."""
    DELIVER = "deliver"
    """Send dead letters again."""


Guard = Callable[[Request, Right], None]
"""Raises `RefusedError` (401, 403) when the sender of a request lacks a right."""


def own_page(request: Request, right: Right) -> None:
    """Let everybody look; let nothing be changed by a page from elsewhere in the user's browser.

    Raises
    ------
    RefusedError
        The request comes from another site.
    """
    if right is Right.LOOK:
        return
    origin = request.headers.get("origin")
    if origin is not None and origin.split("//")[-1] != request.headers.get("host"):
        raise RefusedError(
            request.url.path,
            status=403,
            expected="a request from this console's own page",
            got=f"one from {origin[:100]}",
            action="open the console itself and repeat it there",
        )
