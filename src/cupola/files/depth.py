"""Images with samples of more than 8 bits -> 8 bits a sample.

Cameras, scanners and microscopes store 10, 12 or 14 bits in files of 16. The value that becomes
white (255) is what the file declares: the sBIT chunk of a PNG; BitsPerSample, WhiteLevel,
SMaxSampleValue or MaxSampleValue of a TIFF, rounded up to whole bits; the maximum of a PPM. In a
file that declares nothing it is 4095 if no sample is larger (12 bits), else 65535; 10 and 14 bits
have to be declared, since a dark image of 12 bits looks like one of 10. Floats are 0..1, or 0..255
if one of them is 2 or more.
"""

import io
import math
import sys
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

Array = np.ndarray[Any, Any]
Channels = slice | list[int]
BAND = 2**18  # pixels that are converted at a time
TWELVE, SIXTEEN = 4095, 65535
# Tags of TIFF and DNG; the last three name the largest value.
PHOTOMETRIC, BITS, WHITE_LEVEL, SMAX, MAX = 262, 258, 50717, 341, 281
# Of samples of two bytes Pillow keeps the first or the second, as the raw mode's byte order says.
SWAPPED = {";16B": ";16L", ";16L": ";16B", ";16N": ";16B" if sys.byteorder == "little" else ";16L"}


class Extremes:
    """What is known of integers that are looked at in parts."""

    def __init__(self, values: Array | None = None) -> None:
        self.smallest = self.largest = self.bits = 0  # bits: of all values, joined by "or"
        if values is not None:
            self.add(values)

    def add(self, values: Array) -> None:
        """Look at more values."""
        if values.dtype.kind != "u":
            self.smallest = min(self.smallest, int(values.min(initial=0)))
        self.largest = max(self.largest, int(values.max(initial=0)))
        self.bits |= int(np.bitwise_or.reduce(values, axis=None)) if values.size else 0

    def white(self, declared: int | None = None) -> int:
        """The value that becomes white; a declared one that is exceeded is not believed."""
        if declared is not None and self.largest <= declared:
            return declared
        if declared is None and self.largest <= TWELVE:
            return TWELVE
        return max(SIXTEEN, self.largest)


def float_white(largest: float) -> float:
    """The value that becomes white among floats up to `largest`."""
    if largest < 2:
        return 1.0
    return next((top for top in (255.0, TWELVE, SIXTEEN) if largest <= 1.05 * top), largest)


def scaled(values: Array, white: float) -> Array:
    """Values 0..white -> uint8 0..255; NaN is black, what is beyond is clipped."""
    if values.dtype == np.uint16:
        return _table(white)[values]
    found = np.empty(values.shape, np.uint8)
    for index, row in enumerate(values):
        clean = np.nan_to_num(row.astype(np.float64), copy=False, posinf=white, neginf=0.0)
        clean /= white
        clean *= 255
        found[index] = np.clip(np.rint(clean, out=clean), 0, 255, out=clean)
    return found


@lru_cache(4)
def _table(white: float) -> Array:
    """The result of `scaled` for each value of 16 bits."""
    return scaled(np.arange(2.0**16)[None], white)[0]


def bands(image: Image.Image) -> Iterator[Image.Image]:
    """The image from top to bottom in parts of about BAND pixels, whose copies are small."""
    width, height = image.size
    step = max(1, BAND // max(width, 1))
    for top in range(0, height, step):
        yield image.crop((0, top, width, min(top + step, height)))


def bands_of_8_bits(image: Image.Image, data: bytes = b"") -> Iterator[Image.Image]:
    """The image with 8 bits a sample, in bands. It is closed where its memory is needed.

    `data` is the file that the image was opened from. Pillow alone reduces colors of 16 bits.
    """
    if image.mode == "F":
        return _from_floats(image)
    if image.mode.startswith("I"):
        return _from_gray(image, data)
    if data and has_16_bit_colors(image):
        return _from_colors(image, data)
    return bands(image)


def _from_floats(image: Image.Image) -> Iterator[Image.Image]:
    largest = _largest_named(image) or 0.0
    for band in bands(image):
        values = np.asarray(band)
        largest = max(largest, float(values[np.isfinite(values)].max(initial=0.0)))
    white = float_white(largest)
    for band in bands(image):
        yield Image.fromarray(scaled(np.asarray(band), white))


def _from_gray(image: Image.Image, data: bytes) -> Iterator[Image.Image]:
    found = Extremes()
    for band in bands(image):
        found.add(np.asarray(band))
    white = _white(found, image, data)
    inverse = False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        inverse = image.tag_v2.get(PHOTOMETRIC) == 0  # Pillow leaves this to its callers
    key = image.info.get("transparency")
    for band in bands(image):
        values = np.asarray(band)
        if found.smallest >= 0 and found.largest <= SIXTEEN:
            values = values.astype(np.uint16)
        pixels = scaled(values, white)
        if inverse:
            pixels = 255 - pixels
        if isinstance(key, int):
            pixels[values == key] = 255
        yield Image.fromarray(pixels)


def _from_colors(image: Image.Image, data: bytes) -> Iterator[Image.Image]:
    """A color image, whose samples of 16 bits are read whole where their high bytes are dark.

    The high bytes become an array before the low bytes are decoded: both as images of Pillow would
    have 8 bytes a pixel.
    """
    mode, key, count = image.mode, image.info.get("transparency"), 4 if image.mode == "CMYK" else 3
    brightest = max(int(np.asarray(each)[..., :count].max(initial=0)) for each in bands(image))
    low = None
    if brightest <= 63 or key is not None:  # else no camera's bits are in the lower ones
        low = _low_bytes(data, str(image.format))
    if low is None:
        yield from bands(image)
        return
    high = _array(image)
    colors, alpha = Extremes(), Extremes()
    for values in _joined(high, *low):
        colors.add(values[..., :count])
        alpha.add(values[..., count:])
    white = _white(colors, image, data)
    for values in _joined(high, *low):
        pixels = np.empty(values.shape, np.uint8)
        pixels[..., :count] = scaled(values[..., :count], white)
        pixels[..., count:] = scaled(values[..., count:], alpha.white())
        if isinstance(key, tuple):
            pixels[(values == key).all(2)] = 255
        yield _as_image(pixels, mode)


def _array(image: Image.Image) -> Array:
    """[H, W, C] of an image, which is closed. Made at once, there would be two more copies."""
    width, height = image.size
    found = np.empty((height, width, len(image.getbands())), np.uint8)
    top = 0
    for band in bands(image):
        found[top : top + band.height] = np.asarray(band)
        top += band.height
    image.close()
    return found


def _joined(high: Array, low: Image.Image, channels: Channels) -> Iterator[Array]:
    """The samples [H, W, C] of 16 bits, in bands; `channels` of `low` are their low bytes."""
    top = 0
    for band in bands(low):
        part = high[top : top + band.height]
        yield part.astype(np.uint16) << 8 | np.asarray(band)[..., channels]
        top += band.height


def _as_image(pixels: Array, mode: str) -> Image.Image:
    found = Image.fromarray(pixels)
    if mode != found.mode:  # arrays of four channels are taken for RGBA
        found = Image.frombytes(mode, found.size, pixels.tobytes())
    return found


def has_16_bit_colors(image: Image.Image) -> bool:
    """Whether Pillow reduces an opened image's samples of 16 bits."""
    if image.format not in ("PNG", "TIFF") or image.mode.startswith(("I", "F")):
        return False
    tiles = getattr(image, "tile", None) or ()
    return any(_raw_mode(tile.args)[-4:] in SWAPPED for tile in tiles)


def _raw_mode(arguments: Any) -> str:
    """The raw mode among the arguments of a decoder."""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _low_bytes(data: bytes, kind: str) -> tuple[Image.Image, Channels] | None:
    """The low bytes of colors of 16 bits, as an image and its channels; None if Pillow has none."""
    other = Image.open(io.BytesIO(data), formats=(kind,))
    tiles: list[Any] = other.tile
    modes = {_raw_mode(tile.args) for tile in tiles}
    if modes == {"LA;16B"}:
        return _low_bytes_of_gray_and_alpha(data), [1, 1, 1, 3]
    if any(mode[:-4] not in ("RGB", "RGBA", "RGBX", "CMYK") for mode in modes):
        return None
    for index, tile in enumerate(tiles):
        mode = _raw_mode(tile.args)
        swapped = mode[:-4] + SWAPPED[mode[-4:]]
        rest = tile.args[1:] if isinstance(tile.args, tuple) else None
        tiles[index] = tile._replace(args=swapped if rest is None else (swapped, *rest))
    return other, slice(None)


def _low_bytes_of_gray_and_alpha(data: bytes) -> Image.Image:
    """Two samples of 16 bits, read as RGBA of 8 bits: the low bytes are its channels 1 and 3."""
    header = data[12:24] + bytes([8, 6]) + data[26:29]
    check = zlib.crc32(header).to_bytes(4, "big")
    return Image.open(io.BytesIO(data[:12] + header + check + data[33:]), formats=("PNG",))


def _white(found: Extremes, image: Image.Image, data: bytes) -> int:
    if image.format == "PPM":
        return SIXTEEN  # Pillow scales by the maximum that the file states
    if image.format == "PNG":
        bits = _significant_bits(data)
        if bits is None:
            return found.white()
        # As the standard has it, sBIT counts the upper bits of a sample, and the others hold
        # zeros in a dark image; many tools store the bits as they come from the camera instead.
        aligned = not found.bits & ((1 << (16 - bits)) - 1)
        return SIXTEEN if aligned else found.white((1 << bits) - 1)
    return found.white(_tiff_white(image))


def _significant_bits(data: bytes) -> int | None:
    """The most bits of a channel by the sBIT chunk of a PNG, 1..16."""
    at = 8
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind == b"sBIT":
            bits = max(data[at + 8 : at + 8 + min(length, 3)], default=0)
            return bits if 1 <= bits <= 16 else None
        if kind == b"IDAT":
            break
        at += 12 + length
    return None


def _tiff_white(image: Image.Image) -> int | None:
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return None
    bits = image.tag_v2.get(BITS)
    if isinstance(bits, Sequence) and bits and 8 < max(bits) < 16:
        return int((1 << max(bits)) - 1)
    named = _largest_named(image)
    if named is None or not 1 <= named <= SIXTEEN:
        return None
    return int((1 << math.ceil(named).bit_length()) - 1)


def _largest_named(image: Image.Image) -> float | None:
    """The largest of the values that a tag names as the largest; None without such a tag."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return None
    for tag in (WHITE_LEVEL, SMAX, MAX):
        value = image.tag_v2.get(tag)
        found = value if isinstance(value, tuple) else (value,)
        numbers = [float(each) for each in found if isinstance(each, int | float)]
        if numbers and all(map(math.isfinite, numbers)):
            return max(numbers)
    return None
