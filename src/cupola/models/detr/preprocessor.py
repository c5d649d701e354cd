"""DetDataPreprocessor: raw images -> a normalized, padded batch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.registry import MODELS
from cupola.structures import IMAGENET_MEAN, IMAGENET_STD, PaddedImages, normalize, pad_images


@MODELS.register_module()
class DetDataPreprocessor(nn.Module):
    """Swaps channels, normalizes, then pads with zeros to a multiple of `pad_size_divisor`.

    Source: mmdet/models/data_preprocessors/data_preprocessor.py. `mean` and `std` are those of
    0..255 values, in the channel order after the swap. Masks of the ground truth are padded where
    they are used, and `batch_augments` is not applied.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        bgr_to_rgb: bool = False,
        rgb_to_bgr: bool = False,
        pad_size_divisor: int = 1,
        pad_mask: bool = False,
        mask_pad_value: int = 0,
        pad_seg: bool = False,
        seg_pad_value: int = 255,
        pad_value: float = 0,
        batch_augments: Sequence[Any] | None = None,
    ) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise ValueError(f"mean has {len(mean)} channels, std {len(std)}")
        self.swap = bgr_to_rgb or rgb_to_bgr
        self.batch_augments = [MODELS.build(augment) for augment in batch_augments or ()]
        self.pad_size_divisor = pad_size_divisor
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Sequence[Tensor]) -> PaddedImages:
        """images [3, H_i, W_i], 0..255, uint8 or float -> PaddedImages."""
        return pad_images([self.normalize(image) for image in images], self.pad_size_divisor)

    def normalize(self, image: Tensor) -> Tensor:
        """[3, H, W], 0..255 -> float32, normalized."""
        if self.swap:
            image = image.flip(0)
        return normalize(image, self.mean, self.std)


@MODELS.register_module()
class BatchFixedSizePad:
    """Pads batches of training to at least `size` (height, width), with zeros.

    Masks of the ground truth are padded where they are used, with zeros too; another value is
    refused. `train/padding.py` applies it. Source: mmdet/models/data_preprocessors.
    """

    def __init__(
        self,
        size: Sequence[int],
        img_pad_value: float = 0,
        pad_mask: bool = False,
        mask_pad_value: int = 0,
        pad_seg: bool = False,
        seg_pad_value: int = 255,
    ) -> None:
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size should be (height, width), got {size!r}")
        if img_pad_value or mask_pad_value:
            raise ValueError("images and masks are padded with 0 only")
        self.size = (int(size[0]), int(size[1]))
