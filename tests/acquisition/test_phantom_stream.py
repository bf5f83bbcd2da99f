"""Pace, planted faults and retrospective undersampling of a stream of readouts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from acquisition.errors import ConfigError, DataError
from acquisition.items import Flag, Readouts
from acquisition.sources.phantom import faults
from acquisition.sources.phantom.pace import paced, prefetched
from acquisition.sources.phantom.undersample import undersample
from tests.phantoms import assemble, small_exam, small_simulation

N_LINES = 64
NOISE = 2


@pytest.fixture(scope="module", params=[1, 7])
def blocks(request: pytest.FixtureRequest) -> list[Readouts]:
    return list(small_simulation(n_noise=NOISE, matrix=(3, N_LINES, 16)).readouts(block=request.param))


def heads_of(blocks: list[Readouts]) -> np.ndarray:
    return np.concatenate([b.head for b in blocks])


def data_of(blocks: list[Readouts]) -> np.ndarray:
    return np.concatenate([b.data for b in blocks])


def threads() -> int:
    return sum(t.name == "phantom-readouts" for t in threading.enumerate())


# --- pace ---------------------------------------------------------------------------------------------------


def test_readouts_come_at_their_time_and_never_early(blocks: list[Readouts]) -> None:
    few, tr_s = blocks[:40], 0.004
    counts = np.cumsum([len(b) for b in few])
    few = few[: int(np.searchsorted(counts, 60)) + 1]
    times = []
    start = time.monotonic()
    for block in paced(iter(few), tr_s):
        times.append(time.monotonic())
        assert start < block.received_s <= times[-1]
    planned = np.cumsum([len(b) for b in few]) * tr_s
    late = np.array(times) - start - planned
    assert late.min() > -1e-4
    assert np.median(late) < 0.02


def test_the_pace_does_not_drift_when_the_consumer_is_slow_for_a_while(blocks: list[Readouts]) -> None:
    start = time.monotonic()
    n = 0
    for block in paced(iter(blocks[:30]), 0.2, speed=100.0):
        n += len(block)
        if n < 10:
            time.sleep(0.005)
    assert n * 0.002 - 1e-4 <= time.monotonic() - start < n * 0.002 + 0.1


def test_zero_tr_is_as_fast_as_possible(blocks: list[Readouts]) -> None:
    out = list(paced(iter(blocks), 0.0))
    np.testing.assert_array_equal(heads_of(out), heads_of(blocks))
    np.testing.assert_array_equal(data_of(out), data_of(blocks))


def test_the_clock_starts_with_the_first_readout() -> None:
    def slow_start() -> Iterator[Readouts]:
        time.sleep(0.15)
        yield from small_simulation(matrix=(1, 8, 8)).readouts()

    stamps = [b.received_s for b in paced(slow_start(), 0.01)]
    np.testing.assert_allclose(np.diff(stamps), 0.01, atol=0.009)


@pytest.mark.parametrize(("tr_s", "speed"), [(-0.1, 1.0), (0.1, 0.0), (0.1, float("nan"))])
def test_an_impossible_pace_is_refused_at_once(tr_s: float, speed: float) -> None:
    with pytest.raises(ConfigError, match="tr_s >= 0 and speed > 0"):
        paced([], tr_s, speed=speed)


def test_the_maker_ends_with_its_consumer(blocks: list[Readouts]) -> None:
    stream = prefetched(iter(blocks), ahead=2)
    next(stream)
    assert threads() == 1
    stream.close()
    assert threads() == 0
    slow = paced(iter(blocks), 0.001)
    next(slow)
    slow.close()
    assert threads() == 0


@pytest.mark.parametrize("error", [DataError("here", got="nonsense"), ValueError("here"), KeyError("here")])
def test_an_error_of_the_maker_reaches_the_consumer(blocks: list[Readouts], error: Exception) -> None:
    def broken() -> Iterator[Readouts]:
        yield blocks[0]
        raise error

    stream = prefetched(broken())
    next(stream)
    with pytest.raises(type(error), match="here"):
        next(stream)
    assert threads() == 0


def test_the_consumer_does_not_hang_when_the_maker_dies_of_something_else() -> None:
    class OddError(Exception):
        pass

    def broken() -> Iterator[Readouts]:
        raise OddError("odd")
        yield

    hook, threading.excepthook = threading.excepthook, lambda _: None
    try:
        with pytest.raises(RuntimeError, match="maker of the readouts died"):
            list(prefetched(broken()))
    finally:
        threading.excepthook = hook


# --- faults -------------------------------------------------------------------------------------------------


def test_dropped_lines_are_gone_in_their_slice_only(blocks: list[Readouts]) -> None:
    left = heads_of(list(faults.drop_lines(iter(blocks), [3, 4, 63], slice_index=1)))
    assert len(left) == len(heads_of(blocks)) - 3
    assert not np.isin(left["k1"][left["slice"] == 1], [3, 4, 63]).any()
    assert np.isin([3, 4, 63], left["k1"][left["slice"] == 0]).all()


def test_dropped_lines_are_gone_everywhere_but_noise_stays(blocks: list[Readouts]) -> None:
    left = heads_of(list(faults.drop_lines(iter(blocks), [0])))
    assert len(left) == len(heads_of(blocks)) - 3
    assert ((left["flags"] & np.uint64(Flag.NOISE)) != 0).sum() == NOISE


def test_one_readout_is_dropped(blocks: list[Readouts]) -> None:
    left = heads_of(list(faults.drop_at(iter(blocks), 9)))
    assert left["scan_counter"].tolist() == [n for n in range(len(left) + 1) if n != 9]


def test_one_readout_comes_twice(blocks: list[Readouts]) -> None:
    out = heads_of(list(faults.duplicate_line(iter(blocks), 9)))
    assert np.bincount(out["scan_counter"])[9] == 2
    assert len(out) == len(heads_of(blocks)) + 1


def test_one_sample_is_not_a_number(blocks: list[Readouts]) -> None:
    out = data_of(list(faults.nan_sample(iter(blocks), 20, coil=2, sample=5)))
    assert np.argwhere(np.isnan(out)).tolist() == [[20, 2, 5]]


def test_a_dead_coil_is_silent(blocks: list[Readouts]) -> None:
    out = data_of(list(faults.dead_coil(iter(blocks), 1)))
    assert not out[:, 1].any()
    np.testing.assert_array_equal(np.delete(out, 1, axis=1), np.delete(data_of(blocks), 1, axis=1))


@pytest.mark.parametrize("n", [0, 1, 10, 13, 14, 10_000])
def test_the_stream_is_cut(blocks: list[Readouts], n: int) -> None:
    out = list(faults.cut_after(iter(blocks), n))
    assert sum(len(b) for b in out) == min(n, len(heads_of(blocks)))


def test_a_counter_is_wrong_once(blocks: list[Readouts]) -> None:
    out = heads_of(list(faults.wrong_counter(iter(blocks), 30, counter="slice", value=999)))
    assert np.flatnonzero(out["slice"] == 999).tolist() == [30]
    with pytest.raises(ConfigError, match=r"one of k1, k2, average.*got k7"):
        faults.wrong_counter(iter(blocks), 0, counter="k7", value=0)


def test_flags_are_forgotten(blocks: list[Readouts]) -> None:
    out = list(faults.without_flags(iter(blocks), Flag.LAST_IN_SLICE | Flag.LAST_IN_MEASUREMENT))
    assert not any(b.has(Flag.LAST_IN_SLICE | Flag.LAST_IN_MEASUREMENT).any() for b in out)
    assert any(b.has(Flag.FIRST_IN_SLICE).any() for b in out)


def test_faults_leave_the_original_alone(blocks: list[Readouts]) -> None:
    head, data = heads_of(blocks).copy(), data_of(blocks).copy()
    stream = faults.wrong_counter(iter(blocks), 3, counter="k1", value=7)
    stream = faults.nan_sample(faults.dead_coil(stream, 0), 5)
    list(faults.without_flags(stream, Flag.NOISE))
    np.testing.assert_array_equal(heads_of(blocks), head)
    np.testing.assert_array_equal(data_of(blocks), data)


# --- undersampling ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("r", [2, 3, 4])
@pytest.mark.parametrize("changes", [{}, {"te_s": (0.002, 0.004), "averages": 2}, {"kind": "3D"}])
def test_it_is_as_if_measured_that_way(r: int, changes: dict) -> None:
    """Heads and data equal those of an exam prescribed with R and embedded calibration."""
    base = {"matrix": (3, 30, 16), "n_noise": NOISE, "averages": 1} | changes
    full, fast = small_simulation(**base), small_simulation(**base, acceleration=r, n_acs=6)
    scan, readouts = undersample(full.readouts(block=5), full.scan, r=r, n_acs=6)
    ours, theirs = list(readouts), list(fast.readouts(block=5))
    for name in ("flags", "k1", "k2", "slice", "contrast", "average"):
        np.testing.assert_array_equal(heads_of(ours)[name], heads_of(theirs)[name])
    np.testing.assert_array_equal(data_of(ours), data_of(theirs))
    assert scan.require_mr().encodings == fast.scan.require_mr().encodings


def test_flags_move_to_the_neighbour_that_stays() -> None:
    full = small_simulation(matrix=(2, 30, 16))
    _, readouts = undersample(full.readouts(), full.scan, r=4, n_acs=0)
    head = heads_of(list(readouts))
    for s in (0, 1):
        mine = head[head["slice"] == s]
        assert mine["k1"].tolist() == [3, 7, 11, 15, 19, 23, 27]
        assert int(mine["flags"][0]) & Flag.FIRST_IN_SLICE
        assert int(mine["flags"][-1]) & Flag.LAST_IN_SLICE
    assert int(head["flags"][-1]) & Flag.LAST_IN_MEASUREMENT


def test_lines_that_stay_keep_their_samples() -> None:
    full = small_simulation(matrix=(1, 32, 16))
    scan, readouts = undersample(full.readouts(), full.scan, r=2, n_acs=8)
    kspace = assemble(scan, readouts)[0, 0, 0]
    kept = sorted(set(range(0, 32, 2)) | set(range(12, 20)))
    np.testing.assert_array_equal(kspace[:, :, kept], full.kspace()[:, :, kept])
    assert scan.uid != full.scan.uid
    assert scan.measurement_id == f"{full.scan.measurement_id}-r2a8"


def test_r_one_gives_the_scan_back() -> None:
    full = small_simulation(matrix=(1, 16, 16))
    scan, readouts = undersample(full.readouts(), full.scan, r=1, n_acs=0)
    assert scan is full.scan
    assert len(list(readouts)) == 16


def test_a_header_without_limits_means_the_whole_matrix() -> None:
    full = small_simulation(matrix=(1, 16, 16))
    mr = full.scan.require_mr()
    bare = replace(full.scan, mr=replace(mr, encodings=(replace(mr.encodings[0], limits={}),)))
    _, readouts = undersample(full.readouts(), bare, r=2, n_acs=4)
    assert heads_of(list(readouts))["k1"].tolist() == [0, 2, 4, 6, 7, 8, 9, 10, 12, 14]


def test_the_given_blocks_are_left_alone() -> None:
    full = small_simulation(matrix=(1, 16, 16))
    blocks = list(full.readouts(block=4))
    before = heads_of(blocks).copy()
    list(undersample(blocks, full.scan, r=2, n_acs=4)[1])
    np.testing.assert_array_equal(heads_of(blocks), before)


def test_what_cannot_be_undersampled_is_refused() -> None:
    full, fast = small_simulation(matrix=(1, 16, 16)), small_simulation(acceleration=2, n_acs=4)
    with pytest.raises(ConfigError, match=r"r >= 1 and n_acs >= 0, got r=0"):
        undersample(full.readouts(), full.scan, r=0, n_acs=4)
    with pytest.raises(DataError, match="fully sampled Cartesian scan, got cartesian, R = 2"):
        undersample(fast.readouts(), fast.scan, r=2, n_acs=4)
    with pytest.raises(DataError, match=r"all lines of the lattice, got k1 \[4\] missing"):
        undersample(faults.drop_lines(full.readouts(), [4]), full.scan, r=2, n_acs=0)
    mr = full.scan.require_mr()
    radial = replace(full.scan, mr=replace(mr, encodings=(replace(mr.encodings[0], trajectory="radial"),)))
    with pytest.raises(DataError, match="got radial"):
        undersample(full.readouts(), radial, r=2, n_acs=0)


def test_small_exams_stay_small() -> None:
    assert np.prod(small_exam().matrix) * small_exam().n_coils < 1e5
