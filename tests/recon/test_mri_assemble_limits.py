"""The assembler's memory is bounded and used again, and what contradicts the header is an error."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from acquisition.errors import ConfigError, DataError, LimitError
from acquisition.items import Flag, Readouts
from acquisition.scan import Encoding, Equipment, MrHeader, Scan
from acquisition.verdict import Level, Verdict
from recon.mri import Assemble
from recon.mri.items import Frame
from tests.recon.assembling import (
    N_X,
    frames,
    line,
    lines,
    run,
    scan,
)


def test_the_frame_knows_when_and_where_it_was_measured() -> None:
    items = [line(i, received_s=10.0 + i, time_stamp=100 + i) for i in range(16)]
    (frame,) = frames(run(scan(), items)[0])
    assert frame.last_readout_s == 25.0
    assert frame.head["time_stamp"] == 100
    assert tuple(frame.head["position"]) == (10, -20, 30)


def test_frames_use_the_same_memory_and_leave_no_trace_of_the_one_before() -> None:
    step = Assemble()
    step.open(scan(repetition=3))
    places = []
    for repetition in range(4):
        items = lines(range(0, 16, 1 + repetition % 2), repetition=repetition)
        items[-1].head["flags"] = int(Flag.LAST_IN_SLICE)
        for item in items:
            for out in step.feed(item):
                if isinstance(out, Frame):
                    places.append(out.kspace.data_ptr())
                    assert np.array_equal(out.kspace[0, 0, :, 0].abs().numpy() > 0, out.counts[0] > 0)
                    out.release()
    assert len(places) == 4
    assert len(set(places)) == 1


def test_memory_that_is_not_given_back_is_not_used_again() -> None:
    step = Assemble()
    step.open(scan(repetition=1))
    out = [f for r in range(2) for item in lines(range(16), repetition=r) for f in step.feed(item)]
    first, second = frames(out)
    assert first.kspace.data_ptr() != second.kspace.data_ptr()


def test_a_frame_that_would_take_too_much_memory_is_refused_at_once() -> None:
    encoding = Encoding(
        matrix=(4096, 4096, 4096), fov_mm=(1, 1, 1), recon_matrix=(4096, 4096, 4096), recon_fov_mm=(1, 1, 1)
    )
    huge = Scan(uid="t", modality="MR", mr=MrHeader(encodings=(encoding,)), equipment=Equipment(n_coils=128))
    with pytest.raises(LimitError, match="at most 8192 MiB of k-space at a time, got 67108864 MiB"):
        Assemble().open(huge)


def test_too_many_open_frames_are_refused() -> None:
    step = Assemble(max_gib=3 * 2 * 16 * N_X * 8 / (1 << 30))
    with pytest.raises(LimitError, match="check the header's matrix and coils"):
        run(scan(), [line(0, repetition=r) for r in range(5)], step)


@pytest.mark.parametrize(
    ("item", "match"),
    [
        (line(16), r"readout 0 counter k1: expected 0 to 15, got 16"),
        (line(0, k2=1), r"counter k2: expected 0 to 0, got 1"),
        (line(0, slice=4), r"counter slice: expected 0 to 3, got 4"),
        (line(0, average=2), r"counter average: expected 0 to 1, got 2"),
        (line(0, repetition=9), r"counter repetition: expected 1 to 8, got 9"),
        (line(0, repetition=0), r"counter repetition: expected 1 to 8, got 0"),
        (line(0, encoding=1), r"encoding: expected 0 to 0, got 1"),
        (replace(line(0), domain="k0"), r"expected 4 voxels along x, got 4 values in domain k0"),
        (replace(line(0), data=np.zeros((1, 2, 5), np.complex64)), r"expected 4 voxels along x, got 5"),
    ],
)
def test_counters_outside_the_header_are_errors(item: Readouts, match: str) -> None:
    if "repetition" not in match:
        item.head["repetition"] = 1
    with pytest.raises(DataError, match=match):
        run(scan(slice=3, average=1, repetition=(1, 8, 1)), [item])


def test_an_absurd_average_without_limits_is_an_error() -> None:
    with pytest.raises(DataError, match="counter average: expected 0 to 1023, got 60000"):
        run(scan(), [line(0, average=60000)])


def test_a_change_of_coils_is_an_error() -> None:
    with pytest.raises(DataError, match="slice 0: expected 2 coils, got 3"):
        run(scan(), [line(0), line(1, n_coils=3)])


def test_what_is_not_a_readout_passes_and_read_only_memory_is_taken() -> None:
    verdict = Verdict(check="x", level=Level.PASS, advice="y")
    assert run(scan(slice=(0, 0, 0)), [verdict])[0] == [verdict]
    items = lines(range(16))
    for item in items:
        item.data.flags.writeable = False
    assert len(frames(run(scan(), items)[0])) == 1


def test_a_second_scan_starts_anew() -> None:
    step = Assemble()
    first, second = (run(scan(), lines(range(16)), step) for _ in range(2))
    assert torch.equal(frames(first[0])[0].kspace, frames(second[0])[0].kspace)
    assert not second[1]


def test_wrong_parameters_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_gib"):
        Assemble(max_gib=0)
