"""A counter of the requests in flight for one model over all workers: one shared page per model.

Each worker writes its own number and reads all of them, so the queue limit applies to the server
as a whole. Two workers that admit the last request at the same instant both succeed: the limit may
be exceeded by one request for each further worker. Each number is 8 aligned bytes, which no reader
sees half written.
"""

import mmap
from pathlib import Path

from cupola.serve.ipc.shared_page import open_page

_WIDTH = 8  # bytes of a number
SLOTS = 511  # slots of the master's table that fit on a page
SIZE = _WIDTH * (1 + SLOTS)


class InFlightCounter:
    """A worker's view of the page. The first number is the highest slot used so far."""

    def __init__(self, path: Path, slot: int) -> None:
        try:
            self._page = open_page(path, SIZE, create=True)
        except OSError:  # the runtime directory is full: the limit applies to this worker alone
            self._page = mmap.mmap(-1, SIZE)
        self._own = 1 + slot % SLOTS
        self._numbers = memoryview(self._page).cast("Q")
        self.set(0)  # a previous worker in this slot has died with its requests

    def set(self, count: int) -> None:
        """Records how many requests this worker holds."""
        if self._numbers[0] < self._own:  # here: two workers that start together may overwrite it
            self._numbers[0] = self._own
        self._numbers[self._own] = count

    @property
    def total(self) -> int:
        """Requests held by all workers."""
        return sum(self._numbers[1 : self._numbers[0] + 1])
