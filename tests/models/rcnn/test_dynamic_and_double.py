"""Dynamic R-CNN's thresholds by hand, and the two regions of Double-Head R-CNN."""

import pytest
import torch

from cupola.registry import MODELS, build
from cupola.structures.boxes import pairwise_iou
from models.rcnn.rcnn_families import DOUBLE, FAMILIES
from models.rcnn.test_rcnn_small import batch


def test_thresholds_follow_the_overlaps_and_beta_the_errors() -> None:
    torch.manual_seed(0)
    built = build(FAMILIES["dynamic"][0])
    head, targets = built.roi_head, batch()["targets"][:1]
    objects = targets[0]["boxes"]
    proposals = [torch.cat((objects + 1, objects + 3, objects * 0.5))]
    head.sample((), proposals, targets)
    every = torch.cat((objects, proposals[0]))
    overlaps = pairwise_iou(every, objects).amax(1).sort(descending=True).values
    assert head.overlaps == pytest.approx([overlaps[4].item()], abs=1e-5)  # the fifth largest
    assert head.errors == [0.0]  # the second smallest: the two objects are proposals themselves
    head.overlaps, head.errors = [0.5, 0.7], [0.1, 0.4, 0.2]
    head.update()
    assert head.assigner.positive == head.assigner.min_pos_iou == pytest.approx(0.6)
    assert head.assigner.negative == (0.0, pytest.approx(0.6))
    assert head.bbox_head.loss_bbox.beta == 0.2 and not head.overlaps
    head.overlaps, head.errors = [0.1], [0.0]
    head.update()
    assert head.assigner.positive == 0.2 and head.bbox_head.loss_bbox.beta == 0.2
    with pytest.raises(Exception, match="SmoothL1Loss"):
        other = {"bbox_head": {"type": "BBoxHead", "loss_bbox": {"type": "L1Loss"}}}
        MODELS.build({**FAMILIES["dynamic"][0]["roi_head"], **other})


def test_boxes_come_from_larger_regions() -> None:
    torch.manual_seed(0)
    built = build(FAMILIES["double"][0]).eval()
    head, maps = built.roi_head, built.maps(torch.randn(1, 3, 64, 96))
    rois = torch.tensor([[0.0, 20, 10, 40, 30]])
    regions = head.regions(maps, rois)
    larger = torch.tensor([[0.0, 17, 7, 43, 33]])
    torch.testing.assert_close(regions[0], head.bbox_roi_extractor(maps, rois))
    torch.testing.assert_close(regions[1], head.bbox_roi_extractor(maps, larger))
    # 100 pixels belong to the first level; so do the regions 1.3 times as large
    wide, larger = torch.tensor([[[0.0, -20, -20, 80, 80]], [[0.0, -35, -35, 95, 95]]])
    first = head.bbox_roi_extractor.roi_layers[0](maps[0], larger)
    torch.testing.assert_close(head.regions(maps, wide)[1], first)
    assert not torch.allclose(head.bbox_roi_extractor(maps, larger), first)
    logits, deltas = head.bbox_head(regions)
    changed = regions.clone()
    changed[1] += 1
    assert torch.equal(head.bbox_head(changed)[0], logits)
    assert not torch.equal(head.bbox_head(changed)[1], deltas)
    with pytest.raises(Exception, match="at least 1"):
        MODELS.build({**DOUBLE, "num_fcs": 0})
