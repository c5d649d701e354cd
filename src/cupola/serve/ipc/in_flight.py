"""A counter of the requests in flight for one model over all workers: one shared page per model.

Each worker writes its own number and reads all of them, so the queue limit applies to the server
as a whole. Two workers that admit the last request at the same instant both succeed: the limit may
be exceeded by one request for each further worker.
"""

import mmap
import os
from pathlib import Path

_WIDTH = 8  # bytes of a number
SLOTS = 511  # slots of the master's table that fit on a page
SIZE = _WIDTH * (1 + SLOTS)


class InFlightCounter:
    """A worker's view of the page. The first number is the highest slot used so far."""

    def __init__(self, path: Path, slot: int) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.ftruncate(fd, SIZE)
            self._page = mmap.mmap(fd, SIZE)
        finally:
            os.close(fd)
        self._own = 1 + slot % SLOTS
        self._numbers = memoryview(self._page).cast("Q")
        self._numbers[0] = max(self._numbers[0], self._own)
        self.set(0)  # a previous worker in this slot has died with its requests

    def set(self, count: int) -> None:
        """Records how many requests this worker holds."""
        self._numbers[self._own] = count

    @property
    def total(self) -> int:
        """Requests held by all workers."""
        return sum(self._numbers[1 : self._numbers[0] + 1])
