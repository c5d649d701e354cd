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
from typing import Any

import orjson

from cupola.serve import paths, wire
from cupola.serve.cache_index import CacheIndex
from cupola.serve.links import Model

Answer = tuple[dict[str, Any], wire.Body]
_MAGIC = b"CUPC1\n"
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
        self, model: Model, header: dict[str, Any], body: wire.Body,
        compute: Callable[[], Awaitable[Answer]],
    ) -> Answer:  # fmt: skip
        """The stored answer, or a computed one, which is then stored."""
        key = self.key_of(model, header, body)
        while (flight := self._flights.get(key)) is not None:
            await asyncio.wait([flight])  # the first of its kind; then look again
        if (found := self.get(key)) is not None:
            model.statistics["hits"] = model.statistics.get("hits", 0) + 1
            return found
        self._flights[key] = asyncio.get_running_loop().create_future()
        try:
            return await self._compute_alone(model, key, compute)
        finally:
            self._flights.pop(key).set_result(None)

    async def _compute_alone(
        self, model: Model, key: str, compute: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        lock = self.path_of(key).with_suffix(".lock")
        while not _take_lock(lock):
            await asyncio.sleep(LOCK_PAUSE)
            if (found := self.get(key)) is not None:
                return found
        try:
            if (found := self.get(key)) is not None:
                return found
            model.statistics["misses"] = model.statistics.get("misses", 0) + 1
            answer = await compute()
            if answer[0]["status"] == 200:
                self.put(key, *answer)
            return answer
        finally:
            lock.unlink(missing_ok=True)

    @staticmethod
    def key_of(model: Model, header: dict[str, Any], body: wire.Body) -> str:
        """SHA-256 over the model, its version, the bundle's fingerprint and the request."""
        digest = hashlib.sha256()
        form = {k: header.get(k) for k in ("format", "json_size", "query", "content_type")}
        about = [model.name, model.version, model.about.get("fingerprint"), form]
        digest.update(orjson.dumps(about, option=orjson.OPT_SORT_KEYS))
        digest.update(Path(header["spool"]).read_bytes() if "spool" in header else body)
        return digest.hexdigest()

    def path_of(self, key: str) -> Path:
        """Two levels of folders, as nginx's levels=1:2."""
        return self.folder / key[-1] / key[-3:-1] / key

    def get(self, key: str) -> Answer | None:
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

    def put(self, key: str, header: dict[str, Any], body: wire.Body) -> None:
        """Stores an answer; a full disk means that it is not stored."""
        kept = {name: header[name] for name in ("status", "json_size", "samples", "batch")}
        raw = pack_entry(kept | {"times": [0.0, 0.0, 0.0], "waited": 0.0}, bytes(body))
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


def pack_entry(header: dict[str, Any], body: bytes) -> bytes:
    """Magic, hash, header size, header, body."""
    text = orjson.dumps(header)
    digest = hashlib.sha256(text + body).digest()
    return _MAGIC + _PREFIX.pack(digest, len(text)) + text + body


def unpack_entry(raw: bytes) -> Answer | None:
    """The header and body of an entry; None if it is cut, foreign or changed."""
    start = len(_MAGIC) + _PREFIX.size
    if len(raw) < start or not raw.startswith(_MAGIC):
        return None
    digest, size = _PREFIX.unpack_from(raw, len(_MAGIC))
    if hashlib.sha256(raw[start:]).digest() != digest:
        return None
    return orjson.loads(raw[start : start + size]), raw[start + size :]


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
