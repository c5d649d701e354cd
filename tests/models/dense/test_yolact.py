"""YOLACT: fast NMS, masks and their losses, written out pixel by pixel."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from masked_small import YOLACT
from test_masked_small import NOTHING, objects

from cupola.models.dense import ImageSizes
from cupola.models.dense.masked import MaskSizes
from cupola.models.yolact import YOLACTProtonet, YOLACTSegmHead
from cupola.ops.nms import fast_nms
from cupola.registry import MODELS, build
from cupola.structures import Detections
from cupola.structures.boxes import pairwise_iou


def test_boxes_suppress_even_if_they_are_suppressed_themselves() -> None:
    torch.manual_seed(0)
    low = torch.rand(30, 2) * 20
    boxes, scores = torch.cat((low, low + 10), 1), torch.rand(30, 2)
    expected = []
    overlaps = pairwise_iou(boxes, boxes)
    for label in range(2):
        order = scores[:, label].argsort(descending=True)[:12].tolist()
        for place, i in enumerate(order):
            free = all(overlaps[i, j] <= 0.4 for j in order[:place])
            if free and scores[i, label] > 0.7:
                expected.append((-scores[i, label].item(), i, label))
    kept, labels, values = fast_nms(boxes, scores, 0.4, 0.7, 12, 5)
    best = sorted(expected)[:5]
    assert kept.tolist() == [i for _, i, _ in best] and len(best) == 5
    assert labels.tolist() == [label for *_, label in best]
    assert values.tolist() == pytest.approx([-score for score, *_ in best])
    assert not len(fast_nms(boxes[:0], scores[:0], 0.4, 0.7, 12)[0])


def test_masks_fill_their_boxes_with_a_margin() -> None:
    torch.manual_seed(0)
    head = MODELS.build(YOLACT["mask_head"])
    prototypes, rows = torch.randn(4, 6, 10), torch.randn(2, 4)
    boxes = torch.tensor([[10.0, 8, 50, 30], [70, 40, 60, 2]])  # the second is turned round
    found = head.masks(prototypes, rows, boxes, (48, 80))
    for p, (left, top, right, bottom) in enumerate([(10, 8, 50, 30), (60, 2, 70, 40)]):
        for y in range(6):
            for x in range(10):
                logit = sum(prototypes[k, y, x] * rows[p, k] for k in range(4)).item()
                inside = left / 8 - 1 <= x < right / 8 + 1 and top / 8 - 1 <= y < bottom / 8 + 1
                value = 1 / (1 + math.exp(-logit)) if inside else 0.0
                assert found[p, y, x].item() == pytest.approx(value, abs=1e-6)


def test_masks_of_padded_images_are_resized_with_the_padding() -> None:
    """As in the original, whose published pipelines have no padding."""
    torch.manual_seed(0)
    head = MODELS.build(YOLACT["mask_head"])
    prototypes, rows = torch.randn(4, 6, 10), torch.randn(2, 4)
    found = Detections(
        torch.tensor([[10.0, 8, 50, 30], [0, 0, 60, 40]]), torch.ones(2), torch.tensor([0, 1])
    )
    sizes = MaskSizes((40, 60), (48, 80), (20, 30))
    masks = head.predict(prototypes, found, rows, sizes)
    whole = head.masks(prototypes, rows, found.boxes, (40, 60))
    assert torch.equal(masks, F.interpolate(whole[None], (20, 30), mode="bilinear")[0] > 0.5)
    soft = MODELS.build({**YOLACT["mask_head"], "test_cfg": {"mask_thr_binary": -1}})
    bytes_ = soft.predict(prototypes, found, rows, sizes)
    assert bytes_.dtype == torch.uint8 and torch.equal(bytes_, masks * torch.tensor(255).byte())


def test_the_loss_of_masks_is_by_the_area_of_boxes() -> None:
    torch.manual_seed(0)
    head: YOLACTProtonet = MODELS.build(YOLACT["mask_head"])  # type: ignore[assignment]
    prototypes, target = torch.randn(2, 4, 16, 24), objects()
    owners = torch.tensor([1, 0, 1])
    rows = torch.randn(3, 4)
    found = head.loss(
        prototypes, [(rows, owners), (rows[:0], owners[:0])], [target, NOTHING], (64, 96),
        [(64, 96)] * 2,
    )  # fmt: skip
    expected = 0.0
    for row, owner in zip(rows, owners.tolist(), strict=True):
        box, mask = target["boxes"][owner], target["masks"][owner].float()
        small = F.interpolate(mask[None, None], (16, 24), mode="bilinear")[0, 0] > 0.5
        p = head.masks(prototypes[0], row[None], box[None], (64, 96))[0]
        each = F.binary_cross_entropy(p, small.float())
        area = (box[2] - box[0]) / 96 * (box[3] - box[1]) / 64
        expected += (6.125 * each / area / 3).item()
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_at_most_some_masks_train() -> None:
    torch.manual_seed(0)
    head: YOLACTProtonet = MODELS.build(YOLACT["mask_head"])  # type: ignore[assignment]
    prototypes, rows = torch.randn(1, 4, 16, 24), torch.randn(1, 4)
    owners = torch.tensor([0])
    size, sizes = (64, 96), [(64, 96)]
    one = head.loss(prototypes, [(rows, owners)], [objects()], size, sizes)
    many = [(rows.expand(9, -1), owners.expand(9))]
    assert torch.allclose(head.loss(prototypes, many, [objects()], size, sizes), one)


def test_pixels_train_the_channel_before_their_class() -> None:
    torch.manual_seed(0)
    head: YOLACTSegmHead = MODELS.build(  # type: ignore[assignment]
        {"type": "YOLACTSegmHead", "num_classes": 3, "in_channels": 8}
    )
    x, target = torch.randn(2, 8, 8, 12), objects()  # of the classes 0 and 2
    logits = head.segm_conv(x)
    small = F.interpolate(target["masks"][None].float(), (8, 12), mode="bilinear")[0] > 0.5
    wanted = torch.zeros(3, 8, 12)
    wanted[2], wanted[1] = small[0].float(), small[1].float()
    entropy = F.binary_cross_entropy_with_logits(logits[0], wanted, reduction="sum")
    found = head.loss(x, [target, NOTHING], (64, 96))
    torch.testing.assert_close(found, entropy / (2 * 8 * 12))


def test_the_class_loss_takes_the_hardest_negatives() -> None:
    torch.manual_seed(0)
    model: Any = build(YOLACT)
    output = model(torch.randn(2, 3, 64, 96))
    targets = [objects(), NOTHING]
    sizes = [(64, 96)] * 2
    losses, positives = model.bbox_head.loss_and_positives(
        output.boxes, targets, ImageSizes(sizes, sizes)
    )
    logits, _ = model.bbox_head.joined(output.boxes)
    wanted = model.bbox_head.targets(output.boxes, targets, ImageSizes(sizes, sizes))
    labels = torch.full(logits.shape[:2], 3)
    labels[wanted.positive] = wanted.labels
    each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(2, -1)
    count = len(wanted.labels)
    background = sorted(each[0][wanted.negative[0]].tolist(), reverse=True)[: 3 * count]
    total = each[0][wanted.positive[0]].sum().item() + sum(background) + each[1].sum().item()
    assert losses["loss_cls"].item() == pytest.approx(total / (count + 1), rel=1e-5)
    assert [len(rows) for rows, _ in positives] == [count, 0] and count > 0


def test_settings_that_are_not_supported_are_named() -> None:
    with pytest.raises(ValueError, match="use_ohem=True and a softmax loss_cls"):
        MODELS.build({**YOLACT["bbox_head"], "use_ohem": False})
    with pytest.raises(ValueError, match="proto_channels are None where"):
        MODELS.build({**YOLACT["mask_head"], "proto_channels": [8, 8, 4]})
    with pytest.raises(ValueError, match="is 4, not num_protos 5"):
        MODELS.build({**YOLACT["mask_head"], "num_protos": 5})
