"""Untrusted images -> RGB arrays. Every defect is an InputError, and size is limited."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cupola.errors import InputError

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 50_000_000  # 150 MB as RGB: a 50-megapixel camera's image, not a bomb


def read_image(source: str | Path | bytes, name: str = "image") -> Pixels:
    """[H, W, 3] uint8, RGB, upright as its EXIF says.

    Gray, palette, alpha (over white), 16-bit and CMYK images are converted. Raises InputError
    for what is missing, empty, broken, of another format, or too large.
    """
    if not isinstance(source, bytes):
        name = str(source)
        source = _read_file(Path(source))
    if not source:
        raise InputError(f"{name}: the image is empty (0 bytes)")
    if len(source) > MAX_BYTES:
        raise InputError(f"{name}: {len(source)} bytes is more than the {MAX_BYTES} accepted")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(source), formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise InputError(
                        f"{name}: {width} x {height} pixels is more than the {MAX_PIXELS} accepted"
                    )
                return np.asarray(to_rgb(ImageOps.exif_transpose(image)))
    except UnidentifiedImageError:
        raise InputError(f"{name}: not an image; send one of {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise InputError(f"{name}: its pixels are more than the {MAX_PIXELS} accepted") from None
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name}: the image is broken ({error})") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode -> RGB; transparency over white, 16 bits scaled to 8."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        # Pillow opens 16-bit grays as I;16 or I; the rest of their range stays unused.
        top = 65535 if image.mode.startswith("I") else max(float(values.max(initial=0)), 1.0)
        image = Image.fromarray((values / top * 255).round().clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(canvas, image).convert("RGB")
    return image.convert("RGB")


def resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """[H, W, 3] -> [*size, 3] by bilinear interpolation with antialiasing."""
    if pixels.shape[:2] == size:
        return pixels
    height, width = size
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _read_file(path: Path) -> bytes:
    try:
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: {path.stat().st_size} bytes is more than {MAX_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
