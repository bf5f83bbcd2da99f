"""What is said on the raw stream arrives as it was said, bit for bit; what is wrong is refused with the place in it."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from acquisition.errors import InputError, LimitError, MessageError
from acquisition.geometry import Grid
from acquisition.items import (
    READOUT_HEAD,
    VIEW_HEAD,
    Enhancement,
    Events,
    Histogram,
    Image,
    Projections,
    Provenance,
    Readouts,
    SlicePlan,
    Waveform,
)
from acquisition.scan import Scan, Tracer
from acquisition.verdict import Level, Verdict
from integration.doors.stream import messages
from integration.doors.stream.messages import (
    FROM_SERVICE,
    TO_SERVICE,
    Block,
    Open,
    Planned,
    Returned,
    block_of,
    decode,
    encode,
    item_of,
)
from integration.doors.stream.plain import HERE_ONLY, to_plain
from tests.integration.stream_samples import assert_same, ct, mr, pet, there_and_back

GRID = Grid.from_centre(
    (1.0, 2.0, 3.0), shape=(1, 2, 3), spacing_mm=(5.0, 1.0, 1.0), directions=((1, 0, 0), (0, 1, 0), (0, 0, 1))
)
BIG = {"json_bytes": 1 << 20, "array_bytes": 1 << 24}


def through(message: Any) -> Any:
    """What the other end makes of a message."""
    known = TO_SERVICE if type(message) in TO_SERVICE.values() else FROM_SERVICE
    return decode([bytes(memoryview(f).cast("B")) for f in encode(message)], known, **BIG)


@pytest.mark.parametrize("sample", [mr, ct, pet])
def test_a_header_arrives_as_it_was(sample: Any) -> None:
    scan, _ = sample()
    assert_same(there_and_back(Scan, scan), scan)


def test_what_only_means_something_here_stays_here() -> None:
    scan = replace(mr()[0], companions=Path("/secret"), header="<xml/>")
    back = there_and_back(Scan, scan)
    assert back.companions is None and back.header == ""
    with pytest.raises(MessageError, match=r"x\.companions: expected one of .*unknown field"):
        there_and_back_json(Scan, to_plain(scan, []) | {"companions": "/etc"})


def there_and_back_json(kind: type, document: Any) -> Any:
    from integration.doors.stream.plain import from_plain

    return from_plain(kind, document, lambda *_: b"", "x")


@pytest.mark.parametrize("sample", [mr, ct, pet])
def test_each_block_arrives_bit_for_bit(sample: Any) -> None:
    for seq, item in enumerate(sample()[1][:8], 1):
        back = through(block_of(seq, item))
        assert back.seq == seq
        assert_same(item_of(back), item)


numbers = st.floats(-1e6, 1e6, width=32)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_projections_arrive_bit_for_bit(data: st.DataObject) -> None:
    n, rows, channels = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 7)))
    head = np.zeros(n, VIEW_HEAD)
    head["angle_rad"] = data.draw(hnp.arrays("f8", n, elements=st.floats(-1e3, 1e3)))
    head["view"] = np.arange(n)
    values = data.draw(hnp.arrays(np.float32, (n, rows, channels)))  # NaN and infinity with all their bits
    item = Projections(head=head, data=values, photons=data.draw(hnp.arrays(np.float32, (n, channels))))
    assert_same(item_of(through(block_of(1, item))), item)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 9), st.integers(0, 9), st.booleans(), st.integers(0, 2**31))
def test_any_events_arrive_bit_for_bit(n: int, m: int, timed: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    item = Events(
        start_s=float(rng.random()),
        stop_s=1.0 + float(rng.random()),
        prompts=rng.integers(-(2**31), 2**31 - 1, (n, 2), np.int32),
        delayeds=rng.integers(0, 99, (m, 2), np.int32),
        tof=rng.integers(0, 9, n, np.int16) if timed else None,
        singles=rng.integers(0, 9, 3, np.uint32),
        bed_mm=float(rng.random()),
    )
    assert_same(item_of(through(block_of(1, item))), item)


def test_all_that_travels_arrives() -> None:
    rng = np.random.default_rng(1)
    histogram = Histogram(start_s=0, stop_s=1, prompts=np.ones((3, 2), np.int32), counts=np.ones(3, np.float32))
    wave = Waveform(id=1, time_stamp=2, sample_time_us=2.5, data=rng.integers(0, 9, (2, 4), np.uint32), gain=0.5)
    found = Verdict(check="a.b", level=Level.FLAG, advice="Look.", value=1.5, evidence="line 3")
    image = Image(
        data=(rng.random((2, 1, 2, 3)) + 1j).astype(np.complex64),
        grid=GRID,
        verdicts=(found,),
        attributes={"a": "b"},
        provenance=Provenance(
            protocol="p",
            steps=("a", "b"),
            notes={"k": "v"},
            network=Enhancement(card="c", version="1", sha256="0", strength=0.5, engine="e"),
        ),
    )
    for item in (histogram, wave, image):
        assert_same(item_of(through(block_of(1, item))), item)
    assert_same(through(Returned(image=image, waited_s=0.25)).image, image)
    plan = SlicePlan(
        **{f.name: _example(f.name) for f in fields(SlicePlan) if f.name in _PLAN},
    )
    assert through(Planned(plan=plan)).plan == plan
    scan, _ = pet()
    tracer = Tracer(nuclide="^18^Fluorine", half_life_s=6586.2, injected=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    timed = replace(scan, pet=replace(scan.pet, tracer=tracer, detectors_mm=rng.random((96, 3)).astype("f4")))
    assert_same(through(Open(version=1, scan=timed)).scan, timed)


_PLAN = {
    "name": "brain-acpc",
    "centre_mm": (1.0, 2.0, 3.0),
    "normal": (0.0, 0.0, 1.0),
    "in_plane": (1.0, 0.0, 0.0),
    "fov_mm": (200.0, 210.0),
    "n_slices": 3,
    "slice_distance_mm": 4.0,
    "landmarks_mm": {"ac": (0.0, 1.0, 2.0)},
    "confidence": 0.5,
}


def _example(name: str) -> Any:
    return _PLAN[name]


def test_a_value_that_is_no_number_is_left_out() -> None:
    assert there_and_back(Verdict, Verdict(check="a", level=Level.PASS, advice="", value=float("nan"))).value is None
    assert "received_s" in HERE_ONLY


def test_integers_become_the_wider_numbers_of_the_contract_exactly() -> None:
    counts = np.arange(12, dtype="<u2").reshape(2, 2, 3) * 5000
    item = Projections(head=np.zeros(2, VIEW_HEAD), data=counts)  # type: ignore[arg-type]
    back = item_of(through(block_of(1, item)))
    assert back.data.dtype == np.float32 and (back.data == counts).all()


def test_records_may_have_some_fields_only_and_in_any_order() -> None:
    small = np.zeros(2, [("slice", "<u2"), ("k1", "<u2"), ("flags", "<u8")])
    small["k1"], small["flags"] = (3, 4), 1 << 40
    item = Readouts(head=small, data=np.ones((2, 1, 4), np.complex64))
    back = item_of(through(block_of(1, item)))
    assert back.head.dtype == READOUT_HEAD
    assert back.head["k1"].tolist() == [3, 4] and back.head["flags"].tolist() == [1 << 40] * 2
    assert not back.head["n_samples"].any()


def block_json(**changes: Any) -> list[bytes]:
    """A block of two views, with something changed in its JSON."""
    item = Projections(head=np.zeros(2, VIEW_HEAD), data=np.zeros((2, 2, 3), np.float32))
    text, *arrays = encode(block_of(1, item))
    document = json.loads(text)
    for path, value in changes.items():
        *names, last = path.split("__")
        place = document
        for name in names:
            place = place[name]
        place[last] = value
    return [json.dumps(document).encode(), *(bytes(a) for a in arrays)]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"type": "exec"}, r"type: expected one of .*got 'exec'"),
        ({"seq": "1"}, r"block\.seq: expected a whole number"),
        ({"seq": True}, r"block\.seq: expected a whole number"),
        ({"more": 1}, r"block\.more: expected .*unknown field"),
        ({"projections__data__dtype": "|O"}, r"data\.dtype: expected .*<f4.*got '\|O'"),
        ({"projections__data__dtype": "<f8"}, r"data\.dtype: expected .*<f4"),
        ({"projections__data__shape": [2, 2, -3]}, r"shape: expected a list of at most 8 sizes"),
        ({"projections__data__shape": [2, 2, 4]}, r"data: expected 64 bytes for its shape and dtype, got 48"),
        ({"projections__data__shape": [1 << 31, 1 << 31]}, r"shape: expected a list"),
        ({"projections__data__shape": [0] * 9}, r"shape: expected a list"),
        ({"projections__data__frame": 0}, r"expected a frame of this message, used once"),
        ({"projections__data__frame": 7}, r"expected a frame of this message"),
        ({"projections__data__at": 0}, r"either frame or at"),
        ({"projections__data__evil": 0}, r"dtype, shape, and either frame or at"),
        ({"projections__head__dtype": [["view", "<u8"]]}, r"\['view', '<u4'\]"),
        ({"projections__head__dtype": [["nothing", "<u8"]]}, r"head\.dtype: expected one of .*got 'nothing'"),
        ({"projections__head__dtype": [["view", "<u4"], ["view", "<u4"]]}, "each field once"),
        ({"projections__head__dtype": []}, "each field once"),
        ({"projections__head__shape": [1, 2]}, r"head\.shape: expected \[n\]"),
        ({"projections__domain": "x"}, r"domain: expected one of 'counts', 'lines', got 'x'"),
        ({"projections": None}, "expected one of readouts, .* got none of them"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(changes: dict[str, Any], match: str) -> None:
    frames = block_json(**changes)
    with pytest.raises(MessageError, match=match):
        item_of(decode(frames[:1] if changes == {"projections": None} else frames, TO_SERVICE, **BIG))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"", "JSON object in UTF-8"),
        (b"\xff\xfe", "JSON object in UTF-8"),
        (b"[" * 100_000, "JSON object in UTF-8"),
        (b"[]", "expected an object, got list"),
        (b'{"type": "close", "type": "open"}', "each key once"),
        (b'{"type": "block", "seq": NaN}', "finite numbers, got NaN"),
        (b'{"type": "block", "seq": ' + b"9" * 5000 + b"}", "JSON object|whole number"),
        (b'{"type": "block", "seq": 1e400}', "whole number"),
        (b'{"type": "block"}', "the fields seq, got none"),
        (b'{"type": ["open"]}', "type: expected one of"),
    ],
)
def test_text_that_is_no_message_is_refused(text: bytes, match: str) -> None:
    with pytest.raises(MessageError, match=match):
        decode([text], TO_SERVICE, **BIG)


def test_a_number_beyond_all_bounds_is_no_number() -> None:
    with pytest.raises(MessageError, match="start_s: expected a number"):
        there_and_back_json(Events, {"start_s": 10**400, "stop_s": 1.0, "prompts": {}, "delayeds": {}})


def test_frames_that_no_array_names_are_refused() -> None:
    with pytest.raises(MessageError, match="frames that an array names, got 1 more"):
        decode([*block_json(), b"more"], TO_SERVICE, **BIG)


def test_sizes_are_bounded_before_anything_is_read() -> None:
    with pytest.raises(LimitError, match="JSON: expected at most 10 bytes"):
        decode([b"{" + b" " * 20], TO_SERVICE, json_bytes=10, array_bytes=0)
    with pytest.raises(LimitError, match="arrays: expected at most 10 bytes"):
        decode([b"{}", b"a" * 11], TO_SERVICE, json_bytes=10, array_bytes=10)
    with pytest.raises(LimitError, match="at most 16 frames"):
        decode([b"{}"] * 17, TO_SERVICE, json_bytes=10, array_bytes=10)


def test_every_kind_of_message_and_item_is_understood() -> None:
    """No type of the contract that a message can hold is one that the codec does not know."""
    for cls in (*TO_SERVICE.values(), *FROM_SERVICE.values()):
        with pytest.raises(MessageError, match=r"x\.nothing: expected"):
            there_and_back_json(cls, {"nothing": 1})
    kinds = {f.name for f in fields(Block)} - {"seq"}
    assert kinds == {"readouts", "projections", "events", "histogram", "waveform", "normalisation", "image"}
    with pytest.raises(MessageError, match="expected raw data, got verdict"):
        block_of(1, Verdict(check="a", level=Level.PASS, advice=""))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_messages_are_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    sample = data.draw(st.sampled_from([mr, ct, pet]))
    scan, items = sample()
    message = data.draw(st.sampled_from([Open(version=1, scan=scan), block_of(1, items[0]), block_of(2, items[-1])]))
    frames = [bytearray(memoryview(f).cast("B")) for f in encode(message)]
    for _ in range(data.draw(st.integers(1, 4))):
        frame = frames[data.draw(st.integers(0, min(1, len(frames) - 1)))]
        if not frame:
            continue
        at = data.draw(st.integers(0, len(frame) - 1))
        how = data.draw(st.sampled_from(["flip", "cut", "digit", "twice"]))
        if how == "flip":
            frame[at] ^= 1 << data.draw(st.integers(0, 7))
        elif how == "cut":
            del frame[at:]
        elif how == "digit":
            frame[at : at + 1] = data.draw(st.sampled_from([b"-", b"9999", b"null", b"[", b"}", b'"']))
        else:
            frame[at:at] = frame[at : at + 30]
    with suppress(InputError):
        decode(frames, TO_SERVICE, **BIG)


def test_the_protocol_that_is_written_down_is_the_one_that_is_spoken() -> None:
    text = (Path(messages.__file__).parent / "README.md").read_text()
    for word in (*TO_SERVICE, *FROM_SERVICE):
        assert f"| `{word}` |" in text, word
    for cls in (*TO_SERVICE.values(), *FROM_SERVICE.values()):
        for f in fields(cls):
            assert f"`{f.name}`" in text, (cls, f.name)
