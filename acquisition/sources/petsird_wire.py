"""yardl's binary form: a codec made from the schema that the file itself carries.

Files of other versions of the model are read by their own schema. Values come as Python sees them: a record is a dict,
a vector of numbers an array, a vector of records that hold nothing but numbers of one kind an array with a column per
number (a million coincidences are one array, not a million objects), a union the pair (name of the case, value).

Unsigned numbers are LEB128, signed ones zigzag in LEB128, floats little-endian, a text its length and UTF-8, a vector
its length and items, an optional one byte and the value, a union the number of the case in one byte and the value.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import FileFormatError
from kernels import varint

MAGIC = b"yardl"
FORMAT_VERSION = 1

_UNSIGNED = {"uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64, "size": np.uint64}
_SIGNED = {"int16": np.int16, "int32": np.int32, "int64": np.int64, "date": np.int64, "time": np.int64}
_SIGNED |= {"datetime": np.int64}
_FIXED = {"bool": "?", "int8": "<i1", "uint8": "<u1", "float32": "<f4", "float64": "<f8"}
_FIXED |= {"complexfloat32": "<c8", "complexfloat64": "<c16"}


class Cursor:
    """Bytes and where the next value begins."""

    def __init__(self, data: NDArray[np.uint8], where: str) -> None:
        self.data, self.where, self.at = np.asarray(data), where, 0

    def unsigned(self, n: int, dtype: type = np.uint64) -> NDArray:
        """Read `n` unsigned numbers.

        Raises
        ------
        FileFormatError
            The data end before, or are no numbers.
        """
        self.require(n)
        out: NDArray = np.empty(n, dtype)
        end = varint.read(self.data, self.at, out)
        if end < 0:
            raise self.broken(f"{n} numbers", "the end, or no numbers")
        self.at = end
        return out

    def length(self) -> int:
        """Read the length of what follows."""
        n = int(self.unsigned(1)[0])
        self.require(n)
        return n

    def bytes(self, n: int) -> NDArray[np.uint8]:
        """Read `n` bytes."""
        self.require(n)
        self.at += n
        return self.data[self.at - n : self.at]

    def require(self, n: int) -> None:
        """Refuse a length that the data cannot hold: every item takes a byte at least.

        Raises
        ------
        FileFormatError
            Fewer than `n` bytes are left.
        """
        if n > len(self.data) - self.at:
            raise self.broken(f"{n} more bytes or items", f"{len(self.data) - self.at} bytes")

    def broken(self, expected: str, got: str) -> FileFormatError:
        """Return the error that says what is wrong here."""
        action = "copy the file again; it is cut or damaged"
        return FileFormatError(f"{self.where}, byte {self.at}", expected=expected, got=got, action=action)


@dataclass(frozen=True, slots=True)
class Codec:
    """How values of one type are read and written."""

    read: Callable[[Cursor], Any]
    """Takes the next value."""
    write: Callable[[bytearray, Any], None]
    """Appends a value."""
    flat: tuple[str, int] | None = None
    """Primitive and how many of it, where it holds nothing else."""
    fields: dict[str, Codec] | None = None
    """Codecs of a record's fields."""


class Schema:
    """The types of a file.

    Parameters
    ----------
    text
        The schema as JSON.
    where
        The file, for messages.

    Raises
    ------
    FileFormatError
        It is no schema, or not one of PETSIRD.
    """

    def __init__(self, text: str, where: str) -> None:
        self._where = where
        try:
            schema = json.loads(text)
            name = schema["protocol"]["name"]
            self._types = {entry["name"]: entry for entry in schema["types"]}
            self.steps = tuple((str(s["name"]), s["type"]) for s in schema["protocol"]["sequence"])
        except (ValueError, KeyError, TypeError) as error:
            raise self.unfit("a yardl schema", f"{type(error).__name__}: {error}") from error
        if name != "PETSIRD":
            raise self.unfit("the protocol PETSIRD", f"protocol {name}")
        self._made: dict[str, Codec] = {}

    def codec(self, expression: Any, bound: dict[str, Codec] | None = None) -> Codec:
        """Return the codec of a type, as the schema writes types.

        Raises
        ------
        FileFormatError
            The schema does not say what it is.
        """
        bound = bound or {}
        if isinstance(expression, str):
            return bound[expression] if expression in bound else self._named(expression, [])
        if isinstance(expression, list):
            return self._union(expression, bound)
        if "name" in expression:
            return self._named(expression["name"], [self.codec(a, bound) for a in expression["typeArguments"]])
        if "vector" in expression:
            return _vector(self.codec(expression["vector"]["items"], bound), expression["vector"].get("length"))
        if "array" in expression:
            return _array(self.codec(expression["array"]["items"], bound), expression["array"].get("dimensions"))
        raise self.unfit("records, vectors, arrays and unions", str(expression)[:80])

    def unfit(self, expected: str, got: str) -> FileFormatError:
        """Return the error that says what the schema lacks."""
        return FileFormatError(
            f"{self._where}: schema",
            expected=expected,
            got=got,
            action="convert the file with the PETSIRD library to version 0.12",
        )

    def _named(self, full: str, arguments: list[Codec]) -> Codec:
        name = full.rsplit(".", 1)[-1]
        if "." not in full:
            return _primitive(full, self)
        if not arguments and name in self._made:
            return self._made[name]
        entry = self._types.get(name)
        if entry is None:
            raise self.unfit(f"type {name}", "no such type")
        bound = dict(zip(entry.get("typeParameters", ()), arguments, strict=True))
        if "fields" in entry:
            made = _record({f["name"]: self.codec(f["type"], bound) for f in entry["fields"]})
        elif "values" in entry:
            made = _enumeration({v["symbol"]: v["value"] for v in entry["values"]}, _primitive("int32", self))
        else:
            made = self.codec(entry["type"], bound)
        if not arguments:
            self._made[name] = made
        return made

    def _union(self, cases: list[Any], bound: dict[str, Codec]) -> Codec:
        made = [None if c is None else (c.get("tag") if isinstance(c, dict) else None) for c in cases]
        codecs = [None if c is None else self.codec(c["type"] if isinstance(c, dict) and "tag" in c else c, bound)
                  for c in cases]  # fmt: skip
        if len(cases) == 2 and cases[0] is None:
            return _optional(codecs[1])  # type: ignore[arg-type]

        def read(cursor: Cursor) -> Any:
            case = int(cursor.bytes(1)[0])
            if case >= len(codecs):
                raise cursor.broken(f"one of {len(codecs)} kinds", str(case))
            codec = codecs[case]
            return None if codec is None else (made[case], codec.read(cursor))

        def write(out: bytearray, value: Any) -> None:
            case = made.index(None if value is None else value[0])
            out.append(case)
            if value is not None:
                codecs[case].write(out, value[1])  # type: ignore[union-attr]

        return Codec(read, write)


def write_unsigned(out: bytearray, values: NDArray | int) -> None:
    """Append unsigned numbers."""
    numbers = np.atleast_1d(np.asarray(values, np.uint64)).ravel()
    room = np.empty(varint.MOST_BYTES * len(numbers), np.uint8)
    out += room[: varint.write(numbers, room)].tobytes()


def _primitive(name: str, schema: Schema) -> Codec:
    if name == "string":
        return Codec(_read_text, _write_text)
    if name not in _FIXED and name not in _UNSIGNED and name not in _SIGNED:
        raise schema.unfit("a primitive of yardl", name)
    flat = (name, 1)
    return Codec(lambda cursor: _numbers(cursor, flat, 1)[0].item(), lambda out, v: _write_numbers(out, flat, v), flat)


def _numbers(cursor: Cursor, flat: tuple[str, int], n: int) -> NDArray:
    """Return `n` times the numbers of a flat type, (n,) or (n, columns)."""
    name, columns = flat
    if name in _FIXED:
        dtype = np.dtype(_FIXED[name])
        out = cursor.bytes(n * columns * dtype.itemsize).view(dtype) if n else np.empty(0, dtype)
        out = out.copy()
    elif name in _UNSIGNED:
        out = cursor.unsigned(n * columns, _UNSIGNED[name])
    else:
        zigzag = cursor.unsigned(n * columns)
        sign = -(zigzag & np.uint64(1)).astype(np.int64)
        out = ((zigzag >> np.uint64(1)).astype(np.int64) ^ sign).astype(_SIGNED[name])
    return out if columns == 1 else out.reshape(n, columns)


def _write_numbers(out: bytearray, flat: tuple[str, int], values: Any) -> None:
    name = flat[0]
    if name in _FIXED:
        out += np.asarray(values, _FIXED[name]).tobytes()
    elif name in _UNSIGNED:
        write_unsigned(out, values)
    else:
        signed = np.atleast_1d(np.asarray(values, np.int64))
        write_unsigned(out, ((signed << 1) ^ (signed >> 63)).view(np.uint64))


def _read_text(cursor: Cursor) -> str:
    return cursor.bytes(cursor.length()).tobytes().decode("utf-8", errors="replace")


def _write_text(out: bytearray, value: str) -> None:
    raw = value.encode()
    write_unsigned(out, len(raw))
    out += raw


def _record(fields: dict[str, Codec]) -> Codec:
    flats = [codec.flat for codec in fields.values()]
    kinds = {flat and flat[0] for flat in flats}
    flat = None
    if len(kinds) == 1 and None not in kinds:
        flat = (kinds.pop(), sum(f[1] for f in flats if f))

    def read(cursor: Cursor) -> dict[str, Any]:
        return {name: codec.read(cursor) for name, codec in fields.items()}

    def write(out: bytearray, value: dict[str, Any]) -> None:
        for name, codec in fields.items():
            codec.write(out, value[name])

    return Codec(read, write, flat, fields)  # type: ignore[arg-type]


def _enumeration(symbols: dict[str, int], number: Codec) -> Codec:
    names = {value: symbol for symbol, value in symbols.items()}
    return Codec(
        lambda cursor: names.get(value := number.read(cursor), str(value)),
        lambda out, value: number.write(out, symbols[value]),
    )


def _optional(inner: Codec) -> Codec:
    def write(out: bytearray, value: Any) -> None:
        out.append(value is not None)
        if value is not None:
            inner.write(out, value)

    return Codec(lambda cursor: inner.read(cursor) if cursor.bytes(1)[0] else None, write)


def _vector(item: Codec, length: int | None) -> Codec:
    flat = item.flat
    if flat is not None:

        def write_flat(out: bytearray, values: Any) -> None:
            if length is None:
                write_unsigned(out, len(values))
            if len(values):
                _write_numbers(out, flat, values)

        whole = None if length is None else (flat[0], flat[1] * length)
        return Codec(
            lambda cursor: _numbers(cursor, flat, cursor.length() if length is None else length), write_flat, whole
        )

    def write(out: bytearray, values: Any) -> None:
        if length is None:
            write_unsigned(out, len(values))
        for value in values:
            item.write(out, value)

    def read(cursor: Cursor) -> list[Any]:
        return [item.read(cursor) for _ in range(cursor.length() if length is None else length)]

    return Codec(read, write)


def _array(item: Codec, dimensions: int | list[dict[str, Any]] | None) -> Codec:
    n_dims = len(dimensions) if isinstance(dimensions, list) else dimensions
    fixed = [d.get("length") for d in dimensions] if isinstance(dimensions, list) else [None]
    shape_known = all(n is not None for n in fixed)
    flat = item.flat

    def read(cursor: Cursor) -> Any:
        n = (cursor.length() if n_dims is None else n_dims) if not shape_known else 0
        shape = tuple(fixed) if shape_known else tuple(cursor.length() for _ in range(n))
        size = math.prod(shape)  # type: ignore[arg-type]
        cursor.require(size)
        if flat is None:
            return [item.read(cursor) for _ in range(size)]
        return _numbers(cursor, flat, size).reshape(*shape, *((flat[1],) if flat[1] > 1 else ()))

    def write(out: bytearray, values: Any) -> None:
        array = np.asarray(values)
        if not shape_known:
            if n_dims is None:
                write_unsigned(out, array.ndim)
            write_unsigned(out, np.array(array.shape))
        _write_numbers(out, flat or ("float32", 1), array)

    whole = (flat[0], flat[1] * math.prod(fixed)) if shape_known and flat else None  # type: ignore[arg-type]
    return Codec(read, write, whole)


def opened(data: NDArray[np.uint8], where: str) -> tuple[Cursor, str]:
    """Return a cursor behind the schema, and the schema's text.

    Raises
    ------
    FileFormatError
        It is not yardl's binary form, or not its first version.
    """
    cursor = Cursor(data, where)
    if cursor.bytes(len(MAGIC)).tobytes() != MAGIC:
        cursor.at = 0
        raise cursor.broken("yardl", "other bytes")
    version = struct.unpack("<i", cursor.bytes(4).tobytes())[0]
    if version != FORMAT_VERSION:
        raise cursor.broken(f"binary form {FORMAT_VERSION}", str(version))
    return cursor, _read_text(cursor)


def preamble(schema: str) -> bytearray:
    """Return the first bytes of a file with this schema."""
    out = bytearray(MAGIC + struct.pack("<i", FORMAT_VERSION))
    _write_text(out, schema)
    return out
