"""PAA and its head.

Letters: B images, C classes, S anchors of all levels, P positive anchors of an image.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cupola.models.atss import ATSSHead
from cupola.models.dense import (
    Candidates,
    DenseOutput,
    ImageSizes,
    SingleStageDetector,
    level_rows,
    suppress,
)
from cupola.models.dense.anchor_head import Factors, Sizes, joined_levels
from cupola.models.dense.targets import AnchorTargets, Targets
from cupola.models.paa.mixture import two_gaussians
from cupola.registry import MODELS
from cupola.structures import Detections
from cupola.structures.boxes import iou, pairwise_iou

LEAST = 1e-12  # weight of a box whose IoU is 0


@MODELS.register_module()
class PAA(SingleStageDetector):
    """Source: mmdet/models/detectors/paa.py."""


@MODELS.register_module()
class PAAHead(ATSSHead):
    """The third prediction is the box's IoU; scores are roots of its products with the classes'.

    Of the anchors that the assigner takes for positive, those stay whose losses belong to the lower
    of two Gaussians. With `score_voting` a box is the mean of those around it.
    Source: mmdet/models/dense_heads/paa_head.py.
    """

    def __init__(
        self,
        *args: Any,
        topk: int = 9,
        score_voting: bool = True,
        covariance_type: str = "diag",
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.topk, self.score_voting = topk, score_voting

    def scored_boxes(self, output: DenseOutput) -> tuple[Tensor, Tensor]:
        """Scores [B, S, C] and boxes [B, S, 4], xyxy in pixels, of all anchors."""
        scores, boxes = super().scored_boxes(output)
        return scores.sqrt(), boxes

    def predict(
        self, output: DenseOutput, sizes: Sizes, scale_factors: Factors
    ) -> list[Detections]:
        """Detections of every image whose (height, width) without padding are `sizes`."""
        assert output.qualities is not None
        parts = (output.logits, output.boxes, output.qualities)
        anchors, limit = self.anchors(output.logits), self.test_cfg.get("nms_pre", -1)
        found = []
        for i, (size, factor) in enumerate(zip(sizes, scale_factors, strict=True)):
            boxes, scores = [], []
            for level, priors in enumerate(anchors):
                logits, deltas, quality = (
                    level_rows(each[level][i : i + 1], width)[0].float()
                    for each, width in zip(parts, (self.cls_channels, 4, 1), strict=True)
                )
                score = (logits.sigmoid() * quality.sigmoid()).sqrt()  # [S_i, C]
                if 0 < limit < len(score):
                    best = score.amax(1).topk(limit).indices
                    score, deltas, priors = score[best], deltas[best], priors[best]
                boxes.append(self.bbox_coder.decode(priors, deltas, size))
                scores.append(score)
            found.append(self._detections(torch.cat(boxes), torch.cat(scores), factor))
        return found

    def _detections(
        self, boxes: Tensor, scores: Tensor, factor: Sequence[float] | None
    ) -> Detections:
        if factor is not None:
            boxes = boxes / boxes.new_tensor([*factor[:2], *factor[:2]])
        where, classes = (scores > self.test_cfg.get("score_thr", 0)).nonzero(as_tuple=True)
        candidates = Candidates(boxes[where], scores[where, classes], classes)
        kept = suppress(candidates, self.test_cfg)
        return vote(kept, candidates) if self.score_voting else kept

    def loss(self, output: DenseOutput, targets: Targets, sizes: ImageSizes) -> dict[str, Tensor]:
        """loss_cls, loss_bbox (weighted by the IoU) and loss_iou."""
        return self.assigned_losses(output, self.assignment(output, targets, sizes), len(targets))

    def assignment(
        self, output: DenseOutput, targets: Targets, sizes: ImageSizes
    ) -> tuple[AnchorTargets, Tensor]:
        """What anchors should predict, and which of the positive ones stay positive, bool."""
        wanted = self.targets(output, targets, sizes)
        return wanted, self.kept(output, *self.joined(output), wanted)

    def assigned_losses(
        self, output: DenseOutput, assignment: tuple[AnchorTargets, Tensor], images: int
    ) -> dict[str, Tensor]:
        """The losses of a batch of so many images."""
        wanted, kept = assignment
        logits, deltas = self.joined(output)
        assert output.qualities is not None
        quality = joined_levels(output.qualities, 1)[..., 0]  # [B, S]
        sampled = wanted.positive | wanted.negative
        positive = wanted.positive.clone()
        positive[wanted.positive] = kept
        labels = torch.full_like(sampled, self.num_classes, dtype=torch.int64)
        labels[positive] = wanted.labels[kept]
        count = int(kept.sum())
        loss_cls = self.loss_cls(
            logits[sampled], labels[sampled], avg_factor=float(max(count, images))
        )
        if not count:
            nothing = {"loss_bbox": deltas.sum() * 0, "loss_iou": quality.sum() * 0}
            return {"loss_cls": loss_cls, **nothing}
        boxes = self.bbox_coder.decode(wanted.anchors[kept], deltas[positive])
        overlap = iou(boxes.detach(), wanted.boxes[kept])
        return {
            "loss_cls": loss_cls,
            "loss_bbox": self.decoded_loss(boxes, wanted.boxes[kept], overlap),
            "loss_iou": self.loss_centerness(quality[positive], overlap, avg_factor=float(count)),
        }

    def decoded_loss(self, boxes: Tensor, goal: Tensor, overlap: Tensor) -> Tensor:
        """The loss of decoded boxes [P, 4], weighted by their overlap [P] with the objects."""
        loss: Tensor = self.loss_bbox(
            boxes, goal, overlap.clamp(min=LEAST), avg_factor=overlap.sum()
        )
        return loss

    @torch.no_grad()
    def kept(
        self, output: DenseOutput, logits: Tensor, deltas: Tensor, wanted: AnchorTargets
    ) -> Tensor:
        """Which of the positive anchors of the batch stay positive, bool."""
        boxes = self.bbox_coder.decode(wanted.anchors, deltas[wanted.positive])
        loss = self.loss_cls.loss_weight * self.loss_cls.each(
            logits[wanted.positive], wanted.labels
        ).sum(-1)
        loss = loss + self.loss_bbox.loss_weight * self.loss_bbox.each(boxes, wanted.boxes)
        image, anchor = wanted.positive.nonzero(as_tuple=True)
        counts = [
            x.shape[-2] * x.shape[-1] * n
            for x, n in zip(output.logits, self.anchors.counts, strict=True)
        ]
        ends = torch.tensor(counts, device=anchor.device).cumsum(0)
        level = torch.bucketize(anchor, ends, right=True)
        kept = torch.zeros_like(loss, dtype=torch.bool)
        for one in torch.unique(torch.stack((image, wanted.objects)), dim=1).T:
            own = (image == one[0]) & (wanted.objects == one[1])
            kept[self._lower(own, level, loss, len(counts))] = True
        return kept

    def _lower(self, own: Tensor, level: Tensor, loss: Tensor, levels: int) -> Tensor:
        """The indices of an object's anchors that stay positive."""
        chosen = []
        for number in range(levels):
            index = (own & (level == number)).nonzero()[:, 0]
            best = loss[index].topk(min(len(index), self.topk), largest=False).indices
            chosen.append(index[best])
        index = torch.cat(chosen)
        if len(index) < 2:
            return index[:0]
        values, order = loss[index].sort()
        member, density = two_gaussians(values)
        lower = index[order][member == 0]
        if not len(lower):
            return lower
        return lower[: int(density[member == 0].argmax()) + 1]


def vote(kept: Detections, candidates: Candidates) -> Detections:
    """Each box becomes the mean of the candidates of its class, by overlap and score."""
    overlap = pairwise_iou(kept.boxes, candidates.boxes)  # [N, M]
    near = (overlap > 0.01) & (kept.labels[:, None] == candidates.labels)
    weight = torch.exp(-((1 - overlap) ** 2) / 0.025) * candidates.scores * near
    boxes = weight @ candidates.boxes / weight.sum(1, keepdim=True)
    return Detections(boxes, kept.scores, kept.labels)
