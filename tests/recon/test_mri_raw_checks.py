"""The benchmark of raw checks, a little of it: every planted fault found, clean scans pass."""

from __future__ import annotations

from tests.benchmarks.raw_checks import planted


def test_planted_faults_are_found_and_clean_scans_pass() -> None:
    found, false, n_false = planted(4)
    assert (false, n_false) == ({}, 0)
    assert sum(map(len, found.values())) >= 12
    assert {name: marks for name, marks in found.items() if not all(marks)} == {}
