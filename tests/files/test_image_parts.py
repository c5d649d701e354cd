"""Image files whose metadata or pieces cost more than their pixels."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from cupola.errors import InputError
from cupola.files.image_parts import essential, exif_orientation
from cupola.files.images import read_image, read_size

PICTURE = Image.effect_noise((24, 16), 60).convert("RGB")


def file(kind: str, image: Image.Image = PICTURE, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def segment(kind: int, data: bytes = b"") -> bytes:
    return struct.pack(">BBH", 0xFF, kind, len(data) + 2) + data


def overlapping(count: int, size: int) -> bytes:
    """EXIF data of many tags that all have the same `size` bytes as their value."""
    entries = [struct.pack("<HHII", 300 + i, 7, size, 8) for i in range(count)]
    start = b"II*\0\x08\0\0\0" + struct.pack("<H", count)
    return (start + b"".join(entries) + bytes(4)).ljust(size + 8, b"\0")


def tiff(tags: dict[int, tuple[int, int, int]], rest: bytes = b"", big: bool = False) -> bytes:
    """A gray TIFF of 8 x 8 zeros; tags: type, count and value."""
    plain = {256: (3, 1, 8), 257: (3, 1, 8), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1)}
    plain |= {273: (4, 1, 8), 277: (3, 1, 1), 278: (3, 1, 8), 279: (4, 1, 64)}
    form, head = ("<HHQQ", "<2sHHHQQ") if big else ("<HHII", "<2sHIH")
    entries = sorted((plain | tags).items())
    fields = (b"II", 43, 8, 0, 16, len(entries)) if big else (b"II", 42, 8, len(entries))
    start = struct.pack(head, *fields)
    return (
        start + b"".join(struct.pack(form, tag, *rest) for tag, rest in entries) + bytes(8) + rest
    )


PNG, JPEG, GIF = file("PNG"), file("JPEG"), file("GIF")
TABLE = 13 + 3 * 2 ** ((GIF[10] & 7) + 1)  # where the first block of the GIF file is
TEXT = b"k\0\1\0\0\0" + zlib.compress(bytes(10**6))
COMMENT = b"!\xfe" + (b"\xff" + bytes(255)) * 1000 + b"\0"
DROPPED = {
    "texts of a megabyte each": (PNG, PNG[:33] + chunk(b"iTXt", TEXT) * 200 + PNG[33:]),
    "texts after the pixels": (PNG, PNG[:-12] + chunk(b"zTXt", TEXT) * 200 + PNG[-12:]),
    "a profile of a gigabyte": (PNG, PNG[:33] + chunk(b"iCCP", b"p\0\0" + TEXT) + PNG[33:]),
    "tags of a PNG": (PNG, PNG[:33] + chunk(b"eXIf", overlapping(5000, 10**6)) + PNG[33:]),
    "further frames": (PNG, PNG[:33] + chunk(b"fdAT", bytes(99)) * 50 + PNG[33:]),
    "tags of a JPEG": (
        JPEG,
        JPEG[:2] + segment(0xE1, b"Exif\0\0" + overlapping(5000, 65000)[:65000]) + JPEG[2:],
    ),
    "parts of EXIF data": (
        JPEG,
        JPEG[:2] + segment(0xE1, b"Exif\0\0" + bytes(60000)) * 50 + JPEG[2:],
    ),
    "an index of images": (
        JPEG,
        JPEG[:2] + segment(0xE2, b"MPF\0" + overlapping(5000, 60000)[:65000]) + JPEG[2:],
    ),
    "padding and junk": (JPEG, JPEG[:2] + b"\xff" * 10**6 + b"\0x" * 10**6 + JPEG[2:]),
    "comments of a JPEG": (JPEG, JPEG[:2] + segment(0xFE, bytes(60000)) * 50 + JPEG[2:]),
    "comments of a GIF": (GIF, GIF[:TABLE] + COMMENT * 5 + GIF[TABLE:]),
    "a comment after junk": (GIF, GIF[:TABLE] + b"junk" + COMMENT + GIF[TABLE:]),
    "frames of a GIF": (GIF, GIF[:-1] + GIF[TABLE:-1] * 100 + GIF[-1:]),
    "tags of a TIFF": (
        tiff({}),
        tiff({700 + i: (7, 10**6, 8) for i in range(500)}, bytes(10**6)),
    ),
    "tags of a large TIFF": (
        tiff({}, big=True),
        tiff({700 + i: (7, 10**6, 8) for i in range(500)}, bytes(10**6), big=True),
    ),
    "other directories": (tiff({}), tiff({34665: (4, 1, 8), 34853: (4, 1, 8)})),
}


@pytest.mark.parametrize("name", DROPPED)
def test_what_pixels_do_not_need_is_dropped(name: str) -> None:
    plain, bomb = DROPPED[name]
    found, orientation = essential(bomb)
    assert orientation == 1
    if plain[:2] == b"II":  # its directory is rewritten in its place, and the rest stays
        tags = int.from_bytes(found[16:24] if found[2] == 43 else found[8:10], "little")
        assert tags <= 9
    else:
        assert len(found) <= len(plain)
    assert (read_image(bomb) == read_image(plain)).all()


Z = zlib.compress(bytes(10**7))
REFUSED = {
    "empty chunks": (PNG[:33] + chunk(b"IDAT") * 100_001 + PNG[33:], "more than 100000 chunks"),
    "empty texts": (PNG[:33] + chunk(b"tEXt") * 100_001 + PNG[33:], "more than 100000 chunks"),
    "empty segments": (
        JPEG[:2] + segment(0xE5) * 100_001 + JPEG[2:],
        "more than 100000 segments",
    ),
    "scans": (JPEG[:-2] + JPEG[JPEG.index(b"\xff\xda") :] * 100, "more than 100 scans"),
    "blocks": (GIF[:TABLE] + b"!\xfe\1c\0" * 100_001 + GIF[TABLE:], "more than 100000 blocks"),
    "small blocks": (
        GIF[:TABLE] + b"!\xfe" + b"\1c" * 400_001 + b"\0" + GIF[TABLE:],
        "more than 400000 blocks",
    ),
    "WebP chunks": (
        b"RIFF\0\0\0\0WEBP" + b"XXXX\0\0\0\0" * 100_001,
        "more than 100000 chunks",
    ),
    "strips": (tiff({273: (4, 200_000, 8)}, bytes(10**6)), "more than 100000 strips"),
    "tiles": (tiff({324: (16, 200_000, 8)}, bytes(2 * 10**6), big=True), "more than 100000 strips"),
    "a long needed tag": (tiff({320: (3, 10**6, 8)}, bytes(2 * 10**6)), "a tag of 2000000 bytes"),
    "endless tags": (tiff({}, big=True)[:16] + b"\xff" * 200, "tags"),
    "tags that are not there": (tiff({})[:8] + b"\xff\xff" + tiff({})[10:], "it ends early"),
    "a tile of gigabytes": (
        tiff({259: (3, 1, 8), 322: (4, 1, 40000), 323: (4, 1, 40000), 324: (4, 1, 8)}, Z),
        "8 x 8 pixels of such a TIFF file take 1600 MB",
    ),
    "a comment in a header": (b"P6\n#" + bytes(10**6) + b"\n8 8\n255\n" + bytes(192), "broken"),
    "text pixels": (b"P2\n2000 2000\n255\n" + b"1 " * 4_000_000, "take too long"),
    "a run-length bitmap": (
        b"BM" + struct.pack("<IHHI", 0, 0, 0, 1078) + struct.pack(
            "<IiiHHIIiiII", 40, 3000, 3000, 1, 8, 1, 0, 0, 0, 256, 256
        ) + bytes(1024) + b"\1\1" * 2_200_000,
        "take too long",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_more_parts_than_files_have_are_refused(name: str) -> None:
    bomb, words = REFUSED[name]
    with pytest.raises(InputError, match=words):
        read_image(bomb)


def test_scans_count_for_their_time() -> None:
    whole = file("JPEG", Image.new("L", (2000, 1500)), progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    many = whole[:-2] + last * 80 + whole[-2:]
    assert read_image(whole, max_pixels=4_000_000).shape == (1500, 2000, 3)
    with pytest.raises(InputError, match=r"2000 x 1500 pixels of such a JPEG file take \d+ MB"):
        read_image(many, max_pixels=4_000_000)


def png_exif(data: bytes, exif: bytes) -> bytes:
    return data[:33] + chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")) + data[33:]


def webp_exif(_: bytes, exif: bytes) -> bytes:
    return file("WEBP", lossless=True, exif=exif)


def tiff_exif(_: bytes, exif: bytes) -> bytes:
    return file("TIFF", tiffinfo={274: exif_orientation(exif)})


WRITERS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "JPEG": lambda data, exif: data[:2] + segment(0xE1, exif) + data[2:],
    "PNG": png_exif,
    "WEBP": webp_exif,
    "TIFF": tiff_exif,
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", WRITERS)
def test_orientation_is_as_pillow_turns_it(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = file(kind, **({"lossless": True} if kind == "WEBP" else {}))
    turned = WRITERS[kind](plain, exif.tobytes())
    turns = [Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180]
    turns += [Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.TRANSPOSE]
    turns += [Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90]
    expected = Image.fromarray(read_image(plain))
    if orientation > 1:
        expected = expected.transpose(turns[orientation - 2])
    found = read_image(turned)
    assert (found == np.asarray(expected)).all()
    assert found.flags.c_contiguous
    (tmp_path / "turned").write_bytes(turned)
    assert read_size(tmp_path / "turned") == found.shape[:2]


@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_of_odd_exif_data(order: str) -> None:
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)

    def exif(kind: int, value: int, form: str, count: int = 1) -> bytes:
        entry = struct.pack(order + "HHI", 0x0112, kind, 1)
        field = struct.pack(order + form, value).ljust(4, b"\0")
        return start + struct.pack(order + "H", count) + entry + field + bytes(4)

    assert exif_orientation(exif(3, 6, "H")) == 6
    assert exif_orientation(exif(4, 8, "I")) == 8
    assert exif_orientation(exif(3, 6, "H", count=65535)) == 6
    assert exif_orientation(exif(3, 9, "H")) == 1
    assert exif_orientation(exif(3, 6, "H")[:16]) == 1
    assert exif_orientation(b"Exif\0\0") == exif_orientation(start + b"\xff" * 3) == 1


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF decoder")
def test_an_avif_frame_larger_than_the_file_says() -> None:
    """64 x 64 pixels by the file, whose frame has 7000 x 7000."""
    name = "fuzz/corpus/image/frame_larger_than_it_says.avif"
    with pytest.raises(InputError, match="the image is broken"):
        read_image(Path(__file__).parents[1] / name)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF decoder")
def test_avif_with_exif_data_and_alpha() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a text"
    turned = file("AVIF", PICTURE, exif=exif.tobytes())
    assert b"\0\0Exif" in turned and b"\0\0none" in essential(turned)[0]
    assert read_image(turned).shape == (24, 16, 3)
    clear = Image.new("RGBA", (24, 16), (0, 0, 0, 0))
    assert read_image(file("AVIF", clear)).min() == 255
