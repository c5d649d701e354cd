"""A runner's board: a small shared page on which it says what it is doing right now.

The mould reads it to tell a hung runner from a busy one; after a death, the workers read it to
learn which requests were in the batch that died. Writing costs a memory copy, no system call.
"""

import mmap
import os
import struct
import time
from pathlib import Path

_HEAD = struct.Struct("<ddQQI")  # beat, busy since (0 idle), batches, samples, bytes of ids
SIZE = 64 * 1024


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

    def _head(self) -> tuple[float, float, int, int, int]:
        return _HEAD.unpack_from(self._page)

    def beat(self) -> None:
        """The runner's loop turns."""
        struct.pack_into("<d", self._page, 0, time.monotonic())

    def begin(self, ids: list[str]) -> None:
        """A decode or a batch with these requests starts."""
        now = time.monotonic()
        text = "\n".join(ids).encode()[: SIZE - _HEAD.size]
        _, _, batches, samples, _ = self._head()
        self._page[_HEAD.size : _HEAD.size + len(text)] = text
        _HEAD.pack_into(self._page, 0, now, now, batches + 1, samples + len(ids), len(text))

    def end(self) -> None:
        """Nothing is under way."""
        _, _, batches, samples, _ = self._head()
        _HEAD.pack_into(self._page, 0, time.monotonic(), 0.0, batches, samples, 0)

    @property
    def suspects(self) -> set[str]:
        """The requests under way: after a death, those that may have caused it."""
        size = self._head()[4]
        return set(self._page[_HEAD.size : _HEAD.size + size].decode().split("\n")) - {""}

    @property
    def busy_for(self) -> float:
        """Seconds since the current batch began; 0 when idle."""
        since = self._head()[1]
        return time.monotonic() - since if since else 0.0

    @property
    def silent_for(self) -> float:
        """Seconds since the loop last turned."""
        return time.monotonic() - self._head()[0]

    def close(self) -> None:
        """Unmaps the page."""
        self._page.close()
