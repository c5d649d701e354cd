"""GridMask (arXiv 2001.04086): an augmentation that zeroes a grid of squares."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cupola import nn


class GridMask(nn.Module):
    """Multiplies all images of a batch by one random grid; the identity outside training.

    `mode` 1 keeps the stripes and zeroes the rest. Uses numpy's global generator in the same order
    as the original (source: grid_mask.py).
    """

    def __init__(
        self,
        use_h: bool,
        use_w: bool,
        rotate: int = 1,
        offset: bool = False,
        ratio: float = 0.5,
        mode: int = 0,
        prob: float = 1.0,
    ) -> None:
        super().__init__()
        self.use_h = use_h
        self.use_w = use_w
        self.rotate = rotate
        self.offset = offset
        self.ratio = ratio
        self.mode = mode
        self.prob = prob

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] -> the same shape."""
        if torch.compiler.is_exporting() or not self.training:
            return x
        if np.random.rand() > self.prob:
            return x
        height, width = x.shape[-2:]
        mask = torch.from_numpy(self._mask(height, width)).to(x)
        if self.mode == 1:
            mask = 1 - mask
        if not self.offset:
            return x * mask
        noise = torch.from_numpy(2 * (np.random.rand(height, width) - 0.5)).to(x)
        return x * mask + noise * (1 - mask)

    def _mask(self, height: int, width: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        """[height, width] of 0 and 1, cropped from the center of a larger, rotated grid."""
        tall, wide = int(1.5 * height), int(1.5 * width)
        period = np.random.randint(2, height)
        stripe = min(max(int(period * self.ratio + 0.5), 1), period - 1)
        start_row, start_column = np.random.randint(period), np.random.randint(period)
        mask = np.ones((tall, wide), np.uint8)
        for i in range(tall // period if self.use_h else 0):
            mask[period * i + start_row : period * i + start_row + stripe] = 0
        for i in range(wide // period if self.use_w else 0):
            mask[:, period * i + start_column : period * i + start_column + stripe] = 0
        turned = np.asarray(Image.fromarray(mask).rotate(np.random.randint(self.rotate)))
        top, left = (tall - height) // 2, (wide - width) // 2
        return turned[top : top + height, left : left + width].astype(np.float32)
