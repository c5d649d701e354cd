"""Non-maximum suppression: greedy, by group, and soft (arXiv 1704.04503).

Letters: N boxes, K kept boxes. Originals: mmcv/ops/nms.py and its CPU operators.
"""

from typing import Any

import torch
from torch import Tensor

from cupola.structures.boxes import iou, pairwise_iou

BLOCK = 256  # boxes whose mutual overlaps are resolved together


def nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    groups: Tensor | None = None,
    max_num: int | None = None,
    order: Tensor | None = None,
) -> Tensor:
    """Indices of the kept boxes, best first: boxes [N, 4] xyxy, scores [N] -> [K] int64.

    A box is dropped if its IoU with a kept box of a higher score exceeds `iou_threshold`. With
    `groups` [N] (classes, feature levels) only boxes of the same group suppress each other. At
    most `max_num` are kept. `order` [N] is another order in which boxes are considered; by default
    it is that of the scores, and for equal scores that of the boxes.
    """
    if torch.compiler.is_exporting():  # ONNX has no stable sort; its TopK is
        order = scores.argsort(descending=True) if order is None else order
        keep = order[_kept_in_order(boxes, iou_threshold, groups, order).nonzero()[:, 0]]
        return keep if max_num is None else keep[:max_num]
    order = scores.argsort(descending=True, stable=True) if order is None else order
    kept = order[:0]
    for block in torch.split(order, BLOCK):
        block = block[~(_overlaps(boxes, groups, kept, block) > iou_threshold).any(0)]
        within = _overlaps(boxes, groups, block, block) > iou_threshold
        kept = torch.cat((kept, block[_greedy(within.triu(1))]))
        if max_num is not None and len(kept) >= max_num:
            return kept[:max_num]
    return kept


def nms_mask(
    boxes: Tensor, scores: Tensor, iou_threshold: float, groups: Tensor | None = None
) -> Tensor:
    """Which boxes `nms` keeps, [N] bool: its shape does not depend on the data, for exports."""
    order = scores.argsort(descending=True)
    keep = _kept_in_order(boxes, iou_threshold, groups, order)
    return torch.zeros_like(keep).scatter(0, order, keep)


def fast_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    score_threshold: float,
    top_k: int,
    max_num: int = -1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Indices [K] of the kept boxes, their labels and scores, best first.

    boxes [N, 4], xyxy; scores [N, C]. Of the `top_k` best of each class those are dropped whose
    IoU with a better one, kept or not, exceeds `iou_threshold`. At most `max_num` are kept, if it
    is positive. Source: YOLACT (arXiv 1904.02689); mmdet/models/layers/bbox_nms.py.
    """
    values, order = scores.t().sort(dim=1, descending=True, stable=True)
    values, order = values[:, :top_k], order[:, :top_k]  # [C, k]
    chosen = boxes[order]
    overlaps = iou(chosen[:, :, None], chosen[:, None]).triu(1)  # [C, k, k]
    worst = overlaps.amax(1) if order.shape[1] else values
    labels, places = ((worst <= iou_threshold) & (values > score_threshold)).nonzero(as_tuple=True)
    best, rank = values[labels, places].sort(descending=True, stable=True)
    rank = rank[:max_num] if max_num > 0 else rank
    labels, places = labels[rank], places[rank]
    return order[labels, places], labels, best[: len(rank)]


def ranks_in_groups(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """The rank [N] of each box within its group, 0 the best: boxes [N, 4] xyxy, scores [N].

    A box of no group yet, the best first, makes one with all others whose IoU with it is at least
    `iou_threshold`. Source: nms_match of mmcv/ops/nms.py.
    """
    ranks = torch.zeros(len(scores), dtype=torch.int64, device=scores.device)
    rest = scores.argsort(descending=True, stable=True)
    while len(rest):
        near = pairwise_iou(boxes[rest[:1]], boxes[rest])[0] >= iou_threshold
        near[0] = True
        members = rest[near]
        ranks[members] = torch.arange(len(members), device=scores.device)
        rest = rest[~near]
    return ranks


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float = 0.3,
    groups: Tensor | None = None,
    *,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    method: str = "linear",
) -> tuple[Tensor, Tensor]:
    """Indices [K] in the order of selection and lowered scores [K].

    The score of a box is multiplied, for each better box selected before, by 1 - IoU if the IoU is
    at least `iou_threshold` ("linear"), by exp(-IoU^2 / sigma) ("gaussian"), or by 0 ("naive").
    Boxes whose score falls below `min_score` are dropped.
    """
    if method not in ("linear", "gaussian", "naive"):
        raise ValueError(f"soft_nms method is 'linear', 'gaussian' or 'naive', got {method!r}")
    rest, scores = torch.arange(len(scores), device=scores.device), scores.clone()
    kept: list[Tensor] = []
    while len(rest):
        best = scores[rest].argmax()
        kept.append(rest[best])
        rest = torch.cat((rest[:best], rest[best + 1 :]))
        overlap = _overlaps(boxes, groups, kept[-1][None], rest)[0]
        if method == "gaussian":
            factor = torch.exp(-(overlap**2) / sigma)
        else:
            lowered = 1 - overlap if method == "linear" else torch.zeros_like(overlap)
            factor = torch.where(overlap >= iou_threshold, lowered, 1.0)
        scores[rest] = scores[rest] * factor
        rest = rest[scores[rest] >= min_score]
    keep = torch.stack(kept) if kept else rest
    return keep, scores[keep]


def _kept_in_order(
    boxes: Tensor, iou_threshold: float, groups: Tensor | None, order: Tensor
) -> Tensor:
    """Whether the boxes in that order are kept, [N] bool, by a loop that can be exported."""
    later = _overlaps(boxes, groups, order, order) > iou_threshold
    return _greedy_loop(later.triu(1))


def _overlaps(boxes: Tensor, groups: Tensor | None, first: Tensor, second: Tensor) -> Tensor:
    """IoU of the boxes `first` [A] with `second` [B], 0 between groups: [A, B]."""
    overlap = pairwise_iou(boxes[first], boxes[second])
    if groups is None:
        return overlap
    return torch.where(groups[first, None] == groups[None, second], overlap, 0.0)


def _greedy(suppresses: Tensor) -> Tensor:
    """Who is kept, [N] bool, given whom each box suppresses if it is kept itself, [N, N] bool.

    Only boxes before a box suppress it, so repeating the rule from "all are kept" settles the boxes
    in order of how many others they depend on.
    """
    keep = torch.ones(len(suppresses), dtype=torch.bool, device=suppresses.device)
    while True:
        settled = ~(suppresses & keep[:, None]).any(0)
        if torch.equal(settled, keep):
            return keep
        keep = settled


def _greedy_loop(suppresses: Tensor) -> Tensor:
    """The same as a loop that can be exported."""
    from torch._higher_order_ops.while_loop import while_loop

    matrix = suppresses.float()

    def changed(keep: Tensor, before: Tensor) -> Tensor:
        return (keep != before).any()

    def settle(keep: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        return (torch.matmul(keep[None], matrix)[0] == 0).float(), keep.clone()

    first = torch.ones_like(matrix[:, 0])
    loop: Any = while_loop
    keep: Tensor = loop(changed, settle, (first, torch.zeros_like(first)))[0]
    return keep.bool()
