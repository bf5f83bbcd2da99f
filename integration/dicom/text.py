"""Makes every value fit its value representation (PS3.5 6.2), and says what it had to change.

Text comes from scanners and people. Nothing of it may make an object invalid: what is too long is cut, what is
not allowed becomes a space, what cannot be mended is left empty. An identifier is never mended: a cut patient
id may be somebody else's. Lengths count characters, as the standard does.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import TypeAlias

from pydicom.datadict import dictionary_VR, tag_for_keyword

from integration.dicom.uid import is_uid

Value: TypeAlias = "str | int | float | tuple[str | int | float, ...] | list[Elements] | None"
Elements: TypeAlias = dict[str, Value]
"""Attributes by keyword. None and () are empty values; a list is a sequence."""

IDENTIFIERS = frozenset({"PatientID", "AccessionNumber", "StudyID"})
"""Left empty rather than mended."""

_LENGTH = {"CS": 16, "SH": 16, "LO": 64, "ST": 1024, "LT": 10240, "UT": 1 << 20, "PN": 64}
_HUGE = 1e300
_BIDI = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], "")
_SPACES = re.compile(r" {2,}")
_CODE = re.compile(r"[A-Z0-9 _]{1,16}")
_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?")


@lru_cache(maxsize=1024)
def tag_and_vr(keyword: str) -> tuple[int, str]:
    """Return tag and VR of an attribute; where the standard leaves a choice, that of unsigned pixels.

    Raises
    ------
    KeyError
        The standard knows no such keyword.
    """
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag, {"US or SS": "US", "OB or OW": "OW"}.get(dictionary_VR(tag), dictionary_VR(tag))


def cleaned(elements: Elements) -> tuple[Elements, tuple[str, ...]]:
    """Return `elements` with values that fit, numbers as DICOM writes them, and a note per change."""
    notes: list[str] = []
    return {key: _element(key, value, notes=notes) for key, value in elements.items()}, tuple(notes)


def decimal(value: float) -> str:
    """Return `value` as a decimal string (DS), as exact as 16 characters can be."""
    if float(value).is_integer() and abs(value) < 1e15:
        return str(int(value))
    text = repr(float(value))
    digits = 15
    while len(text) > 16:
        text = f"{float(value):.{digits}g}"
        digits -= 1
    return text


def _element(key: str, value: Value, *, notes: list[str]) -> Value:
    if isinstance(value, list):
        items = []
        for item in value:
            clean, more = cleaned(item)
            items.append(clean)
            notes.extend(more)
        return items
    if value is None or value == "" or value == ():
        return None
    vr = tag_and_vr(key)[1]
    rule = _RULES.get(vr)
    if rule is None:
        return value
    parts = [rule(v, vr) for v in (value if isinstance(value, tuple) else (value,))]
    changed = next((why for _, why in parts if why), "")
    if changed and key in IDENTIFIERS:
        notes.append(f"{key} left out: {changed}")
        return None
    if changed:
        notes.append(f"{key}: {changed}")
    kept = tuple(text for text, _ in parts)
    return (kept[0] or None) if len(kept) == 1 else kept


def _plain(text: str, allowed: str = "") -> str:
    """Replace control characters and lone surrogates; drop marks that reverse the reading direction."""
    fine = text.translate(_BIDI)
    if fine.isascii() and fine.isprintable():
        return fine
    bad = {"Cc": " ", "Cs": "?", "Zl": " ", "Zp": " "}
    return "".join(c if c in allowed else bad.get(unicodedata.category(c), c) for c in fine)


def _cut(given: str, text: str, *, length: int) -> tuple[str, str]:
    """Return the text within its length, and what was changed against what was given."""
    if len(text) > length:
        return text[:length].rstrip(), f"cut from {len(text)} to {length} characters"
    return text, "" if text == given.strip() else "characters that DICOM does not allow were replaced"


def _line(value: object, vr: str) -> tuple[str, str]:
    given = str(value)
    text = _SPACES.sub(" ", _plain(given).replace("\\", "/")).strip() if "\\" in given else _plain(given).strip()
    return _cut(given, text, length=_LENGTH[vr])


def _paragraph(value: object, vr: str) -> tuple[str, str]:
    given = str(value)
    return _cut(given, _plain(given, "\t\n\f\r").strip(), length=_LENGTH[vr])


def _person(value: object, vr: str) -> tuple[str, str]:
    given = str(value)
    groups = _plain(given).replace("\\", "/").strip().split("=", 2)
    fixed, cut = [], ""
    for group in groups:
        parts = group.replace("=", " ").split("^", 4)
        text = "^".join([*parts[:4], *(p.replace("^", " ") for p in parts[4:])])
        fixed.append(text[: _LENGTH[vr]].rstrip())
        cut = cut or ("cut to 64 characters" if len(text) > _LENGTH[vr] else "")
    name = "=".join(fixed).rstrip("=")  # empty groups at the end say nothing
    return name, cut or (
        "" if name == given.strip().rstrip("=") else "characters that DICOM does not allow were replaced"
    )


def _code(value: object, vr: str) -> tuple[str, str]:
    text = str(value).strip().upper()
    return (text, "") if not text or _CODE.fullmatch(text) else ("", "left out: not a code of at most 16 characters")


def _date(value: object, vr: str) -> tuple[str, str]:
    text = str(value).strip()
    try:
        if len(text) == 8 and text.isascii() and text.isdigit():
            datetime.strptime(text, "%Y%m%d")
            return text, ""
    except ValueError:
        pass
    return "", "left out: not a date YYYYMMDD"


def _time(value: object, vr: str) -> tuple[str, str]:
    text = str(value).strip()
    return (text, "") if text.isascii() and _TIME.fullmatch(text) else ("", "left out: not a time HHMMSS.ffffff")


def _uid(value: object, vr: str) -> tuple[str, str]:
    text = str(value).strip()
    return (text, "") if is_uid(text) else ("", "left out: not a UID")


def _number(value: object, vr: str) -> tuple[str, str]:
    number = float(value)  # type: ignore[arg-type]
    return (decimal(number), "") if abs(number) < _HUGE else ("", "left out: not a finite number")


def _whole(value: object, vr: str) -> tuple[str, str]:
    number = int(value)  # type: ignore[call-overload]
    fits = -(2**31) <= number < 2**31
    return (str(number), "") if fits else ("", "left out: does not fit 32 bits")


_RULES: Mapping[str, Callable[[object, str], tuple[str, str]]] = {
    "SH": _line,
    "LO": _line,
    "ST": _paragraph,
    "LT": _paragraph,
    "UT": _paragraph,
    "PN": _person,
    "CS": _code,
    "DA": _date,
    "TM": _time,
    "UI": _uid,
    "DS": _number,
    "IS": _whole,
}
"""VR -> value to (value that fits, what was changed); the other VRs are numbers and times of our own making."""
