"""Sparse R-CNN's parts against their equations, written out for one query at a time."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.models.rcnn.roi_extractor import rois_of
from cupola.models.sparse_rcnn import DynamicConv, Queries
from cupola.registry import MODELS, build
from cupola.structures import boxes as box_ops
from models.rcnn.rcnn_families import sparse
from models.rcnn.test_rcnn_small import batch

RANDOM = {"type": "RandomSampler", "num": 8, "pos_fraction": 0.5}


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    built = build(sparse(masks=True)).eval()
    for parameter in built.roi_head.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    return built


def normed(x: Tensor, norm: Any) -> Tensor:
    deviation = (x - x.mean(-1, keepdim=True)).square().mean(-1, keepdim=True)
    return (x - x.mean(-1, keepdim=True)) / (deviation + 1e-5).sqrt() * norm.weight + norm.bias


def test_regions_are_convolved_with_the_weights_of_their_query() -> None:
    torch.manual_seed(0)
    layer = DynamicConv(6, 3, 5, input_feat_shape=2, with_proj=False)
    queries, regions = torch.randn(4, 6), torch.randn(4, 6, 2, 2)
    found = layer(queries, regions)
    assert found.shape == (4, 4, 5)
    weights = layer.dynamic_layer(queries[1])
    first, second = weights[:18].view(6, 3), weights[18:].view(3, 5)
    cell = regions[1, :, 1, 0]
    inner = normed(cell @ first, layer.norm_in).relu()
    expected = normed(inner @ second, layer.norm_out).relu()
    torch.testing.assert_close(found[1, 2], expected)  # row by row: the third cell


def stage_by_hand(head: Any, regions: Tensor, features: Tensor) -> tuple[Tensor, ...]:
    """One image: regions [P, D, h, w], features [P, D]."""
    attention = head.attention.attn
    out, _ = F.multi_head_attention_forward(
        *[features[:, None]] * 3,
        *(8, 2),
        *(attention.in_proj_weight, attention.in_proj_bias, None, None, False, 0.0),
        *(attention.out_proj.weight, attention.out_proj.bias),
    )
    attended = normed(features + out[:, 0], head.attention_norm)
    mixed = head.instance_interactive_conv(attended, regions)
    x = normed(attended + mixed, head.instance_interactive_conv_norm)
    first, second = head.ffn.layers[0][0], head.ffn.layers[1]
    x = normed(x + second(first(x).relu()), head.ffn_norm)
    classes = normed(x @ head.cls_fcs[0].weight.T, head.cls_fcs[1]).relu()
    boxes = x
    for i in (0, 3):
        boxes = normed(boxes @ head.reg_fcs[i].weight.T, head.reg_fcs[i + 1]).relu()
    return head.fc_cls(classes), head.fc_reg(boxes), x, attended


def test_stages_refine_the_boxes_of_the_stage_before(model: Any) -> None:
    pixels, size = torch.randn(1, 3, 64, 96), (64, 90)
    maps = model.maps(pixels)
    boxes = box_ops.cxcywh_to_xyxy(model.rpn_head.init_proposal_bboxes.weight.detach())
    boxes = boxes * torch.tensor([90.0, 64, 90, 64])
    features = model.rpn_head.init_proposal_features.weight.detach()
    with torch.no_grad():
        for head, extractor in zip(
            model.roi_head.bbox_head, model.roi_head.bbox_roi_extractor, strict=True
        ):
            regions = extractor(maps, rois_of([boxes]))
            logits, deltas, features, _ = stage_by_hand(head, regions, features)
            sides, centers = boxes[:, 2:] - boxes[:, :2], (boxes[:, 2:] + boxes[:, :2]) / 2
            centers = centers + sides * deltas[:, :2] * 0.5
            sides = sides * deltas[:, 2:].clamp(-4.1351666, 4.1351666).exp()
            boxes = torch.cat((centers - sides / 2, centers + sides / 2), 1)
        found = model(pixels, sizes=[size])
    torch.testing.assert_close(found[0][0], logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1][0], boxes, rtol=1e-4, atol=1e-2)


def test_predictions_are_the_best_pairs_of_query_and_class(model: Any) -> None:
    pixels = torch.randn(1, 3, 64, 96)
    logits, boxes, masks = model(pixels)
    found = model.predict(
        {"pixels": pixels, "image_sizes": [(64, 96)], "original_sizes": [(64, 96)]}
    )[0]
    best, where = logits[0].sigmoid().flatten().sort(descending=True)
    torch.testing.assert_close(found.scores, best[:10])
    assert found.labels.tolist() == (where[:10] % 3).tolist()
    torch.testing.assert_close(found.boxes, boxes[0][where[:10] // 3], atol=1e-3, rtol=1e-4)
    assert masks.shape == (12, 3, 8, 8) and found.masks.shape == (10, 64, 96)


def test_losses_of_a_stage_follow_their_equations(model: Any) -> None:
    head, data = model.roi_head, batch()
    sizes = [(64, 96)] * 2
    maps = model.maps(data["pixels"])
    queries: Queries = model.proposals(maps, sizes)
    found = head.stage(0, maps, queries, sizes)
    losses = head.stage_loss(0, maps, found, data["targets"], sizes)
    owners = head.assigned(0, found, data["targets"], sizes)
    assert sorted(owners[0].tolist()) == [-1] * 10 + [0, 1] and (owners[1] == -1).all()
    target = data["targets"][0]
    pixels = torch.tensor([96.0, 64, 96, 64])
    chosen = torch.stack([(owners[0] == i).nonzero()[0, 0] for i in (0, 1)])
    picked, goal = found.boxes[0][chosen], target["boxes"]
    expected = 5 * ((picked - goal) / pixels).abs().sum() / 2
    torch.testing.assert_close(losses["loss_bbox"], expected)
    expected = 2 * (1 - box_ops.giou(picked, goal)).sum() / 2
    torch.testing.assert_close(losses["loss_iou"], expected)
    wanted = torch.zeros(2, 12, 3)
    for query, label in zip(chosen, target["labels"], strict=True):
        wanted[0, query, label] = 1
    score = found.logits.sigmoid()
    focal = torch.where(
        wanted == 1,
        -0.25 * (1 - score) ** 2 * score.log(),
        -0.75 * score**2 * (1 - score).log(),
    )
    torch.testing.assert_close(losses["loss_cls"], 2 * focal.sum() / 2)


def test_costs_choose_the_queries(model: Any) -> None:
    head, data = model.roi_head, batch()
    sizes = [(64, 96)] * 2
    maps = model.maps(data["pixels"])
    found = head.stage(0, maps, model.proposals(maps, sizes), sizes)
    near = found.boxes.detach().clone()
    near[0, 4], near[0, 7] = data["targets"][0]["boxes"]
    owners = head.assigned(0, found._replace(boxes=near), data["targets"], sizes)[0]
    assert owners[4] == 0 and owners[7] == 1


def test_what_sparse_r_cnn_does_not_take() -> None:
    config = sparse()
    built = build({k: v for k, v in config.items() if k != "train_cfg"})
    with pytest.raises(ValueError, match="train_cfg is missing"):
        built.loss(batch())
    with pytest.raises(ValueError, match="proposals of its own"):
        built(torch.zeros(1, 3, 64, 96), proposals=[torch.zeros(1, 4)])
    training = {**config["train_cfg"]["rcnn"][0], "sampler": RANDOM}
    with pytest.raises(Exception, match="sampler is PseudoSampler"):
        build({**config, "train_cfg": {"rcnn": [training] * 2}})
    with pytest.raises(Exception, match="class_agnostic=False"):
        MODELS.build({"type": "DynamicMaskHead", "class_agnostic": True})
