"""The number of threads is measured, and torch is left as it was."""

import time

import pytest
import torch

from cupola.runtime.optimize import threads


def test_one_half_and_all_are_tried() -> None:
    assert [threads.thread_counts(n) for n in (1, 2, 3, 8)] == [[1], [1, 2], [1, 3], [1, 4, 8]]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({1: 1.0, 2: 0.5, 4: 0.3}, 4),
        ({1: 1.0, 2: 0.31, 4: 0.3}, 2),  # about as fast, and leaves cores to others
        ({1: 1.0, 2: 20.0}, 1),
    ],
)
def test_the_fewest_that_are_fast(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], expected: int
) -> None:
    clock, before = [0.0], torch.get_num_threads()
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def run() -> None:
        clock[0] += seconds[torch.get_num_threads()]

    assert threads.fastest_threads(run, max(seconds)) == (expected, pytest.approx(seconds))
    assert torch.get_num_threads() == before


def test_an_error_leaves_the_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        threads.fastest_threads(lambda: 1 / 0, 3)
    assert torch.get_num_threads() == before
