"""The response cache: one file per answer, named by the hash of model, version and request.

An entry contains the hash of its content and appears by a rename, so a partial entry is never
served and a damaged one counts as missing. Equal requests are computed once: others in the same
worker wait for the result, those in other workers for the lock.
"""

import asyncio
import hashlib
import os
import struct
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import orjson

from cupola.serve.cache.index import CacheIndex
from cupola.serve.ipc import frames, paths

_MAGIC = b"CUPC2\n"
_PREFIX = struct.Struct("<32sI")  # SHA-256 of the rest, size of the JSON header
LOCK_PAUSE = 0.02  # seconds between two attempts to take the lock of another worker


class HitCounter(Protocol):
    """Where hits and misses are counted."""

    hits: int
    misses: int


class ResponseCache:
    """One worker's view of the cache folder."""

    def __init__(self, folder: Path, max_entry: int, max_age: float) -> None:
        self.folder, self.max_entry, self.max_age = folder, max_entry, max_age
        folder.mkdir(parents=True, exist_ok=True)
        self.index = CacheIndex(folder)
        self._in_progress: dict[str, asyncio.Future[None]] = {}

    async def get_or_compute(
        self, key: str, counter: HitCounter, compute: Callable[[], Awaitable[frames.Frame]]
    ) -> frames.Frame:
        """The stored answer; or a computed one, which is then stored."""
        while (first := self._in_progress.get(key)) is not None:
            await asyncio.wait([first])  # then check again: it may have failed
        if (found := self.get(key)) is not None:
            counter.hits += 1
            return found
        self._in_progress[key] = asyncio.get_running_loop().create_future()
        try:
            return await self._compute_locked(key, counter, compute)
        finally:
            self._in_progress.pop(key).set_result(None)

    async def _compute_locked(
        self, key: str, counter: HitCounter, compute: Callable[[], Awaitable[frames.Frame]]
    ) -> frames.Frame:
        lock = entry_path(self.folder, key).with_suffix(".lock")
        while not _take_lock(lock):
            await asyncio.sleep(LOCK_PAUSE)
            if (found := self.get(key)) is not None:
                return found
        try:
            if (found := self.get(key)) is not None:
                return found
            counter.misses += 1
            answer = await compute()
            if answer.status == 200:
                self.put(key, answer)
            return answer
        finally:
            lock.unlink(missing_ok=True)

    def get(self, key: str) -> frames.Frame | None:
        """The entry, unless it is missing, damaged or expired."""
        path = entry_path(self.folder, key)
        try:
            raw = path.read_bytes()
            age = time.time() - path.stat().st_mtime
        except OSError:
            return None
        found = unpack_entry(raw)
        if found is None or age > self.max_age:
            path.unlink(missing_ok=True)
            self.index.remove([key])
            return None
        self.index.touch(key)
        return found

    def put(self, key: str, answer: frames.Frame) -> None:
        """Stores an answer, unless it is too large or the disk is full."""
        raw = pack_entry(answer)
        if len(raw) > self.max_entry:
            return
        path = entry_path(self.folder, key)
        part = path.with_name(f".{key}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(raw)
            part.replace(path)
            self.index.add([(key, len(raw), time.time())])
        except OSError:
            with suppress(OSError):
                part.unlink()


def request_key(model: list[Any], frame: frames.Frame) -> str:
    """SHA-256 of the model's identity and the request."""
    form = {name: frame.extra.get(name) for name in ("format", "query", "content_type")}
    digest = hashlib.sha256()
    digest.update(orjson.dumps([*model, form, frame.json_size], option=orjson.OPT_SORT_KEYS))
    digest.update(frames.load_body(frame))
    return digest.hexdigest()


def entry_path(folder: Path, key: str) -> Path:
    """The file of an entry, below two levels of folders, as with nginx's levels=1:2."""
    return folder / key[-1] / key[-3:-1] / key


def pack_entry(answer: frames.Frame) -> bytes:
    """Magic, hash, header size, header, body."""
    kept = {"json_size": answer.json_size, "samples": answer.samples, "batch": answer.batch}
    text, body = orjson.dumps(kept), bytes(answer.body)
    digest = hashlib.sha256(text + body).digest()
    return _MAGIC + _PREFIX.pack(digest, len(text)) + text + body


def unpack_entry(raw: bytes) -> frames.Frame | None:
    """The answer in an entry; None if the entry is truncated, changed or in another format."""
    start = len(_MAGIC) + _PREFIX.size
    if len(raw) < start or not raw.startswith(_MAGIC):
        return None
    digest, size = _PREFIX.unpack_from(raw, len(_MAGIC))
    if hashlib.sha256(raw[start:]).digest() != digest:
        return None
    kept = orjson.loads(raw[start : start + size])
    return frames.Frame(frames.ANSWER, body=raw[start + size :], status=200, **kept)


def _take_lock(lock: Path) -> bool:
    """True if this process holds the lock now; breaks the lock of a process that has died."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        with suppress(OSError, ValueError):
            if not paths.is_alive(int(lock.read_text() or 0) or os.getpid()):
                lock.unlink(missing_ok=True)
        return False
    except OSError:
        return True  # the disk is full: compute without a lock
    os.write(fd, str(os.getpid()).encode())
    os.close(fd)
    return True
