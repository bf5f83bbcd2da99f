"""Readouts at the pace of a scanner: each comes when it would have been measured, no sooner, without drift."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Generator, Iterable
from dataclasses import replace

from acquisition.errors import ConfigError, IsocenterError
from acquisition.items import Readouts

_AHEAD = 512  # blocks made in advance, so that making the next slice does not hold up this one
_LOOK_S = 0.1  # how often the maker looks whether anyone still wants its blocks


def paced(readouts: Iterable[Readouts], tr_s: float, *, speed: float = 1.0) -> Generator[Readouts, None, None]:
    """Yield each block when its last readout has been measured, stamped with that moment.

    The clock starts when the first block is ready: the n-th readout (from 1) comes ``n * tr_s / speed`` later.
    A late consumer is not waited for: what it missed comes at once. Blocks are made ahead by a thread that ends
    with this generator.

    Parameters
    ----------
    readouts
        Blocks in the order of measurement.
    tr_s
        Time from readout to readout [s].
    speed
        How many times faster than the scanner.

    Raises
    ------
    ConfigError
        `tr_s` is negative or `speed` is not positive.
    """
    if tr_s < 0 or not speed > 0:
        raise ConfigError("pace", expected="tr_s >= 0 and speed > 0", got=f"{tr_s} s, {speed}")
    return _paced(readouts, tr_s / speed)


def _paced(readouts: Iterable[Readouts], interval_s: float) -> Generator[Readouts, None, None]:
    start, count = None, 0
    with contextlib.closing(prefetched(readouts)) as blocks:
        for block in blocks:
            start = time.monotonic() if start is None else start
            count += len(block)
            wait = start + count * interval_s - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            yield replace(block, received_s=time.monotonic())


def prefetched(readouts: Iterable[Readouts], *, ahead: int = _AHEAD) -> Generator[Readouts, None, None]:
    """Yield the same blocks, made up to `ahead` blocks in advance by a thread; its error is raised here."""
    blocks: queue.Queue[Readouts | _End] = queue.Queue(ahead)
    closed = threading.Event()
    maker = threading.Thread(target=_make, args=(readouts, blocks, closed), name="phantom-readouts", daemon=True)
    maker.start()
    try:
        while isinstance(block := blocks.get(), Readouts):
            yield block
        if block.error is not None:
            raise block.error
    finally:
        closed.set()
        maker.join()


class _End:
    """The last thing in the queue."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def _make(readouts: Iterable[Readouts], blocks: queue.Queue[Readouts | _End], closed: threading.Event) -> None:
    end = _End(RuntimeError("the maker of the readouts died"))
    try:
        for block in readouts:
            if not _put(blocks, block, closed):
                return
        end = _End()
    except (
        IsocenterError,
        ArithmeticError,
        LookupError,
        OSError,
        MemoryError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        end = _End(error)
    finally:
        _put(blocks, end, closed)


def _put(blocks: queue.Queue[Readouts | _End], item: Readouts | _End, closed: threading.Event) -> bool:
    """Wait for room; return False when nobody wants the item any more."""
    while not closed.is_set():
        try:
            blocks.put(item, timeout=_LOOK_S)
        except queue.Full:
            continue
        return True
    return False
