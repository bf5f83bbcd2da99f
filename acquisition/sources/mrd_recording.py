"""Recorded MRD streams: the messages of one scan, one after another, as converters and our recorder write them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from acquisition.errors import FileFormatError, ScanAbortedError
from acquisition.items import Image, Readouts, Waveform
from acquisition.sources.mrd_header import parse_header
from acquisition.sources.mrd_limits import StreamLimits
from acquisition.sources.mrd_raw import RawFile, RawItem, reading
from acquisition.sources.mrd_stream import StreamDecoder
from acquisition.sources.mrd_wire import Close, ConfigFile, ConfigText, Header, Message, Text

FORMAT = "MRD stream"
_log = logging.getLogger(__name__)


def read_recording(path: Path, *, limits: StreamLimits | None = None) -> RawFile:
    """Open a recorded stream.

    Raises
    ------
    FileFormatError
        It ends before the scan's header.
    MessageError, LimitError
        It is no MRD stream.
    HeaderError
        The header is not usable.
    """
    limits = limits or StreamLimits()
    config: str | None = None
    for message in _messages(path, limits):
        match message:
            case ConfigFile(name):
                config = name
            case ConfigText(text):
                config = text
            case Header(xml):
                scan = parse_header(xml)
                source = partial(_items, path, limits.for_scan(scan))
                return RawFile(path=path, format=FORMAT, scan=scan, config=config, source=source)
            case Text() | Close():
                pass
            case _:
                break
    raise _damaged(path, expected="a scan header before the data", got="none")


def _items(path: Path, limits: StreamLimits) -> Iterator[RawItem]:
    headers, texts, last = 0, 0, None
    for message in _messages(path, limits):
        headers += isinstance(message, Header)
        texts += isinstance(message, Text)
        if headers > 1:
            raise _damaged(path, expected="one scan", got="a second scan header")
        if isinstance(message, Readouts | Waveform | Image):
            yield message
        last = message
    if not isinstance(last, Close):
        _log.warning("recording %s has no closing message; the scan may be incomplete", path.name)
    if texts:
        _log.info("recording %s: %d text messages passed over", path.name, texts)


def _messages(path: Path, limits: StreamLimits) -> Iterator[Message]:
    decoder = StreamDecoder(limits)
    with reading(path, FORMAT), path.open("rb", buffering=0) as file:
        while n := file.readinto(decoder.writable()):
            yield from decoder.received(n)
    try:
        decoder.finish()
    except ScanAbortedError as error:
        raise _damaged(path, expected="a whole last message", got=str(error)) from error


def _damaged(path: Path, *, expected: str, got: str) -> FileFormatError:
    return FileFormatError(f"file {path.name}", expected=expected, got=got, action="copy or convert the file again")
