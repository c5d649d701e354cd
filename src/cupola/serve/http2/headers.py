"""Header blocks of HTTP/2: decoded with the library hpack, encoded without compression state.

A client sends most of its blocks again and again, so they are decoded once for each state of the
connection's header table.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from cupola.serve.http2.frames import Code, Http2Error

MAX_FIELDS = 200
FIELD = 32  # bytes that each field counts besides its name and value (RFC 9113, 6.5.2)
CACHED, LARGEST = 64, 1024  # blocks that are kept, and bytes of the largest
_PSEUDO = (":method", ":scheme", ":path", ":authority")
_FORBIDDEN = {"connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade"}


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a request. Names are lower case; a field that is repeated is joined by commas."""

    method: str
    path: str
    headers: dict[str, str]


class HeaderDecoder:
    """Decodes the header blocks of one connection, of at most `limit` bytes when decoded.

    A larger one, up to twice the limit, is decoded for the sake of the header table and then
    refused, so that the other streams go on.
    """

    def __init__(self, limit: int) -> None:
        from hpack import Decoder, HPACKError, OversizedHeaderListError  # of an extra

        self._decoder, self._limit = Decoder(2 * limit), limit
        self._damaged, self._too_large = HPACKError, OversizedHeaderListError
        self._known: dict[bytes, Head] = {}

    def head(self, block: bytes, stream: int) -> Head:
        """The head of a request. Http2Error of the stream if it is malformed, or of the connection
        if the block is damaged or too large, since what follows it cannot be decoded any more.
        """
        found = self._known.get(block)
        if found is not None:
            return found
        before = self._state()
        fields = self.decode(block)
        size = sum(len(name) + len(value) + FIELD for name, value in fields)
        if size > self._limit:
            self._known.clear()
            text = f"a header of {size} bytes, at most {self._limit}"
            raise Http2Error(Code.ENHANCE_YOUR_CALM, text, stream)
        if self._state() != before:
            self._known.clear()  # the same bytes may now mean something else
            return head_of(fields, stream)
        found = head_of(fields, stream)
        if len(block) <= LARGEST and len(self._known) < CACHED:
            self._known[block] = found
        return found

    def decode(self, block: bytes) -> list[tuple[str, str]]:
        """The fields of a block, such as trailers; Http2Error as above."""
        try:
            fields = self._decoder.decode(block, raw=True)
        except self._too_large as error:
            raise Http2Error(Code.ENHANCE_YOUR_CALM, str(error)) from None
        except self._damaged as error:
            raise Http2Error(Code.COMPRESSION_ERROR, f"header block: {error}") from None
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value, *_ in fields]

    def forget(self) -> None:
        """Called after a block with trailers, which may change the header table."""
        self._known.clear()

    def _state(self) -> tuple[int, int, int]:
        table = self._decoder.header_table
        newest = id(table.dynamic_entries[0]) if table.dynamic_entries else 0
        return table.maxsize, len(table.dynamic_entries), newest


def head_of(fields: Iterable[tuple[str, str]], stream: int) -> Head:
    """The head of a request; Http2Error of the stream if it is malformed (RFC 9113, 8.1 to 8.3)."""
    pseudo: dict[str, str] = {}
    headers: dict[str, str] = {}
    count = 0
    for name, value in fields:
        count += 1
        if name.startswith(":"):
            if name not in _PSEUDO or name in pseudo or headers:
                raise _malformed(stream, f"pseudo-header {name!r}")
            pseudo[name] = value
            continue
        if name != name.lower() or name in _FORBIDDEN or (name == "te" and value != "trailers"):
            raise _malformed(stream, f"header {name!r}")
        if any(c in value for c in "\0\r\n"):
            raise _malformed(stream, f"a control character in header {name!r}")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if count > MAX_FIELDS:
        raise _malformed(stream, f"more than {MAX_FIELDS} header fields")
    if not (pseudo.get(":method") and pseudo.get(":path") and ":scheme" in pseudo):
        raise _malformed(stream, "no method, path or scheme")
    if ":authority" in pseudo:
        headers["host"] = pseudo[":authority"]
    return Head(pseudo[":method"], pseudo[":path"], headers)


def _malformed(stream: int, what: str) -> Http2Error:
    return Http2Error(Code.PROTOCOL_ERROR, f"malformed request: {what}", stream)


def encode(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A block of literals that leaves the client's header table as it is."""
    return b"".join(b"\0" + _string(name) + _string(value) for name, value in fields)


STATUS_200 = b"\x88"  # an entry of the static table


def _string(data: bytes) -> bytes:
    """Length and bytes, without Huffman coding (RFC 7541, 5.1 and 5.2)."""
    size = len(data)
    if size < 127:
        return bytes((size,)) + data
    size -= 127
    found = bytearray(b"\x7f")
    while size >= 128:
        found.append(size % 128 + 128)
        size //= 128
    found.append(size)
    return bytes(found) + data
