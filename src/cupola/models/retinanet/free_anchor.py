"""FreeAnchorRetinaHead: anchors are matched with objects by what they predict.

Letters: B images, A anchors of all levels, C classes, N objects of an image, K anchors of a bag.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.models.dense import DenseOutput, ImageSizes
from cupola.models.retinanet.head import RetinaHead
from cupola.registry import MODELS
from cupola.structures.boxes import pairwise_iou

Targets = Sequence[Mapping[str, Tensor]]
EPS = 1e-12


@MODELS.register_module()
class FreeAnchorRetinaHead(RetinaHead):
    """An object has a bag of the `pre_anchor_topk` anchors of the largest IoU.

    `bbox_thr` is the IoU of a predicted box from which on it may be the object's.
    Source: FreeAnchor (arXiv 1909.02466); mmdet/models/dense_heads/free_anchor_retina_head.py.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        pre_anchor_topk: int = 50,
        bbox_thr: float = 0.6,
        gamma: float = 2.0,
        alpha: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(num_classes, in_channels, **options)
        if not hasattr(self.loss_bbox, "each"):
            raise ValueError("FreeAnchor's loss_bbox is SmoothL1Loss or L1Loss")
        self.bag, self.threshold = pre_anchor_topk, bbox_thr
        self.gamma, self.alpha = gamma, alpha

    def loss(self, output: DenseOutput, targets: Targets, sizes: ImageSizes) -> dict[str, Tensor]:
        """positive_bag_loss and negative_bag_loss (equation 11 of the paper)."""
        anchors = torch.cat(self.anchors(output.logits))
        logits, deltas = self.joined(output)
        scores = logits.sigmoid()  # [B, A, C]
        positive, taken = [], []
        for score, delta, target in zip(scores, deltas, targets, strict=True):
            objects = target["boxes"].to(anchors)
            taken.append(self.taken(anchors, delta, objects, target["labels"]))
            if len(objects):
                positive.append(self.bags(anchors, score, delta, objects, target["labels"]))
        count = sum(map(len, positive))
        loss = torch.cat(positive).sum() / count if count else deltas.sum() * 0
        free = (scores * (1 - torch.stack(taken))).clamp(EPS, 1 - EPS)
        entropy = F.binary_cross_entropy(free, torch.zeros_like(free), reduction="none")
        negative = (1 - self.alpha) * (free.pow(self.gamma) * entropy).sum()
        negative = negative / max(1, count * self.bag)
        return {"positive_bag_loss": loss, "negative_bag_loss": negative}

    @torch.no_grad()
    def taken(self, anchors: Tensor, deltas: Tensor, objects: Tensor, labels: Tensor) -> Tensor:
        """The probability [A, C] that an anchor's box is an object's of the class."""
        found = anchors.new_zeros(len(anchors), self.cls_channels)
        if not len(objects):
            return found
        overlaps = pairwise_iou(objects, self.bbox_coder.decode(anchors, deltas))  # [N, A]
        most = overlaps.amax(1, keepdim=True)
        above = (overlaps - self.threshold) / (most - self.threshold).clamp(min=EPS)
        probability = above.clamp(0, 1)
        for label in set(labels.tolist()):
            found[:, label] = probability[labels == label].amax(0)
        return found

    def bags(
        self, anchors: Tensor, scores: Tensor, deltas: Tensor, objects: Tensor, labels: Tensor
    ) -> Tensor:
        """The loss of every object [N]: -log of the mean-max of its bag's probabilities."""
        size = min(self.bag, len(anchors))
        matched = pairwise_iou(objects, anchors).topk(size, 1, sorted=False).indices  # [N, K]
        score = scores[matched].gather(2, labels[:, None, None].expand(-1, size, 1))[..., 0]
        chosen = anchors[matched]
        goal = self.bbox_coder.encode(chosen, objects[:, None].expand_as(chosen))
        away = self.loss_bbox.each(deltas[matched], goal).sum(-1)
        probability = score * (-away).exp()  # [N, K]
        weight = 1 / (1 - probability).clamp(min=EPS)
        bag = (weight * probability).sum(1) / weight.sum(1)
        entropy = F.binary_cross_entropy(bag, torch.ones_like(bag), reduction="none")
        return self.alpha * entropy
