"""Panoptic FPN: its golden at full size, and its parts against their rules."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.models.panoptic_fpn import HeuristicFusionHead, PanopticFPNHead
from cupola.registry import build
from cupola.structures import Detections
from models.rcnn.rcnn_small import model
from zoo import ZooModel


def small() -> dict[str, Any]:
    """Three things and two classes of stuff."""
    plain = model(masks=True)
    counts = {"num_things_classes": 3, "num_stuff_classes": 2}
    stuff = {"type": "PanopticFPNHead", **counts, "in_channels": 8, "inner_channels": 8}
    fusion = {"type": "HeuristicFusionHead", **counts}
    panoptic = {"mask_overlap": 0.5, "stuff_area_limit": 20, "score_thr": 0.1}
    return {
        **plain,
        "type": "PanopticFPN",
        "semantic_head": {
            **stuff,
            "end_level": 2,
            "norm_cfg": {"type": "GN", "num_groups": 2},
            "loss_seg": {"type": "CrossEntropyLoss", "ignore_index": 255, "loss_weight": 0.5},
        },
        "panoptic_fusion_head": fusion,
        "test_cfg": {**plain["test_cfg"], "panoptic": panoptic},
    }


def targets() -> list[dict[str, Tensor]]:
    masks = torch.zeros(3, 64, 96, dtype=torch.bool)
    masks[0, 8:30, 8:40] = masks[1, 30:60, 50:90] = masks[2, :8] = True
    boxes = torch.tensor([[8.0, 8, 40, 30], [50, 30, 90, 60], [0, 0, 96, 8]])
    full = {"boxes": boxes, "labels": torch.tensor([0, 2, 3]), "masks": masks}
    return [full, {key: value[:0] for key, value in full.items()}]


def test_training_lowers_the_losses_of_things_and_stuff() -> None:
    torch.manual_seed(0)
    built = build(small())
    batch = {"pixels": torch.randn(2, 3, 64, 96), "targets": targets()}
    optimizer = torch.optim.Adam(built.parameters(), 5e-3)
    totals = []
    for _ in range(8):
        losses = built.loss(batch)
        totals.append(sum(value for name, value in losses.items() if "loss" in name))
        optimizer.zero_grad()
        totals[-1].backward()
        optimizer.step()
    assert "loss_seg" in losses and "loss_mask" in losses
    assert totals[-1].item() < 0.9 * totals[0].item()


def test_the_semantic_loss_is_the_mean_over_all_pixels() -> None:
    torch.manual_seed(0)
    head = build(small()).semantic_head
    labels = torch.full((1, 64, 96), 255)
    labels[0, :32], labels[0, 32:48] = 4, 1  # the second class of stuff, and a thing
    logits = torch.randn(1, 3, 16, 24)
    goal = labels[:, ::4, ::4].clone()
    goal[goal == 1], goal[goal == 4] = 2, 1
    expected = 0.5 * F.cross_entropy(logits, goal, ignore_index=255, reduction="sum") / goal.numel()
    assert torch.allclose(head.loss(logits, labels)["loss_seg"], expected)
    assert head.merged(torch.tensor([0, 2, 3, 4, 255])).tolist() == [2, 2, 0, 1, 255]


def test_stuff_comes_from_masks_or_from_a_map() -> None:
    torch.manual_seed(0)
    built = build(small())
    pixels, masked = torch.randn(2, 3, 64, 96), targets()
    semantic = torch.full((64, 96), 255)
    for label, mask in zip((0, 2, 3), masked[0]["masks"], strict=True):
        semantic[mask] = label
    things = {key: value[:2] for key, value in masked[0].items()} | {"semantic": semantic}
    found = []
    for first in (masked[0], things):
        torch.manual_seed(1)  # proposals are drawn
        found.append(built.loss({"pixels": pixels, "targets": [first, masked[1]]}))
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
    with pytest.raises(ValueError, match="masks of things and stuff"):
        nothing = {key: masked[0][key] for key in ("boxes", "labels")}
        built.loss({"pixels": pixels, "targets": [nothing, nothing]})


def test_instances_lie_over_stuff_in_the_order_of_their_scores() -> None:
    head = HeuristicFusionHead(3, 2, {"mask_overlap": 0.5, "stuff_area_limit": 20})
    logits = torch.zeros(3, 10, 10)
    logits[0], logits[1, :, 8:], logits[2, 9] = 1, 2, 3  # stuff 3, stuff 4, and things
    masks = torch.zeros(3, 10, 10, dtype=torch.bool)
    masks[0, :4, :4] = masks[1, :4, 2:5] = masks[2, :2, :4] = True
    scores, labels = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([2, 0, 1])
    found = head.fuse(Detections(torch.zeros(3, 4), scores, labels, masks=masks), logits)
    ids = found.panoptic.ids
    assert (ids[:4, :4] == 1002).all()  # all of the best one
    assert not (ids == 2000).any() and not (ids == 3001).any()  # more than half is taken
    assert (ids[5, :8] == 3).all() and (ids[9] == 5).all()  # things without an instance are void
    assert not (ids == 4).any()  # 18 pixels of stuff are too few
    assert {each.id for each in found.panoptic.segments} == {1002, 3}
    masks[1, :4, 5] = True  # now it is half
    found = head.fuse(Detections(torch.zeros(3, 4), scores, labels, masks=masks), logits)
    assert (found.panoptic.ids[:4, 4:6] == 2000).all()
    assert {each.id: each.area for each in found.panoptic.segments} == {1002: 16, 2000: 8, 3: 48}


def test_both_spellings_of_the_settings() -> None:
    built = build(small())
    assert built.roi_head.test_cfg["score_thr"] == 0.1  # 2.x has it in test_cfg.panoptic
    assert built.num_classes == 5
    assert isinstance(built.semantic_head, PanopticFPNHead)


@pytest.mark.slow
def test_features_outputs_and_segments_equal_the_golden() -> None:
    zoo = ZooModel("panoptic-fpn_r50_fpn_1x_coco")
    model, batch = zoo.model, zoo.batch
    with torch.no_grad():
        for level, feature in enumerate(model.maps(batch["pixels"])):
            assert zoo.relative(f"feat.{level}", feature) < 1e-4
        output = model(batch["pixels"], sizes=batch["image_sizes"])
        for place, each in enumerate(output, 2):  # after the RPN
            assert zoo.relative(f"raw.{place}", each) < 4e-3
        for index, found in enumerate(model.predict(batch)):
            name = f"pred{index}.panoptic"
            stride = zoo.json["outputs"][name]["flat_stride"]
            ours = found.panoptic.ids.reshape(-1)[::stride]
            assert (ours == torch.from_numpy(zoo.tensors[f"out.{name}"]).flatten()).all()
