"""LADHead: PAA's head, with the anchors of another one."""

from torch import Tensor

from cupola.models.paa.head import PAAHead
from cupola.registry import MODELS


@MODELS.register_module()
class LADHead(PAAHead):
    """A PAAHead whose boxes all weigh the same. Source: mmdet/models/dense_heads/lad_head.py."""

    def decoded_loss(self, boxes: Tensor, goal: Tensor, overlap: Tensor) -> Tensor:
        """The loss of decoded boxes [P, 4]."""
        loss: Tensor = self.loss_bbox(boxes, goal, avg_factor=float(len(boxes)))
        return loss
