"""Detectors that transformers saved: from config.json and preprocessor_config.json to a bundle.

Each function below gives our build config of one architecture; weights come by their dialect.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cupola.bundles.hf_backbone import resnet
from cupola.bundles.hf_config import HFConfig
from cupola.bundles.hf_grounding import grounding_dino, mm_grounding_dino
from cupola.bundles.hf_images import image_settings
from cupola.bundles.hf_masks import mask2former, maskformer

MOST_LAYERS, MOST_QUERIES, MOST_LABELS = 100, 20_000, 100_000
ACTIVATIONS = {"relu": "ReLU", "gelu": "GELU", "silu": "SiLU", "prelu": "PReLU"}
FOCAL: dict[str, Any] = {"type": "FocalLoss", "use_sigmoid": True, "loss_weight": 2.0}
SIGMOID_ASSIGNER: dict[str, Any] = {
    "type": "HungarianAssigner",
    "match_costs": [
        {"type": "FocalLossCost", "weight": 2.0},
        {"type": "BBoxL1Cost", "weight": 5.0, "box_format": "xywh"},
        {"type": "IoUCost", "iou_mode": "giou", "weight": 2.0},
    ],
}
TOP = 100  # detections that transformers keeps of an image where classes are scored by sigmoid


def detr(config: HFConfig) -> dict[str, Any]:
    """DetrForObjectDetection, and the detector within DetrForSegmentation."""
    model = _shared(config, "d_model")
    queries = model["num_queries"]
    return {
        **model,
        "type": "DETR",
        "bbox_head": _head(config, "DETRHead", model),
        "test_cfg": {"max_per_img": queries, "clamp": False},
    }


def conditional_detr(config: HFConfig) -> dict[str, Any]:
    """ConditionalDetrForObjectDetection."""
    model = _shared(config, "d_model", queries=300)
    _attend_conditionally(model)
    # transformers passes normed states from layer to layer where it computes auxiliary losses
    model["decoder"]["pass_normed"] = bool(config.get("auxiliary_loss", False))
    return {
        **model,
        "type": "ConditionalDETR",
        "bbox_head": {**_head(config, "ConditionalDETRHead", model), "loss_cls": FOCAL},
        "train_cfg": {"assigner": SIGMOID_ASSIGNER},
        "test_cfg": {"max_per_img": TOP, "clamp": False},
    }


def dab_detr(config: HFConfig) -> dict[str, Any]:
    """DabDetrForObjectDetection."""
    config.only("query_dim", 4)
    config.only("normalize_before", False)
    height = config.number("temperature_height", 20)
    config.only("temperature_width", height, default=20)
    model = _shared(config, "hidden_size", "prelu", queries=300)
    model["positional_encoding"]["temperature"] = height
    if scale := config.get("sine_position_embedding_scale"):
        model["positional_encoding"]["scale"] = scale
    _attend_conditionally(model)
    cross = model["decoder"]["layer_cfg"]["cross_attn_cfg"]
    cross["keep_query_pos"] = bool(config.get("keep_query_pos", False))
    head = {**_head(config, "DABDETRHead", model), "loss_cls": FOCAL, "reference_eps": 1e-5}
    return {
        **model,
        "type": "DABDETR",
        "num_patterns": config.whole("num_patterns", 0, MOST_QUERIES, least=0),
        "bbox_head": head,
        "train_cfg": {"assigner": SIGMOID_ASSIGNER},
        "test_cfg": {"max_per_img": TOP, "clamp": False},
    }


def deformable_detr(config: HFConfig) -> dict[str, Any]:
    """DeformableDetrForObjectDetection, with box refinement and two stages if it has them."""
    model = _shared(config, "d_model", queries=300)
    backbone, channels = resnet(config)
    levels = config.whole("num_feature_levels", 4, MOST_LAYERS)
    stages = backbone["out_indices"]
    kept = 1 if levels == 1 else 3 if "stage_widths" not in backbone else len(stages)
    backbone["out_indices"], channels = stages[-kept:], channels[-kept:]
    dims, two_stage = model["neck"]["out_channels"], bool(config.get("two_stage", False))
    for part, name in (("encoder", "self_attn_cfg"), ("decoder", "cross_attn_cfg")):
        model[part]["layer_cfg"][name] = {
            "embed_dims": dims,
            "num_heads": config.whole(f"{part}_attention_heads", 8),
            "num_levels": levels,
            "num_points": config.whole(f"{part}_n_points", 4, MOST_LAYERS),
            "dropout": config.number("dropout", 0.1),
        }
    if two_stage:
        model["num_queries"] = config.whole("two_stage_num_proposals", 300, MOST_QUERIES)
    neck = {"in_channels": channels, "norm_cfg": {"type": "GN", "num_groups": 32}, "bias": True}
    return {
        **model,
        "type": "DeformableDETR",
        "backbone": backbone,
        "neck": {**model["neck"], **neck, "num_outs": levels},
        "num_feature_levels": levels,
        "with_box_refine": bool(config.get("with_box_refine", False)),
        "as_two_stage": two_stage,
        "positional_encoding": {"num_feats": dims // 2, "normalize": True, "offset": -0.5},
        "bbox_head": {**_head(config, "DeformableDETRHead", model), "loss_cls": FOCAL},
        "train_cfg": {"assigner": SIGMOID_ASSIGNER},
        "test_cfg": {"max_per_img": TOP, "clamp": False},
    }


DETECTORS: dict[str, Callable[[HFConfig], dict[str, Any]]] = {
    "DetrForObjectDetection": detr,
    "DetrForSegmentation": detr,
    "ConditionalDetrForObjectDetection": conditional_detr,
    "DabDetrForObjectDetection": dab_detr,
    "DeformableDetrForObjectDetection": deformable_detr,
    "GroundingDinoForObjectDetection": grounding_dino,
    "MMGroundingDinoForObjectDetection": mm_grounding_dino,
    "MaskFormerForInstanceSegmentation": lambda config: maskformer(config, len(labels(config))),
    "Mask2FormerForUniversalSegmentation": lambda config: mask2former(config, len(labels(config))),
}
MODEL_TYPES = {
    "detr": "DetrForObjectDetection",
    "conditional_detr": "ConditionalDetrForObjectDetection",
    "dab-detr": "DabDetrForObjectDetection",
    "deformable_detr": "DeformableDetrForObjectDetection",
    "grounding-dino": "GroundingDinoForObjectDetection",
    "mm-grounding-dino": "MMGroundingDinoForObjectDetection",
    "maskformer": "MaskFormerForInstanceSegmentation",
    "mask2former": "Mask2FormerForUniversalSegmentation",
}


def detector_bundle(architecture: str, values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """`model`, `labels`, `preprocess` and `postprocess` of a bundle; `path` is the config.json."""
    config = HFConfig(values, path)
    model = DETECTORS[architecture](config)
    normalization, preprocess = image_settings(path.parent, model["backbone"]["in_channels"])
    searches = "language_model" in model  # for a text, and has no classes of its own
    return {
        "model": {**model, "data_preprocessor": normalization},
        "labels": [] if searches else labels(config),
        "preprocess": preprocess,
        "postprocess": {"threshold": 0.3 if searches else 0.5},
    }


def labels(config: HFConfig) -> list[str]:
    """The name of every class: `id2label`, LABEL_i where it has none."""
    named = config.object("id2label")
    if named is None:
        return [f"LABEL_{i}" for i in range(config.whole("num_labels", 2, MOST_LABELS))]
    names = {str(key): str(value) for key, value in named.values.items()}
    return [names.get(str(i), f"LABEL_{i}") for i in range(len(names))]


def _shared(
    config: HFConfig, width: str, activation: str = "relu", queries: int = 100
) -> dict[str, Any]:
    """What DETR and its relatives have in common; `width` is the key of the channels."""
    config.only("position_embedding_type", "sine")
    backbone, channels = resnet(config)
    backbone["out_indices"] = backbone["out_indices"][-1:]
    dims = config.whole(width, 256)
    neck = {"in_channels": channels[-1:], "kernel_size": 1, "out_channels": dims, "act_cfg": None}
    layers = {
        part: {
            "num_layers": config.whole(f"{part}_layers", 6, MOST_LAYERS),
            "layer_cfg": {
                "self_attn_cfg": _attention(config, part, dims),
                "ffn_cfg": _feed_forward(config, part, dims, activation),
            },
        }
        for part in ("encoder", "decoder")
    }
    cross = _attention(config, "decoder", dims)
    layers["decoder"]["layer_cfg"]["cross_attn_cfg"] = cross  # type: ignore[index]
    return {
        "num_queries": config.whole("num_queries", queries, MOST_QUERIES),
        "backbone": backbone,
        "neck": {"type": "ChannelMapper", **neck},
        **layers,
        "positional_encoding": {"num_feats": dims // 2, "normalize": True},
    }


def _attention(config: HFConfig, part: str, dims: int) -> dict[str, Any]:
    heads = config.whole(f"{part}_attention_heads", 8)
    if dims % heads:
        raise config.error(f"{part}_attention_heads {heads} does not divide {dims} channels")
    drop = {"type": "Dropout", "drop_prob": config.number("dropout", 0.1)}
    attention = config.number("attention_dropout", 0.0)
    return {"embed_dims": dims, "num_heads": heads, "attn_drop": attention, "dropout_layer": drop}


def _feed_forward(config: HFConfig, part: str, dims: int, activation: str) -> dict[str, Any]:
    name = config.get("activation_function", activation)
    if name not in ACTIVATIONS:
        raise config.error(
            f"activation_function {name!r:.60} is not supported, only {', '.join(ACTIVATIONS)}"
        )
    return {
        "embed_dims": dims,
        "feedforward_channels": config.whole(f"{part}_ffn_dim", 2048),
        "ffn_drop": config.number("dropout", 0.1),
        "act_cfg": {"type": ACTIVATIONS[name]},
    }


def _attend_conditionally(model: dict[str, Any]) -> None:
    """Makes the decoder's attentions conditional ones, which drop their result by `proj_drop`."""
    layer = model["decoder"]["layer_cfg"]
    for name in ("self_attn_cfg", "cross_attn_cfg"):
        settings = dict(layer[name])
        drop = settings.pop("dropout_layer")["drop_prob"]
        layer[name] = {**settings, "proj_drop": drop, "cross_attn": name == "cross_attn_cfg"}


def _head(config: HFConfig, kind: str, model: dict[str, Any]) -> dict[str, Any]:
    dims = model["neck"]["out_channels"]
    return {"type": kind, "num_classes": len(labels(config)), "embed_dims": dims}
