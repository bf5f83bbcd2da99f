"""The pattern of measured lines is found from the lines themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon.mri.pattern import Pattern, as_ranges, central_run, detect


def mask(n: int, *parts: slice | list[int]) -> np.ndarray:
    out = np.zeros(n, bool)
    for part in parts:
        out[part] = True
    return out


@given(
    n=st.integers(64, 200),
    r=st.integers(1, 4),
    offset=st.integers(0, 3),
    acs=st.integers(0, 10),
    skip=st.integers(0, 8),
    told=st.booleans(),
)
def test_every_regular_pattern_is_found(n: int, r: int, offset: int, acs: int, skip: int, told: bool) -> None:
    measured = mask(n, slice(skip + offset % r, n, r), slice(n // 2, n // 2 + acs))
    pattern = detect(measured, r if told else 1)
    assert pattern is not None
    assert pattern.acceleration == r
    assert pattern.offset == (skip + offset % r) % r
    assert not pattern.missing(measured).size


@pytest.mark.parametrize("r", [2, 3, 4])
def test_a_lost_line_is_named_and_does_not_hide_the_pattern(r: int) -> None:
    measured = mask(128, slice(1, 128, r), slice(52, 76))
    lost = 1 + 3 * r
    measured[lost] = False
    pattern = detect(measured, r)
    assert pattern == Pattern(r, 1, 1, int(np.flatnonzero(measured)[-1]))
    assert pattern.missing(measured).tolist() == [lost]


@pytest.mark.parametrize(
    ("measured", "declared", "found"),
    [
        (mask(64, slice(None)), 2, 1),  # header says 2, all lines are there
        (mask(64, slice(0, 64, 2)), 4, 2),  # header says more than was left out
        (mask(64, slice(0, 64, 4)), 2, 4),  # header says less
        (mask(64, slice(0, 64, 3)), 7, 3),  # header says nonsense
        (mask(64, slice(40)), 1, 1),  # partial Fourier that the header hides
        (mask(1, [0]), 1, 1),
    ],
)
def test_the_lines_are_believed(measured: np.ndarray, declared: int, found: int) -> None:
    pattern = detect(measured, declared)
    assert pattern is not None
    assert pattern.acceleration == found


def test_no_pattern_is_no_pattern() -> None:
    assert detect(mask(64)) is None
    assert detect(np.random.default_rng(0).random(128) > 0.6, 2) is None


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (mask(8, slice(None)), (0, 8)),
        (mask(8, slice(2, 6)), (2, 6)),
        (mask(8, [0, 4, 7]), (4, 5)),
        (mask(8, [0, 7]), (4, 4)),
        (mask(8, slice(0, 5)), (0, 5)),
    ],
)
def test_the_run_around_the_centre(measured: np.ndarray, expected: tuple[int, int]) -> None:
    assert central_run(measured, 4) == expected


@pytest.mark.parametrize(("indices", "text"), [([], ""), ([3], "3"), ([3, 4], "3-4"), ([1, 3, 4, 5, 9], "1, 3-5, 9")])
def test_line_numbers_in_words(indices: list[int], text: str) -> None:
    assert as_ranges(np.array(indices, int)) == text
