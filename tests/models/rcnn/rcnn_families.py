"""Small detectors of two stages whose heads or proposals differ from Faster R-CNN's."""

from typing import Any

from models.dense.dense_small import GUIDED, GUIDES, PRIME
from models.rcnn.rcnn_small import EXTRACTOR, model

SQUARES = {"type": "AnchorGenerator", "ratios": [1.0], "strides": [8, 16]}
RPN_LOSSES = {"loss_rpn_cls", "loss_rpn_bbox"}
BOX_LOSSES = RPN_LOSSES | {"loss_cls", "acc", "loss_bbox"}


def groie() -> dict[str, Any]:
    """Regions from all levels, samples of Libra R-CNN, and its loss."""
    made = model()
    convolution = {"type": "ConvModule", "in_channels": 8, "out_channels": 8, "kernel_size": 3}
    attention = {"type": "GeneralizedAttention", "in_channels": 8, "num_heads": 2}
    made["roi_head"]["bbox_roi_extractor"] = {
        **EXTRACTOR,
        "type": "GenericRoIExtractor",
        "pre_cfg": {**convolution, "padding": 1, "norm_cfg": {"type": "MMSyncBN"}},
        "post_cfg": {**attention, "attention_type": "0100"},
    }
    head = made["roi_head"]["bbox_head"]
    made["roi_head"]["bbox_head"] = {**head, "loss_bbox": {"type": "BalancedL1Loss"}}
    sampler = {
        "type": "CombinedSampler",
        "num": 32,
        "pos_fraction": 0.5,
        "pos_sampler": {"type": "InstanceBalancedPosSampler"},
        "neg_sampler": {"type": "IoUBalancedNegSampler", "floor_thr": -1, "num_bins": 3},
    }
    made["train_cfg"]["rcnn"] = {**made["train_cfg"]["rcnn"], "sampler": sampler}
    return made


def sparse(masks: bool = False) -> dict[str, Any]:
    """Sparse R-CNN with two stages of 12 queries, and with masks QueryInst."""
    made = model(masks=masks)
    dynamic = {
        "type": "DynamicConv",
        "in_channels": 8,
        "feat_channels": 4,
        "out_channels": 8,
        "input_feat_shape": 3,
    }
    head = {
        "type": "DIIHead",
        "num_classes": 3,
        "num_heads": 2,
        "num_reg_fcs": 2,
        "feedforward_channels": 16,
        "in_channels": 8,
        "dynamic_conv_cfg": dynamic,
        "bbox_coder": {
            "type": "DeltaXYWHBBoxCoder",
            "clip_border": False,
            "target_stds": [0.5, 0.5, 1.0, 1.0],
        },
        "loss_cls": {"type": "FocalLoss", "use_sigmoid": True, "loss_weight": 2.0},
        "loss_bbox": {"type": "L1Loss", "loss_weight": 5.0},
    }
    roi: dict[str, Any] = {
        "type": "SparseRoIHead",
        "num_stages": 2,
        "stage_loss_weights": [1, 0.5],
        "bbox_roi_extractor": EXTRACTOR,
        "bbox_head": [head] * 2,
    }
    if masks:
        mask = {**dynamic, "input_feat_shape": 4, "with_proj": False}
        masked = {**made["roi_head"]["mask_head"], "type": "DynamicMaskHead"}
        roi["mask_roi_extractor"] = made["roi_head"]["mask_roi_extractor"]
        loss = {"type": "DiceLoss", "activate": False, "loss_weight": 8.0}
        roi["mask_head"] = [{**masked, "dynamic_conv_cfg": mask, "loss_mask": loss}] * 2
    costs = [
        {"type": "FocalLossCost", "weight": 2.0},
        {"type": "BBoxL1Cost", "weight": 5.0, "box_format": "xyxy"},
        {"type": "IoUCost", "iou_mode": "giou", "weight": 2.0},
    ]
    training = {
        "assigner": {"type": "HungarianAssigner", "match_costs": costs},
        "sampler": {"type": "PseudoSampler"},
        "pos_weight": 1,
        "mask_size": 8,
    }
    return {
        **made,
        "type": "QueryInst" if masks else "SparseRCNN",
        "rpn_head": {
            "type": "EmbeddingRPNHead",
            "num_proposals": 12,
            "proposal_feature_channel": 8,
        },
        "roi_head": roi,
        "train_cfg": {"rpn": None, "rcnn": [training] * 2},
        "test_cfg": {"rpn": None, "rcnn": {"max_per_img": 10, "mask_thr_binary": 0.5}},
    }


def staged(names: set[str], stages: int = 2) -> set[str]:
    """The losses of every stage."""
    return {f"s{i}.{name}" for i in range(stages) for name in names}


SET_LOSSES = {"loss_cls", "pos_acc", "loss_bbox", "loss_iou"}


def guided() -> dict[str, Any]:
    """Faster R-CNN with guided anchors."""
    made = model()
    made["rpn_head"] = {**GUIDES, "type": "GARPNHead", "in_channels": 8, "feat_channels": 8}
    made["train_cfg"] = {**made["train_cfg"], "rpn": {**made["train_cfg"]["rpn"], **GUIDED}}
    proposals = {**made["test_cfg"]["rpn"], "nms_post": 40}
    made["train_cfg"]["rpn_proposal"] = proposals
    made["test_cfg"] = {**made["test_cfg"], "rpn": proposals}
    return made


def sabl(cascade: bool = False) -> dict[str, Any]:
    """Faster or Cascade R-CNN whose boxes are found side by side."""
    made = model(cascade=cascade)
    head = {
        "type": "SABLHead",
        "num_classes": 3,
        "cls_in_channels": 8,
        "reg_in_channels": 8,
        "roi_feat_size": 3,
        "cls_out_channels": 16,
        "reg_offset_out_channels": 8,
        "reg_cls_out_channels": 8,
        "bbox_coder": {"type": "BucketingBBoxCoder", "num_buckets": 6, "scale_factor": 1.7},
    }
    made["roi_head"] = {**made["roi_head"], "bbox_head": [head] * 2 if cascade else head}
    return made


def grid() -> dict[str, Any]:
    """Grid R-CNN with four points a region."""
    made = model()
    made["type"] = "GridRCNN"
    roi = {**EXTRACTOR, "roi_layer": {"type": "RoIAlign", "output_size": 4}}
    made["roi_head"] = {
        **made["roi_head"],
        "type": "GridRoIHead",
        "bbox_head": {**made["roi_head"]["bbox_head"], "with_reg": False},
        "grid_roi_extractor": roi,
        "grid_head": {
            "type": "GridHead",
            "grid_points": 4,
            "num_convs": 2,
            "roi_feat_size": 4,
            "in_channels": 8,
            "point_feat_channels": 4,
            "norm_cfg": {"type": "GN", "num_groups": 4},
        },
    }
    made["train_cfg"] = {
        **made["train_cfg"],
        "rcnn": {**made["train_cfg"]["rcnn"], "pos_radius": 1, "max_num_grid": 8},
    }
    return made


def scnet() -> dict[str, Any]:
    """SCNet with two stages, without the semantic branch."""
    made = model(masks=True, cascade=True)
    roi = made["roi_head"]
    made["roi_head"] = {
        **roi,
        "type": "SCNetRoIHead",
        "bbox_head": [{**each, "type": "SCNetBBoxHead"} for each in roi["bbox_head"]],
        "mask_head": {**roi["mask_head"], "type": "SCNetMaskHead", "num_convs": 2},
        "glbctx_head": {
            "type": "GlobalContextHead",
            "num_convs": 2,
            "in_channels": 8,
            "conv_out_channels": 8,
            "num_classes": 3,
            "conv_to_res": True,
        },
        "feat_relay_head": {
            "type": "FeatureRelayHead",
            "in_channels": 16,
            "out_conv_channels": 8,
            "roi_feat_size": 2,
        },
    }
    for head in made["roi_head"]["bbox_head"]:
        head |= {"type": "SCNetBBoxHead", "num_shared_fcs": 2}
    return {**made, "type": "SCNet"}


def trident(test_branch: int = 1) -> dict[str, Any]:
    """TridentNet with two branches, on one map."""
    made = model()
    branches = {"num_branch": 2, "test_branch_idx": test_branch}
    anchors = {**made["rpn_head"]["anchor_generator"], "strides": [16]}
    extractor = {**EXTRACTOR, "out_channels": 32, "featmap_strides": [16]}
    box = {**made["roi_head"]["bbox_head"], "in_channels": 32}
    return {
        **made,
        "type": "TridentFasterRCNN",
        "backbone": {
            "type": "TridentResNet",
            "depth": 50,
            "base_channels": 2,
            "trident_dilations": [1, 2],
            "strides": [1, 2, 2],
            "dilations": [1, 1, 1],
            "out_indices": [2],
            **branches,
        },
        "neck": None,
        "rpn_head": {**made["rpn_head"], "in_channels": 32, "anchor_generator": anchors},
        "roi_head": {
            "type": "TridentRoIHead",
            "bbox_roi_extractor": extractor,
            "bbox_head": box,
            **branches,
        },
    }


def point_rend() -> dict[str, Any]:
    """PointRend with masks of 2x2 that are refined twice."""
    made = model(masks=True)
    made["roi_head"] = {
        **made["roi_head"],
        "type": "PointRendRoIHead",
        "mask_roi_extractor": {
            "type": "GenericRoIExtractor",
            "aggregation": "concat",
            "roi_layer": {"type": "SimpleRoIAlign", "output_size": 4},
            "out_channels": 8,
            "featmap_strides": [8],
        },
        "mask_head": {
            "type": "CoarseMaskHead",
            "num_fcs": 1,
            "roi_feat_size": 4,
            "in_channels": 8,
            "conv_out_channels": 8,
            "fc_out_channels": 16,
            "num_classes": 3,
        },
        "point_head": {
            "type": "MaskPointHead",
            "num_fcs": 1,
            "in_channels": 8,
            "fc_channels": 8,
            "num_classes": 3,
        },
    }
    points = {"num_points": 16, "oversample_ratio": 3, "importance_sample_ratio": 0.75}
    training, testing = made["train_cfg"], made["test_cfg"]
    steps = {"subdivision_steps": 2, "subdivision_num_points": 20, "scale_factor": 2}
    return {
        **made,
        "type": "PointRend",
        "train_cfg": {**training, "rcnn": {**training["rcnn"], "mask_size": 2, **points}},
        "test_cfg": {**testing, "rcnn": {**testing["rcnn"], **steps}},
    }


def cascade_rpn() -> dict[str, Any]:
    """Faster R-CNN with proposals in two stages."""
    made = model()
    stage = {
        "type": "StageCascadeRPNHead",
        "in_channels": 8,
        "feat_channels": 8,
        "anchor_generator": {**SQUARES, "scales": [4]},
        "reg_decoded_bbox": True,
        "loss_bbox": {"type": "IoULoss", "linear": True, "loss_weight": 10.0},
    }
    coder = {"type": "DeltaXYWHBBoxCoder"}
    first = {
        **stage,
        "adapt_cfg": {"type": "dilation", "dilation": 3},
        "bridged_feature": True,
        "with_cls": False,
        "bbox_coder": {**coder, "target_stds": [0.1, 0.1, 0.5, 0.5]},
    }
    second = {
        **stage,
        "adapt_cfg": {"type": "offset"},
        "bbox_coder": {**coder, "target_stds": [0.05, 0.05, 0.1, 0.1]},
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True},
    }
    region = {"type": "RegionAssigner", "center_ratio": 0.2, "ignore_ratio": 0.5}
    training = [{"assigner": region, "allowed_border": -1}, made["train_cfg"]["rpn"]]
    made["rpn_head"] = {"type": "CascadeRPNHead", "num_stages": 2, "stages": [first, second]}
    made["train_cfg"] = {**made["train_cfg"], "rpn": training}
    return made


def changed(head: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Faster R-CNN with another box head, or head of regions."""
    made = model()
    box = {**made["roi_head"]["bbox_head"], **head}
    training = {**made["train_cfg"]["rcnn"], **options.pop("rcnn", {})}
    made["train_cfg"] = {**made["train_cfg"], "rcnn": training}
    return {**made, "roi_head": {**made["roi_head"], **options, "bbox_head": box}}


def point_proposals() -> dict[str, Any]:
    """Faster R-CNN whose proposals are those of FCOS, as a published config has it."""
    made = model()
    proposing = {"type": "FCOSHead", "num_classes": 1, "in_channels": 8, "feat_channels": 8}
    made["rpn_head"] = {
        **proposing,
        "stacked_convs": 1,
        "strides": [8, 16],
        "regress_ranges": ((-1, 32), (32, 1e8)),
        "norm_cfg": None,
    }
    return made


DYNAMIC = {
    "iou_topk": 5,
    "beta_topk": 2,
    "update_iter_interval": 2,
    "initial_iou": 0.2,
    "initial_beta": 1.0,
}
SAMPLER = {"num": 32, "pos_fraction": 0.5, "add_gt_as_proposals": True}
DOUBLE = {"type": "DoubleConvFCBBoxHead", "num_convs": 1, "num_fcs": 1, "conv_out_channels": 16}
SIDE_LOSSES = {"loss_cls", "acc", "loss_bbox_cls", "loss_bbox_reg"}
GUIDED_LOSSES = {"rpn_loss_anchor_shape", "rpn_loss_anchor_loc"}
# The model, and the names of its losses.
FAMILIES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "groie": (groie(), BOX_LOSSES),
    "sparse": (sparse(), staged(SET_LOSSES)),
    "guided": (guided(), BOX_LOSSES | GUIDED_LOSSES),
    "sabl": (sabl(), RPN_LOSSES | SIDE_LOSSES),
    "sabl cascade": (sabl(cascade=True), RPN_LOSSES | staged(SIDE_LOSSES)),
    "grid": (grid(), RPN_LOSSES | {"loss_cls", "acc", "loss_grid"}),
    "scnet": (
        scnet(),
        RPN_LOSSES | staged({"loss_cls", "acc", "loss_bbox"}) | {"loss_mask", "loss_glbctx"},
    ),
    "dynamic": (
        changed(
            {"loss_bbox": {"type": "SmoothL1Loss"}},
            type="DynamicRoIHead",
            rcnn={"dynamic_rcnn": DYNAMIC},
        ),
        BOX_LOSSES,
    ),
    "double": (
        changed(DOUBLE, type="DoubleHeadRoIHead", reg_roi_scale_factor=1.3),
        BOX_LOSSES,
    ),
    "pisa": (
        changed(
            {"loss_bbox": {"type": "SmoothL1Loss"}},
            type="PISARoIHead",
            rcnn={"sampler": {**SAMPLER, "type": "ScoreHLRSampler"}, **PRIME},
        ),
        BOX_LOSSES | {"loss_carl"},
    ),
    "ohem": (changed({}, rcnn={"sampler": {**SAMPLER, "type": "OHEMSampler"}}), BOX_LOSSES),
    "point rend": (point_rend(), BOX_LOSSES | {"loss_mask", "loss_point"}),
    "cascade rpn": (
        cascade_rpn(),
        (BOX_LOSSES - RPN_LOSSES) | {"s0.loss_rpn_reg", "s1.loss_rpn_cls", "s1.loss_rpn_reg"},
    ),
    "trident": (trident(), BOX_LOSSES),
    "points": (
        point_proposals(),
        {"rpn_loss_cls", "rpn_loss_bbox", "rpn_loss_centerness", "loss_cls", "acc", "loss_bbox"},
    ),
    "queryinst": (sparse(masks=True), staged(SET_LOSSES | {"loss_mask"})),
}
CONCAT = {
    **EXTRACTOR,
    "type": "GenericRoIExtractor",
    "aggregation": "concat",
    "out_channels": 16,
}
