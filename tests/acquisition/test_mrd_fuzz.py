"""Whatever arrives, the decoder gives messages or one of our errors, and never takes more memory than it may."""

from __future__ import annotations

import tracemalloc

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from acquisition.errors import InputError
from acquisition.items import Image, Readouts, Waveform
from acquisition.sources.mrd_limits import StreamLimits
from acquisition.sources.mrd_stream import StreamDecoder
from acquisition.sources.mrd_wire import FOREIGN_IDS, Close, ConfigFile, ConfigText, Header, MessageId, Text
from tests.acquisition.mrd_samples import encoded, feed, make_image, make_readouts, make_waveform

LIMITS = StreamLimits(
    text_bytes=1 << 16,
    header_bytes=1 << 16,
    readout_bytes=1 << 18,
    waveform_bytes=1 << 16,
    image_bytes=1 << 18,
    attribute_bytes=1 << 16,
)
VALID = encoded(
    ConfigFile("p"), ConfigText("q"), Header("<a/>"), make_readouts(3), make_readouts(2, dims=1), make_waveform(),
    make_image(), Text("t"), Close(),
)  # fmt: skip
NUMBERS = sorted([int(i) for i in MessageId] + list(FOREIGN_IDS))


def survive(raw: bytes, step: int) -> None:
    decoder = StreamDecoder(LIMITS, buffer_bytes=4096)
    try:
        messages = feed(decoder, raw, step=step)
        decoder.finish()
    except InputError as error:
        assert str(error)
        return
    for message in messages:
        if isinstance(message, Readouts):
            assert message.data.shape[1] == message.head["n_coils"][0]
        if isinstance(message, Image | Waveform):
            assert message.data.size >= 0


@settings(derandomize=True, deadline=None, max_examples=150)
@given(number=st.sampled_from(NUMBERS) | st.integers(0, 65535), body=st.binary(max_size=800), step=st.integers(1, 500))
def test_random_bytes(number: int, body: bytes, step: int) -> None:
    survive(number.to_bytes(2, "little") + body, step)


@settings(derandomize=True, deadline=None, max_examples=250)
@given(
    changes=st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.integers(0, len(VALID)),
    step=st.integers(7, 3000),
)
def test_mutated_streams(changes: list[tuple[int, int]], cut: int, step: int) -> None:
    raw = bytearray(VALID)
    for position, value in changes:
        raw[position] = value
    survive(bytes(raw[:cut]), step)


def test_no_claim_takes_more_than_the_limit() -> None:
    rng = np.random.default_rng(5)
    heads = [encoded(make_readouts(1)), encoded(make_waveform()), encoded(make_image()), encoded(Text("x" * 99))]
    tracemalloc.start()
    for trial in range(400):
        raw = bytearray(heads[trial % 4])
        for position in rng.integers(2, min(len(raw), 210), 3):
            raw[position] = rng.integers(0, 256)
        survive(bytes(raw[: 2 + rng.integers(40, 360)]), 4096)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (1 << 18) + (1 << 17)
