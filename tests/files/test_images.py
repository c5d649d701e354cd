"""Images as people and attackers send them."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from cupola.errors import InputError
from cupola.files.images import read_image
from cupola.structures.images import fit_size


def file(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1"])
def test_every_mode_of_png_becomes_rgb(mode: str) -> None:
    pixels = read_image(file(Image.new(mode, (7, 5))))
    assert pixels.shape == (5, 7, 3)
    assert pixels.dtype == np.uint8


def test_cmyk_jpeg_and_sixteen_bits() -> None:
    assert read_image(file(Image.new("CMYK", (7, 5)), "JPEG")).shape == (5, 7, 3)
    ramp = np.linspace(0, 65535, 35).reshape(5, 7).astype(np.uint16)
    pixels = read_image(file(Image.fromarray(ramp)))
    assert pixels.min() == 0
    assert pixels.max() == 255
    assert abs(int(pixels[2, 3, 0]) - 128) <= 1


def test_transparency_shows_white() -> None:
    assert read_image(file(Image.new("RGBA", (4, 4), (0, 0, 0, 0)))).min() == 255


def test_exif_turns_the_image_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_image(file(Image.new("RGB", (8, 4)), "JPEG", exif=exif)).shape == (8, 4, 3)


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels in a few hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"hello", "not an image"),
        (file(Image.new("RGB", (64, 64)), "JPEG")[:300], "broken"),
        (bomb(), "more than the"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "not an image"),
    ],
)
def test_bad_files_get_one_clear_line(content: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read_image(content, "photo.jpg")
    assert str(caught.value).startswith("photo.jpg: ")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF decoder")
def test_avif_is_read() -> None:
    pixels = read_image(file(Image.new("RGB", (9, 5), "red"), "AVIF"))
    assert pixels.shape == (5, 9, 3) and pixels[2, 4, 0] > 240


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match=r"absent\.png: cannot be read"):
        read_image(tmp_path / "absent.png")


@given(st.binary(max_size=200), st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"]))
def test_damaged_files_never_raise_anything_else(noise: bytes, kind: str) -> None:
    whole = bytearray(file(Image.new("RGB", (16, 16), "red"), kind))
    start = len(whole) // 3
    whole[start : start + len(noise)] = noise
    with contextlib.suppress(InputError):
        assert read_image(bytes(whole)).shape[2] == 3


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_resize_keeps_within_the_long_side(height: int, width: int) -> None:
    h, w = fit_size((height, width), 800, 1333)
    assert max(h, w) <= 1333
    assert min(h, w) <= 800
    assert min(h, w) >= 1
