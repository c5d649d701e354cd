"""EmbeddingRPNHead: proposals and their features are parameters.

Letters: B images, P proposals of an image, C channels.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from cupola import nn
from cupola.registry import MODELS
from cupola.structures import boxes as box_ops

Size = tuple[int, int]


class Queries(NamedTuple):
    """boxes [B, P, 4], xyxy in pixels; features [B, P, C]."""

    boxes: Tensor
    features: Tensor


@MODELS.register_module()
class EmbeddingRPNHead(nn.Module):
    """`num_proposals` boxes, at first the whole image, and as many vectors.

    Source: mmdet/models/dense_heads/embedding_rpn_head.py.
    """

    def __init__(
        self,
        num_proposals: int = 100,
        proposal_feature_channel: int = 256,
        init_cfg: Any = None,
        train_cfg: Any = None,
        test_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_proposal_bboxes = nn.Embedding(num_proposals, 4)
        self.init_proposal_features = nn.Embedding(num_proposals, proposal_feature_channel)

    def init_weights(self) -> None:
        """Every box begins as the whole image."""
        nn.init.constant_(self.init_proposal_bboxes.weight[:, :2], 0.5)
        nn.init.constant_(self.init_proposal_bboxes.weight[:, 2:], 1)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Boxes [P, 4], xyxy in 0..1, and features [P, C]; the maps are not used."""
        boxes = box_ops.cxcywh_to_xyxy(self.init_proposal_bboxes.weight)
        return boxes, self.init_proposal_features.weight

    def queries(self, output: tuple[Tensor, Tensor], sizes: Sequence[Size]) -> Queries:
        """The proposals in images of those sizes (height, width)."""
        boxes, features = output
        pixels = boxes.new_tensor([[w, h, w, h] for h, w in sizes])[:, None]
        return Queries(boxes * pixels, features.expand(len(sizes), -1, -1))

    def fixed_proposals(self, output: tuple[Tensor, Tensor], size: Size) -> Queries:
        """The proposals of one image, for exports."""
        return self.queries(output, [size])
