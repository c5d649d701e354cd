"""Times two callables in turn, so that noise on the machine hits both alike."""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path


def machine() -> str:
    """The processors that this process may use, and how busy the machine is, to print."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    count, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    return f"{count} x {names[0] if names else 'unknown processor'}, load {load:.1f}"


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
