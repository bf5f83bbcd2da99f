"""Small messages of every kind, and ways to push bytes through the decoder."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from acquisition.geometry import Grid
from acquisition.items import READOUT_HEAD, Image, Kind, Position, Provenance, Readouts, Waveform
from acquisition.sources.mrd_stream import StreamDecoder
from acquisition.sources.mrd_wire import Message, encode
from acquisition.verdict import Level, Verdict


def make_readouts(n: int, coils: int = 3, samples: int = 8, *, dims: int = 0, seed: int = 1) -> Readouts:
    """A block with every head field filled with its own values."""
    rng = np.random.default_rng(seed)
    head = np.zeros(n, READOUT_HEAD)
    for name in READOUT_HEAD.names:
        kind = READOUT_HEAD[name].base.kind
        values = rng.normal(size=head[name].shape) if kind == "f" else rng.integers(0, 60000, head[name].shape)
        head[name] = values
    head["version"] = 1
    head["flags"] = rng.integers(0, 1 << 63, n, dtype=np.uint64) * 2 + 1
    head["n_samples"], head["n_coils"], head["traj_dims"] = samples, coils, dims
    data = rng.normal(size=(n, coils, samples, 2)).astype(np.float32).view(np.complex64)[..., 0]
    traj = rng.normal(size=(n, samples, dims)).astype(np.float32) if dims else None
    return Readouts(head=head, data=data, traj=traj)


def make_waveform(seed: int = 2) -> Waveform:
    data = np.random.default_rng(seed).integers(0, 1 << 32, (2, 5), dtype=np.uint32)
    return Waveform(
        id=1, time_stamp=77, sample_time_us=2500.0, data=data, flags=1 << 40, measurement_uid=5, scan_counter=9
    )


def make_grid(shape: tuple[int, int, int] = (2, 3, 4)) -> Grid:
    """A double-oblique grid off the isocentre."""
    x_dir, y_dir = np.array([0.8, 0.6, 0.0]), np.array([-0.36, 0.48, 0.8])
    return Grid.from_centre(
        (10.5, -20.25, 30.0),
        shape=shape,
        spacing_mm=(4.0, 1.5, 1.25),
        directions=(x_dir, y_dir, np.cross(x_dir, y_dir)),
        thickness_mm=3.5,
    )


def make_image(
    dtype: str = "float32", *, kind: Kind = Kind.MAGNITUDE, shape: tuple[int, int, int] = (2, 3, 4)
) -> Image:
    data = np.random.default_rng(3).uniform(0, 100, shape).astype(dtype)
    if np.dtype(dtype).kind == "c":
        data = (data * (1 + 2j)).astype(dtype)
    verdict = Verdict(check="mri.noise", level=Level.FLAG, advice='Noise "high" & rising; look.', value=2.5, limit=1.0)
    return Image(
        data=data,
        grid=make_grid(shape),
        unit="1",
        kind=kind,
        output="snr map",
        position=Position(slice=3, contrast=1, phase=2, repetition=4, set=5, average=6),
        provenance=Provenance(protocol="p", steps=("a", "b(c=1)"), software="isocenter 1", notes={"R": "2"}),
        verdicts=(verdict,),
        time_stamp=123456,
        table_position_mm=(0.0, 1.0, -250.5),
        attributes={"WindowCenter": "50", "ROI_1": "1\\2\\3"},
    )


def encoded(*messages: Message) -> bytes:
    return b"".join(bytes(part) for message in messages for part in encode(message))


def feed(decoder: StreamDecoder, raw: bytes, *, step: int | None = None) -> list[Message]:
    """Give `raw` to the decoder in pieces of `step` bytes and collect what comes out."""
    messages: list[Message] = []
    position = 0
    while position < len(raw):
        room = decoder.writable()
        n = min(len(room), len(raw) - position, step or len(raw))
        room[:n] = raw[position : position + n]
        messages += decoder.received(n)
        position += n
    return messages


def decoded(raw: bytes, *, step: int | None = None, **options: object) -> list[Message]:
    decoder = StreamDecoder(**options)
    messages = feed(decoder, raw, step=step)
    decoder.finish()
    return messages


def same_readouts(ours: Readouts, theirs: Readouts) -> None:
    np.testing.assert_array_equal(ours.head, theirs.head)
    np.testing.assert_array_equal(ours.data, theirs.data)
    assert (ours.traj is None) == (theirs.traj is None)
    if ours.traj is not None:
        np.testing.assert_array_equal(ours.traj, theirs.traj)


def joined(messages: Iterable[Message]) -> Readouts:
    """All readouts of a list as one block."""
    blocks = [m for m in messages if isinstance(m, Readouts)]
    traj = None if blocks[0].traj is None else np.concatenate([b.traj for b in blocks])
    return Readouts(
        head=np.concatenate([b.head for b in blocks]), data=np.concatenate([b.data for b in blocks]), traj=traj
    )
