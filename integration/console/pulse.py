"""Server-sent events: everything that changes, told to every page that is open (WHATWG HTML, 9.2).

Nothing announces a change: while somebody listens, one task looks at what the service keeps, a few times a second, and
tells what differs from the last look. So a reconstruction is never told to wait, and many changes become one event.
A listener that does not keep up is let go; its browser comes back by itself and begins with everything anew.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping

import anyio.to_thread
from anyio import CapacityLimiter

from integration.console.replies import RefusedError

LOOK_S = 0.25
"""Time between two looks [s]."""
MOST_LISTENERS = 16
_QUEUE = 256
_HEARTBEAT_S = 10.0
_RETRY_MS = 1000

View = Mapping[tuple[str, str], object]
"""By event and key: what is to be told, as JSON can hold it."""


class Pulse:
    """Tells listeners what has changed.

    Parameters
    ----------
    look
        Returns what there is now; runs in a thread.
    limiter
        Threads that may look or answer at the same time.
    """

    def __init__(self, look: Callable[[], View], limiter: CapacityLimiter | None = None) -> None:
        self._look, self._limiter = look, limiter
        self._told: dict[tuple[str, str], str] = {}
        self._listeners: set[asyncio.Queue[str | None]] = set()
        self._task: asyncio.Task[None] | None = None
        self.closed = False

    @property
    def listeners(self) -> int:
        """Number of pages that listen."""
        return len(self._listeners)

    def join(self) -> asyncio.Queue[str | None]:
        """Take in a listener; it gets everything first, then what changes.

        Raises
        ------
        RefusedError
            There are too many.
        """
        if len(self._listeners) >= MOST_LISTENERS:
            raise RefusedError(
                "/api/events",
                status=503,
                expected=f"at most {MOST_LISTENERS} open pages",
                got="one more",
                action="close a page",
            )
        queue: asyncio.Queue[str | None] = asyncio.Queue(_QUEUE)
        self._listeners.add(queue)
        if self._task is None or self._task.done():
            self._told.clear()
            self._task = asyncio.create_task(self._beat())
        else:
            for (event, key), text in self._told.items():
                self._put(queue, _event(event, key, text))
        return queue

    async def listen(self, queue: asyncio.Queue[str | None]) -> AsyncIterator[str]:
        """Yield the text of events until the listener goes, is too slow, or the service stops."""
        try:
            yield f"retry: {_RETRY_MS}\n\n"
            while not self.closed:
                try:
                    text = await asyncio.wait_for(queue.get(), _HEARTBEAT_S)
                except TimeoutError:
                    text = ": still here\n\n"
                if text is None:
                    return
                yield text
        finally:
            self._listeners.discard(queue)

    def close(self) -> None:
        """Let everybody go; call it in the loop's thread."""
        self.closed = True
        for queue in self._listeners:
            while not queue.empty():
                queue.get_nowait()
            queue.put_nowait(None)

    async def _beat(self) -> None:
        while self._listeners and not self.closed:
            view = await anyio.to_thread.run_sync(self._look, limiter=self._limiter)
            self._tell(view)
            await asyncio.sleep(LOOK_S)

    def _tell(self, view: View) -> None:
        for (event, key), value in view.items():
            text = json.dumps(value, separators=(",", ":"))
            if self._told.get((event, key)) != text:
                self._told[event, key] = text
                self._tell_all(_event(event, key, text))
        for event, key in [gone for gone in self._told if gone not in view]:
            del self._told[event, key]
            self._tell_all(_event(event, key, "null"))

    def _tell_all(self, text: str) -> None:
        for queue in list(self._listeners):
            self._put(queue, text)

    def _put(self, queue: asyncio.Queue[str | None], text: str) -> None:
        if queue.full():
            queue.get_nowait()
            queue.put_nowait(None)
            self._listeners.discard(queue)
        else:
            queue.put_nowait(text)


def _event(event: str, key: str, text: str) -> str:
    return f'event: {event}\ndata: {{"key":{json.dumps(key)},"value":{text}}}\n\n'
