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
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

Array = np.ndarray[Any, Any]
ORIENTATION = 0x0112  # the EXIF tag
TWELVE, SIXTEEN = 4095, 65535
# Tags of TIFF and DNG; the last three name the largest value.
PHOTOMETRIC, BITS, WHITE_LEVEL, SMAX, MAX = 262, 258, 50717, 341, 281
# Of samples of two bytes Pillow keeps the first or the second, as the raw mode's byte order says.
SWAPPED = {";16B": ";16L", ";16L": ";16B", ";16N": ";16B" if sys.byteorder == "little" else ";16L"}


def integer_white(values: Array, declared: int | None = None) -> int:
    """The value that becomes white among integers; one that is exceeded is not believed."""
    largest = int(values.max(initial=0))
    if declared is not None and largest <= declared:
        return declared
    if declared is None and largest <= TWELVE:
        return TWELVE
    return max(SIXTEEN, largest)


def float_white(largest: float) -> float:
    """The value that becomes white among floats up to `largest`."""
    if largest < 2:
        return 1.0
    return next((top for top in (255.0, TWELVE, SIXTEEN) if largest <= 1.05 * top), largest)


def scaled(values: Array, white: float) -> Array:
    """Values 0..white -> uint8 0..255, row by row; NaN is black, what is beyond is clipped."""
    found = np.empty(values.shape, np.uint8)
    for index, row in enumerate(values):
        clean = np.nan_to_num(row.astype(np.float64), posinf=white, neginf=0.0)
        found[index] = (clean / white * 255).round().clip(0, 255)
    return found


def to_8_bits(image: Image.Image, data: bytes = b"") -> Image.Image:
    """The image with 8 bits a sample, and upright by the same tag; most are returned as they are.

    `data` is the file that the image was opened from. Pillow alone reduces colors of 16 bits.
    """
    if image.mode == "F":
        return _from_floats(image)
    if image.mode.startswith("I"):
        return _from_gray(image, data)
    if image.format not in ("PNG", "TIFF") or not data:
        return image
    return _from_colors(image, data)


def _like(array: Array, image: Image.Image, mode: str) -> Image.Image:
    found = Image.fromarray(array)
    if mode != found.mode:  # arrays of four channels are taken for RGBA
        found = Image.frombytes(mode, found.size, array.tobytes())
    orientation = image.getexif().get(ORIENTATION)
    if orientation is not None:
        found.getexif()[ORIENTATION] = orientation
    return found


def _from_floats(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    named = _largest_named(image)
    finite = values[np.isfinite(values)]
    largest = max(float(finite.max(initial=0.0)), named or 0.0)
    return _like(scaled(values, float_white(largest)), image, "L")


def _from_gray(image: Image.Image, data: bytes) -> Image.Image:
    values = np.asarray(image)
    white = _white(values, image, data)
    pixels = scaled(values, white)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(PHOTOMETRIC) == 0:
        pixels = 255 - pixels  # zero is white, which Pillow leaves to its callers
    if isinstance(key := image.info.get("transparency"), int):
        pixels[values == key] = 255
    return _like(pixels, image, "L")


def _from_colors(image: Image.Image, data: bytes) -> Image.Image:
    """A color image, whose samples of 16 bits are read whole where their high bytes are dark."""
    if not _has_16_bits(image):
        return image
    high = np.asarray(image)  # [H, W, C]
    colors = high[..., : 4 if image.mode == "CMYK" else 3]
    key = image.info.get("transparency")
    if colors.max(initial=0) > 63 and key is None:  # no camera's bits in the lower ones
        return image
    low = _low_bytes(data, str(image.format))
    if low is None:
        return image
    values = high.astype(np.uint16) << 8 | low
    count = colors.shape[2]
    pixels = scaled(values, SIXTEEN)
    pixels[..., :count] = scaled(values[..., :count], _white(values[..., :count], image, data))
    if count < values.shape[2]:
        pixels[..., count] = scaled(values[..., count], integer_white(values[..., count]))
    if isinstance(key, tuple):
        pixels[(values == key).all(2)] = 255
    return _like(pixels, image, image.mode)


def _has_16_bits(image: Image.Image) -> bool:
    tiles = getattr(image, "tile", None) or ()
    return any(_raw_mode(tile.args)[-4:] in SWAPPED for tile in tiles)


def _raw_mode(arguments: Any) -> str:
    """The raw mode among the arguments of a decoder."""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _low_bytes(data: bytes, kind: str) -> Array | None:
    """The low bytes [H, W, C] of colors of 16 bits; None if Pillow cannot give them."""
    with Image.open(io.BytesIO(data), formats=(kind,)) as other:
        modes = {_raw_mode(tile.args) for tile in other.tile}
        if modes == {"LA;16B"}:
            return _low_bytes_of_gray_and_alpha(data)
        if any(mode[:-4] not in ("RGB", "RGBA", "RGBX", "CMYK") for mode in modes):
            return None
        tiles = []
        for tile in other.tile:
            mode = _raw_mode(tile.args)
            swapped = mode[:-4] + SWAPPED[mode[-4:]]
            rest = tile.args[1:] if isinstance(tile.args, tuple) else None
            tiles.append(tile._replace(args=swapped if rest is None else (swapped, *rest)))
        other.tile = tiles
        return np.asarray(other)


def _low_bytes_of_gray_and_alpha(data: bytes) -> Array:
    """[H, W, 4] as Pillow expands them: two samples of 16 bits, read as RGBA of 8 bits."""
    header = data[12:24] + bytes([8, 6]) + data[26:29]
    check = zlib.crc32(header).to_bytes(4, "big")
    with Image.open(io.BytesIO(data[:12] + header + check + data[33:]), formats=("PNG",)) as other:
        return np.asarray(other)[..., [1, 1, 1, 3]]


def _white(values: Array, image: Image.Image, data: bytes) -> int:
    if image.format == "PPM":
        return SIXTEEN  # Pillow scales by the maximum that the file states
    if image.format == "PNG":
        bits = _significant_bits(data)
        if bits is None:
            return integer_white(values)
        # As the standard has it, sBIT counts the upper bits of a sample, and the others hold
        # zeros in a dark image; many tools store the bits as they come from the camera instead.
        aligned = not (values & ((1 << (16 - bits)) - 1)).any()
        return SIXTEEN if aligned else integer_white(values, (1 << bits) - 1)
    return integer_white(values, _tiff_white(image))


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
