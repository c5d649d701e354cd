"""ScoreHLRSampler: negatives that are likely taken for objects come first, and weigh more."""

from typing import Any

import torch
from torch import Tensor

from cupola.models.boxes import NEGATIVE, Assignment, RandomSampler, Sample
from cupola.models.pisa.weights import ranks
from cupola.models.rcnn.sampling import BoxPredictions
from cupola.ops.nms import ranks_in_groups
from cupola.registry import TASK_UTILS


@TASK_UTILS.register_module()
class ScoreHLRSampler(RandomSampler):
    """A RandomSampler that ranks negatives by their largest score (ISR of negative samples).

    Those with a score above `score_thr` are grouped by NMS with `iou_thr`; the best of all groups
    come first, then the second best. Others are drawn at random. Weights fall linearly with the
    rank; `bias` and `k` map them, and their sum is kept.
    Source: mmdet/models/task_modules/samplers/score_hlr_sampler.py.
    """

    by_prediction = True

    def __init__(
        self,
        num: int,
        pos_fraction: float,
        k: float = 0.5,
        bias: float = 0,
        score_thr: float = 0.05,
        iou_thr: float = 0.5,
        **settings: Any,
    ) -> None:
        super().__init__(num, pos_fraction, **settings)
        self.k, self.bias = k, bias
        self.score_threshold, self.iou_threshold = score_thr, iou_thr

    def __call__(self, assignment: Assignment) -> Sample:
        """Assignment -> Sample with weights of the negatives, which are in the order of ranks."""
        positive = self.positive(assignment, int(self.num * self.pos_fraction))
        every = (assignment.objects == NEGATIVE).nonzero()[:, 0]
        chosen, weights = self.ranked(assignment.proposals, every, self.rest(len(positive)))
        return Sample(positive, chosen, assignment.objects[positive], weights)

    @torch.no_grad()
    def ranked(
        self, proposals: BoxPredictions, every: Tensor, count: int
    ) -> tuple[Tensor, Tensor | None]:
        """At most `count` of the indices `every` of negatives, and their weights."""
        if not len(every):
            return every, None
        count = min(count, len(every))
        losses, logits, deltas = proposals.of(every)
        scores, labels = logits.softmax(-1)[:, :-1].max(-1)
        valid = scores > self.score_threshold
        likely, others = valid.nonzero()[:, 0], (~valid).nonzero()[:, 0]
        if not len(likely):
            drawn = torch.randperm(len(every))[:count].to(every.device)
            return every[drawn], scores.new_ones(count)
        head = proposals.head
        boxes = head.bbox_coder.decode(
            proposals.boxes[every[likely]], head.deltas_of(deltas[likely], labels[likely])
        )
        place = ranks_in_groups(boxes, scores[likely], self.iou_threshold)
        rank = ranks(len(likely) - place + scores[likely])  # [V]
        first = rank.argsort()[:count]
        drawn = torch.randperm(len(others))[: count - len(first)].to(every.device)
        most = max(count, len(likely))
        weights = (most - rank[first]) / most
        weights = torch.cat((weights, weights.min().expand(len(drawn)))).to(losses)
        weights = (self.bias + (1 - self.bias) * weights).pow(self.k)
        chosen = torch.cat((likely[first], others[drawn]))
        ratio = losses[chosen].sum() / (losses[chosen] * weights).sum()
        return every[chosen], weights * ratio
