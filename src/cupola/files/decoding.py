"""What decoding an opened image costs, and its pixels in bands.

Pillow keeps 4 bytes for a pixel of most modes, and the result has 3. That is what an image of 8-bit
RGB takes; the other kinds count as many of its pixels as they take more memory or time.
"""

import io
import mmap
import struct
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from cupola.files.depth import BAND, bands_of_8_bits, has_16_bit_colors
from cupola.files.guard import guarded

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

BYTES_PER_PIXEL = 7
WEBP_BYTES = 12  # two frames of the animation decoder, and its result or the lossless decoder's
AVIF_BYTES = 10  # planes of 8 bits, their copy as RGB, and that of Pillow
USUAL_SCANS = 20  # of a progressive JPEG; libjpeg writes 10, or 18 for CMYK
CHILD_MEMORY = 32 * 2**20  # bytes for small things of a decoder in a child process
SECONDS_PER_PIXEL = 2e-7
LARGEST_SLOW = 4 * 2**20  # bytes for the decoders of Pillow that are written in Python
SLOW_DECODERS = ("ppm_plain", "bmp_rle")
# Tags of TIFF.
WIDTH, HEIGHT, BITS, SAMPLES, ROWS_PER_STRIP, PLANAR, TILE_WIDTH, TILE_HEIGHT = (
    *(256, 257, 258, 277, 278, 284, 322, 323),
)


def bytes_needed(image: Image.Image, data: bytes) -> int:
    """Bytes of memory that decoding an opened image takes, or as much as its time is worth."""
    width, height = image.size
    pixels = width * height
    if has_16_bit_colors(image):  # decoded twice
        return 2 * BYTES_PER_PIXEL * pixels + _strip_bytes(image)
    if image.format == "JPEG":
        return max(BYTES_PER_PIXEL * pixels, 4 * pixels + _coefficient_bytes(data, pixels))
    if image.format == "WEBP":
        return WEBP_BYTES * pixels
    if image.format == "AVIF":
        return _avif_bytes(data) * pixels
    return max(BYTES_PER_PIXEL * pixels, 4 * pixels + _strip_bytes(image))


def _coefficient_bytes(data: bytes, pixels: int) -> int:
    """What the decoder keeps of a JPEG file of several scans: two bytes for every sample.

    More than USUAL_SCANS count for their time.
    """
    at, sampling, progressive = 2, [(1, 1)], False
    while at + 9 < len(data):
        kind, size = struct.unpack_from(">xBH", data, at)
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            progressive = kind & 3 == 2
            factors = data[at + 11 : at + 10 + 3 * data[at + 9] : 3]
            sampling = [(each >> 4, each & 15) for each in factors] or sampling
        if kind == 0xDA:
            if not progressive and data[at + 4] >= len(sampling):
                return 0
            break
        at += 2 + max(size, 2)
    most = max(w for w, _ in sampling) * max(h for _, h in sampling)
    passes = max(1.0, data.count(b"\xff\xda", at) / USUAL_SCANS)
    return int(2 * pixels * sum(w * h for w, h in sampling) / max(most, 1) * passes)


def _avif_bytes(data: bytes) -> int:
    """Bytes per pixel, by the boxes at the start: samples of more than 8 bits, alpha, a grid."""
    at = data.find(b"av1C")
    deep = at < 0 or len(data) < at + 7 or data[at + 6] & 0x40
    alpha, grid = b"auxC" in data, b"grid" in data[: 2**16]
    return AVIF_BYTES + 4 * bool(deep) + 4 * alpha + 8 * grid


def _strip_bytes(image: Image.Image) -> int:
    """The buffer for one strip or tile of a compressed TIFF file."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 0
    tags: Any = image.tag_v2
    if image.info.get("compression") == "raw":
        return 0
    width, height = tags.get(TILE_WIDTH), tags.get(TILE_HEIGHT)
    if width is None or height is None:
        width, height = tags[WIDTH], min(tags.get(ROWS_PER_STRIP, 2**32), tags[HEIGHT])
    bits = max(tags.get(BITS, (1,))) * (1 if tags.get(PLANAR) == 2 else tags.get(SAMPLES, 1))
    return int(width * height * max(bits, 32 if image.mode in ("RGB", "YCbCr") else 1) // 8)


def decoded(image: Image.Image, data: bytes) -> Pixels:
    """[H, W, 3] of an opened image, with transparency over white."""
    if image.format == "AVIF":
        return _in_child(image, data)
    return rgb_pixels(_bands_of(image, data), image.size)


def _in_child(image: Image.Image, data: bytes) -> Pixels:
    """Decoded in a child process, since a frame may be far larger than the file says at first."""
    width, height = image.size
    shared = np.frombuffer(mmap.mmap(-1, 3 * width * height), np.uint8).reshape(height, width, 3)

    def decode() -> None:
        _fill(shared, _bands_of(image, data))

    if sys.platform != "linux":
        decode()
        return shared
    pixels, size = width * height, bytes_needed(image, data)
    reason = guarded(decode, memory=size + CHILD_MEMORY, seconds=1 + SECONDS_PER_PIXEL * pixels)
    if reason is not None:
        raise ValueError(reason)
    return shared


def rgb_pixels(bands: Iterator[Image.Image], size: tuple[int, int]) -> Pixels:
    """[H, W, 3] of an image (width, height) that comes in bands of 8 bits a sample, of any mode."""
    found = np.empty((size[1], size[0], 3), np.uint8)
    _fill(found, bands)
    return found


def _fill(pixels: Pixels, bands: Iterator[Image.Image]) -> None:
    top = 0
    for band in bands:
        pixels[top : top + band.height] = np.asarray(_to_rgb(band))
        top += band.height


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode of 8 bits -> RGB; transparency over white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() == (255, 255):
            return image.convert("RGB")
        canvas = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(canvas, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _bands_of(image: Image.Image, data: bytes) -> Iterator[Image.Image]:
    """The pixels of an opened image, from top to bottom, in modes of 8 bits a sample."""
    tiles = getattr(image, "tile", None) or [None]
    codec = getattr(tiles[0], "codec_name", "")
    if codec in SLOW_DECODERS and len(data) > LARGEST_SLOW:
        raise ValueError(
            f"such files of more than {LARGEST_SLOW} bytes take too long; save it as PNG"
        )
    if codec == "ppm":
        _scale_ppm(image, tiles[0], data)
    if image.format in ("WEBP", "AVIF") and hasattr(image, "_decoder"):
        return _of_frame(image)
    return bands_of_8_bits(image, data)


def _of_frame(image: Any) -> Iterator[Image.Image]:
    """The first frame, from Pillow's decoder itself: its image would be one more copy.

    The decoder is dropped, with the frames that it keeps.
    """
    decoder, image._decoder = image._decoder, None
    frame = decoder.get_next() if image.format == "WEBP" else decoder.get_frame(0)
    del decoder
    if frame is None:
        raise ValueError("its first frame is damaged")
    width, height = image.size
    pixels = np.frombuffer(frame[0], np.uint8).reshape(height, width, -1)
    count, step = len(image.getbands()), max(1, BAND // width)  # RGB may have a byte of padding
    for top in range(0, height, step):
        yield Image.fromarray(np.ascontiguousarray(pixels[top : top + step, :, :count]))


def _scale_ppm(image: Any, tile: Any, data: bytes) -> None:
    """Samples whose maximum is not that of their bits are scaled here: Pillow takes 0.7 us each."""
    raw_mode, most = tile.args
    kind, offset = ">u2" if most > 255 else "u1", tile.offset
    count = image.width * image.height * len(image.getbands())
    samples = np.frombuffer(
        data, kind, min(count, (len(data) - offset) // np.dtype(kind).itemsize), offset
    )
    top = 65535 if image.mode == "I" else 255
    table = np.rint(np.arange(2.0 ** (8 * samples.itemsize)) / most * top).clip(0, top)
    scaled = table.astype(">u2" if image.mode == "I" else "u1")[samples]
    image.fp = io.BytesIO(scaled.tobytes())
    args = ("I;16B" if image.mode == "I" else raw_mode, 0, 1)
    image.tile = [ImageFile._Tile("raw", tile.extents, 0, args)]
