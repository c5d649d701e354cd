"""How many threads a model computes with, by measurement.

More threads are not always faster: with two cores and many small parallel regions, one thread
that waits for another can take longer than it saves.
"""

import time
from collections.abc import Callable

import torch

SIMILAR = 1.05  # of the shortest time: then fewer threads are better, others can use the cores
REPEATS = 3


def thread_counts(most: int) -> list[int]:
    """The numbers of threads that are tried: one, half of `most`, all."""
    return sorted({1, max(1, most // 2), max(1, most)})


def fastest_threads(
    run: Callable[[], object], most: int | None = None, repeats: int = REPEATS
) -> tuple[int, dict[int, float]]:
    """The number of threads for `run`, a model on its example, and the seconds of each tried.

    `most` is this process's share of the cores; by default the threads that torch has now, which
    it has again afterwards.
    """
    before = torch.get_num_threads()
    counts = thread_counts(before if most is None else most)
    if len(counts) == 1:
        return counts[0], {}
    try:
        seconds = {count: _fastest(run, count, repeats) for count in counts}
    finally:
        torch.set_num_threads(before)
    return fewest(seconds), seconds


def fewest(seconds: dict[int, float]) -> int:
    """The smallest number of threads whose time is about the shortest."""
    least = min(seconds.values())
    return min(count for count, took in seconds.items() if took <= SIMILAR * least)


def shortest(run: Callable[[], object], repeats: int = REPEATS) -> float:
    """The least seconds of several calls, after one that starts threads and prepares kernels."""
    run()
    return min(_timed(run) for _ in range(repeats))


def _fastest(run: Callable[[], object], threads: int, repeats: int) -> float:
    torch.set_num_threads(threads)
    return shortest(run, repeats)


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
