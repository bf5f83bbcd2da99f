"""Other projects' clients at our door: the wire code of python-ismrmrd-server's client, and gadgetron's Connection.

The client's serialisation is written here with the `ismrmrd` package, message by message as its client does it:
config by file name in 1024 bytes, texts with a trailing NUL counted in the length, images read by the header.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import threading
from collections.abc import Iterator

import gadgetron.external.connection as gadgetron_connection
import ismrmrd
import numpy as np
import pytest

from acquisition.sources.mrd_header_write import write_header
from integration.service import Service
from tests.integration.doors_samples import serving, simulation

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("data")) as found:
        yield found


def acquisitions() -> Iterator[ismrmrd.Acquisition]:
    for block in simulation().readouts():
        head = ismrmrd.AcquisitionHeader.from_buffer_copy(block.head[0].tobytes())
        yield ismrmrd.Acquisition(head, np.ascontiguousarray(block.data[0]))


class ExampleClient:
    """What python-ismrmrd-server's client.py says and hears, on one socket."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.images: list[ismrmrd.Image] = []
        self.texts: list[str] = []
        self.closed = False
        self.ear = threading.Thread(target=self._listen)
        self.ear.start()

    def send_config_file(self, name: str) -> None:
        self.sock.send(struct.pack("<H", 1) + struct.pack("<1024s", name.encode()))

    def send_text_message(self, message_id: int, text: str) -> None:
        body = f"{text}\0".encode()
        self.sock.send(struct.pack("<H", message_id))
        self.sock.send(struct.pack("<I", len(body)))
        self.sock.send(body)

    def send_acquisition(self, acquisition: ismrmrd.Acquisition) -> None:
        self.sock.send(struct.pack("<H", 1008))
        acquisition.serialize_into(self.sock.send)

    def send_close(self) -> None:
        self.sock.send(struct.pack("<H", 4))

    def _exactly(self, n: int) -> bytes:
        return self.sock.recv(n, socket.MSG_WAITALL)

    def _listen(self) -> None:
        while len(number := self._exactly(2)) == 2:
            match struct.unpack("<H", number)[0]:
                case 1022:
                    self.images.append(ismrmrd.Image.deserialize_from(self._exactly))
                case 5:
                    (length,) = struct.unpack("<I", self._exactly(4))
                    self.texts.append(self._exactly(length).split(b"\0", 1)[0].decode())
                case 4:
                    self.closed = True
                    return

    def finish(self) -> None:
        self.send_close()
        self.ear.join(10)
        self.sock.close()


def check(images: list[ismrmrd.Image]) -> None:
    assert [image.slice for image in images] == [0, 1, 2]
    for image in images:
        truth = simulation().truth(image.slice)
        assert image.data.shape == (1, 1, 16, 16)
        assert image.data.dtype == np.float32
        assert tuple(image.matrix_size) in ((16, 16, 1), (1, 16, 16))
        np.testing.assert_allclose(image.position, truth.grid.centre_mm, atol=1e-3)
        np.testing.assert_allclose(image.read_dir, truth.grid.x_dir, atol=1e-6)
        assert image.image_series_index == 1
    assert [image.image_index for image in images] == [1, 2, 3]


@pytest.mark.parametrize("config", ["plain", "plain.xml"])
def test_the_example_client_is_served(service: Service, config: str) -> None:
    client = ExampleClient(service.mrd_port)
    client.send_config_file(config)
    client.send_text_message(3, write_header(simulation().scan))
    for acquisition in acquisitions():
        client.send_acquisition(acquisition)
    client.finish()
    assert client.closed
    assert client.texts == []
    check(client.images)


def test_the_example_client_with_a_local_config_text(service: Service) -> None:
    client = ExampleClient(service.mrd_port)
    client.send_text_message(2, '{"parameters": {"config": "plain"}}')
    client.send_text_message(3, write_header(simulation().scan))
    client.send_text_message(5, "a line for the log")
    for acquisition in acquisitions():
        client.send_acquisition(acquisition)
    client.finish()
    check(client.images)


def test_the_example_client_hears_of_an_unknown_config(service: Service) -> None:
    """It goes on sending regardless; it must hear the reason and Close, and not hang."""
    client = ExampleClient(service.mrd_port)
    client.send_config_file("default.xml")
    client.send_text_message(3, write_header(simulation().scan))
    for acquisition in acquisitions():
        client.send_acquisition(acquisition)
    client.finish()
    assert client.closed
    assert client.images == []
    assert client.texts[0].startswith("ERROR")
    assert "plain, spoiled" in client.texts[0]


def test_waveforms_from_the_reference_library_pass(service: Service) -> None:
    client = ExampleClient(service.mrd_port)
    client.send_config_file("plain")
    client.send_text_message(3, write_header(simulation().scan))
    waveform = ismrmrd.Waveform.from_array(np.arange(12, dtype=np.uint32).reshape(2, 6))
    for number, acquisition in enumerate(acquisitions()):
        if number % 10 == 0:
            client.sock.send(struct.pack("<H", 1026))
            waveform.serialize_into(client.sock.send)
        client.send_acquisition(acquisition)
    client.finish()
    check(client.images)


class GadgetronClient(gadgetron_connection.Connection):
    """gadgetron's Connection at the other end: it sends the config and the header instead of reading them."""

    def __init__(self, sock: socket.socket, config: bytes, header: bytes) -> None:
        self.socket = gadgetron_connection.Connection.SocketWrapper(sock)
        self.readers = gadgetron_connection.Connection._default_readers()
        self.writers = gadgetron_connection.Connection._default_writers()
        self.filters: list[object] = []
        for number, body in ((2, config), (3, header)):
            self.socket.write(struct.pack("<HI", number, len(body)) + body)


def test_gadgetrons_connection_is_served(service: Service) -> None:
    """No NUL behind its texts, acquisitions by its own writers, images by its own readers."""
    sock = socket.create_connection(("127.0.0.1", service.mrd_port), timeout=10)
    with sock:
        client = GadgetronClient(sock, b"plain", write_header(simulation().scan).encode())
        sock.settimeout(10)
        for acquisition in acquisitions():
            client.send(acquisition)
        client.socket.write(struct.pack("<H", 4))
        images = list(client)
    check(images)


def test_the_header_is_one_that_the_reference_library_reads() -> None:
    """Our own client sends it to other servers."""
    header = ismrmrd.xsd.CreateFromDocument(write_header(simulation().scan).encode())
    assert header.encoding[0].encodedSpace.matrixSize.x == 32
    assert ctypes.sizeof(ismrmrd.AcquisitionHeader) == 340
