"""multipart/form-data bodies: a list of (name, bytes)."""

import io

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header

from cupola.errors import InputError

_IN_MEMORY = {"MAX_MEMORY_FILE_SIZE": float("inf")}  # the body is in memory already


def parse_multipart(body: memoryview, content_type: str) -> list[tuple[str, bytes]]:
    """The parts in order; InputError if the body is malformed or has no boundary."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise InputError("multipart body without a boundary")
    parts: list[tuple[str, bytes]] = []

    def on_field(field: Field) -> None:
        parts.append((_decode(field.field_name), field.value or b""))

    def on_file(file: File) -> None:
        assert isinstance(file.file_object, io.BytesIO)
        parts.append((_decode(file.field_name), file.file_object.getvalue()))

    try:
        parser = FormParser(
            "multipart/form-data", on_field, on_file, boundary=boundary, config=_IN_MEMORY
        )
        parser.write(bytes(body))
        parser.finalize()
    except FormParserError as error:
        raise InputError(f"malformed multipart body: {error}") from None
    return parts


def _decode(name: bytes | None) -> str:
    return (name or b"").decode("utf-8", "replace")
