"""One MRD message: how large it says it is, and what it becomes.

The size of every message is known from its fixed part (`LAYOUTS`), so it is held against the limits before memory
is taken. `decode` builds the message on top of the memory it was received in.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import MessageError
from acquisition.items import READOUT_HEAD, Readouts, Waveform
from acquisition.sources.mrd_image import DATA_TYPES, IMAGE_HEAD, decode_image
from acquisition.sources.mrd_limits import StreamLimits, check_claim
from acquisition.sources.mrd_wire import (
    CONFIG_FILE_BYTES,
    WAVEFORM_HEAD,
    Close,
    ConfigFile,
    ConfigText,
    Header,
    Message,
    MessageId,
    Text,
)

Bytes = NDArray[np.uint8]
Sizes = tuple[int, int]
"""Bytes behind the fixed part: (trajectory or attributes, samples or text)."""

_ENCODING = re.compile(rb"""^\s*<\?xml[^>]*encoding=["'](iso-8859-1|latin-?1|windows-1252)["']""", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Frame:
    """A message whose fixed part has arrived and whose size is within the limits."""

    id: MessageId
    """Which message."""
    head: bytes
    """Fixed part after the id."""
    lead: int
    """Bytes between the fixed part and the samples: trajectory or attributes."""
    data: int
    """Bytes of samples or text."""

    @property
    def total(self) -> int:
        """Size of the whole message [bytes]."""
        return 2 + len(self.head) + self.lead + self.data


def _measure_config_file(head: bytes, limits: StreamLimits) -> Sizes:
    return 0, CONFIG_FILE_BYTES


def _measure_close(head: bytes, limits: StreamLimits) -> Sizes:
    return 0, 0


def _measure_text(head: bytes, limits: StreamLimits) -> Sizes:
    (length,) = struct.unpack("<I", head)
    check_claim("text message", length, limit=limits.text_bytes, unit="bytes")
    return 0, length


def _measure_header(head: bytes, limits: StreamLimits) -> Sizes:
    (length,) = struct.unpack("<I", head)
    check_claim("header message", length, limit=limits.header_bytes, unit="bytes")
    return 0, length


def measure_acquisition(samples: int, coils: int, *, dims: int, limits: StreamLimits) -> Sizes:
    """Return the bytes (trajectory, data) of one readout.

    Raises
    ------
    LimitError
        One of the numbers, or their product, is above its limit.
    """
    lead, data = 4 * samples * dims, 8 * samples * coils
    detail = f"{coils} coils x {samples} samples"
    check_claim("acquisition", lead + data, limit=limits.readout_bytes, unit="bytes", detail=detail)
    check_claim("acquisition", coils, limit=limits.coils, unit="coils")
    check_claim("acquisition", samples, limit=limits.samples, unit="samples")
    check_claim("acquisition", dims, limit=limits.trajectory_dims, unit="trajectory dimensions")
    return lead, data


def _measure_acquisition(head: bytes, limits: StreamLimits) -> Sizes:
    samples, _, coils = struct.unpack_from("<3H", head, 34)
    (dims,) = struct.unpack_from("<H", head, 176)
    return measure_acquisition(samples, coils, dims=dims, limits=limits)


def _measure_waveform(head: bytes, limits: StreamLimits) -> Sizes:
    samples, channels = struct.unpack_from("<2H", head, 28)
    detail = f"{channels} channels x {samples} samples"
    check_claim("waveform", 4 * samples * channels, limit=limits.waveform_bytes, unit="bytes", detail=detail)
    return 0, 4 * samples * channels


def _measure_image(head: bytes, limits: StreamLimits) -> Sizes:
    record = np.frombuffer(head, IMAGE_HEAD, 1)
    (attributes,) = struct.unpack_from("<Q", head, IMAGE_HEAD.itemsize)
    data_type, shape = int(record["data_type"][0]), _image_shape(record)
    if data_type not in DATA_TYPES or 0 in shape:
        raise MessageError(
            "image message",
            expected="a data type 1 ... 8 and at least one voxel",
            got=f"data type {data_type}, (channel, z, y, x) = {shape}",
            action="check the sender",
        )
    size = DATA_TYPES[data_type].itemsize * int(np.prod(shape, dtype=object))
    check_claim("image", size, limit=limits.image_bytes, unit="bytes", detail=f"(channel, z, y, x) = {shape}")
    check_claim("image attributes", attributes, limit=limits.attribute_bytes, unit="bytes")
    return attributes, size


LAYOUTS: dict[int, tuple[int, Callable[[bytes, StreamLimits], Sizes]]] = {
    MessageId.CONFIG_FILE: (0, _measure_config_file),
    MessageId.CONFIG_TEXT: (4, _measure_text),
    MessageId.HEADER: (4, _measure_header),
    MessageId.CLOSE: (0, _measure_close),
    MessageId.TEXT: (4, _measure_text),
    MessageId.ACQUISITION: (READOUT_HEAD.itemsize, _measure_acquisition),
    MessageId.IMAGE: (IMAGE_HEAD.itemsize + 8, _measure_image),
    MessageId.WAVEFORM: (WAVEFORM_HEAD.itemsize, _measure_waveform),
}
"""By message: bytes of the fixed part behind the number, and what measures the rest."""


def decode(frame: Frame, payload: Bytes) -> Message:
    """Build the message of `frame` on top of `payload`, which it keeps."""
    match frame.id:
        case MessageId.CONFIG_FILE:
            return ConfigFile(_text(frame.id, payload))
        case MessageId.CONFIG_TEXT:
            return ConfigText(_text(frame.id, payload))
        case MessageId.HEADER:
            return Header(_text(frame.id, payload))
        case MessageId.TEXT:
            return Text(_text(frame.id, payload))
        case MessageId.CLOSE:
            return Close()
        case MessageId.ACQUISITION:
            head = np.frombuffer(frame.head, np.uint8).copy()
            return readouts(head[None], payload[None, : frame.lead], payload[None, frame.lead :])
        case MessageId.IMAGE:
            record = np.frombuffer(frame.head, IMAGE_HEAD, 1)
            voxels = payload[frame.lead :].view(DATA_TYPES[int(record["data_type"][0])])
            return decode_image(record, payload[: frame.lead].tobytes(), voxels.reshape(_image_shape(record)))
        case MessageId.WAVEFORM:
            return decode_waveform(np.frombuffer(frame.head, WAVEFORM_HEAD, 1), payload.view("<u4"))


def decode_waveform(head: NDArray[np.void], samples: NDArray[np.uint32]) -> Waveform:
    """Build a `Waveform` from its header record, shape (1,), and its samples in channel order."""
    return Waveform(
        id=int(head["id"][0]),
        time_stamp=int(head["time_stamp"][0]),
        sample_time_us=float(head["sample_time_us"][0]),
        data=samples.reshape(int(head["n_channels"][0]), int(head["n_samples"][0])),
        flags=int(head["flags"][0]),
        measurement_uid=int(head["measurement_uid"][0]),
        scan_counter=int(head["scan_counter"][0]),
    )


def readouts(head: Bytes, traj: Bytes, data: Bytes) -> Readouts:
    """Build a block from the bytes of heads, trajectories and samples, each (n, bytes)."""
    heads = head.view(READOUT_HEAD)[:, 0]
    n, samples = len(heads), int(heads["n_samples"][0])
    coils, dims = int(heads["n_coils"][0]), int(heads["traj_dims"][0])
    return Readouts(
        head=heads,
        data=data.view("<c8").reshape(n, coils, samples),
        traj=traj.view("<f4").reshape(n, samples, dims) if dims else None,
        received_s=time.monotonic(),
    )


def _image_shape(head: NDArray[np.void]) -> tuple[int, int, int, int]:
    x, y, z = (int(n) for n in head["matrix_size"][0])
    return int(head["channels"][0]), z, y, x


def _text(message: MessageId, payload: Bytes) -> str:
    """Return the text up to its first NUL: UTF-8, or what an XML declaration says instead."""
    body = payload.tobytes().split(b"\0", 1)[0]
    declared = _ENCODING.match(body)
    try:
        return body.decode(declared[1].decode() if declared else "utf-8")
    except UnicodeDecodeError as error:
        raise MessageError(
            f"{message.name} message", expected="UTF-8 text", got=str(error), action="check the sender's encoding"
        ) from error
