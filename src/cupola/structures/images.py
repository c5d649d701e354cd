"""Sizes and normalization of images, and joining images of different sizes in one batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Mean and standard deviation of ImageNet's RGB values, 0..255, as MMDetection's configs have them.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


def normalize(
    images: Tensor, mean: Tensor | Sequence[float], std: Tensor | Sequence[float]
) -> Tensor:
    """(value - mean) / std for each channel: [..., C, H, W], uint8 or float -> float32."""
    shift, scale = (
        torch.as_tensor(each, dtype=torch.float32, device=images.device).view(-1, 1, 1)
        for each in (mean, std)
    )
    return (images.float() - shift) / scale


def fit_size(
    size: tuple[int, int], short: int | None, long: int | None, half: float = 0.5
) -> tuple[int, int]:
    """The two sides of an image, scaled until the shorter is `short` or the longer is `long`.

    Whichever is reached first; None sets no bound, and without bounds the size stays. Halves are
    rounded up, as in mmcv's `rescale_size`, and no side becomes 0. With `half` 0 sides are rounded
    down, as in MMDetection's FixScaleResize.
    """
    bounds = [limit / side(size) for limit, side in ((short, min), (long, max)) if limit]
    if not bounds:
        return size
    scale = min(bounds)
    first, second = (max(1, int(side * scale + half)) for side in size)
    return first, second


def fit_size_down(size: tuple[int, int], short: int, long: int | None) -> tuple[int, int]:
    """The (height, width) of an image with its shorter side `short`, its longer at most `long`.

    The longer side is rounded down and depends on the unrounded shorter one, as in
    facebookresearch/detr and transformers.
    """
    low, high = min(size), max(size)
    exact = float(short)
    if long is not None and high / low * short > long:
        exact = long * low / high
        short = round(exact)
    if low == short:
        return size
    other = int(exact * high / low)
    sides = (max(1, short), max(1, other))
    return sides if size[0] <= size[1] else sides[::-1]


def fit_within(size: tuple[int, int], bounds: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) of an image scaled until one side reaches its bound, rounded down."""
    scale = min(bounds[0] / size[0], bounds[1] / size[1])
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


def pad_to_multiple(images: Tensor, divisor: int) -> Tensor:
    """Zeros at the right and bottom of [..., H, W] up to the next multiples of `divisor`."""
    bottom, right = (-side % divisor for side in images.shape[-2:])
    return F.pad(images, (0, right, 0, bottom))


@dataclass(frozen=True)
class PaddedImages:
    """A batch of images, zero-padded at the right and at the bottom.

    pixels: [B, C, H, W], float, normalized.
    padding_mask: [B, H, W], bool, True = padded; None when no image is padded.
    sizes: (height, width) of each image before padding.
    """

    pixels: Tensor
    padding_mask: Tensor | None
    sizes: list[tuple[int, int]]


def pad_images(images: Sequence[Tensor], divisor: int = 1) -> PaddedImages:
    """Joins images [C, H_i, W_i] into a batch whose sides are multiples of `divisor`."""
    if not images:
        raise ValueError("pad_images needs at least one image")
    sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
    height, width = (-(-max(side) // divisor) * divisor for side in zip(*sizes, strict=True))
    if set(sizes) == {(height, width)}:
        return PaddedImages(torch.stack(list(images)), None, sizes)
    pixels = images[0].new_zeros(len(images), images[0].shape[0], height, width)
    mask = torch.ones(len(images), height, width, dtype=torch.bool, device=pixels.device)
    for index, (image, (h, w)) in enumerate(zip(images, sizes, strict=True)):
        pixels[index, :, :h, :w] = image
        mask[index, :h, :w] = False
    return PaddedImages(pixels, mask, sizes)
