"""Small detectors of one stage with boxes and masks, by the name of their family."""

from typing import Any

from models.dense.dense_small import MATCHING, NORM

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
CONDINST: dict[str, Any] = {
    "type": "CondInst",
    "backbone": BACKBONE,
    "neck": NECK,
    "bbox_head": {
        "type": "CondInstBboxHead",
        "num_params": 6 * 4 + 4 + 4 + 1,
        "num_classes": 3,
        "in_channels": 8,
        "feat_channels": 8,
        "stacked_convs": 1,
        "strides": [8, 16],
        "regress_ranges": [[-1, 40], [40, 1e8]],
        "norm_on_bbox": True,
        "centerness_on_reg": True,
        "center_sampling": True,
        "loss_bbox": {"type": "GIoULoss"},
        "norm_cfg": NORM,
    },
    "mask_head": {
        "type": "CondInstMaskHead",
        "num_layers": 2,
        "feat_channels": 4,
        "mask_out_stride": 4,
        "max_masks_to_train": 20,
        "mask_feature_head": {
            "in_channels": 8,
            "feat_channels": 8,
            "start_level": 0,
            "end_level": 1,
            "out_channels": 4,
            "mask_stride": 8,
            "num_stacked_convs": 1,
            "norm_cfg": NORM,
        },
        "loss_mask": {"type": "DiceLoss", "eps": 5e-6},
    },
    "test_cfg": TEST,
}
BOXINST: dict[str, Any] = {
    **CONDINST,
    "type": "BoxInst",
    "data_preprocessor": {"type": "BoxInstDataPreprocessor", "pad_size_divisor": 32},
    "bbox_head": {**CONDINST["bbox_head"], "type": "BoxInstBboxHead"},
    "mask_head": {
        **CONDINST["mask_head"],
        "type": "BoxInstMaskHead",
        "max_masks_to_train": -1,
        "topk_masks_per_img": 8,
        "warmup_iters": 10,
    },
}
CELL_LOSSES = {"loss_cls", "loss_bbox", "loss_centerness"}
# The model, and the names of its losses.
FAMILIES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "yolact": (YOLACT, {"loss_cls", "loss_bbox", "loss_mask", "loss_segm"}),
    "yolact 2.x": (
        {**YOLACT, "segm_head": {"type": "YOLACTSegmHead", "num_classes": 3, "in_channels": 8}},
        {"loss_cls", "loss_bbox", "loss_mask", "loss_segm"},
    ),
    "condinst": (CONDINST, CELL_LOSSES | {"loss_mask"}),
    "boxinst": (BOXINST, CELL_LOSSES | {"loss_mask_project", "loss_mask_pairwise"}),
}
