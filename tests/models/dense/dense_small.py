"""Small dense detectors, by the name of their family."""

from typing import Any

STRIDES = [8, 16]
SHARED: dict[str, Any] = {
    "num_classes": 3,
    "in_channels": 8,
    "feat_channels": 8,
    "stacked_convs": 1,
    "bbox_coder": {"type": "DeltaXYWHBBoxCoder"},
    "loss_bbox": {"type": "GIoULoss"},
}
NORM = {"type": "GN", "num_groups": 2}
ANCHORS = {
    "type": "AnchorGenerator",
    "octave_base_scale": 4,
    "scales_per_octave": 2,
    "ratios": [0.5, 1.0],
    "strides": STRIDES,
}
ONE = {**ANCHORS, "octave_base_scale": 4, "scales_per_octave": 1, "ratios": [1.0]}
FOCAL = {"type": "FocalLoss", "use_sigmoid": True}
QUALITY = {"type": "QualityFocalLoss", "use_sigmoid": True, "beta": 2.0}
SINGLE = {**SHARED, "anchor_generator": ONE, "norm_cfg": NORM}
MATCHING = {
    "assigner": {
        "type": "MaxIoUAssigner",
        "pos_iou_thr": 0.5,
        "neg_iou_thr": 0.4,
        "min_pos_iou": 0,
    },
    "allowed_border": -1,
    "pos_weight": -1,
}
NEAREST = {**MATCHING, "assigner": {"type": "ATSSAssigner", "topk": 9}}
LOOSE = {**MATCHING["assigner"], "pos_iou_thr": 0.1, "neg_iou_thr": 0.1}  # type: ignore[dict-item]
ALIGNED = {
    "initial_epoch": 4,
    "initial_assigner": NEAREST["assigner"],
    "assigner": {"type": "TaskAlignedAssigner", "topk": 13},
    "alpha": 1,
    "beta": 6,
    "allowed_border": -1,
    "pos_weight": -1,
}
CELLS = {"type": "MlvlPointGenerator", "strides": STRIDES, "offset": 0}
SOFT = {**MATCHING, "assigner": {"type": "DynamicSoftLabelAssigner", "topk": 13}}
GUIDED = {
    "ga_assigner": {
        "type": "ApproxMaxIoUAssigner",
        "pos_iou_thr": 0.5,
        "neg_iou_thr": 0.4,
        "min_pos_iou": 0.4,
    },
    "ga_sampler": {
        "type": "RandomSampler",
        "num": 64,
        "pos_fraction": 0.5,
        "add_gt_as_proposals": False,
    },
    "center_ratio": 0.2,
    "ignore_ratio": 0.5,
}
GUIDES = {
    "approx_anchor_generator": ANCHORS,
    "square_anchor_generator": {
        "type": "AnchorGenerator",
        "ratios": [1.0],
        "scales": [4],
        "strides": STRIDES,
    },
    "deform_groups": 2,
}
POINTS = {k: v for k, v in SINGLE.items() if k != "bbox_coder"}
FOVEA = {
    "type": "FoveaHead",
    "num_classes": 3,
    "in_channels": 8,
    "feat_channels": 8,
    "stacked_convs": 1,
    "strides": STRIDES,
    "base_edge_list": [16, 32],
    "scale_ranges": [[1, 40], [30, 512]],
}
SSD = {
    "num_classes": 3,
    "in_channels": [8, 8],
    "anchor_generator": {
        "type": "SSDAnchorGenerator",
        "scale_major": False,
        "strides": STRIDES,
        "ratios": [[2], [2, 3]],
        "min_sizes": [16, 40],
        "max_sizes": [40, 80],
    },
}
CENTERS = {"type": "CenterRegionAssigner", "pos_scale": 0.2, "neg_scale": 0.2}
PRIME = {"isr": {"k": 2.0, "bias": 0.0}, "carl": {"k": 1.0, "bias": 0.2}}  # of PISA
# The detector, its head, train_cfg, and the names of its losses.
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any], set[str]]] = {
    "retinanet": (
        "RetinaNet",
        {
            **SHARED,
            "type": "RetinaHead",
            "anchor_generator": ANCHORS,
            "loss_cls": FOCAL,
            "loss_bbox": {"type": "L1Loss"},
        },
        MATCHING,
        {"loss_cls", "loss_bbox"},
    ),
    "fsaf": (
        "FSAF",
        {
            **SHARED,
            "type": "FSAFHead",
            "reg_decoded_bbox": True,
            "anchor_generator": {**ONE, "octave_base_scale": 1},
            "bbox_coder": {"type": "TBLRBBoxCoder", "normalizer": 4.0},
            "loss_cls": {**FOCAL, "reduction": "none"},
            "loss_bbox": {"type": "IoULoss", "reduction": "none"},
        },
        {**MATCHING, "assigner": CENTERS},
        {"loss_cls", "loss_bbox", "num_pos", "pos_recall"},
    ),
    "pisa retinanet": (
        "RetinaNet",
        {
            **SHARED,
            "type": "PISARetinaHead",
            "anchor_generator": ANCHORS,
            "loss_cls": FOCAL,
            "loss_bbox": {"type": "SmoothL1Loss", "beta": 0.11},
        },
        {**MATCHING, **PRIME},
        {"loss_cls", "loss_bbox", "loss_carl"},
    ),
    "retinanet sepbn": (
        "RetinaNet",
        {
            **SHARED,
            "type": "RetinaSepBNHead",
            "num_ins": 2,
            "norm_cfg": {"type": "BN"},
            "anchor_generator": ANCHORS,
            "loss_cls": FOCAL,
            "loss_bbox": {"type": "BalancedL1Loss", "beta": 0.11},
        },
        MATCHING,
        {"loss_cls", "loss_bbox"},
    ),
    "ga": (
        "RetinaNet",
        {
            **{k: v for k, v in SHARED.items() if k != "loss_bbox"},
            **GUIDES,
            "type": "GARetinaHead",
            "loss_cls": FOCAL,
        },
        {**MATCHING, **GUIDED},
        {"loss_cls", "loss_bbox", "loss_shape", "loss_loc"},
    ),
    "sabl": (
        "RetinaNet",
        {
            "type": "SABLRetinaHead",
            **{k: SHARED[k] for k in ("num_classes", "in_channels", "feat_channels")},
            "stacked_convs": 1,
            **{k: v for k, v in GUIDES.items() if k != "deform_groups"},
            "bbox_coder": {"type": "BucketingBBoxCoder", "num_buckets": 6, "scale_factor": 3.0},
        },
        {**MATCHING, "assigner": GUIDED["ga_assigner"]},
        {"loss_cls", "loss_bbox_cls", "loss_bbox_reg"},
    ),
    "ghm": (
        "RetinaNet",
        {
            **SHARED,
            "type": "RetinaHead",
            "anchor_generator": ANCHORS,
            "loss_cls": {"type": "GHMC", "bins": 30, "momentum": 0.75},
            "loss_bbox": {"type": "GHMR", "mu": 0.02, "bins": 10, "momentum": 0.7},
        },
        MATCHING,
        {"loss_cls", "loss_bbox"},
    ),
    "freeanchor": (
        "RetinaNet",
        {
            **SHARED,
            "type": "FreeAnchorRetinaHead",
            "anchor_generator": ANCHORS,
            "loss_bbox": {"type": "SmoothL1Loss", "beta": 0.11, "loss_weight": 0.75},
        },
        {},
        {"positive_bag_loss", "negative_bag_loss"},
    ),
    "yolof": (
        "YOLOF",
        {
            "type": "YOLOFHead",
            "num_classes": 3,
            "in_channels": 8,
            "num_cls_convs": 1,
            "num_reg_convs": 1,
            "anchor_generator": {
                "type": "AnchorGenerator",
                "scales": [2, 4],
                "ratios": [1.0],
                "strides": [16],
            },
            "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "add_ctr_clamp": True},
            "reg_decoded_bbox": True,
            "loss_cls": FOCAL,
            "loss_bbox": {"type": "GIoULoss"},
        },
        {
            **MATCHING,
            "assigner": {"type": "UniformAssigner", "pos_ignore_thr": 0.15, "neg_ignore_thr": 0.7},
        },
        {"loss_cls", "loss_bbox"},
    ),
    "fovea": (
        "FOVEA",
        {
            **FOVEA,
            "loss_cls": {**FOCAL, "gamma": 1.5, "alpha": 0.4},
            "loss_bbox": {"type": "SmoothL1Loss", "beta": 0.11},
        },
        {},
        {"loss_cls", "loss_bbox"},
    ),
    "fovea-align": (
        "FOVEA",
        {**FOVEA, "with_deform": True, "deform_groups": 2, "loss_cls": FOCAL, "norm_cfg": NORM},
        {},
        {"loss_cls", "loss_bbox"},
    ),
    "centernet-update": (
        "CenterNet",
        {
            "type": "CenterNetUpdateHead",
            "num_classes": 3,
            "in_channels": 8,
            "feat_channels": 8,
            "stacked_convs": 1,
            "strides": STRIDES,
            "regress_ranges": [[0, 40], [30, 1e8]],
            "norm_cfg": NORM,
        },
        {},
        {"loss_cls", "loss_bbox"},
    ),
    "nas-fcos": (
        "NASFCOS",
        {
            "type": "NASFCOSHead",
            **{k: SHARED[k] for k in ("num_classes", "in_channels", "feat_channels")},
            "strides": STRIDES,
            "regress_ranges": [[-1, 40], [40, 1e8]],
            "norm_cfg": NORM,
        },
        {},
        {"loss_cls", "loss_bbox", "loss_centerness"},
    ),
    "atss": (
        "ATSS",
        {**SINGLE, "type": "ATSSHead", "loss_cls": FOCAL},
        NEAREST,
        {"loss_cls", "loss_bbox", "loss_centerness"},
    ),
    "ddod": (
        "DDOD",
        {**SINGLE, "type": "DDODHead", "loss_cls": FOCAL},
        {
            "assigner": {**NEAREST["assigner"], "alpha": 0.8},
            "reg_assigner": {**NEAREST["assigner"], "alpha": 0.5},
        },
        {"loss_cls", "loss_bbox", "loss_iou"},
    ),
    "autoassign": (
        "AutoAssign",
        {
            "type": "AutoAssignHead",
            **{k: SHARED[k] for k in ("num_classes", "in_channels", "feat_channels")},
            "stacked_convs": 1,
            "strides": STRIDES,
            "regress_ranges": [[-1, 40], [40, 1e8]],
            "norm_cfg": NORM,
            "force_topk": True,
            "loss_bbox": {"type": "GIoULoss", "loss_weight": 5.0},
        },
        {},
        {"loss_pos", "loss_neg", "loss_center"},
    ),
    "gfl": (
        "GFL",
        {**POINTS, "type": "GFLHead", "reg_max": 8, "loss_cls": QUALITY},
        NEAREST,
        {"loss_cls", "loss_bbox", "loss_dfl"},
    ),
    "vfnet": (
        "VFNet",
        {
            **POINTS,
            "type": "VFNetHead",
            "strides": STRIDES,
            "regress_ranges": [[-1, 32], [32, 1e8]],
        },
        NEAREST,
        {"loss_cls", "loss_bbox", "loss_bbox_rf"},
    ),
    "paa": (
        "PAA",
        {**SINGLE, "type": "PAAHead", "loss_cls": FOCAL},
        {**MATCHING, "assigner": LOOSE},
        {"loss_cls", "loss_bbox", "loss_iou"},
    ),
    "tood": (
        "TOOD",
        {**SINGLE, "type": "TOODHead", "loss_cls": {**QUALITY, "activated": True}},
        ALIGNED,
        {"loss_cls", "loss_bbox"},
    ),
    "reppoints": (
        "RepPointsDetector",
        {
            "type": "RepPointsHead",
            "num_classes": 3,
            "in_channels": 8,
            "feat_channels": 8,
            "point_feat_channels": 8,
            "stacked_convs": 1,
            "point_strides": STRIDES,
        },
        {
            "init": {"assigner": {"type": "PointAssigner", "scale": 4, "pos_num": 3}},
            "refine": {"assigner": LOOSE},
        },
        {"loss_cls", "loss_pts_init", "loss_pts_refine"},
    ),
    "yolov3": (
        "YOLOV3",
        {
            "type": "YOLOV3Head",
            "num_classes": 3,
            "in_channels": [8, 8],
            "out_channels": [8, 8],
            "featmap_strides": STRIDES,
            "anchor_generator": {
                "type": "YOLOAnchorGenerator",
                "strides": STRIDES,
                "base_sizes": [[[16, 20], [30, 20]], [[60, 50], [80, 60]]],
            },
        },
        {"assigner": {"type": "GridAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.5}},
        {"loss_cls", "loss_conf", "loss_xy", "loss_wh"},
    ),
    "rtmdet": (
        "RTMDet",
        {
            **POINTS,
            "type": "RTMDetSepBNHead",
            "anchor_generator": CELLS,
            "bbox_coder": {"type": "DistancePointBBoxCoder"},
            "norm_cfg": {"type": "BN"},
            "with_objectness": False,
            "exp_on_reg": True,
            "loss_cls": QUALITY,
        },
        SOFT,
        {"loss_cls", "loss_bbox"},
    ),
    "yolox": (
        "YOLOX",
        {
            "type": "YOLOXHead",
            "num_classes": 3,
            "in_channels": 8,
            "feat_channels": 8,
            "stacked_convs": 1,
            "strides": STRIDES,
        },
        {"assigner": {"type": "SimOTAAssigner"}},
        {"loss_cls", "loss_bbox", "loss_obj"},
    ),
    "ssd": (
        "SingleStageDetector",
        {**SSD, "type": "SSDHead"},
        {**MATCHING, "smoothl1_beta": 1.0, "neg_pos_ratio": 3},
        {"loss_cls", "loss_bbox"},
    ),
    "pisa ssd": (
        "SingleStageDetector",
        {**SSD, "type": "PISASSDHead"},
        {**MATCHING, **PRIME, "smoothl1_beta": 1.0, "neg_pos_ratio": 3},
        {"loss_cls", "loss_bbox", "loss_carl"},
    ),
}


def model(family: str) -> dict[str, Any]:
    """A detector of 3 classes on two levels."""
    kind, head, training, _ = FAMILIES[family]
    one = family == "yolof"  # it has one level
    neck = {"in_channels": [32] if one else [16, 32], "num_outs": 1 if one else 2}
    return {
        "type": kind,
        "backbone": {
            "type": "ResNet",
            "depth": 18,
            "base_channels": 8,
            "out_indices": [2] if one else [1, 2],
        },
        "neck": {"type": "FPN", "out_channels": 8, **neck},
        "bbox_head": head,
        "train_cfg": training,
        "test_cfg": {
            "nms_pre": 100,
            "min_bbox_size": 0,
            "score_thr": 0.0,
            "nms": {"type": "nms", "iou_threshold": 0.6},
            "max_per_img": 10,
        },
    }
