"""FSAF and its head.

Letters: B images, S anchors, C classes, G objects of the batch, L levels, P positive anchors.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cupola.models.boxes import NEGATIVE
from cupola.models.dense import DenseOutput, ImageSizes, SingleStageDetector
from cupola.models.dense.targets import Targets, usable_anchors
from cupola.models.retinanet import RetinaHead
from cupola.registry import MODELS

Config = Mapping[str, Any]
LEAST_SIDE = 1e-4  # so that boxes have an area
UNUSED = 1e6  # the loss of an object on a level where it has no anchor
INITIAL: Config = {
    "type": "Normal",
    "layer": "Conv2d",
    "std": 0.01,
    "override": [
        {"type": "Normal", "name": "retina_cls", "std": 0.01, "bias_prob": 0.01},
        {"type": "Normal", "name": "retina_reg", "std": 0.01, "bias": 0.25},  # boxes with an area
    ],
}


@MODELS.register_module()
class FSAF(SingleStageDetector):
    """Source: mmdet/models/detectors/fsaf.py."""


@MODELS.register_module()
class FSAFHead(RetinaHead):
    """A RetinaHead that picks, for every object, the level where its loss is smallest.

    `score_threshold` is that of the metric pos_recall.
    Source: mmdet/models/dense_heads/fsaf_head.py.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        score_threshold: float | None = None,
        init_cfg: Any = None,
        **options: Any,
    ) -> None:
        # Configs ask for losses without reduction: they are reduced by level here.
        options |= {
            name: {**options[name], "reduction": "mean"}
            for name in ("loss_cls", "loss_bbox")
            if name in options
        }
        super().__init__(num_classes, in_channels, init_cfg=init_cfg or INITIAL, **options)
        self.score_threshold = score_threshold
        boxes = self.reg_decoded_bbox and hasattr(self.loss_bbox, "each")
        if not boxes or not self.use_sigmoid or not hasattr(self.loss_cls, "each"):
            raise ValueError(
                "FSAF's loss_cls is FocalLoss, its loss_bbox IoULoss or GIoULoss with "
                "reg_decoded_bbox=True"
            )

    def level(self, x: Tensor) -> tuple[Tensor, ...]:
        """A map [B, in_channels, h, w] -> logits [B, A * C, h, w], distances [B, A * 4, h, w]."""
        logits, sides = super().level(x)
        return logits, sides.relu()

    def loss(self, output: DenseOutput, targets: Targets, sizes: ImageSizes) -> dict[str, Tensor]:
        """loss_cls and loss_bbox; num_pos (of an image) and pos_recall (percent) are metrics."""
        anchors = torch.cat(self.anchors(output.logits))
        logits, sides = self.joined(output)
        owners, labels, trained = self.assigned(output, anchors, targets, sizes)
        each = self.loss_cls.loss_weight * self.loss_cls.each(logits.flatten(0, 1), labels)
        each = each.view(logits.shape) * trained  # [B, S, C]
        positive = owners >= 0
        boxes = torch.cat([target["boxes"].to(anchors) for target in targets])
        found = self.bbox_coder.decode(
            anchors.expand(len(owners), -1, -1)[positive], sides[positive].clamp(min=LEAST_SIDE)
        )
        loss_bbox = self.loss_bbox.loss_weight * self.loss_bbox.each(found, boxes[owners[positive]])
        best = self.on_best_level(output, owners, each[positive].sum(-1) + loss_bbox, len(boxes))
        kept = torch.ones_like(each)
        image, place = positive.nonzero(as_tuple=True)
        kept[image, place, labels.view(positive.shape)[positive]] = best.to(each)
        count = int(best.sum())
        average = count or sum(max(int(every), 1) for every in (owners == NEGATIVE).sum(1))
        label = labels.view(positive.shape)[positive][best]
        return {
            "loss_cls": (each * kept).sum() / average,
            "loss_bbox": (loss_bbox * best).sum() / average,
            "num_pos": logits.new_tensor(count / len(targets)),
            "pos_recall": self.recall(logits.detach()[positive][best], label),
        }

    def assigned(
        self, output: DenseOutput, anchors: Tensor, targets: Targets, sizes: ImageSizes
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Owners [B, S] by number in the batch; labels [B * S]; which classes train [B, S, C]."""
        if self.assigner is None:
            raise ValueError("the model's train_cfg is missing: it names the assigner")
        border, factor = (self.train_cfg.get(k, -1) for k in ("allowed_border", "pos_weight"))
        usable = usable_anchors(self.anchors, output.logits, anchors, sizes, border)
        shape = (len(targets), len(anchors))
        owners = torch.full(shape, NEGATIVE - 1, device=anchors.device)  # neither
        labels = torch.full_like(owners, self.num_classes)
        trained = anchors.new_zeros(*shape, self.num_classes)
        before = 0
        for i, (use, target) in enumerate(zip(usable, targets, strict=True)):
            wanted = target["labels"]
            owner, shadowed = self.assigner(anchors[use], target["boxes"].to(anchors), wanted)
            positive = owner >= 0
            label, weight = (
                torch.full_like(owner, self.num_classes),
                torch.ones_like(trained[i][use]),
            )
            label[positive] = wanted[owner[positive]]
            if factor > 0:
                weight[positive] = factor
            place, number = shadowed.nonzero(as_tuple=True)
            weight[place, wanted[number]] = 0
            owners[i, use] = torch.where(positive, owner + before, owner)
            labels[i, use], trained[i, use] = label, weight
            before += len(wanted)
        return owners, labels.flatten(), trained

    @torch.no_grad()
    def on_best_level(
        self, output: DenseOutput, owners: Tensor, losses: Tensor, objects: int
    ) -> Tensor:
        """Whether the positive anchors [P] are on the level with their object's least mean loss."""
        counts = [level.shape[-2:].numel() for level in output.logits]
        counts = [cells * each for cells, each in zip(counts, self.anchors.counts, strict=True)]
        levels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        positive = owners >= 0
        level, owner = levels.to(owners.device).expand_as(owners)[positive], owners[positive]
        cell = level * objects + owner
        sums = losses.new_zeros(len(counts) * objects)
        number = sums.index_add(0, cell, torch.ones_like(losses))
        means = sums.index_add(0, cell, losses) / number
        means = torch.where(number > 0, means, UNUSED).view(len(counts), objects)
        return means.argmin(0)[owner] == level if objects else owner > 0

    def recall(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The part, in percent, of anchors [P] whose best class, from [P, C], is their object's."""
        if not len(labels):
            return logits.new_zeros(())
        score, best = logits.sigmoid().max(1)
        right = best == labels
        if self.score_threshold is not None:
            right = right & (score > self.score_threshold)
        return right.float().mean() * 100
