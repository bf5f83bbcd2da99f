"""Dataclasses as JSON and arrays, and back: names, types and units on the wire are those of the contract.

A dataclass is an object of its fields; a field that has its default may be left out, one that is unknown is an error.
An array is ``{"dtype": "<f4", "shape": [16, 64, 736], "frame": 0}``: its bytes are frame 0 behind the JSON, C order,
little endian. The dtype of an array of records is a list of ``[name, dtype]`` or ``[name, dtype, shape]``, packed;
fields that are not named are zero. Nothing here is chosen by name from outside: every type is that of an annotation.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import datetime
from enum import Enum
from functools import cache
from math import prod
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import IsocenterError, MessageError, one_of
from acquisition.items import READOUT_HEAD, VIEW_HEAD

RECORDS = {("Readouts", "head"): READOUT_HEAD, ("Projections", "head"): VIEW_HEAD}
"""Arrays of records, by class and field."""
HERE_ONLY = {"received_s", "last_readout_s", "companions", "header"}
"""Fields that mean something in one process or on one computer only; they never travel."""
MOST_DIMS = 8
_MOST_ENTRIES = 100_000
_GREATEST = 1e300
_WIDER = {"<f4": ("<u2", "<i2", "|u1", "|i1"), "<i4": ("<u2", "<i2"), "<u4": ("<u2",), "<i2": ("|u1", "|i1")}
"""Types of numbers that fit exactly into a wider one."""
_NUMBERS = ("|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<f4", "<f8", "<c8", "<c16")
_ANY = ("<f4", "<f8", "<c8", "<c16", "<u2", "<i2", "<u4", "<i4")

Bytes = memoryview | bytes | bytearray
Fetch = Callable[[Mapping[str, object], int, str], Bytes]
"""Gives the bytes of an array: what its description says, how many there must be, where it stands (for errors)."""


def to_plain(value: object, arrays: list[NDArray]) -> Any:
    """Return `value` in the words of JSON; arrays are appended to `arrays`, in the order of their frames."""
    if isinstance(value, np.ndarray):
        return _described(value, arrays)
    if is_dataclass(value) and not isinstance(value, type):
        named = ((f, getattr(value, f.name)) for f in _sent(type(value)))
        return {f.name: to_plain(v, arrays) for f, v in named if not _is_default(f, v)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(k): to_plain(v, arrays) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(v, arrays) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no word for it
    return value


def from_plain(kind: Any, value: object, fetch: Fetch, where: str) -> Any:
    """Return the value of type `kind` that JSON describes.

    Parameters
    ----------
    kind
        The annotation.
    value
        What JSON said.
    fetch
        Gives the bytes of arrays.
    where
        Its place in the message, for errors.

    Raises
    ------
    MessageError
        It is of another type, a field is unknown or missing, or an array is not as described.
    """
    origin = get_origin(kind)
    if is_dataclass(kind):
        return _object(kind, value, fetch, where)
    if origin is np.ndarray:
        allowed = _allowed(kind)
        return read_array(value, fetch, where, allowed=allowed)
    if origin in (Union, types.UnionType):
        return _one_of(get_args(kind), value, fetch, where)
    if origin is Literal:
        if any(value == c and type(value) is type(c) for c in get_args(kind)):
            return value
        raise _wrong(where, f"one of {', '.join(map(repr, get_args(kind)))}", value)
    if origin is tuple:
        return _tuple(get_args(kind), value, fetch, where)
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(get_args(kind), value, fetch, where)
    return _scalar(kind, value, where)


def read_array(value: object, fetch: Fetch, where: str, *, allowed: Sequence[str]) -> NDArray:
    """Return the array that JSON describes; numbers that fit exactly into the first allowed type are widened.

    Raises
    ------
    MessageError
        The description is wrong, or there are more or fewer bytes than it says.
    """
    if not isinstance(value, dict):
        raise _wrong(where, "an array: dtype, shape and frame", value)
    shape = _shape(value.get("shape"), where)
    wider = _WIDER.get(allowed[0], ()) if len(allowed) == 1 else ()
    name = value.get("dtype")
    if name not in (*allowed, *wider):
        raise _wrong(f"{where}.dtype", one_of(str(name)[:20], (*allowed, *wider)), name)
    dtype = np.dtype(str(name))
    found = np.frombuffer(fetch(value, prod(shape) * dtype.itemsize, where), dtype).reshape(shape)
    return found if name in allowed else found.astype(allowed[0])


def read_records(value: object, table: np.dtype, fetch: Fetch, where: str) -> NDArray[np.void]:
    """Return records of dtype `table`, shape (n,), from the fields that were sent; the others are zero.

    Raises
    ------
    MessageError
        A field is unknown, comes twice or is of another type.
    """
    if not isinstance(value, dict) or not isinstance(value.get("dtype"), list):
        raise _wrong(where, "an array of records: dtype as a list of [name, dtype], shape and frame", value)
    shape = _shape(value.get("shape"), where)
    if len(shape) != 1:
        raise _wrong(f"{where}.shape", "[n]", shape)
    known = {str(row[0]): row for row in _descr(table)}
    names = [_record_field(row, known, where) for row in value["dtype"]]
    if len(set(names)) != len(names) or not names:
        raise _wrong(f"{where}.dtype", "each field once", names)
    dtype = np.dtype([_as_field(known[name]) for name in names])
    found = np.frombuffer(fetch(value, shape[0] * dtype.itemsize, where), dtype)
    if dtype == table:
        return found
    out = np.zeros(shape, table)
    for name in names:
        out[name] = found[name]
    return out


def _described(value: NDArray, arrays: list[NDArray]) -> dict[str, object]:
    if value.dtype.names:
        dtype: object = _descr(value.dtype)
    else:
        value = value.astype(value.dtype.newbyteorder("<"), copy=False)
        dtype = value.dtype.str
        if dtype not in _NUMBERS:
            raise MessageError("array", expected=f"one of {', '.join(_NUMBERS)}", got=str(dtype))
    arrays.append(np.ascontiguousarray(value).reshape(value.shape))
    return {"dtype": dtype, "shape": list(value.shape), "frame": len(arrays) - 1}


@cache
def _sent(cls: type) -> tuple[Field[Any], ...]:
    return tuple(f for f in fields(cls) if f.init and f.name not in HERE_ONLY)


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _is_default(field: Field[Any], value: object) -> bool:
    if value is field.default:
        return True
    if isinstance(value, np.ndarray) or field.default is MISSING:
        return not isinstance(value, np.ndarray) and field.default_factory is not MISSING and _made(field) == value
    return bool(type(value) is type(field.default) and value == field.default)


def _made(field: Field[Any]) -> object:
    assert field.default_factory is not MISSING
    return field.default_factory()


def _object(cls: Any, value: object, fetch: Fetch, where: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong(where, f"an object ({cls.__name__})", value)
    known = {f.name: f for f in _sent(cls)}
    hints = _hints(cls)
    for name in value:
        if name not in known:
            raise _wrong(f"{where}.{str(name)[:40]}", one_of(str(name)[:40], known), "an unknown field")
    required = (f for f in known.values() if f.default is MISSING and f.default_factory is MISSING)
    missing = [f.name for f in required if f.name not in value]
    if missing:
        raise _wrong(where, f"the fields {', '.join(missing)}", ", ".join(value) or "none", plain=True)
    made: dict[str, object] = {}
    for name, given in value.items():
        table = RECORDS.get((cls.__name__, name))
        place = f"{where}.{name}"
        made[name] = (
            from_plain(hints[name], given, fetch, place) if table is None else read_records(given, table, fetch, place)
        )
    try:
        return cls(**made)
    except IsocenterError:
        raise
    except (TypeError, ValueError) as error:
        raise _wrong(where, f"a {cls.__name__}", str(error), plain=True) from error


def _one_of(kinds: Sequence[Any], value: object, fetch: Fetch, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    problem: MessageError | None = None
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            return from_plain(kind, value, fetch, where)
        except MessageError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def _tuple(kinds: Sequence[Any], value: object, fetch: Fetch, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list) or len(value) > _MOST_ENTRIES:
        raise _wrong(where, "a list", value)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = [kinds[0]] * len(value)
    if len(kinds) != len(value):
        raise _wrong(where, f"{len(kinds)} values", f"{len(value)}", plain=True)
    return tuple(from_plain(k, v, fetch, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))


def _mapping(kinds: Sequence[Any], value: object, fetch: Fetch, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > _MOST_ENTRIES:
        raise _wrong(where, "an object", value)
    return {str(k): from_plain(kinds[1], v, fetch, f"{where}.{str(k)[:40]}") for k, v in value.items()}


def _scalar(kind: Any, value: object, where: str) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and number and abs(value) < _GREATEST:  # type: ignore[arg-type]
        return float(value)  # type: ignore[arg-type]
    if kind is int and number and isinstance(value, int) and abs(value) < 1 << 63:
        return value
    if kind in (str, bool) and type(value) is kind:
        return value
    parse = datetime.fromisoformat if kind is datetime else kind if issubclass(kind, Enum) else None
    if isinstance(value, str) and parse is not None:
        try:
            return parse(value)
        except ValueError as error:
            raise _wrong(where, str(error), value) from error
    raise _wrong(where, _NAMES.get(kind, getattr(kind, "__name__", str(kind))), value)


_NAMES = {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}


def _allowed(kind: Any) -> tuple[str, ...]:
    scalar = get_args(get_args(kind)[1])[0]
    return (np.dtype(scalar).str,) if isinstance(scalar, type) else _ANY


def _shape(value: object, where: str) -> tuple[int, ...]:
    if (
        not isinstance(value, list)
        or len(value) > MOST_DIMS
        or any(type(n) is not int or not 0 <= n < 1 << 32 for n in value)
        or prod(n for n in value if n) >= 1 << 40
    ):
        raise _wrong(f"{where}.shape", f"a list of at most {MOST_DIMS} sizes", value)
    return tuple(value)


def _record_field(row: object, known: Mapping[str, list[object]], where: str) -> str:
    if not isinstance(row, list) or not row or not isinstance(row[0], str) or row[0] not in known:
        name = str(row[0] if isinstance(row, list) and row else row)[:40]
        raise _wrong(f"{where}.dtype", one_of(name, known), name)
    if row != known[row[0]]:
        raise _wrong(f"{where}.dtype", str(known[row[0]]), row)
    return row[0]


@cache
def _descr(table: np.dtype) -> list[list[object]]:
    fields_of = ((name, table[name]) for name in table.names or ())
    return [[name, f.base.str, *([list(f.shape)] if f.shape else [])] for name, f in fields_of]


def _as_field(row: Sequence[Any]) -> tuple[Any, ...]:
    return (row[0], row[1], *(tuple(s) for s in row[2:]))


def _wrong(where: str, expected: str, got: object, *, plain: bool = False) -> MessageError:
    said = str(got) if plain else repr(got)
    return MessageError(where, expected=expected, got=said[:120], action="correct the sender")
