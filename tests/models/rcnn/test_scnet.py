"""SCNet's heads by hand, and where their features go."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from cupola.models.rcnn.roi_extractor import rois_of
from cupola.registry import MODELS, build
from models.rcnn.rcnn_families import scnet
from models.rcnn.test_rcnn_small import batch

SEMANTIC = {
    "semantic_roi_extractor": {
        "type": "SingleRoIExtractor",
        "roi_layer": {"type": "RoIAlign", "output_size": 4},
        "out_channels": 8,
        "featmap_strides": [8],
    },
    "semantic_head": {
        "type": "SCNetSemanticHead",
        "num_ins": 2,
        "fusion_level": 0,
        "num_convs": 2,
        "in_channels": 8,
        "conv_out_channels": 8,
        "num_classes": 5,
    },
}


def full() -> Any:
    torch.manual_seed(0)
    config = scnet()
    return build({**config, "roi_head": {**config["roi_head"], **SEMANTIC}})


def test_masks_see_the_image_the_pixels_and_the_last_box_head() -> None:
    built = full().eval()
    head, maps = built.roi_head, built.maps(torch.randn(2, 3, 64, 96))
    boxes = [torch.tensor([[4.0, 4, 40, 30]]), torch.tensor([[10.0, 0, 90, 60]])]
    rois = rois_of(boxes)
    logits, context = head.glbctx_head(maps)
    block = head.glbctx_head.convs[0]
    x = maps[-1] + block.conv2(block.conv1(maps[-1]).relu())
    torch.testing.assert_close(context[..., 0, 0], x.mean((2, 3)))
    torch.testing.assert_close(logits, head.glbctx_head.fc(x.mean((2, 3))))
    semantic = head.semantic_roi_extractor([head.semantic_head(maps)[1]], rois)
    regions = head.bbox_roi_extractor[1](maps, rois) + F.adaptive_avg_pool2d(semantic, 3) + context
    shared = head.bbox_head[1].shared(regions)
    relayed = head.feat_relay_head.fc(shared).view(2, 8, 2, 2)
    relayed = F.interpolate(relayed, (4, 4), mode="bilinear", align_corners=True)
    expected = head.mask_head(head.mask_roi_extractor(maps, rois) + semantic + context + relayed)
    found = head.masks_of_stages(head.with_semantic(maps), rois)
    torch.testing.assert_close(found, expected.sigmoid(), rtol=1e-4, atol=1e-5)


def test_the_loss_of_the_image_has_a_target_for_each_class() -> None:
    head = MODELS.build(
        {"type": "GlobalContextHead", "num_convs": 1, "num_classes": 3, "loss_weight": 2.0}
    )
    logits = torch.randn(2, 3)
    targets = torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    found = head.loss(logits, [torch.tensor([2, 0, 2]), torch.tensor([], dtype=torch.int64)])
    expected = 2 * F.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(found, expected)


def test_the_semantic_branch_trains() -> None:
    built, data = full(), batch()
    with pytest.raises(ValueError, match="targets need `semantic`"):
        built.loss(data)
    for target in data["targets"]:
        target["semantic"] = torch.randint(0, 5, (64, 96))
    assert built.loss(data)["loss_semantic_seg"] > 0
    with pytest.raises(Exception, match="keep their channels"):
        MODELS.build({"type": "SCNetMaskHead", "in_channels": 8, "conv_out_channels": 4})
