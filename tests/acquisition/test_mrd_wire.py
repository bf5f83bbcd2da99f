"""Our bytes are the reference library's bytes, both ways."""

from __future__ import annotations

import ctypes
import io
import struct
from dataclasses import replace

import ismrmrd
import numpy as np
import pytest
from ismrmrd.serialization import ConfigFile as RefConfigFile
from ismrmrd.serialization import ConfigText as RefConfigText
from ismrmrd.serialization import ProtocolDeserializer, ProtocolSerializer

from acquisition.errors import DataError
from acquisition.items import READOUT_HEAD, Kind, Waveform
from acquisition.sources import mrd_wire
from acquisition.sources.mrd_image import IMAGE_HEAD
from acquisition.sources.mrd_wire import (
    Close,
    ConfigFile,
    ConfigText,
    Header,
    MessageId,
    Text,
    encode,
)
from tests.acquisition.mrd_samples import decoded, encoded, make_image, make_readouts, make_waveform, same_readouts


def test_layouts_have_the_sizes_of_the_reference() -> None:
    assert READOUT_HEAD.itemsize == ctypes.sizeof(ismrmrd.AcquisitionHeader) == 340
    assert IMAGE_HEAD.itemsize == ctypes.sizeof(ismrmrd.ImageHeader) == 198
    assert mrd_wire.WAVEFORM_HEAD.itemsize == ctypes.sizeof(ismrmrd.waveform.WaveformHeader) == 40
    offsets = {name: mrd_wire.WAVEFORM_HEAD.fields[name][1] for name in ("flags", "n_samples", "n_channels", "id")}
    assert offsets == {"flags": 8, "n_samples": 28, "n_channels": 30, "id": 36}


@pytest.mark.parametrize("name", ["time_stamp", "n_samples", "n_coils", "flags", "position", "k1", "user_float"])
def test_head_fields_lie_where_the_reference_has_them(name: str) -> None:
    theirs = {
        "time_stamp": "acquisition_time_stamp",
        "n_samples": "number_of_samples",
        "n_coils": "active_channels",
        "k1": "idx",
    }
    assert READOUT_HEAD.fields[name][1] == getattr(ismrmrd.AcquisitionHeader, theirs.get(name, name)).offset


@pytest.mark.parametrize("dims", [0, 2])
@pytest.mark.parametrize(("coils", "samples"), [(3, 8), (1, 1), (5, 7)])
def test_the_reference_reads_our_readouts(dims: int, coils: int, samples: int) -> None:
    block = make_readouts(4, coils, samples, dims=dims)
    stream = io.BytesIO(encoded(block))
    for i in range(4):
        assert struct.unpack("<H", stream.read(2)) == (1008,)
        theirs = ismrmrd.Acquisition.deserialize_from(stream.read)
        assert bytes(theirs.getHead()) == block.head[i].tobytes()
        np.testing.assert_array_equal(theirs.data, block.data[i])
        if dims:
            np.testing.assert_array_equal(theirs.traj, block.traj[i])
    assert stream.read() == b""


@pytest.mark.parametrize("dims", [0, 3])
def test_we_read_the_reference_readouts(dims: int) -> None:
    block = make_readouts(3, dims=dims)
    raw = b""
    for i in range(3):
        traj = block.traj[i] if dims else None
        theirs = ismrmrd.Acquisition(head=block.head[i].tobytes(), data=block.data[i], trajectory=traj)
        raw += struct.pack("<H", 1008) + theirs.to_bytes()
    assert raw == encoded(block)
    (ours,) = decoded(raw)
    same_readouts(ours, block)


def test_waveforms_are_byte_equal_both_ways() -> None:
    waveform = make_waveform()
    raw = encoded(waveform)
    theirs = ismrmrd.Waveform.from_bytes(raw[2:])
    assert (theirs.waveform_id, theirs.time_stamp, theirs.scan_counter) == (1, 77, 9)
    np.testing.assert_array_equal(theirs.data, waveform.data)
    assert theirs.to_bytes() == raw[2:]
    (ours,) = decoded(struct.pack("<H", 1026) + theirs.to_bytes())
    np.testing.assert_array_equal(ours.data, waveform.data)
    assert replace(ours, data=waveform.data) == waveform


def test_the_reference_stream_reader_follows_our_stream() -> None:
    header = ismrmrd.xsd.ToXML(_reference_header())
    messages = (
        ConfigText("<c/>"),
        ConfigFile("grappa"),
        Text("hello"),
        make_readouts(2),
        make_waveform(),
        make_image(),
    )
    raw = encoded(*messages, Close())
    seen = list(ProtocolDeserializer(io.BytesIO(raw)).deserialize())
    assert [type(item).__name__ for item in seen] == [
        "ConfigText", "ConfigFile", "str", "Acquisition", "Acquisition", "Waveform", "Image",
    ]  # fmt: skip
    assert (seen[0].rstrip("\0"), seen[1], seen[2].rstrip("\0")) == ("<c/>", "grappa", "hello")
    assert decoded(encoded(Header(header))) == [Header(header)]


def test_we_follow_the_reference_stream_writer() -> None:
    stream = io.BytesIO()
    block = make_readouts(2)
    with ProtocolSerializer(stream) as writer:
        writer.serialize(RefConfigFile("grappa"))
        writer.serialize(RefConfigText("<c/>"))
        writer.serialize(_reference_header())
        writer.serialize("hello")
        for i in range(2):
            writer.serialize(ismrmrd.Acquisition(head=block.head[i].tobytes(), data=block.data[i]))
        writer.serialize(ismrmrd.Waveform.from_array(np.ones((1, 4), np.uint32)))
    config, text, header, hello, readouts, waveform, close = decoded(stream.getvalue())
    assert (config, text, hello, close) == (ConfigFile("grappa"), ConfigText("<c/>"), Text("hello"), Close())
    assert header.xml.startswith("<?xml")
    same_readouts(readouts, block)
    assert isinstance(waveform, Waveform)


def _reference_header() -> ismrmrd.xsd.ismrmrdHeader:
    space = ismrmrd.xsd.encodingSpaceType(
        matrixSize=ismrmrd.xsd.matrixSizeType(x=8, y=8, z=1),
        fieldOfView_mm=ismrmrd.xsd.fieldOfViewMm(x=8.0, y=8.0, z=5.0),
    )
    encoding = ismrmrd.xsd.encodingType(
        encodedSpace=space,
        reconSpace=space,
        encodingLimits=ismrmrd.xsd.encodingLimitsType(),
        trajectory=ismrmrd.xsd.trajectoryType.CARTESIAN,
    )
    conditions = ismrmrd.xsd.experimentalConditionsType(H1resonanceFrequency_Hz=63500000)
    return ismrmrd.xsd.ismrmrdHeader(experimentalConditions=conditions, encoding=[encoding])


@pytest.mark.parametrize("message", [ConfigText("a"), Header("a"), Text("a")])
def test_texts_end_with_a_counted_nul_and_are_read_without_it(message) -> None:
    raw = encoded(message)
    assert raw[2:] == struct.pack("<I", 2) + b"a\0"
    assert decoded(raw) == [message]
    assert decoded(raw[:2] + struct.pack("<I", 1) + b"a") == [message]
    assert decoded(raw[:2] + struct.pack("<I", 5) + b"a\0junk"[:5]) == [message]


def test_the_config_file_is_padded_to_1024_bytes() -> None:
    raw = encoded(ConfigFile("naïve"))
    assert len(raw) == 1026
    assert decoded(raw) == [ConfigFile("naïve")]
    with pytest.raises(DataError, match="at most 1023 bytes"):
        encode(ConfigFile("x" * 1024))


def test_a_long_block_is_encoded_in_pieces_that_join_to_the_same_bytes(monkeypatch) -> None:
    block = make_readouts(7)
    whole = encoded(block)
    monkeypatch.setattr(mrd_wire, "BLOCK_BYTES", 2 * len(whole) // 7)
    assert len(encode(block)) == 4
    assert encoded(block) == whole


def test_strided_blocks_are_encoded_like_contiguous_ones() -> None:
    block = make_readouts(6, dims=2)
    odd = replace(block, head=block.head[1::2], data=block.data[1::2], traj=block.traj[1::2])
    copy = replace(odd, head=odd.head.copy(), data=odd.data.copy(), traj=odd.traj.copy())
    assert encoded(odd) == encoded(copy)


def test_heads_that_disagree_with_the_data_are_refused() -> None:
    block = make_readouts(2)
    block.head["n_coils"][1] = 4
    with pytest.raises(DataError, match=r"field n_coils: expected 3 as in the arrays, got \[3, 4\]"):
        encode(block)
    with pytest.raises(DataError, match="expected samples in k-space, got domain x"):
        encode(replace(make_readouts(2), domain="x"))
    with pytest.raises(DataError, match="field traj_dims: expected 2"):
        encode(replace(make_readouts(2), traj=np.zeros((2, 8, 2), np.float32)))


def test_a_waveform_longer_than_its_counter_is_refused() -> None:
    with pytest.raises(DataError, match=r"waveform 1: expected .* got shape \(1, 65536\)"):
        encode(replace(make_waveform(), data=np.zeros((1, 65536), np.uint32)))


def test_every_spoken_number_is_known_and_no_foreign_one_is_spoken() -> None:
    assert {int(i) for i in MessageId}.isdisjoint(mrd_wire.FOREIGN_IDS)


def test_complex_kind_survives() -> None:
    image = make_image("complex64", kind=Kind.COMPLEX)
    (ours,) = decoded(encoded(image))
    assert ours.kind is Kind.COMPLEX
