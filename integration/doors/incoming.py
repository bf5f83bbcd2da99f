"""Bytes to what a session works on: the same for a socket and for a recording of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from acquisition.errors import InputError
from acquisition.items import Events, Image, Projections, Readouts, Waveform
from acquisition.pet_norm import Normalisation
from acquisition.scan import Scan
from acquisition.sources.mrd_header import parse_header
from acquisition.sources.mrd_limits import StreamLimits
from acquisition.sources.mrd_stream import StreamDecoder
from acquisition.sources.mrd_wire import Close, ConfigFile, ConfigText, Header, Text

_SMALL = 1 << 10


@dataclass(frozen=True, slots=True)
class Broken:
    """The stream cannot be followed any further; the last thing that comes."""

    error: InputError
    """Why."""


Data = Readouts | Projections | Events | Waveform | Image | Normalisation
Incoming = ConfigFile | ConfigText | Scan | Text | Data | Close | Broken
"""What a client says, its header already read."""


def read_incoming(
    receive: Callable[[memoryview], int],
    *,
    record: Callable[[memoryview], None] | None = None,
    limits: StreamLimits | None = None,
) -> Iterator[Incoming]:
    """Yield what comes until Close, the end of the stream, or the first error, which comes as `Broken`.

    Parameters
    ----------
    receive
        Fills the memory it is given from the start; returns how many bytes, 0 at the end. May raise InputError.
    record
        Told every byte, before it is understood.
    limits
        What a message may claim; narrowed by the header.
    """
    decoder = StreamDecoder(limits)
    try:
        while n := receive(view := decoder.writable()):
            if record is not None:
                record(view[:n])
            for message in decoder.received(n):
                if isinstance(message, Header):
                    scan = parse_header(message.xml)
                    decoder.expect(scan)
                    yield scan
                else:
                    yield message
                    if isinstance(message, Close):
                        return
        decoder.finish()
    except InputError as error:
        yield Broken(error)


def size_of(message: Incoming) -> int:
    """Return about how much memory `message` holds [bytes]."""
    if isinstance(message, Readouts | Projections | Waveform | Image):
        return int(message.data.nbytes) + _SMALL
    if isinstance(message, Events):
        return int(message.prompts.nbytes + message.delayeds.nbytes) + _SMALL
    return _SMALL
