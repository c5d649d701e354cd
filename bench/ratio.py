"""Times two callables in turn, so that noise on the machine hits both alike."""

import statistics
import time
from collections.abc import Callable


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def alternate(
    ours: Callable[[], object], peer: Callable[[], object], rounds: int = 7
) -> tuple[float, float]:
    """Median seconds of ours and of the peer over `rounds` alternating calls, after one of each."""
    ours(), peer()
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(rounds):
        for which in (0, 1) if i % 2 == 0 else (1, 0):
            times[which].append(seconds((ours, peer)[which]))
    return statistics.median(times[0]), statistics.median(times[1])
