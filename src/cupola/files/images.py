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
from PIL import Image, UnidentifiedImageError, features

from cupola.errors import CupolaError, InputError
from cupola.files.decoding import BYTES_PER_PIXEL, bytes_needed, decoded
from cupola.files.image_parts import essential, exif_orientation
from cupola.files.opencv import resize_linear
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
MAX_PIXELS = 50_000_000  # a 50-megapixel camera's image, not a bomb; 350 MB while it is decoded
LEAST_MEMORY = 16 * 2**20  # bytes that decoding may take, whatever the limit of pixels
LONGEST_PPM_HEADER = 4096


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
    with _errors_as(error, name, len(source), max_pixels):
        data, orientation = essential(source)
        del source  # one copy of the file is enough
        with _opened(data, orientation, max_pixels) as (image, orientation):
            pixels = decoded(image, data)
        return upright(pixels, orientation)


def read_class_map(path: Path, error: type[CupolaError] = InputError) -> Pixels:
    """[H, W] uint8: the values of a gray image of 8 bits, or a palette's indices, as stored.

    Raises `error` for what `read_image` refuses, and for colors.
    """
    source = read_bytes(path, MAX_BYTES, error)
    with (
        _errors_as(error, str(path), len(source), MAX_PIXELS),
        _opened(*essential(source), MAX_PIXELS) as (image, _),
    ):
        mode, values = image.mode, np.array(image) if image.mode in ("L", "P") else None
    if values is None:
        raise error(
            f"{path}: has the mode {mode}; a map of classes is gray of 8 bits, or a palette"
        )
    return values


def read_id_map(path: Path, error: type[CupolaError] = InputError) -> np.ndarray[Any, Any]:
    """[H, W] int32: the values of a gray image of 8 or 16 bits, as stored.

    Raises `error` for what `read_image` refuses, and for colors.
    """
    source = read_bytes(path, MAX_BYTES, error)
    with (
        _errors_as(error, str(path), len(source), MAX_PIXELS),
        _opened(*essential(source), MAX_PIXELS) as (image, _),
    ):
        mode = image.mode
        values = np.array(image).astype(np.int32) if mode in ("L", "I;16", "I;16B", "I") else None
    if values is None:
        raise error(f"{path}: has the mode {mode}; a map of ids is gray, of 8 or 16 bits")
    return values


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
    with (
        _errors_as(error, str(path), len(source), max_pixels),
        _opened(*essential(source), max_pixels) as (image, orientation),
    ):
        width, height = image.size
        return (width, height) if orientation in SIDEWAYS else (height, width)


@contextmanager
def _errors_as(error: type[CupolaError], name: str, size: int, max_pixels: int) -> Iterator[None]:
    """Raises `error` with one line for whatever goes wrong with an image inside."""
    if not size:
        raise error(f"{name}: the image is empty (0 bytes)")
    if size > MAX_BYTES:
        raise error(f"{name}: {size} bytes is more than the {MAX_BYTES} accepted")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UnidentifiedImageError:
        raise error(f"{name}: not an image; send one of {', '.join(FORMATS)}") from None
    except _TooLargeError as problem:
        raise error(f"{name}: {problem}") from None
    except Image.DecompressionBombError:
        raise error(f"{name}: its pixels are more than the {max_pixels} accepted") from None
    except Exception as problem:  # decoders raise whatever a damaged file makes them stumble over
        raise error(f"{name}: the image is broken ({_first_line(problem)})") from None


class _TooLargeError(Exception):
    pass


@contextmanager
def _opened(data: bytes, orientation: int, max_pixels: int) -> Iterator[tuple[Image.Image, int]]:
    """The image of a file's essential parts, not yet decoded, and its orientation."""
    is_avif = data[4:12] in AVIF_BRANDS and features.check("avif")
    if is_avif:
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # in a child process with little address space
    # The header of a PPM file may be a comment without end, which is read byte by byte.
    start = data[:LONGEST_PPM_HEADER] if data[:1] == b"P" else data
    with Image.open(io.BytesIO(start), formats=("AVIF",) if is_avif else FORMATS) as image:
        if start is not data:
            image.fp = io.BytesIO(data)
        if is_avif:  # a property, which Pillow gives as EXIF data
            orientation = exif_orientation(image.info.get("exif", b""))
        _check_size(image, data, max_pixels)
        try:
            yield image, orientation
        finally:
            image.close()  # gives its memory back, which the end of `with` does not


def _check_size(image: Image.Image, data: bytes, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise _TooLargeError(f"{width} x {height} pixels is more than the {max_pixels} accepted")
    needed, most = bytes_needed(image, data), max(BYTES_PER_PIXEL * max_pixels, LEAST_MEMORY)
    if needed > most:
        raise _TooLargeError(
            f"{width} x {height} pixels of such a {image.format} file take {needed / 1e6:.0f} MB "
            f"to decode, more than the {most / 1e6:.0f} MB of {max_pixels} plain pixels"
        )


def _first_line(problem: Exception) -> str:
    return (str(problem) or type(problem).__name__).splitlines()[0]


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Pixels as a value of EXIF's orientation, 1 to 8, says how to turn and mirror them."""
    if orientation in SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def resize(pixels: Pixels, size: tuple[int, int], resample: str = "bilinear") -> Pixels:
    """[H, W, 3] -> [*size, 3] by a filter of Pillow, with antialiasing.

    "opencv" is OpenCV's bilinear interpolation, without it.
    """
    if pixels.shape[:2] == size:
        return pixels
    if resample == "opencv":
        return resize_linear(pixels, size)
    height, width = size
    filter_ = Image.Resampling[resample.upper()]
    return np.asarray(Image.fromarray(pixels).resize((width, height), filter_))
