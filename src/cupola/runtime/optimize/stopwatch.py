"""Times a run by its busiest thread, so that other processes on the machine disturb little.

The threads of a run share its work, and the thread that calls takes part in it: on an idle machine
the busiest one computes for as long as the run takes. On a busy one its threads also wait for a
core, which says nothing about the run; Linux counts the two apart.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

THREADS = Path("/proc/self/task")


def timed(run: Callable[[], object]) -> float:
    """The seconds for which the busiest thread of a run computes.

    Wall time where the system does not count them.
    """
    before, began = computed(), time.perf_counter()
    run()
    seconds = time.perf_counter() - began
    busiest = max([each - before.get(name, 0.0) for name, each in computed().items()], default=0.0)
    return min(busiest, seconds) if busiest > 0 else seconds


def wall_timed(run: Callable[[], object]) -> float:
    """The seconds of a run, for devices that compute while the threads wait."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def computed() -> dict[str, float]:
    """The seconds that each thread of this process has computed so far."""
    found: dict[str, float] = {}
    for file in THREADS.glob("*/schedstat"):
        with suppress(OSError, ValueError):  # it has just ended, or nothing is counted
            found[file.parent.name] = int(file.read_text().split()[0]) / 1e9
    return found
