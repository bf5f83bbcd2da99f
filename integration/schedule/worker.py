"""The process that runs networks: it keeps each scan's Steps open, so that the second image finds everything warm.

It is told what to do in the frames of the raw stream: nothing is pickled, and a Step is one of the table's. What it
does not foresee ends it; the pool starts another.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import struct
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import IsocenterError
from acquisition.items import Image, Item
from acquisition.scan import Scan
from acquisition.stream import Chain
from acquisition.verdict import Verdict
from integration import steps
from integration.doors.stream.messages import Frames
from integration.doors.stream.plain import from_plain, to_plain

LOG = logging.getLogger(__name__)
_OPEN = 4  # scans whose Steps are kept open
_COUNT, _LENGTH = struct.Struct("<I"), struct.Struct("<Q")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Something to do for one scan."""

    job: str
    """Our name for the scan."""
    scan: Scan
    """Its header."""
    companions: str = ""
    """Folder of files that belong to scans; empty: anywhere."""
    steps: str
    """Steps and parameters, as JSON: what is done to the images."""
    images: tuple[Image, ...] = ()
    """Images to feed; none: be ready."""
    close: bool = False
    """Whether the scan is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of it."""

    images: tuple[Image, ...] = ()
    """Images that were made."""
    verdicts: tuple[Verdict, ...] = ()
    """Findings that belong to the scan."""
    error: str = ""
    """Why it could not be done; empty: it was."""


def send(connection: Connection, message: Work | Done) -> None:
    """Send a message to the other process."""
    arrays: list[NDArray] = []
    text = json.dumps(to_plain(message, arrays), allow_nan=False).encode()
    frames: list[Any] = [text, *(np.ascontiguousarray(a).reshape(-1).view("u1").data for a in arrays)]
    connection.send_bytes(_COUNT.pack(len(frames)))
    for frame in frames:
        connection.send_bytes(_LENGTH.pack(len(frame)))
        if len(frame):
            connection.send_bytes(frame)


def receive(connection: Connection, kind: type) -> Any:
    """Take a message of the other process.

    Raises
    ------
    EOFError, OSError
        It is gone.
    """
    (n,) = _COUNT.unpack(connection.recv_bytes())
    frames = []
    for _ in range(n):
        (length,) = _LENGTH.unpack(connection.recv_bytes())
        frame = bytearray(length)
        if length:
            connection.recv_bytes_into(frame)
        frames.append(frame)
    return from_plain(kind, json.loads(frames[0]), Frames(frames[1:]), kind.__name__)


def main(connection: Connection, environment: Mapping[str, str]) -> None:
    """Work until nobody asks any more."""
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the service ends us
    kept: OrderedDict[str, Chain] = OrderedDict()
    while True:
        try:
            work = receive(connection, Work)
        except (EOFError, OSError):
            return
        try:
            done = _done(work, kept)
        except IsocenterError as error:
            kept.pop(work.job, None)
            done = Done(error=str(error))
        send(connection, done)


def _done(work: Work, kept: OrderedDict[str, Chain]) -> Done:
    chain = kept.get(work.job)
    if chain is None:
        chain = Chain([steps.make(name, values, where="network") for name, values in json.loads(work.steps)])
        chain.open(replace(work.scan, companions=Path(work.companions) if work.companions else None))
        kept[work.job] = chain
        while len(kept) > _OPEN:
            kept.popitem(last=False)
    out: list[Item] = [made for image in work.images for made in chain.feed(image)]
    if work.close:
        out += chain.close()
        del kept[work.job]
    images = tuple(item for item in out if isinstance(item, Image))
    return Done(images=images, verdicts=tuple(item for item in out if isinstance(item, Verdict)))
