"""The MRD 1 (ISMRMRD) wire format: message numbers, byte layouts, and every message to bytes.

Little endian. A message is a 2-byte number and a body::

    1     config file   char[1024], NUL padded          1008  acquisition  340-byte header, traj, data
    2     config text   uint32 length, text             1022  image        198-byte header, uint64 length, XML, data
    3     header        uint32 length, XML              1026  waveform     40-byte header, data
    4     close         nothing
    5     text          uint32 length, text

Texts are written with a trailing NUL that counts in the length, as the example client and server do.
``mrd_stream`` is the way back from bytes. Source: ISMRMRD, DOI 10.1002/mrm.26089.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import DataError
from acquisition.items import READOUT_HEAD, Image, Readouts, Waveform
from acquisition.sources.mrd_image import encode_image

Buffers = list[bytes | memoryview]
"""Pieces to send one after another."""

CONFIG_FILE_BYTES = 1024
"""Body of a config file message [bytes]."""
ACQUISITION_HEAD_BYTES = READOUT_HEAD.itemsize
"""Header of an acquisition [bytes]: 340."""
BLOCK_BYTES = 8 << 20
"""A block of readouts is encoded in pieces of about this size [bytes]."""

WAVEFORM_HEAD = np.dtype(
    [
        ("version", "<u2"),
        ("flags", "<u8"),
        ("measurement_uid", "<u4"),
        ("scan_counter", "<u4"),
        ("time_stamp", "<u4"),
        ("n_samples", "<u2"),
        ("n_channels", "<u2"),
        ("sample_time_us", "<f4"),
        ("id", "<u2"),
    ],
    align=True,
)
"""Waveform header, 40 bytes: naturally aligned, unlike the packed headers of acquisitions and images."""


class MessageId(IntEnum):
    """Numbers of the messages that we speak."""

    CONFIG_FILE = 1
    CONFIG_TEXT = 2
    HEADER = 3
    CLOSE = 4
    TEXT = 5
    ACQUISITION = 1008
    IMAGE = 1022
    WAVEFORM = 1026


FOREIGN_IDS: dict[int, str] = {
    6: "query, Gadgetron only",
    7: "response, Gadgetron only",
    8: "error, Gadgetron only",
    1023: "reconstruction data, Gadgetron only",
    1024: "image array, Gadgetron only",
    1030: "ndarray, in the ISMRMRD library only",
    1050: "acquisition bucket, Gadgetron only",
    1051: "bundle, Gadgetron only",
    **dict.fromkeys((*range(1001, 1008), *range(1009, 1022)), "deprecated"),
}
"""Known messages that we do not speak, and why."""


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """Message 1: run the protocol of this name."""

    name: str
    """Name of the protocol, at most 1023 bytes."""


@dataclass(frozen=True, slots=True)
class ConfigText:
    """Message 2: run what this text says."""

    text: str
    """The protocol's text, or its name."""


@dataclass(frozen=True, slots=True)
class Header:
    """Message 3: the scan's header."""

    xml: str
    """ISMRMRD header; `mrd_header.parse_header` reads it."""


@dataclass(frozen=True, slots=True)
class Text:
    """Message 5: a line for the log, or parameters from the console."""

    text: str
    """Free text."""


@dataclass(frozen=True, slots=True)
class Close:
    """Message 4: the sender is done."""


Message = ConfigFile | ConfigText | Header | Text | Close | Readouts | Waveform | Image
"""Everything that travels."""


def encode(message: Message) -> Buffers:
    """Return the bytes of any message, in pieces; images get series and image index 1.

    Raises
    ------
    DataError
        The message cannot be said in MRD 1.
    """
    return _ENCODERS[type(message)](message)


def encode_config_file(message: ConfigFile) -> Buffers:
    """Return the bytes of message 1."""
    name = message.name.encode()
    if len(name) >= CONFIG_FILE_BYTES or b"\0" in name:
        raise DataError(
            "config file name",
            expected=f"at most {CONFIG_FILE_BYTES - 1} bytes without NUL",
            got=f"{len(name)} bytes",
            action="send a ConfigText instead",
        )
    return [struct.pack("<H1024s", MessageId.CONFIG_FILE, name)]


def encode_config_text(message: ConfigText) -> Buffers:
    """Return the bytes of message 2."""
    return [_text(MessageId.CONFIG_TEXT, message.text)]


def encode_header(message: Header) -> Buffers:
    """Return the bytes of message 3."""
    return [_text(MessageId.HEADER, message.xml)]


def encode_text(message: Text) -> Buffers:
    """Return the bytes of message 5."""
    return [_text(MessageId.TEXT, message.text)]


def encode_close(message: Close) -> Buffers:
    """Return the bytes of message 4."""
    return [struct.pack("<H", MessageId.CLOSE)]


def encode_readouts(block: Readouts) -> Buffers:
    """Return the bytes of a block: one acquisition message per readout, built without a loop over readouts.

    Parameters
    ----------
    block
        Readouts in the k-space domain whose heads say the shape of the data.

    Raises
    ------
    DataError
        The data were already transformed, or heads and arrays disagree in shape.
    """
    check_readouts(block)
    n = len(block)
    data = np.ascontiguousarray(block.data, dtype="<c8").reshape(n, -1)
    traj = np.empty((n, 0), "<f4")
    if block.traj is not None:
        traj = np.ascontiguousarray(block.traj, dtype="<f4").reshape(n, -1)
    size = 2 + ACQUISITION_HEAD_BYTES + 4 * traj.shape[1] + 8 * data.shape[1]
    rows = max(1, BLOCK_BYTES // size)
    head = np.ascontiguousarray(block.head)
    return [_acquisitions(head[i : i + rows], traj[i : i + rows], data[i : i + rows]) for i in range(0, n, rows)]


def encode_waveform(waveform: Waveform) -> Buffers:
    """Return the bytes of message 1026.

    Raises
    ------
    DataError
        The array is not (channel, time) or longer than a waveform can be.
    """
    return [
        struct.pack("<H", MessageId.WAVEFORM),
        waveform_head(waveform).tobytes(),
        np.ascontiguousarray(waveform.data, dtype="<u4").tobytes(),
    ]


def waveform_head(waveform: Waveform) -> NDArray[np.void]:
    """Return the header record of `waveform`, dtype `WAVEFORM_HEAD`, shape (1,), padding zeroed."""
    if waveform.data.ndim != 2 or max(waveform.data.shape) > 0xFFFF:
        raise DataError(
            f"waveform {waveform.id}",
            expected="an array (channel, time), neither longer than 65535",
            got=f"shape {waveform.data.shape}",
            action="cut the waveform into shorter ones",
        )
    head = np.zeros(1, WAVEFORM_HEAD)
    head["version"] = 1
    head["n_channels"], head["n_samples"] = waveform.data.shape
    for name in ("flags", "measurement_uid", "scan_counter", "time_stamp", "sample_time_us", "id"):
        head[name] = getattr(waveform, name)
    return head


def check_readouts(block: Readouts) -> None:
    """Check that heads and arrays of `block` agree and that it can be sent or written as acquisitions.

    Raises
    ------
    DataError
        They do not; the message names both shapes.
    """
    if block.domain != "k0":
        raise DataError(
            "readouts to send",
            expected="samples in k-space",
            got=f"domain {block.domain}",
            action="send the block as it was received",
        )
    n_coils, n_samples = block.data.shape[1:]
    dims = 0 if block.traj is None else block.traj.shape[2]
    for name, value in (("n_coils", n_coils), ("n_samples", n_samples), ("traj_dims", dims)):
        if not np.all(block.head[name] == value):
            raise DataError(
                f"readouts to send, head field {name}",
                expected=f"{value} as in the arrays",
                got=f"{np.unique(block.head[name]).tolist()}",
                action="fill the head from the shape of the data",
            )


def _acquisitions(head: NDArray[np.void], traj: NDArray, data: NDArray) -> memoryview:
    n, before = len(head), 2 + ACQUISITION_HEAD_BYTES
    parts = [array.view(np.uint8).reshape(n, array.shape[1] * array.itemsize) for array in (traj, data)]
    out = np.empty((n, before + parts[0].shape[1] + parts[1].shape[1]), np.uint8)
    out[:, :2] = np.frombuffer(struct.pack("<H", MessageId.ACQUISITION), np.uint8)
    out[:, 2:before] = head.view(np.uint8).reshape(n, ACQUISITION_HEAD_BYTES)
    out[:, before : before + parts[0].shape[1]] = parts[0]
    out[:, before + parts[0].shape[1] :] = parts[1]
    return out.data.cast("B")


def _text(message_id: MessageId, text: str) -> bytes:
    body = text.encode() + b"\0"
    return struct.pack("<HI", message_id, len(body)) + body


_ENCODERS: dict[type, Callable[..., Buffers]] = {
    ConfigFile: encode_config_file,
    ConfigText: encode_config_text,
    Header: encode_header,
    Text: encode_text,
    Close: encode_close,
    Readouts: encode_readouts,
    Waveform: encode_waveform,
    Image: encode_image,
}
