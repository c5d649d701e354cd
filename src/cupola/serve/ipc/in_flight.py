"""How many requests of one model all workers hold together: one shared page for each model.

Each worker writes only its own place and reads all of them, so that the queue limit holds for the
server and not for each worker. Two workers that take the last place in the same instant both get
it: the limit may be passed by one request for each further worker.
"""

import mmap
import os
from pathlib import Path

_WIDTH = 8  # bytes of a number
PLACES = 511  # slots of the master's table that a page has room for
SIZE = _WIDTH * (1 + PLACES)


class Places:
    """A worker's view of the page; the first number says how many places were ever used."""

    def __init__(self, path: Path, slot: int) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.ftruncate(fd, SIZE)
            self._page = mmap.mmap(fd, SIZE)
        finally:
            os.close(fd)
        self._own = 1 + slot % PLACES
        self._numbers = memoryview(self._page).cast("Q")
        self._numbers[0] = max(self._numbers[0], self._own)
        self.hold(0)  # whoever had this place before has died with what it held

    def hold(self, count: int) -> None:
        """This worker holds so many requests now."""
        self._numbers[self._own] = count

    @property
    def held(self) -> int:
        """Requests that all workers hold."""
        return sum(self._numbers[1 : self._numbers[0] + 1])
