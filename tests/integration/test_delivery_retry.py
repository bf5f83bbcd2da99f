"""Waits grow, stay bounded and are spread; the breaker lets one worker knock."""

from __future__ import annotations

from itertools import pairwise

import pytest

from integration.delivery.destination import Destination
from integration.delivery.retry import Breaker, backoff_s
from tests.integration.delivery_samples import destination


@pytest.fixture
def pacs() -> Destination:
    return destination(backoff_first_s=1, backoff_max_s=900)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_waits_double_up_to_the_longest(pacs: Destination) -> None:
    for failures in range(1, 200):
        nominal = min(2.0 ** min(failures - 1, 60), 900)
        assert 0.8 * nominal <= backoff_s(pacs, failures) <= 1.2 * nominal


def test_waits_are_spread(pacs: Destination) -> None:
    waits = [backoff_s(pacs, 5) for _ in range(50)]
    assert max(waits) - min(waits) > 2


def test_no_association_opens_at_once_and_one_worker_probes(pacs: Destination) -> None:
    clock = Clock()
    breaker = Breaker(pacs, clock=clock)
    assert breaker.closed
    breaker.unreachable()
    breaker.unreachable()
    assert not breaker.closed
    assert 0.8 <= breaker.wait_s <= 1.2, "workers that fail together count once"
    assert not breaker.probe()
    clock.now += 1.3
    assert breaker.probe()
    assert not breaker.probe()
    breaker.healthy()
    assert breaker.closed
    assert breaker.wait_s == 0


def test_failed_probes_wait_longer_each_time(pacs: Destination) -> None:
    clock = Clock()
    breaker = Breaker(pacs, clock=clock)
    breaker.unreachable()
    waits = []
    for _ in range(12):
        waits.append(breaker.wait_s)
        clock.now += breaker.wait_s
        assert breaker.probe()
        breaker.unreachable()
    assert all(b > a for a, b in pairwise(waits[:9]))
    assert waits[-1] <= 900 * 1.2


def test_single_images_that_fail_do_not_stop_the_others(pacs: Destination) -> None:
    breaker = Breaker(pacs, clock=Clock())
    for _ in range(10):
        breaker.failed()
        breaker.failed()
        assert breaker.closed
        assert breaker.stored()
    assert not breaker.stored()


def test_three_failures_in_a_row_do(pacs: Destination) -> None:
    breaker = Breaker(pacs, clock=Clock())
    for _ in range(3):
        breaker.failed()
    assert not breaker.closed


def test_an_echo_is_not_a_store(pacs: Destination) -> None:
    """A full archive still answers C-ECHO: the waits must go on growing."""
    clock = Clock()
    breaker = Breaker(pacs, clock=clock)
    for _ in range(3):
        breaker.failed()
    first = breaker.wait_s
    for _ in range(4):
        clock.now += breaker.wait_s
        assert breaker.probe()
        breaker.healthy()
        breaker.failed()
        assert not breaker.closed
    assert breaker.wait_s > 4 * first


def test_someone_who_resends_need_not_wait(pacs: Destination) -> None:
    clock = Clock()
    breaker = Breaker(pacs, clock=clock)
    breaker.probe_soon()
    assert breaker.closed
    breaker.unreachable()
    breaker.probe_soon()
    assert breaker.probe()
