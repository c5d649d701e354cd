"""The box coder of GLIP, whose decoded boxes end one pixel earlier."""

import torch
from torch import Tensor

from cupola.models.boxes.deltas import MAX_LOG, DeltaXYWHBBoxCoder, Size, clip
from cupola.registry import TASK_UTILS


@TASK_UTILS.register_module()
class DeltaXYWHBBoxCoderForGLIP(DeltaXYWHBBoxCoder):
    """Decodes to boxes whose last pixel belongs to them; encodes as the plain coder.

    Source: mmdet/models/task_modules/coders/delta_xywh_bbox_coder.py.
    """

    def decode(self, anchors: Tensor, deltas: Tensor, size: Size | None = None) -> Tensor:
        """Anchors [..., 4], deltas [..., 4] -> boxes [..., 4], within `size` (height, width)."""
        deltas = deltas * deltas.new_tensor(self.stds) + deltas.new_tensor(self.means)
        low, high = anchors[..., :2], anchors[..., 2:]
        shift, log = (high - low) * deltas[..., :2], deltas[..., 2:]
        if self.ctr_clamp is not None:
            shift, log = shift.clamp(-self.ctr_clamp, self.ctr_clamp), log.clamp(max=MAX_LOG)
        else:
            log = log.clamp(-MAX_LOG, MAX_LOG)
        center = (low + high - 1) * 0.5 + shift
        half = ((high - low) * log.exp() - 1) * 0.5
        boxes = torch.cat((center - half, center + half), -1)
        return clip(boxes, size, 1.0) if size is not None and self.clip_border else boxes
