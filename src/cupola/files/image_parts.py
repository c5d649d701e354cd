"""What a decoder needs of an image file; everything else is removed before a library sees it.

Texts, profiles, thumbnails, EXIF data and further frames are where image libraries spend memory and
time that no limit of pixels bounds: tags that all refer to the same megabytes, comments that are
joined piece by piece, millions of empty chunks. None of them changes the pixels of the first frame
but the orientation, which is read here.
"""

import re
import struct
from collections.abc import Callable, Iterator
from itertools import islice

MOST_PARTS = 100_000  # chunks, segments or blocks of a file: 64 MiB of PNG chunks of 1 KB
MOST_BLOCKS = 400_000  # of one part of a GIF file: 64 MiB of 168 bytes each; 255 are usual
MOST_SCANS = 100  # of a JPEG file; encoders write about ten, and each costs a pass over all pixels
MOST_STRIPS = 100_000  # strips or tiles of a TIFF file: 16 x 16 pixels each for 25 million
ORIENTATION = 0x0112  # tag of EXIF and TIFF
# Tags of TIFF that say how samples are stored, and which of their values is white.
TIFF_TAGS = {
    *(256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324),
    *(325, 332, 338, 339, 347, *range(512, 522), 529, 530, 531, 532, 281, 341, 50717),
}
TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
TIFF_SIZES |= {16: 8, 17: 8, 18: 8}
STRIPS = (273, 279, 324, 325)
_EXIF_ITEM = re.compile(rb"(infe[\2\3].{7}(?:..)?)Exif", re.DOTALL)

Parts = tuple[bytes, int]  # the file that a decoder gets, and its orientation, 1..8


class BadPartsError(ValueError):
    """A file whose metadata or pieces would take longer to read than its pixels, or are cut off."""


def essential(data: bytes) -> Parts:
    """A file without what its pixels do not need, and its EXIF orientation, 1 (upright) to 8.

    Raises BadPartsError for more parts than files have, and where one is cut off. Other damage is
    left for the decoder to refuse.
    """
    for start, read in _FORMATS:
        if data.startswith(start):
            try:
                return read(data)
            except (struct.error, IndexError):
                raise BadPartsError("it ends early") from None
    return _avif(data) if data[4:8] == b"ftyp" else (data, 1)


def exif_orientation(exif: bytes) -> int:
    """The orientation of EXIF data, 1 where it says nothing."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 14:
        return 1
    (offset,) = struct.unpack_from(order + "I", exif, 4)
    entries = exif[offset + 2 : offset + 2 + 12 * 0xFFFF]
    count = int.from_bytes(exif[offset : offset + 2], "little" if order == "<" else "big")
    for at in range(0, min(12 * count, len(entries) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", entries, at)
        if tag == ORIENTATION:
            form = {1: "B", 3: "H", 4: "I"}.get(kind, "H")
            return _known(struct.unpack_from(order + form, entries, at + 8)[0])
    return 1


def _known(orientation: int) -> int:
    return orientation if 1 <= orientation <= 8 else 1


def _counted(what: str, starts: Iterator[int]) -> Iterator[int]:
    yield from islice(starts, MOST_PARTS)
    if next(starts, None) is not None:
        raise BadPartsError(f"more than {MOST_PARTS} {what}")


def _png(data: bytes) -> Parts:
    """Critical chunks, tRNS and sBIT. Without those of an animation it is the still image."""
    view, orientation = memoryview(data), 1  # slices of it are no copies
    kept = [view[:8]]
    for at in _counted("chunks", _png_chunks(data)):
        size, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"eXIf":
            orientation = exif_orientation(data[at + 8 : at + 8 + size])
        elif kind[0] & 0x20 == 0 or kind in (b"tRNS", b"sBIT"):
            kept.append(view[at : at + 12 + size])
    return b"".join(kept), orientation


def _png_chunks(data: bytes) -> Iterator[int]:
    at = 8
    while at + 8 <= len(data):
        yield at
        at += 12 + int.from_bytes(data[at : at + 4], "big")


def _jpeg(data: bytes) -> Parts:
    """Every segment up to the first scan but comments and applications' other than JFIF, Adobe."""
    view, orientation, found = memoryview(data), 1, False
    kept = [view[:2]]
    for at in _counted("segments", _jpeg_segments(data)):
        kind, size = struct.unpack_from(">BH", data, at + 1)
        segment = view[at : at + 2 + max(size, 2)]
        if kind == 0xDA:
            if data.count(b"\xff\xda", at) > MOST_SCANS:
                raise BadPartsError(f"more than {MOST_SCANS} scans")
            kept.append(view[at:])
            break
        if kind == 0xE1 and not found and data.startswith(b"Exif\0\0", at + 4):
            orientation, found = exif_orientation(bytes(segment[4:])), True
        elif kind in (0xE0, 0xEE) or not (kind == 0xFE or 0xE0 <= kind <= 0xEF):
            kept.append(segment)
    return b"".join(kept), orientation


def _jpeg_segments(data: bytes) -> Iterator[int]:
    """Where the segments with a length start; what lies between them is skipped."""
    at = 2
    while (found := _MARKER.search(data, at)) is not None:
        at = found.end() - 2
        yield at
        at += 2 + max(int.from_bytes(data[at + 2 : at + 4], "big"), 2)


# A marker with a length: all but padding, restarts and the file's start and end.
_MARKER = re.compile(rb"\xff[\x02-\xcf\xda-\xfe]")


def _gif(data: bytes) -> Parts:
    """The first frame with its control block."""
    at = 13 + _gif_colors(data[10])
    view = memoryview(data)
    kept = [view[:at]]
    for _ in _counted("blocks", iter(range(len(data)))):
        kind = data[at]
        if kind == 0x3B:  # the end of the file
            break
        if kind not in (0x21, 0x2C):
            at += 1
            continue
        head = at + (2 if kind == 0x21 else 10 + _gif_colors(data[at + 9]) + 1)
        end = _gif_end(data, head)
        if kind == 0x2C or data[at + 1] == 0xF9:
            kept.append(view[at:end])
        if kind == 0x2C:
            break
        at = end
    return b"".join((*kept, b";")), 1


def _gif_colors(flags: int) -> int:
    """Bytes of the color table that is announced by a byte of flags."""
    return int(3 * 2 ** ((flags & 7) + 1)) if flags & 0x80 else 0


def _gif_end(data: bytes, at: int) -> int:
    """Where a row of blocks, each behind its size, ends; they are cut off where the file is."""
    for _ in range(MOST_BLOCKS):
        if at >= len(data) or not data[at]:
            return at + 1
        at += 1 + data[at]
    raise BadPartsError(f"more than {MOST_BLOCKS} blocks")


def _webp(data: bytes) -> Parts:
    for at in _counted("chunks", _webp_chunks(data)):
        if data[at : at + 4] == b"EXIF":
            size = int.from_bytes(data[at + 4 : at + 8], "little")
            return data, exif_orientation(data[at + 8 : at + 8 + size])
    return data, 1


def _webp_chunks(data: bytes) -> Iterator[int]:
    at = 12
    while at + 8 <= len(data):
        yield at
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2


def _avif(data: bytes) -> Parts:
    """Without the EXIF data; the orientation of an AVIF file is a property, which Pillow reads."""
    head = data[: 2**16]
    return _EXIF_ITEM.sub(rb"\1none", head) + data[2**16 :], 1


def _tiff(data: bytes) -> Parts:
    """The first directory with the tags of TIFF_TAGS, in the place of the old one."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    count_form, entry, offset_form = ("Q", "HHQ", "Q") if big else ("H", "HHI", "I")
    (offset,) = struct.unpack_from(order + offset_form, data, 8 if big else 4)
    (count,) = struct.unpack_from(order + count_form, data, offset)
    if count > MOST_PARTS:
        raise BadPartsError(f"{count} tags")
    size, orientation, kept = (20 if big else 12), 1, {}
    first = offset + struct.calcsize(order + count_form)
    for at in range(first, first + size * count, size):
        tag, kind, length = struct.unpack_from(order + entry, data, at)
        if tag == ORIENTATION and kind == 3:
            (value,) = struct.unpack_from(order + "H", data, at + struct.calcsize(order + entry))
            orientation = _known(value)
        if tag in TIFF_TAGS:
            _check_tag(tag, length, length * TIFF_SIZES.get(kind, 1))
            kept[tag] = data[at : at + size]
    entries = b"".join(kept[tag] for tag in sorted(kept))
    directory = struct.pack(order + count_form, len(kept)) + entries
    directory += struct.pack(order + offset_form, 0)
    view = memoryview(data)
    parts = (view[:offset], directory, view[offset + len(directory) :])
    return b"".join(parts), orientation


def _check_tag(tag: int, count: int, size: int) -> None:
    if tag in STRIPS and count > MOST_STRIPS:
        raise BadPartsError(f"more than {MOST_STRIPS} strips or tiles")
    if size > 8 * MOST_STRIPS:
        raise BadPartsError(f"a tag of {size} bytes")


_FORMATS: tuple[tuple[bytes, Callable[[bytes], Parts]], ...] = (
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"\xff\xd8\xff", _jpeg),
    (b"GIF8", _gif),
    (b"RIFF", _webp),
    (b"II*\0", _tiff),
    (b"MM\0*", _tiff),
    (b"II+\0", _tiff),
    (b"MM\0+", _tiff),
)
