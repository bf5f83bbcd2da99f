"""Lines go where their counters say; frames come out the moment they are complete; nothing is lost in silence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.errors import HeaderError
from acquisition.items import Flag
from acquisition.scan import Limits, MrHeader
from acquisition.verdict import Level
from recon.mri import Assemble
from recon.mri.items import Calibration, Frame
from tests.recon.assembling import (
    N_X,
    feed,
    frames,
    last,
    line,
    lines,
    run,
    scan,
    undersampled,
    values,
    verdicts,
)


@pytest.mark.parametrize("order", ["rising", "falling", "shuffled", "centre out"])
def test_lines_land_by_their_counter_whatever_the_order(order: str) -> None:
    k1 = list(range(16))
    if order == "falling":
        k1.reverse()
    elif order == "shuffled":
        np.random.default_rng(0).shuffle(k1)
    elif order == "centre out":
        k1.sort(key=lambda i: abs(i - 8))
    fed, closed = run(scan(), lines(k1))
    (frame,) = frames(fed)
    assert values(frame) == list(range(1, 17))
    assert frame.counts.tolist() == [[1] * 16]
    assert not frame.verdicts
    assert not closed


def test_blocks_of_any_size_give_the_same() -> None:
    one = lines(range(16))
    joined = replace(one[0], head=np.concatenate([b.head for b in one]), data=np.concatenate([b.data for b in one]))
    assert values(frames(run(scan(), [joined])[0])[0]) == values(frames(run(scan(), one)[0])[0])


@pytest.mark.parametrize(("k1", "limits", "first"), [(16, (0, 11, 4), 4), (16, (0, 11, 8), 0), (15, (0, 9, 2), 5)])
def test_the_k_space_centre_lands_in_the_middle(k1: int, limits: tuple[int, int, int], first: int) -> None:
    header = scan(k1)
    encoding = header.mr.encodings[0]
    encoding = replace(encoding, limits=encoding.limits | {"k1": Limits(*limits)})
    fed, _ = run(replace(header, mr=MrHeader(encodings=(encoding,))), lines(range(limits[1] + 1)))
    (frame,) = frames(fed)
    measured = np.flatnonzero(frame.counts[0])
    assert measured.tolist() == list(range(first, first + limits[1] + 1))
    assert values(frame)[k1 // 2] == limits[2] + 1
    assert not frame.verdicts, "lines that partial Fourier leaves out are not missing"


def test_a_header_without_limits_is_centred_on_the_matrix() -> None:
    header = scan()
    encoding = replace(header.mr.encodings[0], limits={})
    fed, _ = run(replace(header, mr=MrHeader(encodings=(encoding,))), lines(range(16)))
    assert values(frames(fed)[0]) == list(range(1, 17))


def test_a_centre_that_does_not_fit_is_replaced_and_said() -> None:
    header = scan()
    encoding = header.mr.encodings[0]
    encoding = replace(encoding, limits=encoding.limits | {"k1": Limits(0, 15, 0)})
    fed, _ = run(replace(header, mr=MrHeader(encodings=(encoding,))), lines(range(16)))
    assert values(frames(fed)[0]) == list(range(1, 17))
    assert [(v.check, v.level) for v in verdicts(fed)] == [("mri.header", Level.FLAG)]


def test_limits_that_fit_no_matrix_are_refused() -> None:
    header = scan()
    encoding = header.mr.encodings[0]
    encoding = replace(encoding, limits=encoding.limits | {"k1": Limits(0, 20, 10)})
    with pytest.raises(HeaderError, match="k1 limits: expected counters that fit 16 lines, got 0 to 20, centre 10"):
        Assemble().open(replace(header, mr=MrHeader(encodings=(encoding,))))


def test_averages_are_divided_out_and_waited_for() -> None:
    first, second = lines(range(16)), [line(i, 3 * (i + 1), average=1) for i in range(16)]
    fed, _ = run(scan(average=1), first)
    assert not frames(fed)
    fed, _ = run(scan(average=1), first + second)
    (frame,) = frames(fed)
    assert values(frame) == [2 * (i + 1) for i in range(16)]
    assert (frame.counts == 2).all()


def test_the_flag_of_an_earlier_average_does_not_end_the_frame() -> None:
    flagged = lines(range(16), flags=0)
    flagged[-1].head["flags"] = int(Flag.LAST_IN_SLICE)
    second = [line(i, 3 * (i + 1), average=1) for i in range(16)]
    fed, closed = run(scan(average=1), flagged + second)
    assert len(frames(fed)) == 1
    assert (frames(fed)[0].counts == 2).all()
    assert not verdicts(closed)


def test_a_frame_short_of_averages_says_so() -> None:
    second = [line(i, average=1) for i in range(10)]
    _, closed = run(scan(average=1), lines(range(16)) + second)
    (frame,) = frames(closed)
    assert values(frame)[12] == 13, "lines measured once count once"
    (verdict,) = frame.verdicts
    assert "6 lines of k-space lack averages" in verdict.advice
    assert verdict.evidence == "k1 10-15"


@pytest.mark.parametrize("counter", ["slice", "contrast", "phase", "repetition", "set"])
def test_each_counter_makes_frames_of_its_own(counter: str) -> None:
    items = [line(i, 1 + v, **{counter: v}) for i in range(16) for v in range(3)]
    fed, closed = run(scan(**{counter: 2}), items)
    out = frames(fed)
    assert [getattr(f.key, counter) for f in out] == [0, 1, 2]
    assert [values(f)[0] for f in out] == [1, 2, 3]
    assert getattr(out[2].key.position, counter) == 2
    assert not closed


def test_segments_belong_to_one_frame() -> None:
    fed, _ = run(scan(), [line(i, i + 1, segment=i % 4) for i in range(16)])
    assert len(frames(fed)) == 1


def test_three_dimensions() -> None:
    items = [line(i, 100 * p + i, k2=p) for p in range(4) for i in range(16)]
    fed, _ = run(scan(k2=4), items)
    (frame,) = frames(fed)
    assert values(frame, k2=3)[:3] == [300, 301, 302]
    assert not frame.verdicts


def test_navigators_and_their_like_never_enter() -> None:
    items = lines(range(16))
    for i, flag in enumerate((Flag.NOISE, Flag.NAVIGATION, Flag.PHASE_CORRECTION, Flag.DUMMY, Flag.RT_FEEDBACK)):
        items.insert(3 * i, line(i, 1e6, flags=int(flag)))
    fed, _ = run(scan(), items)
    assert values(frames(fed)[0]) == list(range(1, 17))


def test_last_in_slice_ends_a_frame_whose_header_promises_more() -> None:
    fed, _ = run(scan(), [*lines(range(12)), last(12, Flag.LAST_IN_SLICE)])
    (frame,) = frames(fed)
    (verdict,) = frame.verdicts
    assert (verdict.check, verdict.level, verdict.evidence) == ("mri.lines", Level.FLAG, "k1 13-15")
    assert "3 lines of k-space are missing" in verdict.advice


def test_last_in_slice_ends_the_echoes_of_the_same_line_too() -> None:
    items = [line(i, contrast=c) for i in range(12) for c in range(3)]
    items[-1].head["flags"] = int(Flag.LAST_IN_SLICE)
    fed, _ = run(scan(contrast=2), items)
    assert [f.key.contrast for f in frames(fed)] == [0, 1, 2]


def test_last_in_slice_leaves_other_slices_and_unfinished_phases_alone() -> None:
    items = [line(i, slice=s) for i in range(12) for s in range(2)] + lines(range(5), phase=1)
    fed, closed = run(scan(slice=1, phase=1), [*items, last(12, Flag.LAST_IN_SLICE, slice=0)])
    assert [(f.key.slice, f.key.phase) for f in frames(fed)] == [(0, 0)]
    assert [(f.key.slice, f.key.phase) for f in frames(closed)] == [(0, 1), (1, 0)]


def test_last_in_repetition_ends_all_its_slices() -> None:
    items = [line(i, slice=s, repetition=r) for r in range(2) for i in range(12) for s in range(2)]
    items[23].head["flags"] = int(Flag.LAST_IN_REPETITION)
    fed, closed = run(scan(slice=1, repetition=1), items)
    assert [(f.key.slice, f.key.repetition) for f in frames(fed)] == [(0, 0), (1, 0)]
    assert [(f.key.slice, f.key.repetition) for f in frames(closed)] == [(0, 1), (1, 1)]


@pytest.mark.parametrize("kind", [0, Flag.NAVIGATION])
def test_last_in_measurement_ends_everything(kind: int) -> None:
    items = [line(i, slice=s) for i in range(12) for s in range(2)]
    fed, closed = run(scan(slice=1), [*items, last(12, Flag.LAST_IN_MEASUREMENT | kind, slice=1)])
    assert len(frames(fed)) == 2
    assert not frames(closed)


def test_close_gives_the_rest_with_its_missing_lines() -> None:
    fed, closed = run(scan(), lines([*range(5), 7, *range(9, 16)]))
    assert not frames(fed)
    assert frames(closed)[0].verdicts[0].evidence == "k1 5-6, 8"


def test_a_promised_slice_of_which_nothing_came_is_said() -> None:
    _, closed = run(scan(slice=3), lines(range(16), slice=1))
    (verdict,) = verdicts(closed)
    assert (verdict.check, verdict.level, verdict.evidence) == ("mri.slices", Level.FLAG, "slices 0, 2-3")


def test_late_readouts_are_counted_not_mixed_in() -> None:
    fed, closed = run(scan(), [*lines(range(16)), line(3, 1e6), line(4, 1e6)])
    assert values(frames(fed)[0])[3] == 4
    (verdict,) = verdicts(closed)
    assert "2 readouts of slice 0 came after its image was made" in verdict.advice
    assert "k1 3-4" in verdict.evidence


def test_a_line_that_comes_twice_is_averaged_and_said() -> None:
    items = lines(range(16))
    items.insert(5, line(2, 5))
    (frame,) = frames(run(scan(), items)[0])
    assert values(frame)[2] == 4
    (verdict,) = frame.verdicts
    assert "1 lines came twice with the same counters and were averaged" in verdict.advice
    assert verdict.evidence == "k1 2"


@pytest.mark.parametrize("flag", [True, False])
def test_calibration_goes_ahead_of_its_frame(flag: bool) -> None:
    items = undersampled(64, 2, 20, 44, flag=flag)
    step = Assemble()
    step.open(scan(64, acceleration=2, mode="embedded"))
    came = {}
    for i, item in enumerate(items):
        for out in feed(step, [item]):
            came[type(out)] = (i, out)
    position, calibration = came[Calibration]
    assert items[position].head["k1"][0] == 46, "the first line beyond shows that the region is complete"
    assert calibration.first == (0, 20)
    assert calibration.kspace.shape == (2, 1, 25, N_X)
    assert calibration.kspace[0, 0, :, 0].real.tolist() == list(range(21, 46))
    assert not calibration.separate
    position, frame = came[Frame]
    assert position == len(items) - 1, "complete by counters, without a flag"
    assert not frame.verdicts


def test_calibration_after_the_image_waits_for_its_end() -> None:
    image = [line(k1, k1 + 1) for k1 in range(0, 64, 2)]
    acs = [line(k1, k1 + 1, flags=int(Flag.CALIBRATION)) for k1 in range(21, 44, 2)]
    fed, closed = run(scan(64, acceleration=2, mode="embedded"), [*image, *acs])
    assert not frames(fed)
    calibration, frame = closed
    assert isinstance(calibration, Calibration)
    assert calibration.kspace.shape[2] == 25
    assert np.count_nonzero(frame.counts) == 32 + 12


def test_a_full_frame_that_claims_undersampling_waits_for_all_its_lines() -> None:
    fed, closed = run(scan(acceleration=2, mode="embedded"), lines(range(16)))
    assert [values(f) for f in frames(fed)] == [list(range(1, 17))]
    assert not closed


def test_a_full_frame_gives_its_middle_for_the_coil_maps_early() -> None:
    step = Assemble()
    step.open(scan(128))
    positions = [i for i, item in enumerate(lines(range(128))) if feed(step, [item])]
    assert positions == [79, 127]


@pytest.mark.parametrize("mode", ["separate", "external", "other", None])
def test_a_calibration_scan_of_its_own_never_enters_the_image(mode: str | None) -> None:
    acs = [line(k1, 1e6, flags=int(Flag.CALIBRATION)) for k1 in range(20, 44)]
    image = [line(k1, k1 + 1) for k1 in range(0, 64, 2)]
    fed, closed = run(scan(64, acceleration=2, mode=mode), [*acs, *image])
    calibration, frame = fed
    assert isinstance(calibration, Calibration)
    assert calibration.separate
    assert calibration.kspace.shape[2] == 24
    assert frame.kspace.abs().max() == 63
    assert np.count_nonzero(frame.counts) == 32
    assert not closed


def test_both_kinds_at_once_serve_both() -> None:
    both = int(Flag.CALIBRATION_AND_IMAGING)
    acs = [line(k1, k1 + 1, flags=int(Flag.CALIBRATION) if k1 % 2 else both) for k1 in range(20, 45)]
    image = [line(k1, k1 + 1) for k1 in (*range(0, 20, 2), *range(46, 64, 2))]
    fed, _ = run(scan(64, acceleration=2, mode="separate"), [*acs, *image])
    calibration, frame = fed
    assert calibration.kspace.shape[2] == 25
    assert np.flatnonzero(frame.counts[0]).tolist() == list(range(0, 64, 2))


def test_a_flag_ends_a_calibration_scan() -> None:
    acs = [line(k1, flags=int(Flag.CALIBRATION)) for k1 in range(20, 44)]
    acs[-1].head["flags"] |= np.uint64(Flag.LAST_IN_SLICE)
    fed, _ = run(scan(64, acceleration=2, mode="separate"), acs)
    assert [type(item) for item in fed] == [Calibration]


def test_missing_regular_lines_of_an_undersampled_frame_are_named() -> None:
    items = [item for item in undersampled(64, 2, 20, 44) if item.head["k1"][0] not in (4, 50, 62)]
    _, closed = run(scan(64, acceleration=2, mode="embedded"), items)
    assert frames(closed)[0].verdicts[0].evidence == "k1 4, 50, 62"


def test_lines_without_a_pattern_are_said() -> None:
    _, closed = run(scan(32), lines([0, 1, 5, 6, 13, 14, 15, 16, 17, 25, 31]))
    assert "follow no regular pattern" in frames(closed)[0].verdicts[0].advice


def test_the_corners_that_an_elliptical_scan_leaves_out_are_not_missing() -> None:
    n = 16
    items = [line(i, k2=p) for p in range(n) for i in range(n) if ((i - 8) / 8) ** 2 + ((p - 8) / 8) ** 2 <= 1.0]
    (frame,) = frames(run(scan(n, k2=n), items)[1])
    assert not frame.verdicts


def test_lost_lines_of_a_volume_are_named_by_both_counters() -> None:
    items = [line(i, k2=p) for p in range(8) for i in range(16) if (p, i) not in ((3, 7), (0, 0))]
    (frame,) = frames(run(scan(16, k2=8), items)[1])
    assert frame.verdicts[0].value == 2
    assert frame.verdicts[0].evidence == "k1 0, 7, k2 0, 3"
