"""Our module in a chain of Gadgetron, which the `gadgetron` package's own classes stand in for.

No Gadgetron has been asked: what is tested is what its Python package writes and reads.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ismrmrd
import numpy as np
import pytest
from gadgetron.external import writers
from gadgetron.external.connection import Connection
from gadgetron.types.image_array import ImageArray, write_image_array
from gadgetron.types.recon_data import ReconBit, ReconBuffer, ReconData, SamplingDescription, write_recon_buffer

from acquisition.errors import ConfigError, LimitError, MessageError, ScanAbortedError
from acquisition.items import READOUT_HEAD, Flag, Image, Readouts, Waveform
from acquisition.sources.mrd_header_write import write_header
from acquisition.sources.mrd_image import IMAGE_HEAD, encode_image
from acquisition.sources.mrd_stream import StreamDecoder
from acquisition.sources.mrd_wire import Close, Text, encode
from integration.doors.gadgetron import reconstruct, request_of
from tests.integration.doors_samples import EXAM, Plain, simulation


class Through:
    """A reconstruction that remembers what comes and gives images back as they are."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.verdicts: list[Any] = []

    def open(self) -> None:
        pass

    def feed(self, item: Any) -> list[Image]:
        self.items.append(item)
        return [item] if isinstance(item, Image) else []

    def close(self) -> list[Image]:
        return []


def greeting(header: str) -> bytes:
    """Config and header as Gadgetron sends them: without a NUL at the end."""
    pairs = ((2, b"<configuration/>"), (3, header.encode()))
    return b"".join(struct.pack("<HI", number, len(text)) + text for number, text in pairs)


def chain(say: Callable[[Any], None], run: Any, *, close: bool = True) -> tuple[list[Any], Any]:
    """Stand in for Gadgetron: say something to our module; return what it sent on, and what it failed with."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    failed: list[BaseException] = []
    asked: list[Any] = []

    def prepare(scan: Any, request: Any) -> Any:
        asked.append(request)
        return run(scan) if isinstance(run, type) or callable(run) else run

    def module() -> None:
        try:
            with Connection(ours) as connection:
                reconstruct(connection, prepare)
        except Exception as error:
            failed.append(error)
        finally:
            ours.close()

    thread = threading.Thread(target=module, daemon=True)
    thread.start()
    theirs.sendall(greeting(write_header(simulation().scan)))

    class Destination:
        def write(self, data: Any) -> None:
            theirs.sendall(bytes(data))

    with suppress(BrokenPipeError):  # what it failed with is told below
        say(Destination())
        if close:
            theirs.sendall(struct.pack("<H", 4))
        else:
            theirs.shutdown(socket.SHUT_WR)
    decoder, found = StreamDecoder(), []
    with suppress(ConnectionResetError):
        while n := theirs.recv_into(decoder.writable()):
            found += decoder.received(n)
            if found and isinstance(found[-1], Close):
                break
    thread.join(10)
    theirs.close()
    assert not thread.is_alive()
    return found, failed[0] if failed else None


def plain(scan: Any) -> Plain:
    return Plain(scan, "")


def direct() -> list[Image]:
    work = plain(simulation().scan)
    work.open()
    return [image for item in simulation().readouts() for image in work.feed(item)]


def acquisition(item: Readouts, i: int) -> ismrmrd.Acquisition:
    head = ismrmrd.AcquisitionHeader.from_buffer_copy(item.head[i].tobytes())
    made = ismrmrd.Acquisition(head)
    made.data[:] = item.data[i]
    return made


def assert_images(found: list[Any], wanted: list[Image], *, rtol: float = 0.0) -> None:
    images = [m for m in found if isinstance(m, Image)]
    assert len(images) == len(wanted) > 0 and isinstance(found[-1], Close)
    for one, other in zip(images, wanted, strict=True):
        np.testing.assert_allclose(one.data, other.data, rtol=rtol)
        assert one.position == other.position and one.grid.shape == other.grid.shape


def test_readouts_become_images() -> None:
    def say(to: Any) -> None:
        for item in simulation().readouts():
            for i in range(len(item)):
                writers.write_acquisition(to, acquisition(item, i))

    found, failed = chain(say, plain)
    assert failed is None
    assert_images(found, direct())


def buffers() -> list[ReconData]:
    """Each slice as BucketToBuffer gives it: (E0, E1, E2, coil, N, S, LOC), the heads of its lines beside it."""
    k, heads = {}, {}
    for item in simulation().readouts():
        for i in range(len(item)):
            head = item.head[i]
            if int(head["flags"]) & int(Flag.NOISE):
                continue
            s = int(head["slice"])
            data = k.setdefault(s, np.zeros((item.data.shape[2], 16, 1, item.data.shape[1], 1, 1, 1), np.complex64))
            head_of = heads.setdefault(s, np.empty((16, 1, 1, 1, 1), dtype=object))
            data[:, int(head["k1"]), 0, :, 0, 0, 0] = item.data[i].T
            head_of[int(head["k1"]), 0, 0, 0, 0] = ismrmrd.AcquisitionHeader.from_buffer_copy(head.tobytes())
    made = []
    for s, data in k.items():
        sampling = SamplingDescription()
        sampling.sampling_limits[0].center = data.shape[0] // 2
        made.append(ReconData([ReconBit(ReconBuffer(data, None, None, heads[s], sampling))]))
    return made


def write_recon_data(to: Any, item: ReconData) -> None:
    """As the package does, whose writer of arrays numpy 2 refuses when they must be copied."""
    to.write(struct.pack("<H", 1023))
    to.write(struct.pack("<Q", len(item.bits)))
    for bit in item.bits:
        write_recon_buffer(to, bit.data)
        to.write(struct.pack("<?", bit.ref is not None))
        if bit.ref is not None:
            write_recon_buffer(to, bit.ref)


def test_buffers_become_the_images_of_their_readouts() -> None:
    found, failed = chain(lambda to: [write_recon_data(to, b) for b in buffers()], plain)
    assert failed is None
    assert_images(found, direct())


def test_buffers_keep_order_centre_and_trajectory_and_lines_apart() -> None:
    data = buffers()[0]
    buffer = data.bits[0].data
    heads = buffer.headers
    for line, head in enumerate(heads.ravel()):
        head.scan_counter = 100 - line  # measured from the last line to the first
    heads[3, 0, 0, 0, 0] = ismrmrd.AcquisitionHeader()  # not measured
    e0 = buffer.data.shape[0]
    buffer.trajectory = np.arange(2 * e0 * 16, dtype=np.float32).reshape((2, e0, 16, 1, 1, 1, 1), order="F")
    buffer.sampling.sampling_limits[0].center = 5
    ref = ReconBuffer(buffer.data[:, :2], None, None, heads[:2].copy(), buffer.sampling)
    calibration, both = (ismrmrd.AcquisitionHeader.from_buffer_copy(bytes(h)) for h in heads[:2].ravel())
    calibration.flags, both.flags = int(Flag.CALIBRATION), int(Flag.CALIBRATION_AND_IMAGING)
    ref.headers[0, 0, 0, 0, 0], ref.headers[1, 0, 0, 0, 0] = calibration, both
    data.bits[0].ref = ref
    run = Through()
    found, failed = chain(lambda to: write_recon_data(to, data), run)
    assert failed is None and [type(m) for m in found] == [Close]
    first, block = run.items
    assert len(first) == 1 and first.has(Flag.CALIBRATION).all()  # the other one is in the data
    assert block.head["k1"].tolist() == [k for k in range(15, -1, -1) if k != 3]
    assert set(block.head["center_sample"]) == {5} and set(block.head["n_samples"]) == {e0}
    assert (block.data[0] == buffer.data[:, 15, 0, :, 0, 0, 0].T).all()
    assert block.traj.shape == (15, e0, 2) and (block.traj[0] == buffer.trajectory[:, :, 15, 0, 0, 0, 0].T).all()


def test_images_and_arrays_of_images_go_through() -> None:
    image = direct()[1]
    record = np.frombuffer(b"".join(bytes(b) for b in encode_image(image))[2:], IMAGE_HEAD, 1)
    head = ismrmrd.ImageHeader.from_buffer_copy(record.tobytes())
    values = (np.arange(2 * 16 * 16).reshape(16, 16, 1, 1, 2, 1, 1) * (1 + 0.5j)).astype(np.complex64)
    heads = np.empty((2, 1, 1), dtype=object)
    heads[0, 0, 0] = heads[1, 0, 0] = head

    def say(to: Any) -> None:
        for buffer in encode_image(image):
            to.write(buffer)
        write_image_array(to, ImageArray(data=values, headers=heads, meta=["", ""]))

    run = Through()
    found, failed = chain(say, run)
    assert failed is None
    assert_images(found[:1] + found[-1:], [image])
    for n, one in enumerate(run.items[1:]):
        assert one.data.dtype == np.complex64 and one.position.slice == 1
        assert (np.squeeze(one.data) == values[:, :, 0, 0, n, 0, 0].T).all()
    assert len(run.items) == 3


def test_waveforms_go_along_and_texts_do_not_end_the_scan() -> None:
    wave = Waveform(id=1, time_stamp=5, sample_time_us=2.5, data=np.arange(8, dtype=np.uint32).reshape(2, 4))
    item = next(iter(simulation().readouts()))

    def say(to: Any) -> None:
        for message in (Text("hello"), wave, item):
            for buffer in encode(message):
                to.write(buffer)

    run = Through()
    _, failed = chain(say, run)
    assert failed is None and [type(i) for i in run.items] == [Waveform, Readouts]
    assert (run.items[0].data == wave.data).all()


def test_an_unknown_message_is_an_error_and_not_the_end() -> None:
    _, failed = chain(lambda to: to.write(struct.pack("<H", 1050)), Through())
    assert isinstance(failed, MessageError) and "1008, 1022, 1023, 1024, 1026, got message 1050" in str(failed)


def test_a_broken_connection_ends_the_scan_at_once() -> None:
    item = next(iter(simulation().readouts()))
    _, failed = chain(lambda to: to.write(bytes(encode(item)[0])[:100]), Through(), close=False)
    assert isinstance(failed, ScanAbortedError)


@pytest.mark.parametrize("shape", [(1 << 40,), (1 << 20, 1 << 20, 1 << 20), (1,) * 8])
def test_claims_of_too_much_are_refused_before_memory_is_taken(shape: tuple[int, ...]) -> None:
    def say(to: Any) -> None:
        to.write(struct.pack("<HQQ", 1023, 1, len(shape)) + struct.pack(f"<{len(shape)}Q", *shape))

    _, failed = chain(say, Through())
    assert isinstance(failed, LimitError)


def test_heads_that_do_not_belong_to_the_data_are_refused() -> None:
    data = buffers()[0]
    data.bits[0].data.headers = data.bits[0].data.headers[:7]
    _, failed = chain(lambda to: write_recon_data(to, data), Through())
    assert isinstance(failed, MessageError) and "heads (16, 1, 1, 1, 1), got (7, 1, 1, 1, 1)" in str(failed)


def test_the_configuration_names_the_protocol_and_changes_it() -> None:
    text = b'<configuration><protocol>mri_tse</protocol><set name="a.b">5,4</set></configuration>'
    asked = request_of(text)
    assert asked.protocol == "mri_tse" and asked.changes == {"a.b": "5,4"}
    assert request_of(b"<external>" + text + b"</external>\0") == asked
    for empty in (b"", b"\0", b"<configuration/>", b"<gadgetronStreamConfiguration/>"):
        assert request_of(empty).protocol == "auto"
    for wrong, match in (
        (b"<configuration><evil/></configuration>", "got evil"),
        (b"<configuration><set>3</set></configuration>", "set with a name"),
        (b"<configuration", "expected XML"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a/>', "without declarations"),
    ):
        with pytest.raises(ConfigError, match=match):
            request_of(wrong)


def test_the_shipped_protocols_are_used_without_more_ado() -> None:
    ours, theirs = socket.socketpair()
    sim = simulation(replace(EXAM, n_noise=0))

    def module() -> None:
        with Connection(ours) as connection:
            reconstruct(connection)

    thread = threading.Thread(target=module, daemon=True)
    thread.start()
    theirs.settimeout(20)
    theirs.sendall(greeting(write_header(sim.scan)))
    theirs.sendall(b"".join(bytes(b) for m in (*sim.readouts(), Close()) for b in encode(m)))
    decoder, found = StreamDecoder(), []
    while n := theirs.recv_into(decoder.writable()):
        found += decoder.received(n)
        if found and isinstance(found[-1], Close):
            break
    thread.join(10)
    theirs.close()
    assert [m.position.slice for m in found if isinstance(m, Image)] == [0, 1, 2]
    assert READOUT_HEAD.itemsize == 340
