"""Waiting for a condition, as long as a busy machine needs."""

import os
import time
from collections.abc import Callable
from typing import Any


def until(condition: Callable[[], Any], seconds: float = 15.0, what: Any = "") -> Any:
    """Waits until `condition()` is true; returns its value.

    The limit is that of an idle machine, and grows with the processes that share its processors.
    `what` describes the condition, or is called for that.
    """
    start = time.monotonic()
    while not (value := condition()):
        waited = time.monotonic() - start
        if waited > seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)):
            what = what() if callable(what) else what
            raise AssertionError(f"waited {waited:.0f} s for {what or condition}")
        time.sleep(0.01)
    return value
