"""Det3DDataPreprocessor: raw images -> normalized, padded images."""

from typing import Any

from torch import Tensor

from cupola import nn
from cupola.models.detr.preprocessor import DetDataPreprocessor
from cupola.registry import MODELS


@MODELS.register_module()
class Det3DDataPreprocessor(nn.Module):
    """Applies DetDataPreprocessor, whose arguments it takes, to the images of all cameras."""

    def __init__(self, **images: Any) -> None:
        super().__init__()
        self.images = DetDataPreprocessor(**images)

    def forward(self, images: Tensor) -> Tensor:
        """[..., 3, h, w], 0..255 -> [..., 3, H, W], normalized; zeros at the right and bottom."""
        flat = images.reshape(-1, *images.shape[-3:])
        pixels: Tensor = self.images(list(flat)).pixels
        return pixels.view(*images.shape[:-2], *pixels.shape[-2:])
