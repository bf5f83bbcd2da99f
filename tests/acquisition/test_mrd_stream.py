"""The stream decoder: any split, any size, limits before memory, and no byte of a block changes afterwards."""

from __future__ import annotations

import re
import struct
import time
import tracemalloc

import numpy as np
import pytest

from acquisition.errors import InputError, LimitError, MessageError, ScanAbortedError
from acquisition.items import READOUT_HEAD, Image, Readouts, Waveform
from acquisition.scan import Encoding, Equipment, MrHeader, Scan
from acquisition.sources.mrd_frame import LAYOUTS
from acquisition.sources.mrd_limits import StreamLimits
from acquisition.sources.mrd_stream import StreamDecoder
from acquisition.sources.mrd_wire import Close, ConfigFile, ConfigText, Header, MessageId, Text
from tests.acquisition.mrd_samples import (
    decoded,
    encoded,
    feed,
    joined,
    make_image,
    make_readouts,
    make_waveform,
    same_readouts,
)

SMALL = (
    ConfigText("p"),
    Header("<ismrmrdHeader/>"),
    make_readouts(3, 2, 4),
    make_waveform(),
    make_readouts(2, 2, 4, dims=1),
    make_image(),
    make_readouts(1, 1, 2),
    Text("t"),
    Close(),
)


def _check_small(messages) -> None:
    kinds = [type(m) for m in messages if not isinstance(m, Readouts)]
    assert kinds == [ConfigText, Header, Waveform, Image, Text, Close]
    shapes = {}
    for message in messages:
        if isinstance(message, Readouts):
            shapes.setdefault((*message.data.shape[1:], message.traj is not None), []).append(message)
    for (key, blocks), sent in zip(shapes.items(), (SMALL[2], SMALL[4], SMALL[6]), strict=True):
        assert key == (*sent.data.shape[1:], sent.traj is not None)
        same_readouts(joined(blocks), sent)


def test_every_split_position_gives_the_same_messages() -> None:
    raw = encoded(*SMALL)
    for cut in range(1, len(raw)):
        decoder = StreamDecoder(buffer_bytes=4096)
        messages = feed(decoder, raw[:cut]) + feed(decoder, raw[cut:])
        decoder.finish()
        _check_small(messages)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 341, 1000])
@pytest.mark.parametrize("buffer_bytes", [4096, 5001, 1 << 20])
def test_every_step_size_gives_the_same_messages(step: int, buffer_bytes: int) -> None:
    _check_small(decoded(encoded(*SMALL), step=step, buffer_bytes=buffer_bytes))


def test_equal_shapes_come_in_one_block_and_order_is_kept() -> None:
    a, b = make_readouts(20, 2, 4), make_readouts(5, 2, 6)
    messages = decoded(encoded(a, b, make_waveform(), a))
    assert [len(m) if isinstance(m, Readouts) else 0 for m in messages] == [20, 5, 0, 20]
    same_readouts(messages[1], b)


@pytest.mark.parametrize("field", ["n_coils", "n_samples", "traj_dims"])
def test_a_change_of_any_shape_field_ends_the_block(field: str) -> None:
    shapes = {"n_coils": (4, 4, 0), "n_samples": (2, 8, 0), "traj_dims": (2, 4, 1)}
    coils, samples, dims = shapes[field]
    other = make_readouts(2, coils, samples, dims=dims)
    messages = decoded(encoded(make_readouts(2, 2, 4), other))
    assert [len(m) for m in messages] == [2, 2]
    same_readouts(messages[1], other)


def test_a_block_says_when_it_arrived() -> None:
    before = time.monotonic()
    (block,) = decoded(encoded(make_readouts(2)))
    assert before <= block.received_s <= time.monotonic()


@pytest.mark.parametrize("coils", [1, 200])
def test_messages_larger_than_the_buffer_are_received_in_place(coils: int) -> None:
    block, image = make_readouts(3, coils, 64, dims=3), make_image(shape=(4, 40, 41))
    messages = decoded(encoded(block, image, Text("x" * 9000), make_waveform()), buffer_bytes=4096, step=4000)
    same_readouts(joined(messages), block)
    np.testing.assert_array_equal(messages[-3].data, image.data)
    assert len(messages[-2].text) == 9000
    assert all(m.data.flags.aligned and m.data.flags.c_contiguous for m in messages if isinstance(m, Readouts | Image))


def test_what_was_handed_out_never_changes() -> None:
    decoder = StreamDecoder(buffer_bytes=8192)
    blocks, copies = [], []
    for seed in range(60):
        sent = make_readouts(3, 2, 16, seed=seed)
        for message in feed(decoder, encoded(sent, make_waveform(seed)), step=997):
            blocks.append(message)
            copies.append(message.data.copy())
    for block, copy in zip(blocks, copies, strict=True):
        np.testing.assert_array_equal(block.data, copy)
        assert block.data.flags.writeable


def test_readouts_without_samples_are_passed_on() -> None:
    (block,) = decoded(encoded(make_readouts(2, 3, 0)))
    assert block.data.shape == (2, 3, 0)


def test_a_lie_of_32_gib_costs_no_memory() -> None:
    head = make_readouts(1).head
    head["n_coils"] = head["n_samples"] = 65535
    raw = struct.pack("<H", MessageId.ACQUISITION) + head.tobytes()
    decoder = StreamDecoder()
    tracemalloc.start()
    with pytest.raises(
        LimitError, match=r"at most 268435456 bytes \(256 MiB\), got a claim of 34358689800 bytes \(32.0 GiB\)"
    ):
        feed(decoder, raw)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def _lie(message: MessageId, **fields: int) -> bytes:
    """The fixed part of a message that claims too much."""
    if message in (MessageId.CONFIG_TEXT, MessageId.HEADER, MessageId.TEXT):
        return struct.pack("<HI", message, fields["length"])
    raw = bytearray(encoded(make_waveform() if message is MessageId.WAVEFORM else make_image()))
    raw = raw[: 2 + LAYOUTS[message][0]]
    for offset, value in fields.items():
        at, code = offset.rsplit("_", 1)
        struct.pack_into("<" + code, raw, 2 + int(at.lstrip("at")), value)
    return bytes(raw)


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (_lie(MessageId.CONFIG_TEXT, length=(1 << 20) + 1), "text message: expected at most 1048576 bytes"),
        (_lie(MessageId.TEXT, length=0xFFFFFFFF), r"got a claim of 4294967295 bytes \(4.0 GiB\)"),
        (_lie(MessageId.HEADER, length=(16 << 20) + 1), "header message: expected at most 16777216 bytes"),
        (_lie(MessageId.WAVEFORM, at28_H=65535, at30_H=65535), "waveform: .*65535 channels x 65535 samples"),
        (_lie(MessageId.IMAGE, at16_H=65535, at18_H=65535, at20_H=65535), r"image: .*\(1, 65535, 65535, 65535\)"),
        (_lie(MessageId.IMAGE, at198_Q=(1 << 64) - 1), "image attributes: .*got a claim of 18446744073709551615 bytes"),
    ],
)
def test_every_claim_is_held_against_its_limit(raw: bytes, match: str) -> None:
    with pytest.raises(LimitError, match=match):
        feed(StreamDecoder(), raw)


@pytest.mark.parametrize(
    ("limits", "match"),
    [
        (StreamLimits(coils=2), "at most 2 coils, got a claim of 3 coils"),
        (StreamLimits(samples=7), "at most 7 samples, got a claim of 8 samples"),
        (StreamLimits(trajectory_dims=1), "at most 1 trajectory dimensions, got a claim of 2"),
        (StreamLimits(readout_bytes=200), r"at most 200 bytes, got a claim of 256 bytes \(3 coils x 8 samples\)"),
    ],
)
def test_limits_of_a_readout(limits: StreamLimits, match: str) -> None:
    with pytest.raises(LimitError, match=match):
        feed(StreamDecoder(limits), encoded(make_readouts(1, dims=2)))


def test_the_header_narrows_the_limits_generously() -> None:
    encoding = Encoding(matrix=(1, 64, 512), fov_mm=(5, 9, 9), recon_matrix=(1, 64, 256), recon_fov_mm=(5, 9, 9))
    scan = Scan(uid="1", modality="MR", equipment=Equipment(n_coils=64), mr=MrHeader(encodings=(encoding,)))
    decoder = StreamDecoder()
    decoder.expect(scan)
    assert (decoder.limits.coils, decoder.limits.samples) == (256, 32768)
    with pytest.raises(LimitError, match="at most 256 coils, got a claim of 257 coils"):
        feed(decoder, encoded(make_readouts(1, 257, 1)))
    assert StreamLimits().for_scan(Scan(uid="1", modality="CT")).coils == 1024


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (0, "unknown"),
        (6, "query, Gadgetron only"),
        (1023, "reconstruction data"),
        (1012, "deprecated"),
        (1030, "ndarray"),
    ],
)
def test_other_numbers_are_named(number: int, name: str) -> None:
    with pytest.raises(MessageError, match=rf"got {number} \({re.escape(name)}"):
        feed(StreamDecoder(), struct.pack("<H", number))


def test_good_messages_before_a_bad_one_are_delivered_first_and_the_stream_stays_broken() -> None:
    decoder = StreamDecoder()
    raw = encoded(make_readouts(2)) + struct.pack("<H", 999)
    room = decoder.writable()
    room[: len(raw)] = raw
    (block,) = decoder.received(len(raw))
    assert len(block) == 2
    for call in (decoder.writable, decoder.finish, lambda: decoder.received(0)):
        with pytest.raises(MessageError, match="got 999"):
            call()


@pytest.mark.parametrize("buffer_bytes", [4096, 1 << 20])
@pytest.mark.parametrize(
    ("message", "cut", "match"),
    [
        (make_readouts(1, 20, 64), 1, "only 1 bytes"),
        (make_readouts(1, 20, 64), 300, "whose size had not arrived yet"),
        (make_readouts(1, 20, 64), 5000, r"ACQUISITION\), got only 5000 of 10582 bytes"),
        (Header("x" * 9000), 8000, r"HEADER\), got only 8000 of 9007 bytes"),
        (make_image(), 300, "IMAGE"),
    ],
)
def test_an_end_inside_a_message_is_an_aborted_scan(message, cut: int, match: str, buffer_bytes: int) -> None:
    decoder = StreamDecoder(buffer_bytes=buffer_bytes)
    assert feed(decoder, encoded(message)[:cut]) == []
    with pytest.raises(ScanAbortedError, match=match):
        decoder.finish()


def test_an_end_between_messages_is_fine() -> None:
    decoder = StreamDecoder()
    decoder.finish()
    assert len(feed(decoder, encoded(ConfigFile("a"), Text("")))) == 2
    decoder.finish()


def test_more_bytes_than_room_are_a_mistake_of_the_caller() -> None:
    decoder = StreamDecoder()
    with pytest.raises(ValueError, match="cannot have been written"):
        decoder.received(len(decoder.writable()) + 1)


def test_a_header_in_latin_1_is_read_when_it_says_so() -> None:
    text = '<?xml version="1.0" encoding="ISO-8859-1"?><a>Müller</a>'
    body = text.encode("latin-1")
    assert decoded(struct.pack("<HI", 3, len(body)) + body) == [Header(text)]
    bad = b"<a>M\xfcller</a>"
    with pytest.raises(MessageError, match="HEADER message: expected UTF-8 text"):
        decoded(struct.pack("<HI", 3, len(bad)) + bad)


def test_an_image_without_voxels_is_refused() -> None:
    raw = bytearray(encoded(make_image()))
    struct.pack_into("<H", raw, 2 + 16, 0)
    with pytest.raises(MessageError, match="at least one voxel"):
        feed(StreamDecoder(), bytes(raw))
    raw = bytearray(encoded(make_image()))
    struct.pack_into("<H", raw, 2 + 2, 9)
    with pytest.raises(InputError, match="data type 9"):
        feed(StreamDecoder(), bytes(raw))


def test_heads_are_plain_records() -> None:
    (block,) = decoded(encoded(make_readouts(2)))
    assert block.head.dtype == READOUT_HEAD
    assert block.head.flags.owndata or block.head.base is not None
    block.head["k1"] = 5
