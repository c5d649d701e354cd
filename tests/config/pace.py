"""The bound of one second, on any processor: it is one second where the bound was measured."""

import time
from functools import cache

REFERENCE = 0.036  # processor seconds of `work` on the machine where the bound was measured


def work() -> float:
    """Processor seconds of a piece of plain Python."""
    began, table = time.process_time(), {}
    for number in range(300_000):
        table[number % 1000] = str(number) + "a"
    return time.process_time() - began


@cache
def second() -> float:
    """Processor seconds in which this machine does what the other one does in a second.

    At least 1, for a faster machine has no stricter bound.
    """
    return max(1.0, min(work() for _ in range(5)) / REFERENCE)
