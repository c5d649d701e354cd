"""DETRHead with sigmoid class losses, as used by the successors of DETR."""

from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor

from cupola.models.detr import DETROutput
from cupola.models.detr.set_head import weigh_background
from cupola.registry import build
from cupola.structures.boxes import cxcywh_to_xyxy, giou

SIZES = [(40, 50), (30, 20)]
TARGETS = [
    {
        "boxes": torch.tensor([[2.0, 3.0, 20.0, 30.0], [10.0, 10.0, 45.0, 35.0]]),
        "labels": torch.tensor([2, 0]),
    },
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)},
]
FOCAL = {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25, "loss_weight": 2.0}


def head(**settings: Any) -> Any:
    torch.manual_seed(0)
    return build(
        {"type": "DETRHead", "num_classes": 3, "embed_dims": 8, "loss_cls": FOCAL, **settings}
    )


def predicted() -> DETROutput:
    """Two layers, two images, four queries; leaves that take a gradient."""
    draw = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 2, 4, 3, generator=draw)
    boxes = torch.rand(2, 2, 4, 4, generator=draw) * 0.4 + 0.3
    return DETROutput(logits.requires_grad_(), boxes.requires_grad_())


def focal(logit: Tensor, hit: bool) -> Tensor:
    p = logit.sigmoid()
    return -0.25 * (1 - p) ** 2 * p.log() if hit else -0.75 * p**2 * (1 - p).log()


def plain_losses(logits: Tensor, boxes: Tensor) -> dict[str, Tensor]:
    """The losses of one layer, term by term; logits [B, Q, C], boxes [B, Q, 4]."""
    height, width = SIZES[0]
    pixels = torch.tensor([width, height, width, height])
    corners = cxcywh_to_xyxy(boxes[0]) * pixels
    wanted = TARGETS[0]["boxes"]
    unit = wanted / pixels
    centers = torch.cat(((unit[:, :2] + unit[:, 2:]) / 2, unit[:, 2:] - unit[:, :2]), -1)

    def cost(query: int, item: int) -> float:
        logit = logits[0, query, TARGETS[0]["labels"][item]]
        kind = focal(logit, True) - focal(logit, False)
        far = (boxes[0, query] - centers[item]).abs().sum()
        return (2 * kind + 5 * far - 2 * giou(corners[query], wanted[item])).item()

    pairs = min(permutations(range(4), 2), key=lambda q: cost(q[0], 0) + cost(q[1], 1))
    hits = {(q, int(TARGETS[0]["labels"][i])) for i, q in enumerate(pairs)}
    classes = sum(
        focal(logits[b, q, c], b == 0 and (q, c) in hits)
        for b in range(2)
        for q in range(4)
        for c in range(3)
    )
    far = sum((boxes[0, q] - centers[i]).abs().sum() for i, q in enumerate(pairs))
    apart = sum(1 - giou(corners[q], wanted[i]) for i, q in enumerate(pairs))
    return {"loss_cls": 2 * classes / 2, "loss_bbox": 5 * far / 2, "loss_iou": 2 * apart / 2}


def test_there_is_no_background_column() -> None:
    assert head().fc_cls.weight.shape == (3, 8)
    assert head(loss_cls={"type": "CrossEntropyLoss"}).fc_cls.weight.shape == (4, 8)


def test_losses_and_gradients_term_by_term() -> None:
    output, peer = predicted(), predicted()
    losses = head().loss(output, TARGETS, SIZES)
    expected: dict[str, Tensor] = {}
    for layer, prefix in enumerate(("d0.", "")):
        found = plain_losses(peer.logits[layer], peer.boxes[layer])
        expected |= {prefix + name: value for name, value in found.items()}
    assert losses.keys() == expected.keys()
    for name, value in losses.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=name)
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    torch.testing.assert_close(output.logits.grad, peer.logits.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(output.boxes.grad, peer.boxes.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "loss_cls",
    [
        {"type": "QualityFocalLoss", "use_sigmoid": True, "beta": 2.0, "loss_weight": 1.0},
        {"type": "CrossEntropyLoss", "use_sigmoid": True},
    ],
)
def test_other_sigmoid_losses_train_too(loss_cls: dict[str, Any]) -> None:
    output = predicted()
    losses = head(loss_cls=loss_cls).loss(output, TARGETS, SIZES)
    sum(losses.values()).backward()
    assert output.logits.grad.isfinite().all()
    assert output.logits.grad.abs().sum() > 0


def test_the_published_costs_are_used_where_a_config_names_them() -> None:
    costs = [{"type": "FocalLossCost", "weight": 2.0}, {"type": "BBoxL1Cost", "weight": 5.0}]
    assigner = {"type": "HungarianAssigner", "match_costs": costs}
    built = head(train_cfg={"assigner": assigner})
    assert [type(cost).__name__ for cost in built.assigner.costs] == ["FocalLossCost", "BBoxL1Cost"]


def test_predictions_are_the_best_pairs_of_query_and_class() -> None:
    output = predicted()
    found = head(test_cfg={"max_per_img": 5}).predict(output, SIZES, [None, (0.5, 0.5)])
    for image, (size, factor) in enumerate(zip(SIZES, (1.0, 0.5), strict=True)):
        scores = output.logits[-1, image].detach().sigmoid()
        pairs = sorted((float(scores[q, c]), q, c) for q in range(4) for c in range(3))[::-1][:5]
        assert found[image].scores.tolist() == pytest.approx([score for score, *_ in pairs])
        assert found[image].labels.tolist() == [c for *_, c in pairs]
        pixels = torch.tensor([size[1], size[0], size[1], size[0]])
        corners = cxcywh_to_xyxy(output.boxes[-1, image].detach()) * pixels / factor
        expected = torch.stack([corners[q] for _, q, _ in pairs])
        torch.testing.assert_close(found[image].boxes, expected)


def test_without_a_limit_there_are_as_many_pairs_as_queries() -> None:
    found = head(test_cfg={"max_per_img": None}).predict(predicted(), SIZES, [None, None])
    assert [len(each) for each in found] == [4, 4]


def test_the_weight_of_the_background() -> None:
    softmax = {"type": "CrossEntropyLoss"}
    assert weigh_background(softmax, 2) == (softmax, 0.0)
    weighted, background = weigh_background({**softmax, "bg_cls_weight": 0.1}, 2)
    assert weighted["class_weight"] == [1.0, 1.0, 0.1]
    assert background == 0.1
    weighted, background = weigh_background({**softmax, "class_weight": 2.0}, 2)
    assert weighted["class_weight"] == [2.0, 2.0, 2.0]
    assert background == 2.0
    with pytest.raises(ValueError, match=r"is one number, got \[1, 2\]"):
        weigh_background({**softmax, "class_weight": [1, 2]}, 2)
