"""preprocessor_config.json of transformers: how images are resized, normalized and padded."""

from pathlib import Path
from typing import Any

from cupola.bundles.hf_config import HFConfig
from cupola.errors import BundleError
from cupola.files import read_settings

FILE = "preprocessor_config.json"
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's numbers
LONGEST_SIDE = 10_000  # pixels of a resized or padded image


def image_settings(folder: Path, channels: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config of our data preprocessor, and `preprocess` of a bundle's config.

    Reads old and new spellings; without the file, DETR's defaults hold. BundleError.
    """
    path = folder / FILE
    values = read_settings(path, BundleError) if path.is_file() else {}
    if not isinstance(values, dict):
        raise BundleError(f"{path}: expected an object, found a {type(values).__name__}")
    config = HFConfig(values, path)
    return _normalization(config, channels), _geometry(config)


def _normalization(config: HFConfig, channels: int) -> dict[str, Any]:
    """Mean and std of 0..255 values, whatever the file scales before it subtracts."""
    factor = config.number("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
    if factor <= 0:
        raise config.error(f"rescale_factor {factor!r}: expected a number above 0")
    mean, std = [0.0] * channels, [1.0] * channels
    if config.get("do_normalize", True):
        mean = _by_channel(config, "image_mean", MEAN, channels)
        std = _by_channel(config, "image_std", STD, channels)
    if not all(std):
        raise config.error("image_std: a deviation is 0")
    divisor = config.get("size_divisor", config.get("size_divisibility", 0)) or 1
    divisor = HFConfig({"size_divisor": divisor}, config.path).whole("size_divisor", 1, 4096)
    return {
        "type": "DetDataPreprocessor",
        "mean": [value / factor for value in mean],
        "std": [value / factor for value in std],
        **({"pad_size_divisor": divisor} if divisor > 1 else {}),
    }


def _by_channel(config: HFConfig, key: str, default: list[float], channels: int) -> list[float]:
    value = config.get(key, default)
    each = value if isinstance(value, list | tuple) else [value] * channels
    if len(each) != channels:
        raise config.error(f"{key} {value!r:.60}: expected {channels} numbers, one per channel")
    return [HFConfig({key: number}, config.path).number(key, 0.0) for number in each]


def _geometry(config: HFConfig) -> dict[str, Any]:
    found: dict[str, Any] = {"resize": {}}
    if config.get("do_resize", True):
        number = config.whole("resample", 2, most=len(FILTERS) - 1, least=0)
        found["resize"] = {**_size(config), "resample": FILTERS[number]}
    pad_size = config.object("pad_size")
    if config.get("do_pad", config.get("pad_and_return_pixel_mask", True)) and pad_size:
        found["pad"] = _pair(pad_size, "height", "width")
    return found


def _size(config: HFConfig) -> dict[str, Any]:
    """How images are resized: `size` is a number with `max_size` in old files, else an object."""
    size = config.get("size", {"shortest_edge": 800, "longest_edge": 1333})
    if type(size) is int:
        size = {"shortest_edge": size, "longest_edge": config.get("max_size", 1333)}
    if isinstance(size, list | tuple) and len(size) == 2:
        size = {"height": size[0], "width": size[1]}
    if not isinstance(size, dict):
        raise config.error(f"size {size!r:.60}: expected a number or an object")
    values = HFConfig(size, config.path)
    if values.get("height") and values.get("width"):
        return {"exact": _pair(values, "height", "width")}
    if values.get("max_height") and values.get("max_width"):
        return {"within": _pair(values, "max_height", "max_width")}
    if not values.get("shortest_edge"):
        raise config.error(
            f"size {size!r:.80}: expected shortest_edge and longest_edge, height and width, or "
            "max_height and max_width"
        )
    short = values.whole("shortest_edge", 0, LONGEST_SIDE)
    long = values.get("longest_edge") and values.whole("longest_edge", 0, LONGEST_SIDE)
    return {"short": short, "long": long, "rounding": "transformers"}


def _pair(values: HFConfig, first: str, second: str) -> list[int]:
    return [values.whole(first, 0, LONGEST_SIDE), values.whole(second, 0, LONGEST_SIDE)]
