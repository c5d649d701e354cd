"""PISA's weights, loss and sampler, and hard example mining, written out in plain numbers."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.models.boxes import NEGATIVE, Assignment
from cupola.models.pisa import dense_heads
from cupola.models.pisa.weights import Positives, numbered
from cupola.models.rcnn.sampling import BoxPredictions
from cupola.ops.nms import ranks_in_groups
from cupola.registry import MODELS, TASK_UTILS, build
from cupola.structures.boxes import iou, pairwise_iou
from models.rcnn.rcnn_families import FAMILIES
from models.rcnn.rcnn_small import BOXES


def random_boxes(count: int, spread: float = 12.0) -> Tensor:
    low = torch.rand(count, 2) * spread
    return torch.cat((low, low + 8 + torch.rand(count, 2) * 12), 1)


def positives() -> Positives:
    """Seven samples of four objects of two classes."""
    torch.manual_seed(0)
    labels = torch.tensor([0, 0, 0, 1, 1, 0, 0])
    objects = torch.tensor([0, 0, 0, 1, 1, 2, 3])
    boxes = random_boxes(7)
    found = boxes + torch.rand(7, 4)
    deltas, targets = torch.randn(7, 4), torch.randn(7, 4)
    losses, scores = torch.rand(7) + 0.1, torch.rand(7)
    weights = torch.full((7,), 1.5)
    return Positives(labels, objects, losses, weights, scores, found, boxes, deltas, targets)


def test_the_best_boxes_of_all_objects_weigh_most() -> None:
    each = positives()
    overlaps = iou(each.decoded, each.boxes).tolist()
    most, expected = 5, [0.0] * 7
    for label in (0, 1):
        of_class = [i for i in range(7) if each.labels[i] == label]
        place = {}  # the place of a sample among those of its object
        for i in of_class:
            same = [j for j in of_class if each.objects[j] == each.objects[i]]
            place[i] = sorted(same, key=lambda j: -overlaps[j]).index(i)
        order = sorted(of_class, key=lambda i: (place[i], -overlaps[i]))
        for rank, i in enumerate(order):
            expected[i] = (0.1 + 0.9 * 1.5 * (most - rank) / most) ** 2
    before = sum(1.5 * x for x in each.losses.tolist())
    after = sum(w * x for w, x in zip(expected, each.losses.tolist(), strict=True))
    found = each.importance(k=2, bias=0.1)
    torch.testing.assert_close(found, torch.tensor(expected) * before / after)


def test_scores_weigh_the_loss_of_boxes() -> None:
    each = positives()
    weights = [(0.2 + 0.8 * score) ** 1.5 for score in each.scores.tolist()]
    scale = 7 / sum(weights)
    expected = 0.0
    for weight, found, goal in zip(weights, each.deltas, each.targets, strict=True):
        for error in (found - goal).abs().tolist():
            loss = error - 0.25 if error > 0.5 else error**2  # of beta 0.5
            expected += 3 * loss * weight * scale / 20
    loss = MODELS.build({"type": "SmoothL1Loss", "beta": 0.5, "loss_weight": 3.0})
    assert each.regression_loss(loss, 20.0, k=1.5, bias=0.2).item() == pytest.approx(expected)


def test_objects_of_a_batch_are_numbered() -> None:
    images = [torch.tensor([0, 2]), torch.tensor([], dtype=torch.int64), torch.tensor([1, 0])]
    assert numbered([*images, torch.tensor([0])]).tolist() == [0, 2, 4, 3, 2]


def predictions() -> tuple[BoxPredictions, Assignment, Tensor, Tensor]:
    """30 proposals, the first 4 of them positive, with logits and deltas of 3 classes."""
    torch.manual_seed(2)
    logits, deltas, boxes = torch.randn(30, 4), torch.randn(30, 12) * 0.1, random_boxes(30)
    logits[20:, 3] = 9  # no class is likely
    head = MODELS.build(BOXES)
    objects = torch.full((30,), NEGATIVE)
    objects[:4] = torch.tensor([0, 1, 1, 0])
    labels = torch.where(objects >= 0, objects, 3)

    def predict(chosen: Tensor) -> tuple[Tensor, Tensor]:
        where = (boxes[None] == chosen[:, None]).all(-1).nonzero()[:, 1]
        return logits[where], deltas[where]

    proposals = BoxPredictions(boxes, labels, head, predict)
    return proposals, Assignment(objects, torch.rand(30), proposals), logits, deltas


@pytest.mark.parametrize("num", [14, 26, 100])
def test_negatives_are_ranked_by_score_within_groups(num: int) -> None:
    proposals, assignment, logits, deltas = predictions()
    sampler = TASK_UTILS.build(
        {
            "type": "ScoreHLRSampler",
            "num": num,
            "pos_fraction": 0.25,
            "k": 0.5,
            "bias": 0.1,
            "add_gt_as_proposals": False,
        }
    )
    sample = sampler(assignment)
    scores, labels = logits.softmax(1)[4:20, :3].max(1)
    likely = list(range(16))
    decoded = torch.stack(
        [
            proposals.head.bbox_coder.decode(
                proposals.boxes[i + 4], deltas[i + 4].view(3, 4)[labels[i]]
            )
            for i in likely
        ]
    )
    overlaps = pairwise_iou(decoded, decoded)
    rest, value = sorted(likely, key=lambda i: -scores[i].item()), {}
    while rest:
        group = [i for i in rest if i == rest[0] or overlaps[rest[0], i] >= 0.5]
        value |= {i: 16 - place + scores[i].item() for place, i in enumerate(group)}
        rest = [i for i in rest if i not in group]
    order = sorted(likely, key=lambda i: -value[i])
    count = min(num - len(sample.positive), 26)
    first = [i + 4 for i in order[:count]]
    assert sample.negative[: len(first)].tolist() == first
    assert set(sample.negative[len(first) :].tolist()) <= set(range(20, 30))
    assert len(set(sample.negative.tolist())) == count
    most = max(count, 16)
    weights = [(0.1 + 0.9 * (most - rank) / most) ** 0.5 for rank in range(len(first))]
    weights += [weights[-1]] * (count - len(first))
    losses = F.cross_entropy(logits[sample.negative], torch.full((count,), 3), reduction="none")
    scale = losses.sum().item() / sum(w * x for w, x in zip(weights, losses.tolist(), strict=True))
    assert sample.weights is not None
    torch.testing.assert_close(sample.weights, torch.tensor(weights) * scale)


def test_groups_of_overlapping_boxes() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 10, 5], [0, 0, 10, 8]])
    scores = torch.tensor([0.5, 0.9, 0.8, 0.6])
    # The third takes the first (an IoU of 0.5) and the fourth (0.625).
    assert ranks_in_groups(boxes, scores, 0.5).tolist() == [2, 0, 0, 1]
    assert ranks_in_groups(boxes, scores, 0.7).tolist() == [1, 0, 0, 0]


def test_the_hardest_are_taken() -> None:
    proposals, assignment, logits, _ = predictions()
    sampler = TASK_UTILS.build({"type": "OHEMSampler", "num": 8, "pos_fraction": 0.25})
    sample = sampler(assignment)
    losses = F.cross_entropy(logits, proposals.labels, reduction="none").tolist()

    def worst(indices: range, count: int) -> list[int]:
        return sorted(sorted(indices, key=lambda i: -losses[i])[:count])

    assert sample.positive.tolist() == worst(range(4), 2)
    assert sample.negative.tolist() == worst(range(4, 30), 6)
    with pytest.raises(ValueError, match="loss_key is 'loss_cls', got 'loss_bbox'"):
        TASK_UTILS.build(
            {"type": "OHEMSampler", "num": 8, "pos_fraction": 0.5, "loss_key": "loss_bbox"}
        )


def test_weights_of_samples_are_those_of_the_class_loss() -> None:
    torch.manual_seed(0)
    model: Any = build(FAMILIES["pisa"][0])
    head, maps = model.roi_head, [torch.randn(2, 8, 8, 12), torch.randn(2, 8, 4, 6)]
    proposals = [random_boxes(40, 60.0), random_boxes(40, 60.0)]
    targets = [
        {"boxes": each[:2] + 0.5, "labels": torch.tensor([i, 2])}
        for i, each in enumerate(proposals)
    ]
    torch.manual_seed(1)
    losses = head.loss(maps, proposals, targets, [(64, 96)] * 2)
    torch.manual_seed(1)
    samples = head.sample(maps, proposals, targets)
    rois = torch.cat([F.pad(each.boxes, (1, 0), value=i) for i, each in enumerate(samples)])
    logits, deltas = head.bbox_head(head.regions(maps, rois))
    parts, weights, labels = head.positives(logits, deltas, samples), [], []
    own = list(torch.split(parts.importance(k=2.0, bias=0.0), [len(s.objects) for s in samples]))
    for sample, weight in zip(samples, own, strict=True):
        weights += [weight, sample.negative_weights]
        labels += [sample.labels, torch.full_like(sample.negative_weights, 3).long()]
    each = F.cross_entropy(logits, torch.cat(labels), reduction="none")
    expected = (each * torch.cat(weights)).sum() / len(logits)
    torch.testing.assert_close(losses["loss_cls"], expected)
    assert losses["loss_carl"].isfinite()


def test_thin_objects_are_ranked_as_wide_as_they_can_be_predicted() -> None:
    """The coder limits the ratio of sides, 16 / 1000, and so what a perfect prediction is."""
    coder = TASK_UTILS.build({"type": "DeltaXYWHBBoxCoder"})
    each = SimpleNamespace(each=lambda logits, labels: logits)
    head = SimpleNamespace(bbox_coder=coder, loss_cls=each, train_cfg={})
    anchor = torch.tensor([[0.0, 0, 100, 100]])
    wanted = SimpleNamespace(
        labels=torch.zeros(1, dtype=torch.int64),
        positive=torch.ones(1, 1, dtype=torch.bool),
        objects=torch.zeros(1, dtype=torch.int64),
        anchors=anchor,
        boxes=torch.tensor([[49.9, 0, 50.1, 100]]),
    )
    found = dense_heads.positives(
        head, torch.zeros(1, 1, 2), torch.zeros(1, 1, 4), wanted, torch.ones(1, 1)
    )
    assert torch.allclose(found.boxes, torch.tensor([[49.2, 0, 50.8, 100]]))


def test_pisa_needs_a_loss_of_deltas() -> None:
    config = FAMILIES["pisa"][0]
    head = {**config["roi_head"], "bbox_head": {**BOXES, "loss_bbox": {"type": "GIoULoss"}}}
    with pytest.raises(ValueError, match="loss_bbox is SmoothL1Loss or L1Loss"):
        MODELS.build({**head, "train_cfg": config["train_cfg"]["rcnn"]})
