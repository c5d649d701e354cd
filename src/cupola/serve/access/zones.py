"""Limits that hold over all workers: tables in shared memory, as the zones of nginx.

An entry is found by the hash of a name in one bucket of the table. A bucket is locked with a record
lock of its byte in the file, which the kernel frees if the process dies.
"""

import fcntl
import math
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

from cupola.serve.ipc.shared_page import open_page

_WAYS = 16  # entries of a bucket


class Table:
    """Buckets of entries of `width` numbers of 8 bytes. The first of an entry is its hash, or 0.

    Without space for the file, the table is this process's own.
    """

    def __init__(self, path: Path, buckets: int, width: int) -> None:
        size = buckets * _WAYS * width * 8
        self._fd = -1
        try:
            self._page = open_page(path, size, create=True)
            self._fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            self._page = mmap.mmap(-1, size)
        self.buckets, self.width = buckets, width
        whole = memoryview(self._page)
        self.integers, self.reals = whole.cast("Q"), whole.cast("d")

    @contextmanager
    def locked(self, key: int) -> Iterator[range]:
        """Locks the bucket of a hash; the places of its entries."""
        bucket = key % self.buckets
        start = bucket * _WAYS * self.width
        if self._fd >= 0:
            fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, bucket)
        try:
            yield range(start, start + _WAYS * self.width, self.width)
        finally:
            if self._fd >= 0:
                fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, bucket)

    def close(self) -> None:
        """Unmaps the table."""
        self.integers.release()
        self.reals.release()
        self._page.close()
        if self._fd >= 0:
            os.close(self._fd)


def hash_of(name: str) -> int:
    """A hash that is never 0."""
    return int.from_bytes(blake2b(name.encode("utf-8", "replace"), digest_size=8).digest()) | 1


class RateZone:
    """Requests per second of each name, as nginx's limit_req with `nodelay`.

    A name may exceed its rate by `burst` requests. What it has sent more is forgotten at the rate.
    If a bucket is full, the entry that was used longest ago is replaced.
    """

    BUCKETS = 2048

    def __init__(self, path: Path, buckets: int = BUCKETS) -> None:
        self._table = Table(path, buckets, 3)  # hash, excess, time

    def take(self, name: str, rate: float, burst: int, now: float | None = None) -> float:
        """0 if the request is allowed, else the seconds after which one will be."""
        now, key, table = time.monotonic() if now is None else now, hash_of(name), self._table
        integers, reals = table.integers, table.reals
        with table.locked(key) as places:
            place = next((at for at in places if integers[at] == key), None)
            excess = 0.0
            if place is None:
                place = min(places, key=lambda at: reals[at + 2])
            else:
                passed = max(0.0, now - reals[place + 2])
                excess = max(0.0, reals[place + 1] - rate * passed + 1)
            if excess > burst:
                return (excess - burst) / rate
            integers[place], reals[place + 1], reals[place + 2] = key, excess, now
        return 0.0


class ConcurrencyZone:
    """Requests in progress of each name, over all workers; one entry for a name and a worker.

    `slot`: the worker's place in the master's table. What an earlier process in it left is removed.
    """

    BUCKETS = 1024

    def __init__(self, path: Path, slot: int, buckets: int = BUCKETS) -> None:
        self._table = Table(path, buckets, 2)  # hash, slot and count
        self._slot = slot + 1
        self._own: dict[str, int] = {}
        integers = self._table.integers
        for at in range(0, len(integers), 2):
            if integers[at] and integers[at + 1] >> 32 == self._slot:
                integers[at] = integers[at + 1] = 0

    def enter(self, name: str, limit: int) -> bool:
        """Counts a request that begins; False if `limit` are in progress."""
        key, integers = hash_of(name), self._table.integers
        with self._table.locked(key) as places:
            total, own, free = 0, None, None
            for at in places:
                if integers[at] == 0:
                    free = at if free is None else free
                elif integers[at] == key:
                    total += integers[at + 1] & 0xFFFFFFFF
                    own = at if integers[at + 1] >> 32 == self._slot else own
            place = free if own is None else own
            if place is None:  # too many names in this bucket: this worker's own count
                total = self._own.get(name, 0)
            if total >= limit:
                return False
            count = self._own[name] = self._own.get(name, 0) + 1
            if place is not None:
                integers[place + 1] = self._slot << 32 | count
                integers[place] = key
        return True

    def leave(self, name: str) -> None:
        """Counts a request that has ended."""
        key, integers = hash_of(name), self._table.integers
        count = self._own[name] = self._own[name] - 1
        if not count:
            del self._own[name]
        with self._table.locked(key) as places:
            for at in places:
                if integers[at] == key and integers[at + 1] >> 32 == self._slot:
                    integers[at + 1] = self._slot << 32 | count
                    if not count:
                        integers[at] = 0


def seconds_to_wait(seconds: float) -> str:
    """The value of Retry-After."""
    return str(max(1, math.ceil(seconds)))
