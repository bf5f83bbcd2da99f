"""DICOM messages as bytes: command sets, their fragments, and reading them back.

PS3.7 section 6.3 (command set, always implicit little endian) and PS3.8 section 9.3 (P-DATA-TF).
Lengths that a peer claims are bounded before memory is taken.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from integration.delivery.link import BrokenLinkError

MAX_PDU = 65536
"""Longest PDU that we accept [bytes]."""
MAX_MESSAGE = 16 << 20
"""Longest data set that we accept in an answer [bytes]."""
_LARGEST_FRAGMENT = 1 << 17


class Pdu(IntEnum):
    """PDU types."""

    ASSOCIATE_RQ = 1
    ASSOCIATE_AC = 2
    ASSOCIATE_RJ = 3
    P_DATA = 4
    RELEASE_RQ = 5
    RELEASE_RP = 6
    ABORT = 7


class Tag(IntEnum):
    """Elements of group 0000."""

    AFFECTED_CLASS = 0x0002
    REQUESTED_CLASS = 0x0003
    FIELD = 0x0100
    MESSAGE_ID = 0x0110
    RESPONSE_TO = 0x0120
    PRIORITY = 0x0700
    DATA_SET_TYPE = 0x0800
    STATUS = 0x0900
    ERROR_COMMENT = 0x0902
    AFFECTED_INSTANCE = 0x1000
    REQUESTED_INSTANCE = 0x1001
    EVENT_TYPE = 0x1002
    ACTION_TYPE = 0x1008


class Field(IntEnum):
    """Command fields; a response has bit 15 set."""

    C_STORE = 0x0001
    C_ECHO = 0x0030
    N_EVENT_REPORT = 0x0100
    N_ACTION = 0x0130
    RESPONSE = 0x8000


NO_DATA_SET, HAS_DATA_SET = 0x0101, 0x0001

_TEXT = {
    Tag.AFFECTED_CLASS: b"\0",
    Tag.REQUESTED_CLASS: b"\0",
    Tag.AFFECTED_INSTANCE: b"\0",
    Tag.REQUESTED_INSTANCE: b"\0",
    Tag.ERROR_COMMENT: b" ",
}
"""Text elements and what pads them to even length; all others are unsigned 16-bit numbers."""

Command = dict[int, int | str]


@dataclass(frozen=True, slots=True)
class Message:
    """One received message."""

    context_id: int
    """Presentation context."""
    command: Command
    """Command set by element number."""
    data: bytes
    """Data set, encoded; empty: none."""


def encode_command(command: Command) -> bytes:
    """Encode a command set, with its group length."""
    body = b"".join(_element(tag, command[tag]) for tag in sorted(command))
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def decode_command(data: bytes) -> Command:
    """Decode a command set; elements that we do not know are left out.

    Raises
    ------
    BrokenLinkError
        It is cut short.
    """
    found: Command = {}
    position = 0
    while position < len(data):
        if position + 8 > len(data):
            raise broken("a whole command element", f"{len(data) - position} bytes")
        _, element, length = struct.unpack_from("<HHL", data, position)
        value = data[position + 8 : position + 8 + length]
        if len(value) != length:
            raise broken(f"{length} bytes of element (0000,{element:04X})", f"{len(value)}")
        position += 8 + length
        if element in _TEXT:
            found[element] = value.rstrip(b"\0 ").decode("latin-1")
        elif length == 2:
            found[element] = struct.unpack("<H", value)[0]
    return found


def frame(context_id: int, command: bytes, data: bytes | memoryview = b"", *, max_pdu: int) -> bytes:
    """Cut a message into P-DATA-TF PDUs.

    Parameters
    ----------
    context_id
        Presentation context.
    command, data
        Encoded command set and data set.
    max_pdu
        Longest PDU that the peer accepts [bytes]; 0: any.
    """
    size = max(min(max_pdu or _LARGEST_FRAGMENT, _LARGEST_FRAGMENT), 8) - 6
    pieces = [*_fragments(context_id, command, 1, size)]
    if len(data):
        pieces += _fragments(context_id, data, 0, size)
    return b"".join(pieces)


def read_pdu(sock: socket.socket) -> tuple[int, bytes]:
    """Read one PDU; return its type and what follows the six bytes of its head.

    Raises
    ------
    BrokenLinkError
        The peer closed, said nothing in time, or claims more than `MAX_PDU`.
    """
    kind, length = struct.unpack(">BxL", _exactly(sock, 6))
    if kind not in Pdu.__members__.values():
        raise broken("a DICOM PDU", f"type {kind}")
    if length > MAX_PDU:
        raise broken(f"a PDU of at most {MAX_PDU} bytes", f"{length}")
    return kind, _exactly(sock, length)


def read_message(sock: socket.socket) -> Message:
    """Read PDUs until a message is whole.

    Raises
    ------
    BrokenLinkError
        As `read_pdu`; or the peer aborted, released, or the message is malformed or longer than `MAX_MESSAGE`.
    """
    parts: dict[int, bytearray] = {1: bytearray(), 0: bytearray()}
    command: Command | None = None
    while True:
        kind, payload = read_pdu(sock)
        if kind != Pdu.P_DATA:
            raise broken("an answer", Pdu(kind).name)
        for context_id, control, fragment in _values(payload):
            parts[control & 1] += fragment
            if len(parts[0]) + len(parts[1]) > MAX_MESSAGE:
                raise broken(f"a message of at most {MAX_MESSAGE} bytes", "more")
            if control == 3:
                command = decode_command(bytes(parts[1]))
            whole = command is not None and (control == 2 or command.get(Tag.DATA_SET_TYPE) == NO_DATA_SET)
            if whole and command is not None:
                return Message(context_id, command, bytes(parts[0]))


def broken(expected: str, got: str) -> BrokenLinkError:
    """Make the error of a link on which something else came than was due."""
    return BrokenLinkError("association", expected=expected, got=got)


def _element(tag: int, value: int | str) -> bytes:
    if isinstance(value, int):
        return struct.pack("<HHLH", 0, tag, 2, value)
    text = value.encode("ascii")
    text += _TEXT[Tag(tag)] * (len(text) % 2)
    return struct.pack("<HHL", 0, tag, len(text)) + text


def _fragments(context_id: int, data: bytes | memoryview, control: int, size: int) -> Iterator[bytes | memoryview]:
    view = memoryview(data)
    for start in range(0, len(view), size):
        piece = view[start : start + size]
        last = 2 if start + size >= len(view) else 0
        yield struct.pack(">BxLLBB", Pdu.P_DATA, len(piece) + 6, len(piece) + 2, context_id, control | last)
        yield piece


def _values(payload: bytes) -> Iterator[tuple[int, int, bytes]]:
    position = 0
    while position < len(payload):
        if position + 6 > len(payload):
            raise broken("a whole presentation data value", f"{len(payload) - position} bytes")
        length, context_id, control = struct.unpack_from(">LBB", payload, position)
        if length < 2 or position + 4 + length > len(payload):
            raise broken("a presentation data value within its PDU", f"length {length}")
        yield context_id, control & 3, payload[position + 6 : position + 4 + length]
        position += 4 + length


def _exactly(sock: socket.socket, n_bytes: int) -> bytes:
    data = bytearray(n_bytes)
    view, filled = memoryview(data), 0
    while filled < n_bytes:
        try:
            n = sock.recv_into(view[filled:])
        except TimeoutError as error:
            raise broken("an answer", f"silence for {sock.gettimeout():g} s") from error
        except OSError as error:
            raise broken("an answer", str(error)) from error
        if n == 0:
            raise broken("an answer", "the connection closed")
        filled += n
    return bytes(data)
