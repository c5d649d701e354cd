"""YOLOF: uniform matching, scores and losses against their rules."""

import torch
import torch.nn.functional as F
from dense_small import FAMILIES, model

from cupola.models.dense import ImageSizes
from cupola.models.yolof import UniformAssigner
from cupola.registry import build
from cupola.structures.boxes import giou, pairwise_iou, xyxy_to_cxcywh

TARGET = {
    "boxes": torch.tensor([[8.0, 8, 40, 30], [4, 2, 90, 60]]),
    "labels": torch.tensor([0, 2]),
}


def test_every_object_has_the_same_number_of_anchors() -> None:
    torch.manual_seed(0)
    anchors = torch.rand(40, 4) * 30
    anchors[:, 2:] += anchors[:, :2] + 5
    boxes = anchors + torch.randn(40, 4)
    objects = torch.tensor([[2.0, 3, 30, 25], [10, 10, 40, 50], [5, 20, 20, 45]])
    found = UniformAssigner(0.15, 0.5, 4)(anchors, boxes, objects)
    expected: list[tuple[int, int]] = []
    for source in (boxes, anchors):
        for number, each in enumerate(objects):
            away = (xyxy_to_cxcywh(source) - xyxy_to_cxcywh(each[None])).abs().sum(1)
            expected += [(index, number) for index in away.argsort()[:4].tolist()]
    pairs = list(zip(found.anchors.tolist(), found.objects.tolist(), strict=True))
    assert sorted(pairs) == sorted(expected) and len(pairs) == 2 * 4 * 3
    overlaps, best = pairwise_iou(anchors, objects), pairwise_iou(boxes, objects).amax(1)
    for (index, number), used in zip(pairs, found.used.tolist(), strict=True):
        assert used == bool(overlaps[index, number] >= 0.15)
    paired = {index for index, _ in pairs}
    for index, owner in enumerate(found.owners.tolist()):
        if index in paired:
            options = {n for i, n in pairs if i == index}
            assert owner in options or owner == -2
        else:
            assert owner == (-2 if best[index] > 0.5 else -1)


def test_scores_are_products() -> None:
    torch.manual_seed(0)
    head = build(model("yolof")).bbox_head
    x = torch.randn(1, 8, 4, 6)
    logits, _ = head.level(x)
    classes = head.cls_score(head.cls_subnet(x)).view(2, 3, 4, 6).sigmoid()
    there = head.object_pred(head.bbox_subnet(x)).view(2, 1, 4, 6).sigmoid()
    assert torch.allclose(logits.sigmoid().view(2, 3, 4, 6), classes * there, atol=1e-5)


def test_losses_equal_their_formulas() -> None:
    torch.manual_seed(0)
    built = build(model("yolof"))
    head = built.bbox_head
    output = built(torch.randn(1, 3, 64, 96))
    losses = head.loss(output, [TARGET], ImageSizes([(64, 96)], [(64, 96)]))
    anchors = head.anchors(output.logits)[0]
    logits, deltas = (each[0] for each in head.joined(output))
    boxes = head.bbox_coder.decode(anchors, deltas)
    pairs = head.assigner(anchors, boxes, TARGET["boxes"])
    count = max(int((pairs.owners >= 0).sum()), 1)
    used = pairs.used
    assert used.any()
    total = (1 - giou(boxes[pairs.anchors[used]], TARGET["boxes"][pairs.objects[used]])).sum()
    assert torch.allclose(losses["loss_bbox"], total / count, rtol=1e-4)
    labels = torch.where(pairs.owners >= 0, TARGET["labels"][pairs.owners.clamp(min=0)], 3)
    kept = pairs.owners > -2
    goal = F.one_hot(labels[kept], 4)[:, :3].float()
    p = logits[kept].sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits[kept], goal, reduction="none")
    focus = torch.where(goal > 0, 0.25 * (1 - p) ** 2, 0.75 * p**2)
    assert torch.allclose(losses["loss_cls"], (entropy * focus).sum() / count, rtol=1e-4)
    assert FAMILIES["yolof"][0] == "YOLOF"
