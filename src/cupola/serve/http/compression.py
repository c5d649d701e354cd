"""gzip and deflate, in both directions. Decompression stops at the size limit."""

import asyncio
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from cupola.serve.http.messages import HTTPError, Request

LARGE = 256 * 1024  # bytes; larger bodies are handled in a thread
SMALL = 4096  # bytes; smaller bodies are not compressed
AT_ONCE, MOST_WAITING = 2, 16  # bodies of one worker that are unpacked, and that may wait for it
PIECE = 256 * 1024  # plain bytes in memory at a time


class Decompressor:
    """Unpacks the compressed bodies of one worker: few at a time, large ones into a file.

    new_path: a path in the spool for a body of more than `threshold` bytes.
    limit: the largest body after decompression.
    """

    def __init__(self, limit: int, threshold: int, new_path: Callable[[], Path]) -> None:
        self._limit, self._threshold, self._new_path = limit, threshold, new_path
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    async def unpack(self, request: Request) -> None:
        """Replaces a compressed body by the plain one; other bodies stay as they are.

        HTTPError 415 for an unknown encoding, 429 if too many bodies wait, 413 over the limit.
        """
        encoding = request.headers.get("content-encoding", "identity").lower()
        if encoding in ("", "identity"):
            return
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise HTTPError(
                415, f"Content-Encoding {encoding!r}: only gzip and deflate are supported"
            )
        if self._waiting >= MOST_WAITING:
            busy = f"{self._waiting} compressed bodies wait to be unpacked"
            raise HTTPError(429, busy, [("Retry-After", "1")])
        self._waiting += 1
        try:
            async with self._slots:
                loop = asyncio.get_running_loop()
                body, path = await loop.run_in_executor(None, self._inflate, request)
        finally:
            self._waiting -= 1
        request.release()
        request.body, request.spooled = body, path

    def _inflate(self, request: Request) -> tuple[bytes, Path | None]:
        """The plain body: in memory, or in a file if it is large. Memory holds one piece more."""
        plain, path, size = bytearray(), None, 0
        file: BinaryIO | None = None
        try:
            for piece in _pieces(request.body_bytes()):
                size += len(piece)
                if size > self._limit:
                    raise HTTPError(413, f"the body decompresses to more than {self._limit} bytes")
                plain += piece
                if len(plain) > self._threshold:
                    if file is None:
                        path = self._new_path()
                        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
                        file = os.fdopen(os.open(path, flags, 0o600), "wb")
                    file.write(plain)
                    plain.clear()
            if file is not None:
                file.write(plain)
                file.close()
        except BaseException as error:
            if file is not None and path is not None:
                with suppress(OSError):
                    file.close()
                path.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise HTTPError(503, f"no space for the body: {error.strerror}") from None
            raise
        return (b"", path) if path is not None else (bytes(plain), None)


def _pieces(packed: bytes) -> Iterator[bytes]:
    """The plain bytes, at most PIECE at a time. HTTPError 400 if they are damaged or cut off.

    A gzip file may consist of several members one after the other, as pigz writes them.
    """
    engine, rest = _engine(), packed
    try:
        while rest:
            yield engine.decompress(rest, PIECE)
            rest = engine.unconsumed_tail
            if engine.eof and (rest := engine.unused_data):
                engine = _engine()
        yield engine.flush()
    except zlib.error as error:
        raise HTTPError(400, f"the compressed body is damaged: {error}") from None
    if not engine.eof:
        raise HTTPError(400, "the compressed body is truncated")


def _engine() -> "zlib._Decompress":
    return zlib.decompressobj(wbits=47)  # gzip or zlib, depending on the header


async def compress(body: bytes, accepted: str) -> tuple[bytes, str | None]:
    """The body in an encoding that the client accepts, and its name; None if uncompressed."""
    names = {part.split(";")[0].strip() for part in accepted.lower().split(",")}
    name = "gzip" if "gzip" in names else "deflate" if "deflate" in names else None
    if name is None or len(body) < SMALL:
        return body, None
    if len(body) < LARGE:
        return _deflate(body, name), name
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, _deflate, body, name), name


def _deflate(body: bytes, name: str) -> bytes:
    engine = zlib.compressobj(level=1, wbits=31 if name == "gzip" else 15)
    return engine.compress(body) + engine.flush()
