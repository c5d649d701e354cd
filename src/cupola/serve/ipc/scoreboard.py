"""A runner's board: a small shared page on which it says what it is doing right now.

The zygote reads it to tell a hung runner from a busy one; after a death, the workers read it to
learn which requests were in the batch that died. Writing costs a memory copy, no system call.
"""

import mmap
import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path

_HEAD = struct.Struct("<dQ")  # beat, number of ids; then the ids
_IDS = _HEAD.size
SIZE = 64 * 1024
_MOST = (SIZE - _IDS) // 8


class Board:
    """One page, in a file of the generation's folder."""

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

    def beat(self) -> None:
        """The runner's loop turns."""
        struct.pack_into("<d", self._page, 0, time.monotonic())

    def begin(self, ids: Sequence[int]) -> None:
        """A decode or a batch with these requests starts."""
        count = min(len(ids), _MOST)
        struct.pack_into(f"<{count}Q", self._page, _IDS, *ids[:count])
        _HEAD.pack_into(self._page, 0, time.monotonic(), count)

    def end(self) -> None:
        """Nothing is under way."""
        _HEAD.pack_into(self._page, 0, time.monotonic(), 0)

    @property
    def suspects(self) -> set[int]:
        """The requests under way: after a death, those that may have caused it."""
        return set(struct.unpack_from(f"<{self._head()[1]}Q", self._page, _IDS))

    @property
    def silent_for(self) -> float:
        """Seconds since the loop last turned."""
        return time.monotonic() - self._head()[0]

    def close(self) -> None:
        """Unmaps the page."""
        self._page.close()
