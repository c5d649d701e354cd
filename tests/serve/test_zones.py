"""Limits in shared memory: rates, requests in progress, several processes."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupola.serve.access.zones import ConcurrencyZone, RateZone


def test_a_rate_with_a_burst(tmp_path: Path) -> None:
    zone = RateZone(tmp_path / "rates")
    assert [zone.take("a", 2.0, 2, now=10.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert zone.take("b", 2.0, 0, now=10.0) == 0
    assert zone.take("b", 2.0, 0, now=10.1) == pytest.approx(0.4)
    assert zone.take("a", 2.0, 2, now=10.5) == 0  # one has been forgotten
    assert zone.take("a", 2.0, 2, now=10.5) == 0.5


@given(steps=st.lists(st.floats(0, 3), min_size=1, max_size=60), burst=st.integers(0, 5))
def test_no_more_pass_than_the_rate_allows(
    tmp_path_factory: Any, steps: list[float], burst: int
) -> None:
    zone = RateZone(tmp_path_factory.mktemp("zone") / "rates", buckets=4)
    now, passed = 0.0, 0
    for step in steps:
        now += step
        passed += zone.take("a", 2.0, burst, now=now) == 0
    assert passed <= 1 + burst + 2.0 * sum(steps[1:]) + 1e-6
    if burst + 1 >= len(steps):
        assert passed == len(steps)


def test_a_full_bucket_forgets_the_oldest(tmp_path: Path) -> None:
    zone = RateZone(tmp_path / "rates", buckets=1)
    for number in range(100):
        assert zone.take(str(number), 1.0, 0, now=float(number)) == 0
    assert zone.take("99", 1.0, 0, now=99.0) == 1
    assert zone.take("0", 1.0, 0, now=99.0) == 0


def test_requests_in_progress_over_several_workers(tmp_path: Path) -> None:
    first, second = (ConcurrencyZone(tmp_path / "progress", slot) for slot in (0, 1))
    assert [first.enter("a", 3), second.enter("a", 3), first.enter("a", 3)] == [True] * 3
    assert not second.enter("a", 3) and second.enter("b", 1)
    first.leave("a")
    assert second.enter("a", 3) and not first.enter("a", 3)


def test_what_a_dead_worker_held_is_free_again(tmp_path: Path) -> None:
    dead, other = (ConcurrencyZone(tmp_path / "progress", slot) for slot in (0, 1))
    assert dead.enter("a", 2) and other.enter("a", 2) and not other.enter("a", 2)
    again = ConcurrencyZone(tmp_path / "progress", 0)
    assert again.enter("a", 2) and not other.enter("a", 2)


def test_more_names_than_entries_are_still_limited(tmp_path: Path) -> None:
    zone = ConcurrencyZone(tmp_path / "progress", 0, buckets=1)
    for number in range(40):
        assert zone.enter(str(number), 1) and not zone.enter(str(number), 1)
    for number in range(40):
        zone.leave(str(number))
    assert zone.enter("0", 1) and zone.enter("39", 1)


def _take(path: Path, found: Any) -> None:
    zone = RateZone(path)
    found.put(sum(zone.take("a", 1e-6, 99) == 0 for _ in range(200)))


def test_two_processes_share_a_rate(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    found = fork.Queue()
    both = [fork.Process(target=_take, args=(tmp_path / "rates", found)) for _ in range(2)]
    for one in both:
        one.start()
    assert sum(found.get(timeout=30) for _ in both) == 100
    for one in both:
        one.join()


def test_without_space_a_worker_has_its_own_table(tmp_path: Path) -> None:
    zone = RateZone(tmp_path / "missing" / "rates")
    assert [zone.take("a", 1.0, 0, now=1.0) for _ in range(2)] == [0, 1.0]
