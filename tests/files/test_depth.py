"""Images of more than 8 bits a sample, as cameras, scanners and scientific tools write them."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from cupola.files.images import read_image

Array = np.ndarray[Any, Any]
COLOR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}  # of PNG, by the number of channels


def chunk(kind: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def png(values: Array, *extra: bytes) -> bytes:
    """A PNG of 16 bits with samples [H, W, C] and further chunks."""
    height, width, channels = values.shape
    rows = values.astype(">u2").reshape(height, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 16, COLOR_TYPE[channels], 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            *extra,
            chunk(b"IDAT", zlib.compress(data)),
            chunk(b"IEND", b""),
        )
    )


def tiff(image: Image.Image, tags: dict[int, Any]) -> bytes:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[tag] = value
        info.tagtype[tag] = 12 if isinstance(value, float) else 3
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", tiffinfo=info)
    return buffer.getvalue()


def ramp(top: int, channels: int = 1) -> Array:
    flat = np.linspace(0, top, 20 * channels).round().astype(np.uint16)
    return flat.reshape(4, 5, channels)


def eighths(values: Array, top: float) -> Array:
    """What the samples are in 8 bits if `top` is white."""
    return np.asarray((values / top * 255).round(), np.int64)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("top", "white"), [(4095, 4095), (3000, 4095), (65535, 65535)])
def test_samples_up_to_4095_are_of_12_bits_in_png(channels: int, top: int, white: int) -> None:
    values = ramp(top, channels)
    if channels in (2, 4):
        values[..., -1] = 65535
    found = read_image(png(values)).astype(int)
    colors = values[..., :-1] if channels in (2, 4) else values
    assert abs(found - eighths(colors, white)).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_the_significant_bits_of_a_png_decide(bits: int, channels: int) -> None:
    said = chunk(b"sBIT", bytes([bits] * channels))
    values = ramp((1 << bits) - 1, channels)
    found = read_image(png(values, said)).astype(int)
    assert abs(found - eighths(values, (1 << bits) - 1)).max() <= 1


def test_significant_bits_stored_as_the_standard_says() -> None:
    said = chunk(b"sBIT", bytes([12]))
    dark = ramp(200) << 4  # 200 of 4095, scaled up to 16 bits
    assert abs(read_image(png(dark, said)).astype(int) - eighths(dark, 65535)).max() <= 1
    whole = chunk(b"sBIT", bytes([16]))
    dark = ramp(4000)
    assert abs(read_image(png(dark, whole)).astype(int) - eighths(dark, 65535)).max() <= 1


def test_an_exceeded_declaration_is_not_believed() -> None:
    values = ramp(65535)
    found = read_image(png(values, chunk(b"sBIT", bytes([12])))).astype(int)
    assert abs(found - eighths(values, 65535)).max() <= 1


def test_transparent_colors_of_16_bits_are_white() -> None:
    values = np.full((2, 2, 1), 4096, np.uint16)
    values[0, 0] = 8192
    found = read_image(png(values, chunk(b"tRNS", struct.pack(">H", 8192))))
    assert found[..., 0].tolist() == [[255, 16], [16, 16]]
    values = np.full((2, 2, 3), 0xA000, np.uint16)
    values[0, 0] = (0xA000, 0xA001, 0xA000)
    found = read_image(png(values, chunk(b"tRNS", struct.pack(">3H", *values[0, 0].tolist()))))
    assert found[..., 0].tolist() == [[255, 159], [159, 159]]


@pytest.mark.parametrize(
    ("tags", "top", "white"),
    [
        ({}, 4095, 4095),
        ({}, 16383, 65535),
        ({281: 16383}, 16383, 16383),  # MaxSampleValue
        ({281: 900}, 900, 1023),  # the largest of this image, not of the camera
        ({341: 1023}, 1023, 1023),  # SMaxSampleValue
        ({50717: 16383}, 5000, 16383),  # WhiteLevel
        ({281: 65535}, 4000, 65535),
        ({281: 255}, 60000, 65535),
    ],
)
def test_tags_of_tiff_decide(tags: dict[int, Any], top: int, white: int) -> None:
    values = ramp(top)[..., 0]
    found = read_image(tiff(Image.fromarray(values), tags))[..., 0].astype(int)
    assert abs(found - eighths(values, white)).max() <= 1


def tiff_of_colors(values: Array, order: str, compressed: bool) -> bytes:
    """A TIFF of 16 bits with samples [H, W, 3], in the byte order "<" or ">"."""
    height, width, _ = values.shape
    data = values.astype(f"{order}u2").tobytes()
    data = zlib.compress(data) if compressed else data
    bits_at = 8 + 2 + 12 * 9 + 4
    entries = [
        *(
            (256, 3, 1, width),
            (257, 3, 1, height),
            (258, 3, 3, bits_at),
            (259, 3, 1, 8 if compressed else 1),
        ),
        *((262, 3, 1, 2), (273, 4, 1, bits_at + 6), (277, 3, 1, 3), (278, 3, 1, height)),
        (279, 4, 1, len(data)),
    ]
    content = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    content += struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in entries:
        content += struct.pack(f"{order}HHI", tag, kind, count)
        single = kind == 3 and count == 1
        content += (
            struct.pack(f"{order}HH", value, 0) if single else struct.pack(f"{order}I", value)
        )
    return content + struct.pack(f"{order}I3H", 0, 16, 16, 16) + data


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("top", "white"), [(4095, 4095), (60000, 65535)])
def test_colors_of_tiff(order: str, top: int, white: int, compressed: bool) -> None:
    values = ramp(top, 3)
    found = read_image(tiff_of_colors(values, order, compressed)).astype(int)
    assert abs(found - eighths(values, white)).max() <= 1


def test_pgm_states_its_maximum() -> None:
    values = ramp(4000)
    content = b"P5 5 4 65535\n" + values.astype(">u2").tobytes()
    assert abs(read_image(content).astype(int) - eighths(values, 65535)).max() <= 1
    content = b"P5 5 4 4095\n" + values.astype(">u2").tobytes()
    assert abs(read_image(content).astype(int) - eighths(values, 4095)).max() <= 1


@pytest.mark.parametrize(
    ("top", "white"),
    [(1.0, 1), (0.4, 1), (1.03, 1), (255.0, 255), (100.0, 255), (4000.0, 4095), (1e6, 1e6)],
)
def test_floats_of_tiff(top: float, white: float) -> None:
    values = np.linspace(0, top, 20, dtype=np.float32).reshape(4, 5)
    found = read_image(tiff(Image.fromarray(values), {}))[..., 0].astype(int)
    assert abs(found - eighths(values, white).clip(0, 255)).max() <= 1


def test_floats_with_holes_and_a_declared_maximum() -> None:
    values = np.array([[np.nan, -1.0], [100.0, np.inf]], np.float32)
    found = read_image(tiff(Image.fromarray(values), {}))[..., 0]
    assert found.tolist() == [[0, 0], [100, 255]]
    values = np.array([[0.0, 1.0]], np.float32)
    found = read_image(tiff(Image.fromarray(values), {341: 255.0}))[..., 0]
    assert found.tolist() == [[0, 1]]


def test_exif_turns_images_of_16_bits() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    gray = io.BytesIO()
    Image.fromarray(ramp(4095)[..., 0]).save(gray, "PNG", exif=exif)
    found = read_image(gray.getvalue())
    assert found.shape == (5, 4, 3)
    assert found[0, -1, 0] == 0
    assert found[-1, 0, 0] == 255
    colors = read_image(png(ramp(4095, 3), chunk(b"eXIf", exif.tobytes()[6:])))
    assert colors.shape == (5, 4, 3)
    assert colors.max() == 255
