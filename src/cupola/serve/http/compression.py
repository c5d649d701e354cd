"""gzip and deflate, in both directions. Decompression stops at the size limit."""

import asyncio
import zlib

from cupola.serve.http.messages import HTTPError, Request

LARGE = 256 * 1024  # bytes; larger bodies are handled in a thread
SMALL = 4096  # bytes; smaller bodies are not compressed


async def decompress(request: Request, limit: int) -> bytes | None:
    """The decompressed body of a request; None if it is not compressed."""
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding in ("", "identity"):
        return None
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise HTTPError(415, f"Content-Encoding {encoding!r}: only gzip and deflate are supported")
    body = request.body_bytes()
    if len(body) < SMALL:
        return _inflate(body, limit)
    return await asyncio.get_running_loop().run_in_executor(None, _inflate, body, limit)


def _inflate(body: bytes, limit: int) -> bytes:
    engine = zlib.decompressobj(wbits=47)  # gzip or zlib, depending on the header
    try:
        whole = engine.decompress(body, limit + 1)
    except zlib.error as error:
        raise HTTPError(400, f"the compressed body is damaged: {error}") from None
    if len(whole) > limit:
        raise HTTPError(413, f"the body decompresses to more than {limit} bytes")
    if not engine.eof:
        raise HTTPError(400, "the compressed body is truncated")
    return whole


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
