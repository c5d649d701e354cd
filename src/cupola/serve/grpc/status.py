"""gRPC's status codes, from the HTTP statuses that the server uses."""

from urllib.parse import quote

from cupola.serve.http2.headers import STATUS_200, encode

OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND = range(6)
PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 7, 8, 12, 13
UNAVAILABLE, UNAUTHENTICATED = 14, 16
_OF_HTTP = {
    200: OK, 400: INVALID_ARGUMENT, 401: UNAUTHENTICATED, 403: PERMISSION_DENIED, 404: NOT_FOUND,
    405: UNIMPLEMENTED, 408: DEADLINE_EXCEEDED, 413: RESOURCE_EXHAUSTED, 415: UNIMPLEMENTED,
    429: RESOURCE_EXHAUSTED, 499: CANCELLED, 500: INTERNAL, 501: UNIMPLEMENTED, 503: UNAVAILABLE,
    504: DEADLINE_EXCEEDED,
}  # fmt: skip
MAX_MESSAGE = 1500  # characters; clients limit the size of trailers
_PLAIN = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"


def code_of(status: int) -> int:
    """The gRPC status for an HTTP status."""
    return _OF_HTTP.get(status, UNKNOWN)


HEAD = STATUS_200 + encode(
    [(b"content-type", b"application/grpc"), (b"grpc-accept-encoding", b"identity,deflate,gzip")]
)
TRAILERS_OK = encode([(b"grpc-status", b"0")])


def head_with(request_id: str) -> bytes:
    """The head of every response."""
    return HEAD + encode([(b"x-request-id", request_id.encode("latin-1", "replace"))])


def trailers(status: int, message: str, headers: list[tuple[str, str]]) -> bytes:
    """The end of a failed call: the status of HTTP as gRPC's, the message, when to try again."""
    text = quote(message[:MAX_MESSAGE], safe=_PLAIN).encode()
    found = [(b"grpc-status", str(code_of(status)).encode()), (b"grpc-message", text)]
    for name, value in headers:
        found.append((name.lower().encode(), value.encode("latin-1", "replace")))
        if name.lower() == "retry-after" and value.isdecimal():
            found.append((b"grpc-retry-pushback-ms", str(int(value) * 1000).encode()))
    return encode(found)
