"""Opening an association: what we offer, what the archive accepted (PS3.8 section 7.1)."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from integration.delivery.destination import Destination
from integration.delivery.link import BrokenLinkError, UnreachableError
from integration.dicom.commit import PUSH_MODEL
from integration.dicom.dimse import MAX_PDU, Pdu, read_pdu
from integration.dicom.fastsocket import QuickSocket, quick

IMPLEMENTATION_UID = "2.25.173421186317943228706116842034717462617"
IMPLEMENTATION_NAME = "ISOCENTER"
VERIFICATION = "1.2.840.10008.1.1"
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"

STORAGE_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.4": "MR Image",
    "1.2.840.10008.5.1.4.1.1.4.1": "Enhanced MR Image",
    "1.2.840.10008.5.1.4.1.1.2": "CT Image",
    "1.2.840.10008.5.1.4.1.1.2.1": "Enhanced CT Image",
    "1.2.840.10008.5.1.4.1.1.128": "PET Image",
    "1.2.840.10008.5.1.4.1.1.130": "Enhanced PET Image",
    "1.2.840.10008.5.1.4.1.1.7": "Secondary Capture",
    "1.2.840.10008.5.1.4.1.1.11.1": "Grayscale Softcopy Presentation State",
    "1.2.840.10008.5.1.4.1.1.30": "Parametric Map",
    "1.2.840.10008.5.1.4.1.1.66.4": "Segmentation",
    "1.2.840.10008.5.1.4.1.1.88.22": "Enhanced SR",
    "1.2.840.10008.5.1.4.1.1.88.33": "Comprehensive SR",
    "1.2.840.10008.5.1.4.1.1.88.34": "Comprehensive 3D SR",
    "1.2.840.10008.5.1.4.1.1.88.59": "Key Object Selection",
}
"""Storage SOP classes that every association offers (PS3.4 B.5)."""

_UNCOMPRESSED = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
_REJECTED = {
    (1, 1): "no reason given",
    (1, 2): "application context name not supported",
    (1, 3): "calling AE title not recognised",
    (1, 7): "called AE title not recognised",
    (2, 1): "no reason given by the ACSE",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}
"""Source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""


_HEAD = 68
"""Bytes of an A-ASSOCIATE before its items."""


class Item(IntEnum):
    """Item types (PS3.8 section 9.3, annex D)."""

    APPLICATION = 0x10
    CONTEXT = 0x20
    RESULT = 0x21
    ABSTRACT = 0x30
    TRANSFER = 0x40
    USER = 0x50
    LONGEST = 0x51
    IMPLEMENTATION = 0x52
    VERSION = 0x55


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What both sides agreed on; a kind is (abstract syntax, transfer syntax)."""

    max_pdu: int
    """Longest PDU that the archive accepts [bytes]; 0: any."""
    offered: frozenset[tuple[str, str]]
    """Kinds that we offered."""
    accepted: dict[tuple[str, str], int]
    """Kinds that it accepted, with their presentation context."""


def negotiate(destination: Destination, kinds: Iterable[tuple[str, str]]) -> tuple[QuickSocket, Agreement]:
    """Open an association for the usual kinds and `kinds`; return its socket and what was agreed.

    Raises
    ------
    UnreachableError
        Nobody listens, nobody answers in time, or the association was rejected.
    """
    where = f"{destination.name} ({destination.ae_title} at {destination.host}:{destination.port})"
    address = (destination.host, destination.port)
    try:
        sock = quick(socket.create_connection(address, timeout=destination.timeout_s))
    except OSError as error:
        raise UnreachableError(where, expected="a DICOM server", got=str(error)) from error
    with contextlib.ExitStack() as stack:
        stack.callback(sock.close)
        offered = {2 * i + 1: kind for i, kind in enumerate(_offer(kinds))}
        try:
            sock.sendall(_request(destination, offered))
            kind, payload = read_pdu(sock)
        except (BrokenLinkError, OSError) as error:
            raise UnreachableError(where, expected="an association", got=getattr(error, "got", str(error))) from error
        agreement = _agreement(where, offered, kind, payload)
        stack.pop_all()
    return sock, agreement


def _offer(kinds: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    implicit = str(ImplicitVRLittleEndian)
    usual = {(uid, syntax) for uid in STORAGE_CLASSES for syntax in _UNCOMPRESSED}
    asked = {(uid, syntax) for uid, own in kinds if own for syntax in (*_UNCOMPRESSED, own)}
    return [(VERIFICATION, implicit), (PUSH_MODEL, implicit), *sorted(usual | asked)]


def _request(destination: Destination, offered: dict[int, tuple[str, str]]) -> bytes:
    """Encode an A-ASSOCIATE-RQ (PS3.8 table 9-11)."""
    titles = destination.ae_title.ljust(16) + destination.calling_ae.ljust(16)
    body = struct.pack(">HH", 1, 0) + titles.encode("ascii") + bytes(32)
    body += _item(Item.APPLICATION, APPLICATION_CONTEXT.encode())
    for i, (abstract, transfer) in offered.items():
        syntaxes = _item(Item.ABSTRACT, abstract.encode()) + _item(Item.TRANSFER, transfer.encode())
        body += _item(Item.CONTEXT, struct.pack(">B3x", i) + syntaxes)
    user = _item(Item.LONGEST, struct.pack(">L", MAX_PDU))
    user += _item(Item.IMPLEMENTATION, IMPLEMENTATION_UID.encode()) + _item(Item.VERSION, IMPLEMENTATION_NAME.encode())
    body += _item(Item.USER, user)
    return struct.pack(">BxL", Pdu.ASSOCIATE_RQ, len(body)) + body


def _agreement(where: str, offered: dict[int, tuple[str, str]], kind: int, payload: bytes) -> Agreement:
    """Decode an A-ASSOCIATE-AC (PS3.8 table 9-17); anything else is a refusal."""
    if kind == Pdu.ASSOCIATE_RJ and len(payload) >= 4:
        source, reason = payload[2], payload[3]
        why = _REJECTED.get((source, reason), f"source {source}, reason {reason}")
        raise UnreachableError(where, expected="an association", got=f"rejected: {why}")
    if kind != Pdu.ASSOCIATE_AC or len(payload) < _HEAD:
        raise UnreachableError(where, expected="an association", got=f"{Pdu(kind).name} of {len(payload)} bytes")
    accepted, longest = {}, 0
    for code, value in _items(where, payload[_HEAD:]):
        if code == Item.RESULT and len(value) >= 4 and value[2] == 0 and value[0] in offered:
            accepted[offered[value[0]]] = value[0]
        if code == Item.USER:
            sizes = [v for c, v in _items(where, value) if c == Item.LONGEST and len(v) == 4]
            longest = struct.unpack(">L", sizes[0])[0] if sizes else 0
    return Agreement(max_pdu=longest, offered=frozenset(offered.values()), accepted=accepted)


def _item(code: int, value: bytes) -> bytes:
    return struct.pack(">BxH", code, len(value)) + value


def _items(where: str, data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(data):
        head = data[position : position + 4]
        value = data[position + 4 : position + 4 + (struct.unpack(">H", head[2:])[0] if len(head) == 4 else 0)]
        if len(head) < 4 or len(value) < struct.unpack(">H", head[2:])[0]:
            raise UnreachableError(where, expected="a readable A-ASSOCIATE-AC", got="one that is cut short")
        yield head[0], value
        position += 4 + len(value)
