"""DICOM messages: what we write others read, what we read is bounded."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pynetdicom.dimse_messages import C_STORE_RSP
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import P_DATA_TF

from integration.delivery.link import BrokenLinkError
from integration.dicom.dimse import (
    HAS_DATA_SET,
    MAX_PDU,
    NO_DATA_SET,
    Command,
    Field,
    Tag,
    decode_command,
    encode_command,
    frame,
    read_message,
    read_pdu,
)

COMMAND: Command = {
    Tag.FIELD: Field.C_STORE,
    Tag.AFFECTED_CLASS: "1.2.840.10008.5.1.4.1.1.4",
    Tag.AFFECTED_INSTANCE: "2.25.123",
    Tag.MESSAGE_ID: 7,
    Tag.PRIORITY: 0,
    Tag.DATA_SET_TYPE: HAS_DATA_SET,
}


@pytest.fixture
def wire() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(2)
    with ours, theirs:
        yield ours, theirs


def say(theirs: socket.socket, data: bytes) -> None:
    def send() -> None:
        with contextlib.suppress(OSError):  # the reader has had enough
            theirs.sendall(data)
            theirs.shutdown(socket.SHUT_WR)

    threading.Thread(target=send, daemon=True).start()


def test_pydicom_reads_our_command_set() -> None:
    ds = read_dataset(DicomBytesIO(encode_command(COMMAND)), True, True)
    assert ds.CommandGroupLength == len(encode_command(COMMAND)) - 12
    assert ds.AffectedSOPClassUID == COMMAND[Tag.AFFECTED_CLASS]
    assert (ds.AffectedSOPInstanceUID, ds.MessageID, ds.CommandField, ds.Priority) == ("2.25.123", 7, 1, 0)
    assert [e.tag.element for e in ds] == sorted(e.tag.element for e in ds)


def test_we_read_pynetdicom_s_response(wire: tuple[socket.socket, socket.socket]) -> None:
    response = C_STORE()
    response.MessageIDBeingRespondedTo, response.Status, response.ErrorComment = 7, 0xA700, "full"
    response.AffectedSOPClassUID, response.AffectedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", "2.25.123"
    message = C_STORE_RSP()
    message.primitive_to_message(response)
    data = b""
    for primitive in message.encode_msg(5, 128):
        pdu = P_DATA_TF()
        pdu.from_primitive(primitive)
        data += pdu.encode()
    say(wire[1], data)
    found = read_message(wire[0])
    assert found.context_id == 5
    assert (found.command[Tag.STATUS], found.command[Tag.ERROR_COMMENT]) == (0xA700, "full")
    assert (found.command[Tag.RESPONSE_TO], found.data) == (7, b"")


@given(
    st.integers(0, 0xFFFF),
    st.text("0123456789.", max_size=64),
    st.sampled_from([t for t in Tag if t not in (Tag.AFFECTED_CLASS, Tag.AFFECTED_INSTANCE)]),
)
def test_commands_come_back(number: int, uid: str, tag: Tag) -> None:
    if tag in (Tag.REQUESTED_CLASS, Tag.REQUESTED_INSTANCE, Tag.ERROR_COMMENT):
        command: Command = {tag: uid, Tag.AFFECTED_CLASS: uid}
    else:
        command = {tag: number, Tag.AFFECTED_CLASS: uid}
    assert decode_command(encode_command(command)) == command


@settings(deadline=None, max_examples=40)
@given(
    size=st.integers(0, 5000), max_pdu=st.sampled_from([0, 1, 8, 64, 128, 1000, 16384, 1 << 20]), seed=st.integers(0, 9)
)
def test_fragments_join_to_the_message(size: int, max_pdu: int, seed: int) -> None:
    data = random.Random(seed).randbytes(2 * size)
    command = COMMAND | {Tag.DATA_SET_TYPE: HAS_DATA_SET if data else NO_DATA_SET}
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(2)
        sent = frame(3, encode_command(command), data, max_pdu=max_pdu)
        say(theirs, sent)
        found = read_message(ours)
    assert (found.context_id, found.command, found.data) == (3, command, data)
    position = 0
    while position < len(sent):
        kind, length = struct.unpack_from(">BxL", sent, position)
        assert kind == 4
        assert not max_pdu or length <= max(max_pdu, 8)
        position += 6 + length


def test_pynetdicom_reads_our_fragments() -> None:
    pdu = P_DATA_TF()
    pdu.decode(frame(3, encode_command(COMMAND), max_pdu=0))
    (value,) = pdu.presentation_data_value_items
    assert (value.context_id, value.data[0]) == (3, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the connection closed"),
        (b"\x04\0\0\0", "the connection closed"),
        (struct.pack(">BxL", 4, 100) + b"short", "the connection closed"),
        (b"GET / HTTP/1.1\r\n\r\n", "type 71"),
        (struct.pack(">BxL", 4, 0xFFFFFFFF), f"at most {MAX_PDU} bytes, got 4294967295"),
        (struct.pack(">BxL4x", 7, 4), "expected an answer, got ABORT"),
        (struct.pack(">BxL4x", 5, 4), "expected an answer, got RELEASE_RQ"),
        (struct.pack(">BxLLBB", 4, 6, 500, 1, 3), "within its PDU, got length 500"),
        (struct.pack(">BxLLBB", 4, 6, 0, 1, 3), "length 0"),
        (struct.pack(">BxL", 4, 3) + b"abc", "expected a whole presentation data value"),
        (struct.pack(">BxLLBB", 4, 11, 7, 1, 3) + b"abcde", "expected a whole command element"),
        (struct.pack(">BxLLBBHHL", 4, 14, 10, 1, 3, 0, 0x100, 0x99000000), "of element"),
    ],
)
def test_broken_messages_are_named(wire: tuple[socket.socket, socket.socket], data: bytes, message: str) -> None:
    say(wire[1], data)
    with pytest.raises(BrokenLinkError, match=message):
        read_message(wire[0])


def test_silence_ends_after_the_timeout(wire: tuple[socket.socket, socket.socket]) -> None:
    wire[0].settimeout(0.05)
    with pytest.raises(BrokenLinkError, match=r"silence for 0\.05 s"):
        read_pdu(wire[0])


def test_an_endless_message_is_cut_off(wire: tuple[socket.socket, socket.socket]) -> None:
    command = encode_command(COMMAND)
    endless = struct.pack(">BxLLBB", 4, 65000, 64996, 1, 0) + b"\0" * 64994
    say(wire[1], frame(1, command, max_pdu=0) + endless * 300)
    with pytest.raises(BrokenLinkError, match="a message of at most 16777216 bytes"):
        read_message(wire[0])


@pytest.mark.parametrize("seed", range(20))
def test_garbage_never_escapes_as_anything_else(seed: int) -> None:
    """Flip bytes of a good answer: a message, or a BrokenLinkError; nothing else, and no hang."""
    rng = random.Random(seed)
    good = frame(1, encode_command(COMMAND | {Tag.DATA_SET_TYPE: NO_DATA_SET}), max_pdu=64)
    for _ in range(20):
        bad = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.settimeout(2)
            theirs.sendall(bad)
            theirs.shutdown(socket.SHUT_WR)
            with contextlib.suppress(BrokenLinkError):
                read_message(ours)
