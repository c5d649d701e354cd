"""What people pass as an image -> pixels [H, W, 3] uint8 RGB.

Files, their bytes and open files, PIL images, arrays and tensors. Letters: H, W image, C channels.
"""

import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps

from cupola.errors import InputError
from cupola.files.decoding import rgb_pixels
from cupola.files.depth import Extremes, bands_of_8_bits
from cupola.files.images import MAX_BYTES, MAX_PIXELS, read_image

Pixels = np.ndarray[Any, Any]
Array = np.ndarray[Any, Any]
Reader = Callable[[], Pixels]
T = TypeVar("T")

URL = re.compile(r"[a-z][a-z0-9+.-]+://|(?:https?|ftp|s3|file):/|data:", re.IGNORECASE)
CHANNELS = (1, 3, 4)
ACCEPTED = (
    "a path, the bytes of a file, an open file, a PIL image, or an array or tensor [H, W], "
    "[H, W, 3] or [H, W, 4]"
)


def is_one(source: Any) -> bool:
    """Whether a source is one image, not several."""
    if isinstance(source, np.ndarray | torch.Tensor):
        return source.ndim != 4
    single = (str, bytes, bytearray, memoryview, os.PathLike, Image.Image)
    return isinstance(source, single) or hasattr(source, "read") or not hasattr(source, "__iter__")


def readers(sources: Any, max_pixels: int = MAX_PIXELS) -> Iterator[Reader]:
    """A reader for each image of a list, a generator, or an array or tensor [N, H, W, C].

    Errors, those of the readers too, name the index.
    """
    if isinstance(sources, dict | set | frozenset):
        raise InputError(f"image: expected {ACCEPTED}, or a list of these; got {_name(sources)}")
    for index, source in enumerate(sources):
        yield partial(_numbered, index, _numbered(index, partial(reader, source, max_pixels)))


def _numbered(index: int, act: Callable[[], T]) -> T:
    try:
        return act()
    except InputError as error:
        raise InputError(f"images[{index}]: {error}") from None


def reader(source: Any, max_pixels: int = MAX_PIXELS) -> Reader:
    """Reads the image of a source, each time it is called; an open file is read here.

    What can be read again from where it is (a path, bytes, an array) is not copied.
    """
    if hasattr(source, "read") and not isinstance(source, os.PathLike | Image.Image):
        source = _content(source)
    return partial(to_pixels, source, max_pixels)


def to_pixels(source: Any, max_pixels: int = MAX_PIXELS) -> Pixels:
    """The pixels of a source, [H, W, 3] uint8 RGB.

    Files and PIL images are turned upright as their EXIF says; transparency is laid over white.
    Floats are 0..1, or 0..255 if one of them is 2 or more; uint16 has 12 bits, or 16 if one of the
    values is more than 4095. A tensor may be [C, H, W] too.
    Raises InputError for anything else, and for URLs, which are not downloaded.
    """
    if isinstance(source, str | os.PathLike):
        name = os.fsdecode(source)
        if URL.match(name):
            raise InputError(
                f"{name:.80}: a URL is not downloaded; download the image and pass its path or "
                "bytes"
            )
        return read_image(Path(name), max_pixels=max_pixels)
    if isinstance(source, bytes | bytearray | memoryview):
        return read_image(bytes(source), max_pixels=max_pixels)
    if isinstance(source, Image.Image):
        return _of_pil(source, max_pixels)
    if hasattr(source, "read"):
        return read_image(_content(source), max_pixels=max_pixels)
    if isinstance(source, torch.Tensor):
        source = _of_tensor(source)
    elif not isinstance(source, np.ndarray) and hasattr(source, "__array__"):
        source = np.asarray(source)
    if isinstance(source, np.ndarray):
        return _of_array(source, max_pixels)
    raise InputError(f"image: expected {ACCEPTED}, got {_name(source)}")


def _content(file: Any) -> bytes:
    try:
        content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as problem:  # a closed file
        raise InputError(f"image: the file cannot be read ({problem})") from None
    if not isinstance(content, bytes):
        raise InputError("image: the file is open as text; open it with mode 'rb'")
    return content


def _of_pil(image: Image.Image, max_pixels: int) -> Pixels:
    _check_size(image.height, image.width, max_pixels)
    try:
        image = ImageOps.exif_transpose(image)
        return rgb_pixels(bands_of_8_bits(image), image.size)
    except Exception as problem:  # a file that PIL opened but cannot decode
        raise InputError(f"image: the PIL image is broken ({problem})") from None


def _of_tensor(tensor: torch.Tensor) -> Array:
    """A tensor as an array with its channels last."""
    if tensor.is_sparse or tensor.is_quantized or tensor.is_meta:
        raise InputError("image: a sparse, quantized or meta tensor; expected a dense one")
    values = tensor.detach().cpu()
    if values.is_floating_point():
        values = values.float()
    if values.ndim == 3 and values.shape[0] in CHANNELS and values.shape[2] not in CHANNELS:
        values = values.permute(1, 2, 0)  # [H, W, C]
    return values.numpy()


def _of_array(array: Array, max_pixels: int) -> Pixels:
    shape = array.shape
    known = array.ndim == 2 or (array.ndim == 3 and shape[2] in CHANNELS)
    if not known or 0 in shape or array.dtype.kind not in "buif":
        hint = "; an array [C, H, W] needs .transpose(1, 2, 0)" if _channels_first(array) else ""
        raise InputError(
            f"pixels: expected an image [H, W], [H, W, 3] or [H, W, 4] of uint8 or float, got "
            f"{array.dtype} {list(shape)}{hint}"
        )
    _check_size(shape[0], shape[1], max_pixels)
    values = _to_uint8(array)
    if values.ndim == 2 or shape[2] == 1:
        return np.repeat(values.reshape(*shape[:2], 1), 3, axis=2)
    if shape[2] == 4:
        image = Image.fromarray(np.ascontiguousarray(values))
        return rgb_pixels(bands_of_8_bits(image), image.size)
    return values


def _channels_first(array: Array) -> bool:
    return array.ndim == 3 and array.shape[0] in CHANNELS


def _to_uint8(array: Array) -> Array:
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    low, high = float(array.min()), float(array.max())
    if array.dtype == np.uint16:
        top = float(Extremes(array).white())
    elif array.dtype.kind in "ui":
        top = 255.0
    else:
        top = 255.0 if high >= 2 else 1.0
    slack = 0.05 * top if array.dtype.kind == "f" else 0.0  # of interpolation
    if not (low >= -slack and high <= top + slack):  # not for NaN either
        raise InputError(
            f"pixels: values from {low:.4g} to {high:.4g}; expected 0..255, or 0..1 as floats, "
            "before any normalization"
        )
    scaled = array.astype(np.float64) * (255.0 / top)
    return scaled.round().clip(0, 255).astype(np.uint8)


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise InputError(f"image: {width} x {height} pixels is more than the {max_pixels} accepted")


def _name(value: Any) -> str:
    return "None" if value is None else type(value).__name__
