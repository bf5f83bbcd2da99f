"""Reading raw data: readouts per second from files against the reference library, and streams against a memory copy.

Run as ``python -m tests.benchmarks.mrd_codec``. Every figure is the best of a few runs in one process, because the
question is what the code costs, not what else the machine was doing.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ismrmrd
import numpy as np

from acquisition.items import READOUT_HEAD, Readouts
from acquisition.scan import Encoding, MrHeader, Patient, Scan
from acquisition.sources.mrd_file import read, write
from acquisition.sources.mrd_header import parse_header
from acquisition.sources.mrd_header_write import write_header
from acquisition.sources.mrd_stream import StreamDecoder
from acquisition.sources.mrd_wire import encode

SIZES = ((512, 32), (256, 16), (128, 4))
FILE_READOUTS = 256
STREAM_BYTES = 96 << 20


def best(run: Callable[[], object], repeats: int = 4) -> float:
    """Return the shortest time of `run` [s]; the first call only warms up."""
    run()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)


def make_block(n: int, *, samples: int, coils: int) -> Readouts:
    """Random readouts of one shape."""
    head = np.zeros(n, READOUT_HEAD)
    head["n_samples"], head["n_coils"] = samples, coils
    data = np.random.default_rng(0).standard_normal((n, coils, 2 * samples), np.float32)
    return Readouts(head=head, data=data.view(np.complex64))


def make_scan(samples: int) -> Scan:
    """A plain header."""
    fov_mm = (5.0, 256.0, 512.0)
    encoding = Encoding(matrix=(1, 256, samples), fov_mm=fov_mm, recon_matrix=(1, 256, samples), recon_fov_mm=fov_mm)
    return Scan(uid="b", modality="MR", patient=Patient(position="HFS"), mr=MrHeader(encodings=(encoding,)))


def read_one_by_one(path: Path) -> None:
    """Read a file as the reference library does."""
    with ismrmrd.Dataset(str(path), "dataset", mode="r") as dataset:
        for number in range(dataset.number_of_acquisitions()):
            dataset.read_acquisition(number)


def read_bulk(path: Path) -> None:
    """Read a file as we do."""
    for _ in read(path).items():
        pass


def reference_file(path: Path, block: Readouts) -> None:
    """Write a file with the reference library: one chunk per readout, as scanners' converters do."""
    with ismrmrd.Dataset(str(path), "dataset") as dataset:
        dataset.write_xml_header(write_header(make_scan(block.data.shape[2])).encode())
        for i in range(len(block)):
            dataset.append_acquisition(ismrmrd.Acquisition(head=block.head[i].tobytes(), data=block.data[i]))


def file_rows(folder: Path) -> list[str]:
    """Measure reading and writing of files."""
    rows = ["file | samples x coils | reference /s | ours /s | ratio | MB/s"]
    for samples, coils in SIZES:
        block = make_block(FILE_READOUTS, samples=samples, coils=coils)
        theirs, ours = folder / f"r{samples}.h5", folder / f"o{samples}.h5"
        reference_file(theirs, block)
        write(ours, make_scan(samples), items=[block])
        for name, path in (("made by the reference", theirs), ("made by us", ours)):
            slow, fast = best(lambda p=path: read_one_by_one(p), 1), best(lambda p=path: read_bulk(p))
            rate, mb = FILE_READOUTS / fast, block.data.nbytes / fast / 1e6
            rows.append(
                f"{name} | {samples} x {coils} | {FILE_READOUTS / slow:.0f} | {rate:.0f} | {slow / fast:.1f} | {mb:.0f}"
            )
        begin = time.perf_counter()
        write(ours, make_scan(samples), items=[block])
        rows.append(f"write | {samples} x {coils} | | {FILE_READOUTS / (time.perf_counter() - begin):.0f} | |")
    return rows


def decode_stream(raw: np.ndarray, chunk: int) -> int:
    """Receive `raw` in pieces of at most `chunk` bytes and decode it; return the number of readouts."""
    decoder, position, count = StreamDecoder(), 0, 0
    source = raw.data
    while position < len(raw):
        room = decoder.writable()
        n = min(len(room), len(raw) - position, chunk)
        room[:n] = source[position : position + n]
        count += sum(len(message) for message in decoder.received(n))
        position += n
    decoder.finish()
    return count


def decode_reference(raw: bytes, n: int) -> None:
    """Decode `n` acquisitions with the reference library."""
    stream = io.BytesIO(raw)
    for _ in range(n):
        stream.read(2)
        ismrmrd.Acquisition.deserialize_from(stream.read)


def stream_rows() -> list[str]:
    """Measure decoding of streams, the copy into the receive buffer included."""
    rows = ["stream: samples x coils | copy ms | decode / copy | in 256 KiB pieces | encode / copy | reference / copy"]
    for samples, coils in SIZES:
        n = STREAM_BYTES // (342 + 8 * samples * coils)
        block = make_block(n, samples=samples, coils=coils)
        raw = np.concatenate([np.frombuffer(part, np.uint8) for part in encode(block)])
        target, few = np.ones_like(raw), raw[: len(raw) // n * (n // 8)].tobytes()
        copy = best(lambda a=target, b=raw: np.copyto(a, b), 8)
        whole = best(lambda r=raw: decode_stream(r, 1 << 30), 8) / copy
        pieces = best(lambda r=raw: decode_stream(r, 1 << 18)) / copy
        coded = best(lambda b=block: encode(b)) / copy
        reference = 8 * best(lambda r=few, k=n // 8: decode_reference(r, k), 1) / copy
        rows.append(
            f"{samples} x {coils} | {copy * 1e3:.1f} | {whole:.2f} | {pieces:.2f} | {coded:.2f} | {reference:.0f}"
        )
    return rows


def header_row() -> str:
    """Measure reading a header."""
    xml = write_header(make_scan(512))
    ours, theirs = best(lambda: parse_header(xml)), best(lambda: ismrmrd.xsd.CreateFromDocument(xml.encode()))
    return f"header: ours {ours * 1e3:.2f} ms, reference {theirs * 1e3:.2f} ms"


def main() -> None:
    """Print the tables."""
    with tempfile.TemporaryDirectory() as folder:
        print("\n".join([*file_rows(Path(folder)), "", *stream_rows(), "", header_row()]))


if __name__ == "__main__":
    main()
