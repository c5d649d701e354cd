"""How many pixels the images of a request have, read from their headers without decoding them.

A file of some kilobytes can have millions of pixels, and decoding a PNG takes about 0.2 s for each
million. So a request counts for the queue limit as what it costs: one, and one more for every
million pixels. What cannot be read counts nothing here; the runner refuses it. Images far back in
a body are not looked for: to send so much costs the client as much. Of base64 text in JSON only
the head is decoded.
"""

import binascii
import mmap
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import orjson

from cupola.errors import InputError
from cupola.serve.grpc.image_spans import image_spans
from cupola.serve.http.messages import HTTPError, Request
from cupola.serve.ipc.frames import Frame

UNIT = 1_000_000  # pixels that count like one more request
IMAGES = 8  # images of the largest size in one request, or more of a smaller one
SEARCHED = 32 * 1024**2  # bytes of a multipart body in which images are looked for
JSON_SIZE = 1_000_000  # bytes of JSON before binary tensors, above which these are not looked for
STRINGS = 2_000  # parts of JSON between quotes in which images are looked for: up to some 20 ms
SHORTEST = 64  # characters of base64 text that may be an image of a million pixels
HEADS = (4096, 256 * 1024)  # characters decoded, the second if the size comes after metadata

Data: TypeAlias = "bytes | bytearray | mmap.mmap"


def cost_of(request: Request, frame: Frame, model: dict[str, Any]) -> int:
    """What the request counts for the queue limit of a model, given its description.

    HTTPError 413 if its images have too many pixels in all.
    """
    for spec in model.get("inputs", ()):
        if spec["datatype"] == "BYTES":
            break
    else:
        return 1
    body_format = frame.extra.get("format", "v2")
    if body_format == "npy" or not (request.body or request.spooled):
        return 1
    total, most = 0, IMAGES * model["max_image_pixels"]
    for pixels in _images(_data(request), body_format, frame.json_size):
        total += pixels
        if total > most:
            raise HTTPError(413, f"the images have more than {most} pixels in all")
    return min(1 + total // UNIT, model["queue_limit"])


def _data(request: Request) -> Data:
    if request.spooled is None:
        return request.body
    with request.spooled.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _images(data: Data, body_format: str, json_size: int) -> Iterator[int]:
    """The pixels of each image."""
    if body_format == "image":
        yield pixels_at(data)
    elif body_format == "multipart":
        yield from (pixels_at(data, found.end()) for found in _PART.finditer(data, 0, SEARCHED))
    elif body_format == "grpc":
        yield from _in_message(data)
    else:
        yield from _texts(data, len(data) if json_size < 0 else json_size)
        if 0 <= json_size <= JSON_SIZE:
            yield from (pixels_at(data, start) for start in _elements(data, json_size))


def _in_message(data: Data) -> Iterator[int]:
    """The pixels of images in a message of gRPC, as files or as base64 text."""
    try:
        for _, (start, end) in zip(range(STRINGS), image_spans(data), strict=False):
            pixels = pixels_at(data, start)
            if not pixels and end - start >= SHORTEST:
                pixels = _pixels_of_text(data, start, end)
            yield pixels
    except InputError:
        return  # malformed, which the runner says better


def _texts(data: Data, json_size: int) -> Iterator[int]:
    """The pixels of images in JSON that are base64 text.

    JSON is not parsed. What is between two strings is looked at like a string: it is no base64.
    """
    end = data.find(b'"', 0, json_size)
    for _ in range(STRINGS):
        start, end = end + 1, data.find(b'"', end + 1, json_size)
        if end < 0:
            return
        if end - start >= SHORTEST:
            yield _pixels_of_text(data, start, end)


def _pixels_of_text(data: Data, start: int, end: int) -> int:
    """Width x height of the image in base64 text, alone or as a data URL; 0 if there is none."""
    for size in HEADS:
        file = _decoded(bytes(data[start : min(start + size, end)]))
        pixels = pixels_at(file)
        if pixels or start + size >= end or not file.startswith(_LATE):
            return pixels
    return 0


def _decoded(text: bytes) -> bytes:
    """The file that starts with this JSON string of base64 text; b"" if it is none."""
    try:
        if b"\\" in text:  # without an escape that is cut off
            cut = text.rfind(b"\\", -6)
            text = orjson.loads(b'"%b"' % (text if cut < 0 else text[:cut])).encode()
        after_url = text.find(b",", 0, 256) + 1
        text = text[after_url:].translate(_PLAIN, b" \t\r\n\v\f")
        return binascii.a2b_base64(text[: len(text) // 4 * 4])
    except ValueError:
        return b""


def _elements(data: Data, json_size: int) -> Iterator[int]:
    """The elements of binary BYTES tensors up to the first that is no image, as the runner reads
    them. Each follows its size, in four bytes.
    """
    try:
        inputs = orjson.loads(data[:json_size])["inputs"]
        at = json_size
        for each in inputs:
            end = at + int((each.get("parameters") or {}).get("binary_data_size", 0))
            while each.get("datatype") == "BYTES" and at + 4 < end and pixels_at(data, at + 4):
                yield at + 4
                at += 4 + int.from_bytes(data[at : at + 4], "little")
            at = end
    except (ValueError, LookupError, TypeError, AttributeError):
        return  # malformed, which the runner says better


def pixels_at(data: Data, start: int = 0) -> int:
    """Width x height of the image file that starts there; 0 if there is none."""
    for mark, read in _READERS.items():
        if data[start : start + len(mark)] == mark:
            try:
                width, height = read(data, start)
            except struct.error:  # cut off
                return 0
            return int(width) * int(height)
    return 0


# ---- formats: (width, height) from the bytes after `start`


def _png(data: Data, start: int) -> tuple[int, int]:
    return struct.unpack_from(">II", data, start + 16)


def _gif(data: Data, start: int) -> tuple[int, int]:
    return struct.unpack_from("<HH", data, start + 6)


def _bmp(data: Data, start: int) -> tuple[int, int]:
    width, height = struct.unpack_from("<ii", data, start + 18)
    return abs(width), abs(height)  # negative: the rows run from top to bottom


def _jpeg(data: Data, start: int) -> tuple[int, int]:
    """Segments up to the start of frame: marker, size, and for that: precision, height, width."""
    at = start + 2
    while True:
        mark, kind, size = struct.unpack_from(">BBH", data, at)
        if mark != 0xFF or size < 2:
            return 0, 0
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        at += 2 + size


def _webp(data: Data, start: int) -> tuple[int, int]:
    kind = data[start + 8 : start + 16]
    if kind == b"WEBPVP8X":
        low_width, high_width, low_height, high_height = struct.unpack_from(
            "<HBHB", data, start + 24
        )
        return low_width + (high_width << 16) + 1, low_height + (high_height << 16) + 1
    if kind == b"WEBPVP8L":
        (bits,) = struct.unpack_from("<I", data, start + 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"WEBPVP8 ":
        width, height = struct.unpack_from("<HH", data, start + 26)
        return width & 0x3FFF, height & 0x3FFF
    return 0, 0


def _tiff(data: Data, start: int) -> tuple[int, int]:
    """The first directory: entries of tag, type (3: short), count and value."""
    order = "<" if data[start : start + 1] == b"I" else ">"
    (offset,) = struct.unpack_from(order + "I", data, start + 4)
    (count,) = struct.unpack_from(order + "H", data, start + offset)
    found = {}
    for number in range(count):
        at = start + offset + 2 + 12 * number
        tag, kind, _ = struct.unpack_from(order + "HHI", data, at)
        if tag in (256, 257):
            (found[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, at + 8)
    return found.get(256, 0), found.get(257, 0)


def _ppm(data: Data, start: int) -> tuple[int, int]:
    """Text: the kind, the width and the height. At least one byte each, if not like that."""
    found = re.match(rb"P[1-7]\s+(\d{1,6})\s+(\d{1,6})\s", data[start : start + 64])
    return (int(found[1]), int(found[2])) if found else (1, 1)


def _avif(data: Data, start: int) -> tuple[int, int]:
    """The box `ispe`: version, width, height."""
    at = data.find(b"ispe", start, start + 4096)
    return struct.unpack_from(">II", data, at + 8) if at >= 0 else (0, 0)


_READERS: dict[bytes, Callable[[Data, int], tuple[int, int]]] = {
    b"\x89PNG\r\n\x1a\n": _png,
    b"\xff\xd8\xff": _jpeg,
    b"GIF87a": _gif,
    b"GIF89a": _gif,
    b"RIFF": _webp,
    b"II*\0": _tiff,
    b"MM\0*": _tiff,
    b"\0\0\0 ftypavi": _avif,
    b"BM": _bmp,
    b"P": _ppm,
}
_LATE = (b"\xff\xd8\xff", b"II*\0", b"MM\0*")  # whose size may come after much else
_PLAIN = bytes.maketrans(b"-_", b"+/")  # from the alphabet of RFC 4648, section 5
_PART = re.compile(b"\r\n\r\n(?=" + b"|".join(map(re.escape, _READERS)) + b")")
