"""A queue between two threads, bounded in bytes, that either end can close."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """First in, first out; one thread puts, one takes.

    Parameters
    ----------
    limit_bytes
        What may lie in it. An item that is larger alone is let in when the box is empty, one of no size always.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes, self.held_bytes = limit_bytes, 0
        self._items: deque[tuple[T, int]] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, item: T, n_bytes: int = 0) -> bool:
        """Wait for room and put `item` in; False if the box is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._fits(n_bytes))
            return self._put(item, n_bytes)

    def offer(self, item: T, n_bytes: int = 0) -> bool:
        """Put `item` in without waiting; False if there is no room or the box is closed."""
        with self._changed:
            return self._fits(n_bytes) and self._put(item, n_bytes)

    def close(self) -> None:
        """Let nothing more in; what lies in it can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def discard(self) -> int:
        """Close the box and throw away what lies in it; return how many items that were."""
        with self._changed:
            lost = len(self._items)
            self._items.clear()
            self.held_bytes = 0
            self._closed = True
            self._changed.notify_all()
        return lost

    def __iter__(self) -> Iterator[T]:
        """Take items, waiting for them, until the box is closed and empty."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._items)
                if not self._items:
                    return
                item, n_bytes = self._items.popleft()
                self.held_bytes -= n_bytes
                self._changed.notify_all()
            yield item

    def _fits(self, n_bytes: int) -> bool:
        return not n_bytes or not self._items or self.held_bytes + n_bytes <= self.limit_bytes

    def _put(self, item: T, n_bytes: int) -> bool:
        if self._closed:
            return False
        self._items.append((item, n_bytes))
        self.held_bytes += n_bytes
        self._changed.notify_all()
        return True
