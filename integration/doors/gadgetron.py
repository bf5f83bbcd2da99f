"""A module for a chain of Gadgetron: takes its connection as an external module and returns our images.

For the ``gadgetron`` Python package, whose connection this is handed (it is never imported here)::

    <external>                                            <!-- Gadgetron starts us -->
      <execute name="integration.doors.gadgetron" target="reconstruct" type="python"/>
      <configuration><protocol>mri_cartesian</protocol><set name="mri.grappa.kernel">5,4</set></configuration>
    </external>

    gadgetron.external.listen(18000, reconstruct)         # or we wait: <external><connect port="18000"/>

What comes may be readouts (1008), buffered k-space (1023), images (1022) or arrays of them (1024); waveforms go along.
Without a configuration the header chooses the protocol. Buffers are read as BucketToBuffer writes them.

The package takes an unknown message for the end and spins for ever on a connection that breaks; here both are errors.
"""

from __future__ import annotations

import logging
import socket
import struct
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ConfigError, MessageError, ScanAbortedError
from acquisition.items import READOUT_HEAD, Flag, Image, Item, Readouts
from acquisition.scan import Scan
from acquisition.sources.mrd_frame import LAYOUTS, Frame, decode, measure_acquisition
from acquisition.sources.mrd_header import parse_header
from acquisition.sources.mrd_image import IMAGE_HEAD, decode_image, encode_image
from acquisition.sources.mrd_limits import StreamLimits, check_claim
from acquisition.sources.mrd_wire import MessageId, Text
from integration.doors.request import AUTO, Request, from_name

LOG = logging.getLogger(__name__)

RECON_DATA, IMAGE_ARRAY = 1023, 1024
"""Messages between Gadgetron and its modules."""
_SAMPLING = np.dtype([("fov", "<f4", (2, 3)), ("matrix", "<u2", (2, 3)), ("limits", "<u2", (3, 3)), ("_", "<u2")])
_CENTRE = 1
_COMPLEX = 7
_MOST_PARTS = 1024

Reconstruct = Callable[[Scan, Request], Any]
"""Gives a reconstruction (`session.Reconstruction`) for a scan."""


class Source(Protocol):
    """What bytes are read from."""

    def read(self, nbytes: int) -> bytes:
        """Return so many bytes."""


class Connection(Protocol):
    """The package's connection, as far as it is used."""

    socket: Any
    readers: dict[int, Callable[[Source], object]]
    writers: list[Any]
    raw_bytes: Any

    def send(self, item: object) -> None:
        """Send an item on along the chain."""

    def __iter__(self) -> Iterator[Any]: ...


def reconstruct(connection: Connection, prepare: Reconstruct | None = None) -> None:
    """Take what comes until its end, and send our images on.

    Parameters
    ----------
    connection
        Of the ``gadgetron`` package.
    prepare
        Chooses the reconstruction; None: from the protocols that are shipped.

    Raises
    ------
    IsocenterError
        It cannot be reconstructed, or the connection breaks; the images made so far have been sent.
    """
    scan = parse_header(bytes(connection.raw_bytes.header).split(b"\0", 1)[0].decode())
    limits = StreamLimits().for_scan(scan)
    connection.socket = Link(connection.socket.socket)
    connection.readers = _Readers(limits)
    numbers: dict[str, list[int]] = {}
    # not add_writer: what it puts into the list cannot be called (gadgetron 1.4.1)
    connection.writers.insert(0, (lambda item: isinstance(item, Image), lambda to, image: _write(to, image, numbers)))
    run = (prepare or _prepare)(scan, request_of(bytes(connection.raw_bytes.config)))
    run.open()
    n = 0
    for items in connection:
        for item in items:
            for image in run.feed(item):
                connection.send(image)
                n += 1
    for image in run.close():
        connection.send(image)
        n += 1
    for verdict in run.verdicts:
        LOG.info("scan %s: %s %s: %s", scan.uid, verdict.level, verdict.check, verdict.advice)
    LOG.info("scan %s: %d images returned to the chain", scan.uid, n)


def request_of(config: bytes) -> Request:
    """Read which protocol the chain's configuration asks for.

    Raises
    ------
    ConfigError
        It is no XML, or says something unknown.
    """
    text = config.split(b"\0", 1)[0].strip()
    if not text:
        return Request(protocol=AUTO)
    if b"<!" in text:
        raise ConfigError("Gadgetron configuration", expected="XML without declarations", got="<!")
    try:
        root = ET.fromstring(text)
    except ET.ParseError as error:
        raise ConfigError("Gadgetron configuration", expected="XML", got=str(error)) from error
    found = root if root.tag == "configuration" else root.find(".//configuration")
    if found is None:
        return Request(protocol=AUTO)
    unknown = [e.tag for e in found if e.tag not in ("protocol", "set") or (e.tag == "set" and not e.get("name"))]
    if unknown:
        raise ConfigError("Gadgetron configuration", expected="protocol, set with a name", got=", ".join(unknown))
    changes = {str(e.get("name")): (e.text or "").strip() for e in found.findall("set")}
    return replace(from_name(found.findtext("protocol") or AUTO), changes=changes)


class Link:
    """The connection's socket; unlike the package's, it notices when the other side is gone.

    Parameters
    ----------
    sock
        The connected socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def read(self, nbytes: int) -> bytes:
        """Return so many bytes.

        Raises
        ------
        ScanAbortedError
            They do not come.
        """
        data, done = bytearray(nbytes), 0
        while done < nbytes:
            n = self.socket.recv_into(memoryview(data)[done:])
            if not n:
                raise ScanAbortedError("Gadgetron", expected=f"{nbytes} bytes", got=f"the end after {done}")
            done += n
        return bytes(data)

    def write(self, data: Any) -> None:
        """Send bytes."""
        self.socket.sendall(data)

    def close(self) -> None:
        """Say Close and hang up."""
        try:
            self.socket.sendall(struct.pack("<H", MessageId.CLOSE))
        except OSError:  # gone already
            LOG.info("Gadgetron has hung up")
        self.socket.close()


class _Readers(dict[int, Callable[[Source], object]]):
    """What reads each message; one that is not known is an error, not the end."""

    def __init__(self, limits: StreamLimits) -> None:
        ids = (MessageId.ACQUISITION, MessageId.WAVEFORM, MessageId.IMAGE, MessageId.TEXT)
        super().__init__({int(i): _reader(i, limits) for i in ids})
        self[MessageId.CLOSE] = _stop
        self[RECON_DATA] = lambda source: list(_recon_data(source, limits))
        self[IMAGE_ARRAY] = lambda source: list(_image_array(source, limits))

    def get(self, key: int, default: object = None) -> Any:
        if key not in self:
            known = ", ".join(map(str, sorted(self)))
            raise MessageError("Gadgetron", expected=f"one of the messages {known}", got=f"message {key}")
        return self[key]


def _stop(source: Source) -> object:
    raise StopIteration


def _reader(message: MessageId, limits: StreamLimits) -> Callable[[Source], list[Item]]:
    size, measure = LAYOUTS[message]

    def read(source: Source) -> list[Item]:
        head = source.read(size)
        lead, data = measure(head, limits)
        payload = np.frombuffer(bytearray(source.read(lead + data)), np.uint8)
        found = decode(Frame(message, head, lead, data), payload)
        if isinstance(found, Text):
            LOG.info("Gadgetron sent a text of %d characters", len(found.text))
            return []
        return [found]

    return read


def _write(destination: Any, image: Image, numbers: dict[str, list[int]]) -> None:
    """Send an image as message 1022."""
    count = numbers.setdefault(image.output, [len(numbers) + 1, 0])
    count[1] += 1
    for buffer in encode_image(image, series_index=count[0], image_index=count[1]):
        destination.write(buffer)


def _prepare(scan: Scan, request: Request) -> Any:
    from integration.protocol import Library
    from integration.rooms import prepare

    return prepare(Library(), request, scan).run


def _recon_data(source: Source, limits: StreamLimits) -> Iterator[Readouts]:
    """Read message 1023: bits of a buffer and perhaps its calibration lines."""
    for _ in range(_count(source, "parts", _MOST_PARTS)):
        buffer = _buffer(source, limits)
        if _flag(source):
            reference = _buffer(source, limits)
            apart = reference.has(Flag.CALIBRATION) & ~reference.has(Flag.CALIBRATION_AND_IMAGING)
            if apart.any():
                yield reference.select(apart)
        if len(buffer):
            yield buffer


def _buffer(source: Source, limits: StreamLimits) -> Readouts:
    """Read a buffer: data (E0, E1, E2, coil, N, S, LOC), a head for each line (E1, E2, N, S, LOC), lines of no samples
    were not measured."""
    data = _array(source, np.dtype("<c8"), 7, limits)
    traj = _array(source, np.dtype("<f4"), 7, limits) if _flag(source) else None
    if _flag(source):
        _array(source, np.dtype("<f4"), 6, limits)  # density: ours is computed from the trajectory
    heads = _array(source, READOUT_HEAD, 5, limits)
    sampling = np.frombuffer(source.read(_SAMPLING.itemsize), _SAMPLING)[0]
    n_samples, e1, e2, n_coils, *rest = data.shape
    if heads.shape != (e1, e2, *rest):
        raise MessageError("Gadgetron buffer", expected=f"heads {(e1, e2, *rest)}", got=f"{heads.shape}")
    if traj is not None and traj.shape[1:] != (n_samples, e1, e2, *rest):
        raise MessageError("Gadgetron buffer", expected=f"a trajectory for {data.shape}", got=f"{traj.shape}")
    measure_acquisition(n_samples, n_coils, dims=0 if traj is None else len(traj), limits=limits)
    index = np.nonzero(heads["n_samples"])
    order = np.argsort(heads[index]["scan_counter"], kind="stable")
    index = tuple(i[order] for i in index)
    head = heads[index].copy()
    head["n_samples"], head["n_coils"], head["available_coils"] = n_samples, n_coils, n_coils
    head["center_sample"], head["discard_pre"], head["discard_post"] = sampling["limits"][0][_CENTRE], 0, 0
    head["traj_dims"] = 0 if traj is None else len(traj)
    lines = np.moveaxis(data, (3, 0), (-2, -1))[index]
    path = None if traj is None else np.ascontiguousarray(np.moveaxis(traj, (1, 0), (-2, -1))[index])
    return Readouts(head=head, data=np.ascontiguousarray(lines), traj=path)


def _image_array(source: Source, limits: StreamLimits) -> Iterator[Image]:
    """Read message 1024: data (x, y, z, channel, N, S, LOC), a header and attributes for each image (N, S, LOC)."""
    data = _array(source, np.dtype("<c8"), 7, limits)
    heads = _array(source, IMAGE_HEAD, 3, limits)
    if heads.shape != data.shape[4:]:
        raise MessageError("Gadgetron images", expected=f"headers {data.shape[4:]}", got=f"{heads.shape}")
    attributes = []
    for _ in range(_count(source, "attributes", _MOST_PARTS * _MOST_PARTS)):
        attributes.append(source.read(_count(source, "attributes", limits.attribute_bytes)))
    if _flag(source):
        for _ in range(_count(source, "waveforms", _MOST_PARTS)):
            _reader(MessageId.WAVEFORM, limits)(source)
    if _flag(source):
        _array(source, READOUT_HEAD, 5, limits)
    order = ((n, s, loc) for loc in range(heads.shape[2]) for s in range(heads.shape[1]) for n in range(heads.shape[0]))
    for number, place in enumerate(order):
        record = heads[place].reshape(1).copy()
        voxels = np.ascontiguousarray(data[(..., *place)].transpose(3, 2, 1, 0))
        record["data_type"], record["channels"] = _COMPLEX, voxels.shape[0]
        record["matrix_size"] = voxels.shape[:0:-1]
        yield decode_image(record, attributes[number] if number < len(attributes) else b"", voxels)


def _array(source: Source, dtype: np.dtype, n_dims: int, limits: StreamLimits) -> NDArray:
    """Read an array as Gadgetron writes it: number of dimensions, sizes, values with the first index fastest."""
    given = _count(source, "dimensions", n_dims)
    shape = [_count(source, "array", 1 << 32) for _ in range(given)]
    check_claim("Gadgetron array", prod(shape) * dtype.itemsize, limit=limits.image_bytes, unit="bytes")
    values = np.frombuffer(bytearray(source.read(prod(shape) * dtype.itemsize)), dtype)
    return values.reshape([*shape, *[1] * (n_dims - given)], order="F")


def _count(source: Source, where: str, limit: int) -> int:
    (n,) = struct.unpack("<Q", source.read(8))
    check_claim(f"Gadgetron {where}", n, limit=limit, unit="")
    return int(n)


def _flag(source: Source) -> bool:
    return source.read(1) != b"\0"
