"""RPN: a detector whose detections are proposals."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from cupola.models.dense import SingleStageDetector
from cupola.registry import MODELS

Config = Mapping[str, Any]


@MODELS.register_module()
class RPN(SingleStageDetector):
    """The head is `rpn_head`, with the settings `rpn` of train_cfg and test_cfg.

    Its weights are named bbox_head in MMDetection 3, and rpn_head in 2.x, whose configs have no
    data preprocessor. Source: mmdet/models/detectors/rpn.py.
    """

    is_class_agnostic = True  # objects of every class train it

    def __init__(
        self,
        backbone: Config,
        rpn_head: Config,
        neck: Config | None = None,
        train_cfg: Config | None = None,
        test_cfg: Config | None = None,
        data_preprocessor: Config | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, None, neck, None, None, data_preprocessor, **settings)
        settings = {
            "train_cfg": (train_cfg or {}).get("rpn"),
            "test_cfg": (test_cfg or {}).get("rpn"),
        }
        self.head_name = "bbox_head" if data_preprocessor else "rpn_head"
        self.add_module(self.head_name, MODELS.build({**rpn_head, **settings}))

    @property
    def head(self) -> Any:
        """The head, under whatever name its weights have."""
        return getattr(self, self.head_name)

    @property
    def needs_sizes(self) -> bool:
        """Whether the head moves its anchors within the images, whose sizes it must know."""
        return bool(getattr(self.head, "needs_sizes", False))

    @property
    def fixed_axes(self) -> tuple[str, ...]:
        """The axes that exported graphs fix."""
        return ("batch", "height", "width") if self.needs_sizes else ()

    def forward(self, pixels: Tensor, padding_mask: Tensor | None = None) -> Any:
        """pixels [B, 3, H, W] -> the head's output, of images that fill the batch."""
        if not self.needs_sizes:  # sizes that are read as numbers are fixed in exported graphs
            return self.head(self.maps(pixels))
        return self.outputs(pixels, [(int(pixels.shape[-2]), int(pixels.shape[-1]))] * len(pixels))

    def outputs(self, pixels: Tensor, sizes: Sequence[tuple[int, int]]) -> Any:
        """The head's output for images of (height, width) in a batch."""
        maps = self.maps(pixels)
        return self.head(maps, sizes) if self.needs_sizes else self.head(maps)
