"""Configs of small Deformable DETR, DINO and DDQ DETR models, which run in milliseconds."""

from typing import Any

WIDTH = 16
LEVELS = 3
FOCAL = {"type": "FocalLoss", "use_sigmoid": True, "loss_weight": 2.0}


def deformable_config(
    refine: bool = False, two_stage: bool = False, queries: int = 7, classes: int = 3
) -> dict[str, Any]:
    """In the spelling of MMDetection 3.x."""
    attention = {"embed_dims": WIDTH, "num_heads": 4}
    sampling = {**attention, "num_levels": LEVELS, "num_points": 2}
    layer = {
        "self_attn_cfg": sampling,
        "ffn_cfg": {"embed_dims": WIDTH, "feedforward_channels": 2 * WIDTH},
    }
    return {
        "type": "DeformableDETR",
        "num_queries": queries,
        "num_feature_levels": LEVELS,
        "with_box_refine": refine,
        "as_two_stage": two_stage,
        "backbone": {
            "type": "SmallResNet",
            "stem_channels": 8,
            "channels": (8, 12, 16),
            "strides": (2, 2, 2),
            "out_indices": (1, 2),
        },
        "neck": {
            "type": "ChannelMapper",
            "in_channels": [12, 16],
            "kernel_size": 1,
            "out_channels": WIDTH,
            "act_cfg": None,
            "norm_cfg": {"type": "GN", "num_groups": 4},
            "num_outs": LEVELS,
        },
        "encoder": {"num_layers": 2, "layer_cfg": layer},
        "decoder": {
            "num_layers": 3,
            "layer_cfg": {**layer, "self_attn_cfg": attention, "cross_attn_cfg": sampling},
        },
        "positional_encoding": {"num_feats": WIDTH // 2, "normalize": True, "offset": -0.5},
        "bbox_head": {
            "type": "DeformableDETRHead",
            "num_classes": classes,
            "embed_dims": WIDTH,
            "loss_cls": FOCAL,
        },
        "test_cfg": {"max_per_img": 10},
    }


def nested_config(refine: bool = False, two_stage: bool = False) -> dict[str, Any]:
    """The same model in the spelling of MMDetection 2.x."""
    modern = deformable_config(refine, two_stage)
    attention = {"type": "MultiheadAttention", "embed_dims": WIDTH, "num_heads": 4, "dropout": 0.1}
    sampling = {
        "type": "MultiScaleDeformableAttention",
        "embed_dims": WIDTH,
        "num_heads": 4,
        "num_levels": LEVELS,
        "num_points": 2,
    }
    ffn = {"feedforward_channels": 2 * WIDTH, "ffn_dropout": 0.1}
    self_order = ("self_attn", "norm", "ffn", "norm")
    cross_order = ("self_attn", "norm", "cross_attn", "norm", "ffn", "norm")
    encoder = {
        "type": "DetrTransformerEncoder",
        "num_layers": 2,
        "transformerlayers": {
            "type": "BaseTransformerLayer",
            "attn_cfgs": sampling,
            "operation_order": self_order,
            **ffn,
        },
    }
    decoder = {
        "type": "DeformableDetrTransformerDecoder",
        "num_layers": 3,
        "return_intermediate": True,
        "transformerlayers": {
            "type": "DetrTransformerDecoderLayer",
            "attn_cfgs": [attention, sampling],
            "operation_order": cross_order,
            **ffn,
        },
    }
    transformer = {
        "type": "DeformableDetrTransformer",
        "num_feature_levels": LEVELS,
        "two_stage_num_proposals": 7,
        "encoder": encoder,
        "decoder": decoder,
    }
    positions = {"type": "SinePositionalEncoding", **modern["positional_encoding"]}
    head = {
        "type": "DeformableDETRHead",
        "num_query": 7,
        "num_classes": 3,
        "in_channels": 16,
        "with_box_refine": refine,
        "as_two_stage": two_stage,
        "transformer": transformer,
        "positional_encoding": positions,
        "loss_cls": FOCAL,
    }
    kept = {key: modern[key] for key in ("type", "backbone", "neck", "test_cfg")}
    return {**kept, "bbox_head": head}


def dino_config(queries: int = 7, classes: int = 3, **settings: Any) -> dict[str, Any]:
    config = deformable_config(True, True, queries, classes)
    head = {**config["bbox_head"], "type": "DINOHead"}
    groups = {"group_cfg": {"dynamic": True, "num_dn_queries": 6}}
    return {**config, "type": "DINO", "bbox_head": head, "dn_cfg": groups, **settings}


def ddq_config(queries: int = 7, classes: int = 3, **settings: Any) -> dict[str, Any]:
    config = dino_config(queries, classes)
    head = {**config["bbox_head"], "type": "DDQDETRHead"}
    return {**config, "type": "DDQDETR", "bbox_head": head, **settings}
