"""Untrusted images -> RGB arrays, for datasets, prediction and serving. Size is limited."""

import binascii
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from cupola.errors import CupolaError, InputError
from cupola.files.depth import ORIENTATION, to_8_bits
from cupola.files.opening import read_bytes

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

# Formats whose decoders run in this process alone: EPS, for one, starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
AVIF_BRANDS = (b"ftypavif", b"ftypavis")  # read where this Pillow has the decoder
SIDEWAYS = (5, 6, 7, 8)  # orientations of EXIF that swap the sides
# JSON cannot hold bytes: base64, alone or as a data URL. Whole lines of the alphabet only.
DATA_URL = re.compile(rb"\s*data:[^,]{0,200};base64,", re.IGNORECASE)
BASE64 = re.compile(rb"[A-Za-z0-9+/_\-\s]+={0,2}\s*")
PLAIN_PPM = re.compile(rb"P[1-7]\s")
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 50_000_000  # 150 MB as RGB: a 50-megapixel camera's image, not a bomb


def read_image(
    source: str | Path | bytes,
    name: str = "image",
    error: type[CupolaError] = InputError,
    max_pixels: int = MAX_PIXELS,
) -> Pixels:
    """[H, W, 3] uint8, RGB, upright as its EXIF says.

    Gray, palette, alpha (over white), CMYK, 16-bit and float images are converted (which value of
    theirs is white: `cupola.files.depth`). Raises `error` for what is missing, not a regular file,
    empty, broken, of another format, or too large. Bytes may be base64 text, as in JSON.
    """
    if isinstance(source, bytes):
        source = from_base64(source, name, error)
    else:
        name = str(source)
        source = read_bytes(Path(source), MAX_BYTES, error)
    with _errors_as(error, name, source, max_pixels), _opened(source) as image:
        _check_size(image, max_pixels)
        pixels = to_8_bits(image, source)
        ImageOps.exif_transpose(pixels, in_place=True)  # a copy has 4 bytes a pixel
        return np.asarray(to_rgb(pixels))


def from_base64(source: bytes, name: str = "image", error: type[CupolaError] = InputError) -> bytes:
    """The file that base64 text holds, with or without `data:image/...;base64,` in front.

    Bytes that are no such text stay as they are; `error` for a data URL that is damaged.
    """
    url = DATA_URL.match(source)
    text = source[url.end() :] if url else source
    if url is None and (PLAIN_PPM.match(text) or not BASE64.fullmatch(text)):
        return source
    joined = b"".join(text.split()).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        return binascii.a2b_base64(joined + b"=" * (-len(joined) % 4), strict_mode=True)
    except binascii.Error as problem:
        if url is None:
            return source
        raise error(f"{name}: its base64 is damaged ({problem})") from None


def read_size(
    path: Path, error: type[CupolaError] = InputError, max_pixels: int = MAX_PIXELS
) -> tuple[int, int]:
    """(height, width) that `read_image` gives for a file, of which only the header is decoded."""
    source = read_bytes(path, MAX_BYTES, error)
    with _errors_as(error, str(path), source, max_pixels), _opened(source) as image:
        _check_size(image, max_pixels)
        width, height = image.size
        sideways = image.getexif().get(ORIENTATION) in SIDEWAYS
        return (width, height) if sideways else (height, width)


@contextmanager
def _errors_as(
    error: type[CupolaError], name: str, source: bytes, max_pixels: int
) -> Iterator[None]:
    """Raises `error` with one line for whatever goes wrong with an image inside."""
    if not source:
        raise error(f"{name}: the image is empty (0 bytes)")
    if len(source) > MAX_BYTES:
        raise error(f"{name}: {len(source)} bytes is more than the {MAX_BYTES} accepted")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UnidentifiedImageError:
        raise error(f"{name}: not an image; send one of {', '.join(FORMATS)}") from None
    except _TooManyPixelsError as problem:
        raise error(f"{name}: {problem} pixels is more than the {max_pixels} accepted") from None
    except Image.DecompressionBombError:
        raise error(f"{name}: its pixels are more than the {max_pixels} accepted") from None
    except Exception as problem:  # decoders raise whatever a damaged file makes them stumble over
        raise error(f"{name}: the image is broken ({_first_line(problem)})") from None


class _TooManyPixelsError(Exception):
    pass


def _opened(data: bytes) -> Image.Image:
    is_avif = data[4:12] in AVIF_BRANDS and features.check("avif")
    return Image.open(io.BytesIO(data), formats=("AVIF",) if is_avif else FORMATS)


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise _TooManyPixelsError(f"{width} x {height}")


def _first_line(problem: Exception) -> str:
    return (str(problem) or type(problem).__name__).splitlines()[0]


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode -> RGB; transparency over white, more than 8 bits as `cupola.files.depth` says."""
    image = to_8_bits(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(canvas, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def resize(pixels: Pixels, size: tuple[int, int], resample: str = "bilinear") -> Pixels:
    """[H, W, 3] -> [*size, 3] by a filter of Pillow, with antialiasing."""
    if pixels.shape[:2] == size:
        return pixels
    height, width = size
    filter_ = Image.Resampling[resample.upper()]
    return np.asarray(Image.fromarray(pixels).resize((width, height), filter_))
