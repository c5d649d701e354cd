"""How published test pipelines pad an image after they have resized it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Size = tuple[int, int]


@dataclass(frozen=True)
class Padding:
    """To which size one image is padded, where it lies in it, and with what.

    size: the least (height, width). square: to the longer side. divisor: to multiples of it.
    logical_or: each side becomes (side | logical_or) + more, as in CornerNet and CenterNet.
    value: of the channels in the order of the images, 0..255; None is 0 after the normalization.
    centered: the image lies in the middle, otherwise at the left and at the top.
    in_image: the padding counts as a part of the image, so that boxes may reach into it, as after
    the `Pad` of MMDetection 3.x.
    mirrored: "horizontal", "vertical" or "diagonal" if the padded image is flipped, as in 2.x.
    """

    size: Size | None = None
    square: bool = False
    divisor: int = 1
    logical_or: int | None = None
    more: int = 0
    value: tuple[float, ...] | None = None
    centered: bool = False
    in_image: bool = False
    mirrored: str | None = None

    def padded(self, size: Size) -> Size:
        """The (height, width) of an image of that size after padding."""
        height, width = size
        if self.logical_or is not None:
            return (height | self.logical_or) + self.more, (width | self.logical_or) + self.more
        if self.square:
            height = width = max(height, width)
        if self.size is not None:
            height, width = max(height, self.size[0]), max(width, self.size[1])
        return _multiple(height, self.divisor), _multiple(width, self.divisor)

    def corner(self, size: Size) -> Size:
        """The (top, left) of an image of that size in the padded one."""
        if not self.centered:
            return 0, 0
        top, left = (
            whole // 2 - side // 2 for whole, side in zip(self.padded(size), size, strict=True)
        )
        return top, left

    def place(self, size: Size) -> Size:
        """The (top, left) where the image lies: `corner`, or where flipping the whole moves it.

        2.x maps boxes of the flipped image back as if it was at `corner`, as well.
        """
        (top, left), (height, width) = self.corner(size), self.padded(size)
        if self.mirrored in ("vertical", "diagonal"):
            top = height - size[0] - top
        if self.mirrored in ("horizontal", "diagonal"):
            left = width - size[1] - left
        return top, left

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | None) -> "Padding":
        """From `preprocess.padding` of a bundle's config."""
        found = dict(config or {})
        for key in ("size", "value"):
            if found.get(key) is not None:
                found[key] = tuple(found[key])
        return cls(**found)


def published_padding(steps: Sequence[Mapping[str, Any]], version_2: bool) -> dict[str, Any]:
    """`preprocess.padding` for the transforms of a published test pipeline; empty without any.

    Source: Pad of mmcv and mmdet 2.x, and RandomCenterCropPad in test mode. Their images are BGR,
    ours RGB.
    """
    types = [step["type"] for step in steps]
    for index, step in enumerate(steps):
        if step["type"] == "RandomCenterCropPad":
            return _centered(step)
        if step["type"] != "Pad":
            continue
        found: dict[str, Any] = {} if version_2 else {"in_image": True}
        if step.get("size"):
            size = list(step["size"])  # (height, width) in 2.x, (width, height) in 3.x
            found["size"] = size if version_2 else size[::-1]
        if step.get("pad_to_square"):
            found["square"] = True
        if step.get("size_divisor"):
            found["divisor"] = int(step["size_divisor"])
        if "Normalize" not in types[:index]:
            found["value"] = _channels(step.get("pad_val", 0))
        return found
    return {}


def _centered(step: Mapping[str, Any]) -> dict[str, Any]:
    """The mean of RandomCenterCropPad is that of RGB values, if `to_rgb`."""
    mode, number = step.get("test_pad_mode") or ("logical_or", 127)
    mean = [float(each) for each in step.get("mean") or (0, 0, 0)]
    value = mean if step.get("to_rgb", True) else mean[::-1]
    found: dict[str, Any] = {"centered": True, "in_image": True, "value": value}
    if mode == "size_divisor":
        return {**found, "divisor": int(number)}
    return {**found, "logical_or": int(number), "more": int(step.get("test_pad_add_pix", 0))}


def _channels(value: Any) -> list[float]:
    """`pad_val` of an image as three values in RGB."""
    number = value.get("img", 0) if isinstance(value, Mapping) else value
    if isinstance(number, list | tuple):
        return [float(each) for each in reversed(number)]
    return [float(number)] * 3


def _multiple(side: int, divisor: int) -> int:
    return -(-side // divisor) * divisor
