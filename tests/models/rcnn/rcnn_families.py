"""Small detectors of two stages whose heads or proposals differ from Faster R-CNN's."""

from typing import Any

from models.rcnn.rcnn_small import EXTRACTOR, model

RPN_LOSSES = {"loss_rpn_cls", "loss_rpn_bbox"}
BOX_LOSSES = RPN_LOSSES | {"loss_cls", "acc", "loss_bbox"}


def groie() -> dict[str, Any]:
    """Regions from all levels, samples of Libra R-CNN, and its loss."""
    made = model(masks=True)
    convolution = {"type": "ConvModule", "in_channels": 8, "out_channels": 8, "kernel_size": 3}
    attention = {"type": "GeneralizedAttention", "in_channels": 8, "num_heads": 2}
    for part in ("bbox_roi_extractor", "mask_roi_extractor"):
        made["roi_head"][part] = {
            **made["roi_head"][part],
            "type": "GenericRoIExtractor",
            "pre_cfg": {**convolution, "padding": 1, "norm_cfg": {"type": "MMSyncBN"}},
        }
    made["roi_head"]["bbox_roi_extractor"]["post_cfg"] = {**attention, "attention_type": "0100"}
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


# The model, and the names of its losses.
FAMILIES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "groie": (groie(), BOX_LOSSES | {"loss_mask"}),
}
CONCAT = {
    **EXTRACTOR,
    "type": "GenericRoIExtractor",
    "aggregation": "concat",
    "out_channels": 16,
}
