"""Interfile headers: ``key := value`` in lines, as Siemens and STIR write them.

Upper and lower case, ``!``, ``%`` and spaces more or less do not matter in a key. ``key [2]`` is the second of a list.
Lines from ``;`` on are remarks. A key that comes twice with different values is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import FileFormatError, HeaderError
from acquisition.sources.mrd_raw import reading

MAGIC = b"!INTERFILE"
_LARGEST = 1 << 22
_KEY = re.compile(r"^(.*?)\s*(?:\[\s*(\d+)\s*\])?$")
_KINDS = {
    "float": "f",
    "short float": "f",
    "long float": "f",
    "signed integer": "i",
    "unsigned integer": "u",
}


@dataclass(frozen=True, slots=True)
class Header:
    """A parsed header."""

    path: Path
    """The file."""
    values: dict[tuple[str, int], str]
    """By key without punctuation and index (0: none)."""
    text: str
    """As it came."""

    def has(self, key: str, index: int = 0) -> bool:
        """Return whether there is a value."""
        return bool(self.values.get((key, index)))

    def word(self, key: str, default: str | None = None, *, index: int = 0) -> str:
        """Return the text of `key`.

        Raises
        ------
        HeaderError
            It is missing and has no default.
        """
        value = self.values.get((key, index)) or default
        if value is None:
            raise self.wrong(key, "a value", "none", index=index)
        return value

    def number(self, key: str, default: float | None = None, *, index: int = 0) -> float:
        """Return the number of `key`.

        Raises
        ------
        HeaderError
            It is missing and has no default, or is no finite number.
        """
        text = self.word(key, None if default is None else repr(default), index=index)
        try:
            value = float(text)
        except ValueError:
            raise self.wrong(key, "a number", text, index=index) from None
        if not np.isfinite(value):
            raise self.wrong(key, "a finite number", text, index=index)
        return value

    def count(self, key: str, default: int | None = None, *, index: int = 0) -> int:
        """Return the whole number of `key`, 0 or more.

        Raises
        ------
        HeaderError
            It is missing and has no default, or is no such number.
        """
        value = self.number(key, default, index=index)
        if value < 0 or value != int(value):
            raise self.wrong(key, "a whole number", f"{value:g}", index=index)
        return int(value)

    def numbers(self, key: str, *, index: int = 0) -> tuple[int, ...]:
        """Return whole numbers between braces, or a single one.

        Raises
        ------
        HeaderError
            It is missing or holds something else.
        """
        text = self.word(key, index=index)
        try:
            return tuple(int(part) for part in text.strip("{} ").split(","))
        except ValueError:
            raise self.wrong(key, "whole numbers {a, b ...}", text, index=index) from None

    def moment(self, date: str, time: str) -> datetime | None:
        """Return the time of two keys (yyyy:mm:dd and hh:mm:ss), None where one is missing.

        Raises
        ------
        HeaderError
            They are no date and time.
        """
        day, clock = self._timed(date), self._timed(time)
        if day is None or clock is None:
            return None
        try:
            return datetime.strptime(f"{day} {clock}", "%Y:%m:%d %H:%M:%S")
        except ValueError:
            raise self.wrong(date, "yyyy:mm:dd and hh:mm:ss", f"{day} {clock}") from None

    def data_path(self) -> Path:
        """Return the file that the header names, beside the header.

        Raises
        ------
        FileFormatError
            It is not there.
        """
        named = self.word("name of data file")
        path = self.path.parent / Path(named.replace("\\", "/")).name
        if not path.is_file():
            raise FileFormatError(
                f"file {self.path.name}: name of data file",
                expected=f"{path.name} beside the header",
                got="no such file",
                action="copy header and data together",
            )
        return path

    def wrong(self, key: str, expected: str, got: str, *, index: int = 0) -> HeaderError:
        """Return the error that says what is wrong with `key`."""
        where = f"file {self.path.name}: {key}" + (f" [{index}]" if index else "")
        return HeaderError(where, expected=expected, got=got, action="correct the header or export the data again")

    def _timed(self, key: str) -> str | None:
        """Return the value of a key whose name may go on with a format in parentheses."""
        fitting = (v for (name, _), v in self.values.items() if name == key or name.startswith(f"{key} ("))
        return next(fitting, None)


def read_header(path: Path) -> Header:
    """Read a header.

    Raises
    ------
    FileFormatError
        It is no Interfile header.
    HeaderError
        A key comes twice with different values.
    """
    with reading(path, "Interfile header"):
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"{path.stat().st_size} bytes, more than a header has")
        text = path.read_bytes().decode("utf-8", errors="replace").removeprefix("\ufeff")
    if not is_interfile(text[:1024].encode()):
        raise FileFormatError(
            f"file {path.name}", expected="!INTERFILE in the first line", got=repr(text[:20]), action="name the header"
        )
    header = Header(path, {}, text)
    for key, index, value in _lines(text):
        before = header.values.setdefault((key, index), value)
        if before != value:
            raise header.wrong(key, "one value", f"{before!r} and {value!r}", index=index)
    return header


def is_interfile(first: bytes) -> bool:
    """Return whether a file with these first bytes is an Interfile header."""
    return first.lstrip(b"\xef\xbb\xbf \t\r\n").upper().startswith(MAGIC)


def pixels(header: Header, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the numbers of the data file, scaled, in the given shape (slowest first).

    Raises
    ------
    HeaderError
        The header's number format is unknown.
    FileFormatError
        The data file is missing or of another size.
    """
    path, dtype = header.data_path(), _dtype(header)
    offset = header.count("data offset in bytes", header.count("data offset in bytes", 0), index=1)
    expected = offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    with reading(path, "data file"):
        size = path.stat().st_size
        if size == expected:
            data = np.fromfile(path, dtype, offset=offset)
    if size != expected:
        raise FileFormatError(
            f"file {path.name}",
            expected=f"{expected} bytes for {' x '.join(map(str, shape))} of {dtype.name}",
            got=f"{size} bytes",
            action="copy the file again, or correct its header",
        )
    scale = header.number("image scaling factor", header.number("image scaling factor", 1.0), index=1)
    return (data.reshape(shape) * np.float32(scale)).astype(np.float32, copy=False)


def _dtype(header: Header) -> np.dtype:
    name, n_bytes = header.word("number format").lower(), header.count("number of bytes per pixel")
    order = header.word("imagedata byte order", header.word("image data byte order", "BIGENDIAN")).upper()
    kind, allowed = _KINDS.get(name), (4, 8) if "float" in name else (1, 2, 4, 8)
    if kind is None or n_bytes not in allowed or order not in ("LITTLEENDIAN", "BIGENDIAN"):
        raise header.wrong("number format", " or ".join(_KINDS), f"{name} of {n_bytes} bytes, {order}")
    return np.dtype(f"{'<' if order == 'LITTLEENDIAN' else '>'}{kind}{n_bytes}")


def _lines(text: str) -> Iterator[tuple[str, int, str]]:
    for line in text.replace("\\\n", " ").splitlines():
        line = line.split(";", 1)[0]
        if ":=" not in line:
            continue
        name, value = line.split(":=", 1)
        match = _KEY.match(" ".join(name.strip().lstrip("!%").lower().split()))
        if match is not None:
            yield match[1], int(match[2] or 0), value.strip()
