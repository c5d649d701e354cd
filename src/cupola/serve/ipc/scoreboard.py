"""A runner's scoreboard: a small shared page that records what the runner is doing.

The zygote reads it to tell a hung runner from a busy one. After a crash, the workers read it to
learn which requests were in the batch that crashed. A write is a memory copy, not a system call.
Each number is stored at once as 8 aligned bytes, so that no reader sees half of it;
struct.pack_into would clear the bytes first.
"""

import time
from array import array
from collections.abc import Sequence
from pathlib import Path

from cupola.serve.ipc.shared_page import open_page

SIZE = 64 * 1024
_COUNT, _SERVED, _IDS = 1, 2, 3  # the number before them is the time of the last heartbeat
_MAX_IDS = SIZE // 8 - _IDS


class Scoreboard:
    """One page, backed by a file in the generation's folder."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path
        self._page = open_page(path, SIZE, create=create)
        whole = memoryview(self._page)
        self._times, self._numbers = whole.cast("d"), whole.cast("Q")

    def heartbeat(self) -> None:
        """Records that the runner's loop is running."""
        self._times[0] = time.monotonic()

    def begin(self, ids: Sequence[int]) -> None:
        """Records that decoding or a batch with these requests starts."""
        count = min(len(ids), _MAX_IDS)
        self._numbers[_COUNT] = 0
        if count == 1:
            self._numbers[_IDS] = ids[0]
        else:
            self._numbers[_IDS : _IDS + count] = memoryview(array("Q", ids[:count]))
        self._numbers[_COUNT] = count
        self.heartbeat()

    def end(self) -> None:
        """Records that no request is being processed."""
        self._numbers[_COUNT] = 0
        self.heartbeat()

    def count_request(self) -> None:
        """Counts a request that has arrived."""
        self._numbers[_SERVED] += 1

    @property
    def served(self) -> int:
        """The number of requests that have arrived."""
        return self._numbers[_SERVED]

    @property
    def suspects(self) -> set[int]:
        """The requests being processed; after a crash, those that may have caused it."""
        count = min(self._numbers[_COUNT], _MAX_IDS)
        return set(self._numbers[_IDS : _IDS + count])

    @property
    def idle_for(self) -> float:
        """Seconds since the last heartbeat."""
        return time.monotonic() - self._times[0]

    def close(self) -> None:
        """Unmaps the page."""
        self._times.release()
        self._numbers.release()
        self._page.close()
