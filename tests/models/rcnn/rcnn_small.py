"""Small detectors of the R-CNN line."""

from typing import Any

RPN: dict[str, Any] = {
    "type": "RPNHead",
    "in_channels": 8,
    "feat_channels": 8,
    "anchor_generator": {
        "type": "AnchorGenerator",
        "scales": [4],
        "ratios": [0.5, 1.0],
        "strides": [8, 16],
    },
    "bbox_coder": {"type": "DeltaXYWHBBoxCoder"},
    "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True},
    "loss_bbox": {"type": "L1Loss"},
}
EXTRACTOR = {
    "type": "SingleRoIExtractor",
    "roi_layer": {"type": "RoIAlign", "output_size": 3, "sampling_ratio": 0},
    "out_channels": 8,
    "featmap_strides": [8, 16],
}
BOXES = {
    "type": "Shared2FCBBoxHead",
    "in_channels": 8,
    "fc_out_channels": 16,
    "roi_feat_size": 3,
    "num_classes": 3,
    "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_stds": [0.1, 0.1, 0.2, 0.2]},
    "loss_bbox": {"type": "L1Loss"},
}
MASKS = {
    "mask_roi_extractor": {**EXTRACTOR, "roi_layer": {"type": "RoIAlign", "output_size": 4}},
    "mask_head": {
        "type": "FCNMaskHead",
        "num_convs": 1,
        "in_channels": 8,
        "conv_out_channels": 8,
        "num_classes": 3,
    },
}
MATCHING = {
    "assigner": {
        "type": "MaxIoUAssigner",
        "pos_iou_thr": 0.5,
        "neg_iou_thr": 0.5,
        "min_pos_iou": 0.3,
    },
    "sampler": {"type": "RandomSampler", "num": 32, "pos_fraction": 0.5},
    "pos_weight": -1,
    "mask_size": 8,
}
HEADS = {(True, False): "HybridTaskCascadeRoIHead", (False, True): "MaskScoringRoIHead"}
PROPOSALS = {
    "nms_pre": 60,
    "max_per_img": 40,
    "nms": {"type": "nms", "iou_threshold": 0.7},
    "min_bbox_size": 0,
}


def model(
    masks: bool = False, cascade: bool = False, htc: bool = False, scoring: bool = False
) -> dict[str, Any]:
    """Faster, Mask or Cascade R-CNN, Hybrid Task Cascade or Mask Scoring R-CNN with 3 classes."""
    sampler = {**MATCHING["sampler"], "add_gt_as_proposals": False}  # type: ignore[dict-item]
    head: dict[str, Any] = {"bbox_roi_extractor": EXTRACTOR, "bbox_head": BOXES}
    head |= MASKS if masks else {}
    if cascade:
        stage = {**BOXES, "reg_class_agnostic": True}
        head |= {"bbox_head": [stage] * 2, "num_stages": 2, "stage_loss_weights": [1, 0.5]}
    if htc:
        first = {**MASKS["mask_head"], "type": "HTCMaskHead", "with_conv_res": False}
        head["mask_head"] = [first, {**first, "with_conv_res": True}]
    if scoring:
        head["mask_iou_head"] = {
            "type": "MaskIoUHead",
            "num_convs": 2,
            "roi_feat_size": 4,
            "in_channels": 8,
            "conv_out_channels": 8,
            "fc_out_channels": 8,
            "num_classes": 3,
        }
    kind = "CascadeRoIHead" if cascade else "StandardRoIHead"
    return {
        "type": "CascadeRCNN" if cascade else "MaskRCNN" if masks else "FasterRCNN",
        "backbone": {"type": "ResNet", "depth": 18, "base_channels": 8, "out_indices": [1, 2]},
        "neck": {"type": "FPN", "in_channels": [16, 32], "out_channels": 8, "num_outs": 2},
        "rpn_head": RPN,
        "roi_head": {"type": HEADS.get((htc, scoring), kind), **head},
        "train_cfg": {
            "rpn": {**MATCHING, "sampler": sampler, "allowed_border": -1},
            "rpn_proposal": PROPOSALS,
            "rcnn": [MATCHING] * 2 if cascade else MATCHING,
        },
        "test_cfg": {
            "rpn": PROPOSALS,
            "rcnn": {
                "score_thr": 0.0,
                "nms": {"type": "nms", "iou_threshold": 0.5},
                "max_per_img": 10,
                "mask_thr_binary": 0.5,
            },
        },
    }
