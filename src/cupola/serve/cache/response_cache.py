"""The response cache: one file an answer, named by the hash of model, version and request.

An entry carries the hash of its content and appears by a rename, so half of one is never served
and a damaged one counts as missing. Of equal requests only one is computed: others in the same
worker wait for its result, others in other workers for its lock.
"""

import asyncio
import hashlib
import os
import struct
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import orjson

from cupola.serve.cache.index import CacheIndex
from cupola.serve.ipc import frames as wire
from cupola.serve.ipc import paths
from cupola.serve.worker.metrics import ModelMetrics
from cupola.serve.worker.runner_connections import Model

_MAGIC = b"CUPC2\n"
_PREFIX = struct.Struct("<32sI")  # SHA-256 of what follows, size of the JSON header
LOCK_PAUSE = 0.02


class Cache:
    """One worker's view of the cache folder."""

    def __init__(self, folder: Path, max_entry: int, max_age: float) -> None:
        self.folder, self.max_entry, self.max_age = folder, max_entry, max_age
        folder.mkdir(parents=True, exist_ok=True)
        self.index = CacheIndex(folder)
        self._flights: dict[str, asyncio.Future[None]] = {}

    async def through(
        self, model: Model, counts: ModelMetrics, frame: wire.Frame,
        compute: Callable[[], Awaitable[wire.Frame]],
    ) -> wire.Frame:  # fmt: skip
        """The stored answer, or a computed one, which is then stored."""
        key = self.key_of(model, frame)
        while (flight := self._flights.get(key)) is not None:
            await asyncio.wait([flight])  # the first of its kind; then look again
        if (found := self.get(key)) is not None:
            counts.hits += 1
            return found
        self._flights[key] = asyncio.get_running_loop().create_future()
        try:
            return await self._compute_alone(counts, key, compute)
        finally:
            self._flights.pop(key).set_result(None)

    async def _compute_alone(
        self, counts: ModelMetrics, key: str, compute: Callable[[], Awaitable[wire.Frame]]
    ) -> wire.Frame:
        lock = self.path_of(key).with_suffix(".lock")
        while not _take_lock(lock):
            await asyncio.sleep(LOCK_PAUSE)
            if (found := self.get(key)) is not None:
                return found
        try:
            if (found := self.get(key)) is not None:
                return found
            counts.misses += 1
            answer = await compute()
            if answer.status == 200:
                self.put(key, answer)
            return answer
        finally:
            lock.unlink(missing_ok=True)

    @staticmethod
    def key_of(model: Model, frame: wire.Frame) -> str:
        """SHA-256 over the model, its version, the bundle's fingerprint and the request."""
        digest = hashlib.sha256()
        form = {k: frame.extra.get(k) for k in ("format", "query", "content_type")}
        about = [model.name, model.version, model.about.get("fingerprint"), form, frame.json_size]
        digest.update(orjson.dumps(about, option=orjson.OPT_SORT_KEYS))
        digest.update(wire.collect(frame))
        return digest.hexdigest()

    def path_of(self, key: str) -> Path:
        """Two levels of folders, as nginx's levels=1:2."""
        return self.folder / key[-1] / key[-3:-1] / key

    def get(self, key: str) -> wire.Frame | None:
        """The entry, if it is whole and young enough."""
        path = self.path_of(key)
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

    def put(self, key: str, answer: wire.Frame) -> None:
        """Stores an answer; a full disk means that it is not stored."""
        raw = pack_entry(answer)
        if len(raw) > self.max_entry:
            return
        path = self.path_of(key)
        part = path.with_name(f".{key}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(raw)
            part.replace(path)
            self.index.add([(key, len(raw), time.time())])
        except OSError:
            with suppress(OSError):
                part.unlink()


def pack_entry(answer: wire.Frame) -> bytes:
    """Magic, hash, header size, header, body."""
    kept = {"json_size": answer.json_size, "samples": answer.samples, "batch": answer.batch}
    text, body = orjson.dumps(kept), bytes(answer.body)
    digest = hashlib.sha256(text + body).digest()
    return _MAGIC + _PREFIX.pack(digest, len(text)) + text + body


def unpack_entry(raw: bytes) -> wire.Frame | None:
    """The answer that an entry holds; None if it is cut, foreign or changed."""
    start = len(_MAGIC) + _PREFIX.size
    if len(raw) < start or not raw.startswith(_MAGIC):
        return None
    digest, size = _PREFIX.unpack_from(raw, len(_MAGIC))
    if hashlib.sha256(raw[start:]).digest() != digest:
        return None
    kept = orjson.loads(raw[start : start + size])
    return wire.Frame(wire.ANSWER, body=raw[start + size :], status=200, **kept)


def _take_lock(lock: Path) -> bool:
    """True if it is ours now; a lock whose process has died is broken."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        with suppress(OSError, ValueError):
            if not paths.is_alive(int(lock.read_text() or 0) or os.getpid()):
                lock.unlink(missing_ok=True)
        return False
    except OSError:
        return True  # no room even for a lock: compute without one
    os.write(fd, str(os.getpid()).encode())
    os.close(fd)
    return True
