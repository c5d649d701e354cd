"""Small detectors of one stage with boxes and masks, by the name of their family."""

from typing import Any

from dense_small import MATCHING

BACKBONE = {"type": "ResNet", "depth": 18, "base_channels": 8, "out_indices": [1, 2]}
NECK = {"type": "FPN", "in_channels": [16, 32], "out_channels": 8, "num_outs": 2}
TEST = {
    "nms_pre": 100,
    "min_bbox_size": 0,
    "score_thr": 0.0,
    "nms": {"type": "nms", "iou_threshold": 0.6},
    "max_per_img": 10,
    "mask_thr": 0.5,
}
YOLACT = {
    "type": "YOLACT",
    "backbone": BACKBONE,
    "neck": NECK,
    "bbox_head": {
        "type": "YOLACTHead",
        "num_classes": 3,
        "in_channels": 8,
        "feat_channels": 8,
        "num_protos": 4,
        "anchor_generator": {
            "type": "AnchorGenerator",
            "octave_base_scale": 3,
            "scales_per_octave": 1,
            "ratios": [0.5, 1.0],
            "strides": [8.0, 16.0],
        },
        "loss_cls": {"type": "CrossEntropyLoss", "reduction": "none"},
    },
    "mask_head": {
        "type": "YOLACTProtonet",
        "num_classes": 3,
        "in_channels": 8,
        "proto_channels": [8, None, 4],
        "proto_kernel_sizes": [3, -2, 1],
        "num_protos": 4,
        "max_masks_to_train": 5,
        "loss_mask_weight": 6.125,
    },
    "train_cfg": {**MATCHING, "neg_pos_ratio": 3},
    "test_cfg": {**TEST, "iou_thr": 0.5, "top_k": 20},
}
# The model, and the names of its losses.
FAMILIES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "yolact": (YOLACT, {"loss_cls", "loss_bbox", "loss_mask", "loss_segm"}),
    "yolact 2.x": (
        {**YOLACT, "segm_head": {"type": "YOLACTSegmHead", "num_classes": 3, "in_channels": 8}},
        {"loss_cls", "loss_bbox", "loss_mask", "loss_segm"},
    ),
}
