"""Times a run as if its threads had never waited for a core.

Where other processes compute at the same time, the wall time of a run says more about them than
about the run. Linux counts for each thread how long it was ready to run without a core; the run's
results waited at least for the thread that waited longest.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

THREADS = Path("/proc/self/task")


def timed(run: Callable[[], object]) -> float:
    """The seconds of a run less those for which one of its threads waited for a core.

    At least its processor time divided among the threads of torch. Wall time where the system does
    not count what threads wait.
    """
    waited, computed, began = waits(), time.process_time(), time.perf_counter()
    run()
    seconds, computed = time.perf_counter() - began, time.process_time() - computed
    longest = max([each - waited.get(name, 0.0) for name, each in waits().items()], default=0.0)
    least = min(seconds, computed / torch.get_num_threads())
    return max(seconds - longest, least)


def waits() -> dict[str, float]:
    """The seconds that each thread of this process has waited for a core so far."""
    found: dict[str, float] = {}
    for file in THREADS.glob("*/schedstat"):
        with suppress(OSError, ValueError):  # it has just ended, or nothing is counted
            _, waited, _ = file.read_text().split()
            found[file.parent.name] = int(waited) / 1e9
    return found
