"""multipart/form-data bodies, parsed in memory."""

import pytest

from cupola.errors import InputError
from cupola.serve.http.multipart import parse_multipart

TYPE = "multipart/form-data; boundary=xyz"


def body(*parts: tuple[str, bytes]) -> memoryview:
    pieces = [b"--xyz\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n" for head, data in parts]
    return memoryview(b"".join(pieces) + b"--xyz--\r\n")


def test_parts_keep_their_order_and_bytes() -> None:
    large = bytes(range(256)) * 8192  # 2 MB, above the library's limit for files in memory
    found = parse_multipart(
        body(
            ('Content-Disposition: form-data; name="x"; filename="x.npy"', large),
            ("Content-Disposition: form-data; name=steps", b"3"),
            ('Content-Disposition: form-data; name="x"; filename="y.npy"', b"\r\n--xy"),
            ('Content-Disposition: form-data; name="empty"', b""),
        ),
        TYPE,
    )
    assert found == [("x", large), ("steps", b"3"), ("x", b"\r\n--xy"), ("empty", b"")]


@pytest.mark.parametrize(
    ("content_type", "data", "message"),
    [
        ("multipart/form-data", body(), "multipart body without a boundary"),
        (TYPE, memoryview(b"nonsense"), "malformed multipart body"),
        (TYPE, body(("Content-Type: text/plain", b"a")), "malformed multipart body: Field name"),
        (TYPE, body(("No header", b"a")), "malformed multipart body"),
    ],
)
def test_malformed_bodies_are_named(content_type: str, data: memoryview, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_multipart(data, content_type)
