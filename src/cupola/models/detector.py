"""What detectors of boxes share: data preprocessor, backbone, neck and head."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cupola import nn
from cupola.registry import MODELS
from cupola.structures import pad_to_multiple

Config = Mapping[str, Any]


class Detector(nn.Module):
    """Abstract: subclasses define `forward`, `loss` and `predict`.

    Without `bbox_head` the subclass makes the heads. `pretrained` is the spelling of MMDetection
    2.x for the backbone's initial weights.
    """

    example_shape = (3, 224, 224)  # of a sample for `cupola explain`, where none is given

    def __init__(
        self,
        backbone: Config,
        bbox_head: Config | None,
        neck: Config | None = None,
        train_cfg: Config | None = None,
        test_cfg: Config | None = None,
        data_preprocessor: Config | None = None,
        pretrained: str | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        if pretrained:
            backbone = {**backbone, "pretrained": pretrained}
        self.data_preprocessor = MODELS.build(data_preprocessor or {"type": "DetDataPreprocessor"})
        self.backbone = MODELS.build(backbone)
        self.neck = MODELS.build(neck) if neck else None
        if bbox_head is not None:
            settings = {"train_cfg": train_cfg, "test_cfg": test_cfg}
            self.bbox_head = MODELS.build({**bbox_head, **settings})

    def padded(self, pixels: Tensor) -> Tensor:
        """pixels [B, 3, H, W] with zeros at right and bottom, to sides that are multiples of 32.

        For models that add maps of several levels, which fit at such sizes alone.
        """
        return pad_to_multiple(pixels, math.lcm(32, self.data_preprocessor.pad_size_divisor))

    def maps(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """pixels [B, 3, H, W] -> feature maps [B, C, h_i, w_i], finest first."""
        maps = self.backbone(pixels)
        return tuple(maps if self.neck is None else self.neck(maps))
