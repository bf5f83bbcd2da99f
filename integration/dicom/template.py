"""Part 10 files in layers: what all images of a series share is encoded once.

A `Layer` holds encoded elements. The series' layer is extended by the image's, and each slice adds a handful of
elements and its pixels; they are merged by tag and joined. The bytes are those that pydicom writes for the same
elements in explicit VR little endian (PS3.5 7.1), which the tests check.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from integration.dicom.negotiate import IMPLEMENTATION_NAME, IMPLEMENTATION_UID
from integration.dicom.text import Elements, Value, tag_and_vr

EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"

_LONG = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
"""VRs with a 4-byte length."""
_PACKED = {"US": "<H", "SS": "<h", "UL": "<L", "SL": "<l", "FD": "<d", "FL": "<f"}
_CHARACTER_SET = 0x00080005
_PIXEL_DATA = 0x7FE00010
_SIGNED_TOO = frozenset({"RealWorldValueFirstValueMapped", "RealWorldValueLastValueMapped"})
_UTF8 = "ISO_IR 192"


@dataclass(frozen=True, slots=True)
class Layer:
    """Encoded elements by tag."""

    encoded: Mapping[int, bytes]
    """Whole elements: tag, VR, length, value."""
    signed: bool = False
    """Pixels are signed: so are the attributes that describe pixel values."""
    beyond_ascii: bool = False
    """Some text needs a character set."""

    @classmethod
    def of(cls, elements: Elements, *, signed: bool = False) -> Layer:
        """Encode `elements`, whose values fit their VR."""
        return cls({}, signed).extended(elements)

    def extended(self, elements: Elements) -> Layer:
        """Return this layer with `elements` added or replaced."""
        encoded = {**self.encoded, **encode(elements, signed=self.signed)}
        return Layer(encoded, self.signed, self.beyond_ascii or beyond_ascii(elements))

    def part10(self, elements: Elements, pixels: bytes | memoryview | None) -> bytes:
        """Return the complete file of one object.

        Parameters
        ----------
        elements
            What only this object has; SOPInstanceUID among it.
        pixels
            Pixel data as it is stored (16 bits, little endian; or bytes, in rows); None: it is no image.
        """
        data = {**self.encoded, **encode(elements, signed=self.signed)}
        if self.beyond_ascii or beyond_ascii(elements):
            data[_CHARACTER_SET] = encode_element("SpecificCharacterSet", _UTF8)[1]
        parts: list[bytes | memoryview] = [_meta(data)]
        parts += [data[tag] for tag in sorted(data)]
        if pixels is not None:
            parts += [_head(_PIXEL_DATA, "OW", len(pixels) + len(pixels) % 2), pixels, b"\0" * (len(pixels) % 2)]
        return b"".join(parts)


def beyond_ascii(value: Value | Elements) -> bool:
    """Return whether any text in a value or in attributes is more than ASCII."""
    if isinstance(value, str):
        return not value.isascii()
    if isinstance(value, dict):
        return any(beyond_ascii(v) for v in value.values())
    return isinstance(value, list | tuple) and any(beyond_ascii(v) for v in value)


def encode(elements: Elements, *, signed: bool = False) -> dict[int, bytes]:
    """Encode attributes; keys are their tags."""
    return dict(encode_element(key, value, signed=signed) for key, value in elements.items())


def encode_element(key: str, value: Value, *, signed: bool = False) -> tuple[int, bytes]:
    """Return tag and bytes of one element, whose value fits its VR."""
    tag, vr = tag_and_vr(key)
    if signed and key in _SIGNED_TOO:
        vr = "SS"
    body = _items(value, signed=signed) if isinstance(value, list) else _body(vr, value)
    return tag, _head(tag, vr, len(body)) + body


def _items(sequence: list[Elements], *, signed: bool) -> bytes:
    parts = []
    for elements in sequence:
        encoded = encode(elements, signed=signed)
        body = b"".join(encoded[tag] for tag in sorted(encoded))
        parts += [struct.pack("<HHL", 0xFFFE, 0xE000, len(body)), body]
    return b"".join(parts)


def _body(vr: str, value: Value) -> bytes:
    values = () if value is None else value if isinstance(value, tuple) else (value,)
    if vr in _PACKED:
        return b"".join(struct.pack(_PACKED[vr], v) for v in values)
    if vr == "AT":
        return b"".join(struct.pack("<HH", *divmod(v, 1 << 16)) for v in values)  # type: ignore[operator]
    body = "\\".join(str(v) for v in values).encode()
    return body + (b"\0" if vr == "UI" else b" ") * (len(body) % 2)


def _head(tag: int, vr: str, length: int) -> bytes:
    if vr in _LONG:
        return struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, vr.encode(), 0, length)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), length)


def _meta(data: Mapping[int, bytes]) -> bytes:
    """Return preamble and group 0002; class and instance UID are those of the data set."""
    sop_class, sop_instance = (data[tag_and_vr(key)[0]][8:] for key in ("SOPClassUID", "SOPInstanceUID"))
    group = encode(
        {
            "TransferSyntaxUID": EXPLICIT_LITTLE_ENDIAN,
            "ImplementationClassUID": IMPLEMENTATION_UID,
            "ImplementationVersionName": IMPLEMENTATION_NAME,
        }
    )
    parts = [_head(0x00020001, "OB", 2) + b"\0\1"]
    parts += [_head(0x00020002, "UI", len(sop_class)) + sop_class]
    parts += [_head(0x00020003, "UI", len(sop_instance)) + sop_instance]
    parts += [group[tag] for tag in sorted(group)]
    body = b"".join(parts)
    return b"\0" * 128 + b"DICM" + _head(0x00020000, "UL", 4) + struct.pack("<L", len(body)) + body
