"""Configs of a small Conditional DETR and a small DAB-DETR, which train in seconds."""

from typing import Any

WIDTH = 16
FOCAL = {"type": "FocalLoss", "use_sigmoid": True, "loss_weight": 2.0}


def conditional_config(width: int = WIDTH, classes: int = 3, queries: int = 7) -> dict[str, Any]:
    attention = {"embed_dims": width, "num_heads": 4}
    ffn = {"embed_dims": width, "feedforward_channels": 2 * width}
    layer = {"self_attn_cfg": {**attention}, "ffn_cfg": ffn}
    cross = {**attention, "cross_attn": True}
    return {
        "type": "ConditionalDETR",
        "num_queries": queries,
        "backbone": {
            "type": "SmallResNet",
            "stem_channels": 16,
            "channels": (16, 32, 32, 32),
            "strides": (2, 2, 2, 2),
        },
        "neck": {
            "type": "ChannelMapper",
            "in_channels": [32],
            "kernel_size": 1,
            "out_channels": width,
            "act_cfg": None,
        },
        "encoder": {"num_layers": 1, "layer_cfg": layer},
        "decoder": {"num_layers": 2, "layer_cfg": {**layer, "cross_attn_cfg": cross}},
        "positional_encoding": {"num_feats": width // 2, "normalize": True},
        "bbox_head": {
            "type": "ConditionalDETRHead",
            "num_classes": classes,
            "embed_dims": width,
            "loss_cls": FOCAL,
        },
    }


def dab_config(width: int = WIDTH, *, num_patterns: int = 0, **sizes: int) -> dict[str, Any]:
    config = conditional_config(width, **sizes)
    head = {**config["bbox_head"], "type": "DABDETRHead"}
    return {**config, "type": "DABDETR", "num_patterns": num_patterns, "bbox_head": head}
