"""The messages of the raw stream, and how they lie in the frames of ZeroMQ.

A message is one multipart message: a JSON object with its ``type``, then the bytes of its arrays. README.md beside this
file is the protocol for those who write the other end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

from numpy.typing import NDArray

from acquisition.errors import IsocenterError, MessageError, one_of
from acquisition.items import Events, Histogram, Image, Projections, Readouts, SlicePlan, Waveform
from acquisition.pet_norm import Normalisation
from acquisition.scan import Scan
from acquisition.sources.mrd_limits import MIB, check_claim
from acquisition.verdict import Verdict
from integration.doors.request import AUTO
from integration.doors.stream.plain import Bytes, Fetch, from_plain, to_plain

VERSION = 1
"""Of the protocol."""
MOST_FRAMES = 16
"""Frames of one message, the JSON included."""
LEAST_BYTES = 1 << 10
"""What a message counts at least in the window: many empty ones fill memory, too [bytes]."""
JSON_BYTES = 1 * MIB
"""Longest JSON of a message [bytes]."""
OPEN_BYTES = 16 * MIB
"""Longest JSON, and longest arrays, of the first message [bytes]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """A file in shared memory through which a client on the same computer hands over arrays."""

    name: str
    """Its name in /dev/shm."""
    bytes: int
    """Its size [bytes]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """The first message: who, on what, and what is wanted."""

    version: int
    """Of the protocol."""
    protocol: str = AUTO
    """Name of the reconstruction protocol; ``auto``: by the header."""
    set: Mapping[str, bool | int | float | str | tuple[int | float, ...]] = field(default_factory=dict)
    """Changes of it, by ``step.parameter``."""
    urgency: Literal["interactive", "inline", "batch"] = "inline"
    """What the scan waits for: a hand at the console, the end of the exam, nobody."""
    network_deadline_s: float | None = None
    """A network's image that is not there this long after its conventional one is left out [s]; None: it is kept."""
    scan: Scan | None = None
    """The header; None: `mrd_header` tells it."""
    mrd_header: str = ""
    """The header of an MR scan as ISMRMRD XML, instead of `scan`."""
    ring: Ring | None = None
    """Where arrays with ``at`` lie; None: all come as frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One delivery of data: exactly one of the kinds."""

    seq: int
    """Counts the blocks of a scan from 1."""
    readouts: Readouts | None = None
    """MR: readouts of equal shape."""
    projections: Projections | None = None
    """CT: views."""
    events: Events | None = None
    """PET: list-mode of a time block."""
    histogram: Histogram | None = None
    """PET: a sorted time block."""
    waveform: Waveform | None = None
    """Physiology."""
    normalisation: Normalisation | None = None
    """PET: efficiencies of the detectors, before the first events."""
    image: Image | None = None
    """An image of the scanner's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened at the scanner."""

    event: Literal["text", "abort"]
    """text: a line for the log; abort: the scan was stopped, make what can be made."""
    text: str = ""
    """In words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shut:
    """The scan is over: all has been sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The scan is taken; blocks may come."""

    job: str
    """Our name for it."""
    window_bytes: int
    """Bytes of blocks that may be under way: sent, and not yet reported as taken."""
    version: int = VERSION
    """Of the protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the work is; comes at least every second."""

    taken: int
    """Blocks up to this number have been worked on; their bytes are free again."""
    readouts: int
    """Readouts, views or coincidences so far."""
    images: int
    """Images so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """An image."""

    image: Image
    """The image, its verdicts with it."""
    waited_s: float | None = None
    """Time from its last raw data to this message [s]; None: it cannot be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A finding that belongs to the scan."""

    verdict: Verdict
    """The finding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """Where the next series should lie."""

    plan: SlicePlan
    """The proposal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line for the scanner's log."""

    level: str
    """INFO, WARNING or ERROR."""
    text: str
    """The line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The last message: all images are durable."""

    state: str
    """COMPLETE, INTERRUPTED, FAILED, or REFUSED where no scan began."""
    job: str = ""
    """Our name for the scan."""
    reason: str = ""
    """Why it is not COMPLETE."""
    unreturned: int = 0
    """Images that could not be given back; the archive has them."""


ToService = Open | Block | Event | Shut
FromService = Opened | Progress | Returned | Found | Planned | Line | End
TO_SERVICE: dict[str, type] = {"open": Open, "block": Block, "event": Event, "close": Shut}
"""Types of messages that a client sends."""
FROM_SERVICE: dict[str, type] = {
    "opened": Opened,
    "progress": Progress,
    "image": Returned,
    "verdict": Found,
    "plan": Planned,
    "text": Line,
    "end": End,
}
"""Types of messages that the service sends."""
_WORDS = {cls: word for words in (TO_SERVICE, FROM_SERVICE) for word, cls in words.items()}
_M = TypeVar("_M")


class Frames:
    """The bytes of a message's arrays; each frame may be used once.

    Parameters
    ----------
    frames
        The frames behind the JSON.
    ring
        Gives bytes of the ring: offset, length, place; None: there is none.
    """

    def __init__(self, frames: Sequence[Bytes], ring: Fetch | None = None) -> None:
        self._left, self._ring = dict(enumerate(frames)), ring

    def __call__(self, described: Mapping[str, object], n_bytes: int, where: str) -> Bytes:
        """Return the bytes of one array (`plain.Fetch`)."""
        unknown = described.keys() - {"dtype", "shape", "frame", "at"}
        if unknown or ("frame" in described) == ("at" in described):
            raise MessageError(
                where, expected="dtype, shape, and either frame or at", got=", ".join(map(str, described))
            )
        if "at" in described:
            if self._ring is None:
                raise MessageError(where, expected="a frame: no ring was opened", got="a place in a ring")
            return self._ring(described, n_bytes, where)
        number = described["frame"]
        found = self._left.pop(number, None) if type(number) is int else None
        if found is None:
            raise MessageError(f"{where}.frame", expected="a frame of this message, used once", got=repr(number)[:20])
        if len(found) != n_bytes:
            raise MessageError(
                where,
                expected=f"{n_bytes} bytes for its shape and dtype",
                got=f"{len(found)}",
                action="correct the sender",
            )
        return found

    def finish(self, where: str) -> None:
        """Raise MessageError if a frame was sent that no array names."""
        if self._left:
            raise MessageError(where, expected="frames that an array names", got=f"{len(self._left)} more")


def encode(message: Any) -> list[Any]:
    """Return the frames of a message: JSON, then arrays."""
    arrays: list[NDArray] = []
    document = {"type": _WORDS[type(message)], **to_plain(message, arrays)}
    return [json.dumps(document, allow_nan=False).encode(), *(a.reshape(-1).view("u1") for a in arrays)]


def decode(
    frames: Sequence[Bytes],
    known: Mapping[str, type],
    *,
    json_bytes: int,
    array_bytes: int,
    ring: Fetch | None = None,
) -> Any:
    """Return the message in `frames`, one of the `known` types.

    Parameters
    ----------
    frames
        JSON, then arrays.
    known
        Types by their word.
    json_bytes, array_bytes
        What the JSON, and all arrays together, may have [bytes].
    ring
        Gives bytes of the ring; None: there is none.

    Raises
    ------
    MessageError
        It is none; the message says what is wrong, and where.
    LimitError
        It is too large.
    """
    check_claim("message", len(frames), limit=MOST_FRAMES, unit="frames")
    check_claim("message: arrays", sum(map(len, frames[1:])), limit=array_bytes, unit="bytes")
    document = parse(frames[0], json_bytes)
    word = document.pop("type", None)
    if not isinstance(word, str) or word not in known:
        raise MessageError("message: type", expected=one_of(str(word)[:20], known), got=repr(word)[:40])
    source = Frames(frames[1:], ring)
    message = from_plain(known[word], document, source, word)
    source.finish(word)
    return message


def parse(text: Bytes, limit_bytes: int) -> dict[str, Any]:
    """Return the JSON object in `text`.

    Raises
    ------
    MessageError
        It is none; a key comes twice, or a number is not finite.
    LimitError
        It is longer than `limit_bytes`.
    """
    check_claim("message: JSON", len(text), limit=limit_bytes, unit="bytes")
    try:
        document = json.loads(bytes(text), parse_constant=_no_constant, object_pairs_hook=_once)
    except IsocenterError:
        raise
    except (ValueError, RecursionError) as error:
        raise MessageError("message: JSON", expected="a JSON object in UTF-8", got=str(error)[:120]) from error
    if not isinstance(document, dict):
        raise MessageError("message: JSON", expected="an object", got=type(document).__name__)
    return document


def item_of(block: Block) -> Any:
    """Return what a block delivers.

    Raises
    ------
    MessageError
        It is not exactly one thing.
    """
    given = [f.name for f in fields(block) if f.name != "seq" and getattr(block, f.name) is not None]
    if len(given) != 1:
        kinds = [f.name for f in fields(block) if f.name != "seq"]
        raise MessageError(
            f"block {block.seq}", expected=f"one of {', '.join(kinds)}", got=" and ".join(given) or "none of them"
        )
    return getattr(block, given[0])


def block_of(seq: int, item: Any) -> Block:
    """Return the block that delivers `item`.

    Raises
    ------
    MessageError
        Such items do not travel.
    """
    name = type(item).__name__.lower()
    if name not in {f.name for f in fields(Block)}:
        raise MessageError(f"block {seq}", expected="raw data", got=name)
    return Block(seq=seq, **{name: item})


def _no_constant(word: str) -> object:
    raise MessageError("message: JSON", expected="finite numbers", got=word, action="leave such values out")


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MessageError("message: JSON", expected="each key once", got="one twice")
    return found
