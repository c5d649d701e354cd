"""A runner's scoreboard: a small shared page that records what the runner is doing.

The zygote reads it to tell a hung runner from a busy one. After a crash, the workers read it to
learn which requests were in the batch that crashed. A write is a memory copy, not a system call.
"""

import mmap
import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path

_HEAD = struct.Struct("<dQ")  # time of the last heartbeat, number of ids; the ids follow
_IDS = _HEAD.size
SIZE = 64 * 1024
_MAX_IDS = (SIZE - _IDS) // 8


class Scoreboard:
    """One page, backed by a file in the generation's folder."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path
        flags = os.O_RDWR | (os.O_CREAT if create else 0)
        fd = os.open(path, flags, 0o644)
        try:
            if create:
                os.ftruncate(fd, SIZE)
            self._page = mmap.mmap(fd, SIZE)
        finally:
            os.close(fd)

    def _head(self) -> tuple[float, int]:
        return _HEAD.unpack_from(self._page)

    def heartbeat(self) -> None:
        """Records that the runner's loop is running."""
        struct.pack_into("<d", self._page, 0, time.monotonic())

    def begin(self, ids: Sequence[int]) -> None:
        """Records that decoding or a batch with these requests starts."""
        count = min(len(ids), _MAX_IDS)
        struct.pack_into(f"<{count}Q", self._page, _IDS, *ids[:count])
        _HEAD.pack_into(self._page, 0, time.monotonic(), count)

    def end(self) -> None:
        """Records that no request is being processed."""
        _HEAD.pack_into(self._page, 0, time.monotonic(), 0)

    @property
    def suspects(self) -> set[int]:
        """The requests being processed; after a crash, those that may have caused it."""
        return set(struct.unpack_from(f"<{self._head()[1]}Q", self._page, _IDS))

    @property
    def idle_for(self) -> float:
        """Seconds since the last heartbeat."""
        return time.monotonic() - self._head()[0]

    def close(self) -> None:
        """Unmaps the page."""
        self._page.close()
