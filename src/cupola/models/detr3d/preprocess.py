"""Det3DDataPreprocessor: pictures as they come from a file -> what the backbone wants."""

from typing import Any

from torch import Tensor

from cupola import nn
from cupola.models.detr.preprocessor import DetDataPreprocessor
from cupola.registry import MODELS


@MODELS.register_module()
class Det3DDataPreprocessor(nn.Module):
    """The 2-D preprocessor on every camera's picture (its arguments are those of that one)."""

    def __init__(self, **pictures: Any) -> None:
        super().__init__()
        self.pictures = DetDataPreprocessor(**pictures)

    def forward(self, pictures: Tensor) -> Tensor:
        """[..., 3, h, w], 0..255 -> [..., 3, H, W], normalised; zeros at the right and bottom."""
        flat = pictures.reshape(-1, *pictures.shape[-3:])
        pixels: Tensor = self.pictures(list(flat)).pixels
        return pixels.view(*pictures.shape[:-2], *pixels.shape[-2:])
