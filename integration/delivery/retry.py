"""How long to wait after a failure, and when to leave an archive alone for a while."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from integration.delivery.destination import Destination

_FAILURES_TO_OPEN = 3
_LARGEST_EXPONENT = 40


def backoff_s(destination: Destination, failures: int) -> float:
    """Return the wait after the n-th failure in a row: doubled each time, with jitter of +-20 % [s].

    Parameters
    ----------
    destination
        Gives the first and the longest wait.
    failures
        Failures so far, 1 or more.
    """
    doubled = destination.backoff_first_s * 2.0 ** min(failures - 1, _LARGEST_EXPONENT)
    return min(doubled, destination.backoff_max_s) * random.uniform(0.8, 1.2)


class Breaker:
    """Keeps a whole destination's workers from knocking at a door that does not open.

    Closed: all work. Open: all wait, and when the wait is over one worker may `probe`; the others follow when
    it says `healthy`. Failures in a row make the waits longer; only a stored image makes them short again.
    """

    def __init__(self, destination: Destination, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._destination, self._clock = destination, clock
        self._lock = threading.Lock()
        self._failures = 0
        self._open_until: float | None = None
        self._probing = False

    @property
    def closed(self) -> bool:
        """Whether images may be sent."""
        return self._open_until is None

    @property
    def wait_s(self) -> float:
        """Time left until the next probe [s]; 0 when closed."""
        until = self._open_until
        return 0.0 if until is None else max(0.0, until - self._clock())

    def probe(self) -> bool:
        """Return True to the one worker that shall probe now."""
        with self._lock:
            if self._open_until is None or self._probing or self._clock() < self._open_until:
                return False
            self._probing = True
            return True

    def healthy(self) -> None:
        """The probe was answered: let images through again."""
        with self._lock:
            self._open_until, self._probing = None, False

    def stored(self) -> bool:
        """An image was taken; return True if there were failures before it."""
        with self._lock:
            before, self._failures = self._failures, 0
            self._open_until, self._probing = None, False
        return before > 0

    def failed(self) -> None:
        """An image was not taken; after a few in a row, wait."""
        with self._lock:
            self._failures += 1
            if self._failures >= _FAILURES_TO_OPEN:
                self._open(self._failures - _FAILURES_TO_OPEN + 1)

    def unreachable(self) -> None:
        """There was no association to be had: wait. Workers that find out at the same time count once."""
        with self._lock:
            if self._open_until is None or self._probing:
                self._failures += 1
                self._open(self._failures)

    def probe_soon(self) -> None:
        """Forget the wait, e.g. when someone asked to resend."""
        with self._lock:
            if self._open_until is not None:
                self._open_until = self._clock()

    def _open(self, failures: int) -> None:
        self._open_until, self._probing = self._clock() + backoff_s(self._destination, failures), False
