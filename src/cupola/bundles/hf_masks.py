"""Segmentation models that transformers saved: MaskFormer and Mask2Former, ResNet or Swin."""

from typing import Any

from cupola.bundles.hf_backbone import backbone
from cupola.bundles.hf_config import HFConfig

MOST_LAYERS, MOST_QUERIES = 100, 20_000
COCO_THINGS, COCO_PANOPTIC = 80, 133  # the classes of COCO's panoptic models, things first
RELU: dict[str, Any] = {"type": "ReLU", "inplace": True}
GROUP_NORM: dict[str, Any] = {"type": "GN", "num_groups": 32}


def maskformer(config: HFConfig, classes: int) -> dict[str, Any]:
    """MaskFormerForInstanceSegmentation."""
    decoder = config.object("decoder_config") or HFConfig({}, config.path)
    decoder.only("model_type", "detr")
    decoder.only("activation_function", "relu")
    dims = decoder.whole("d_model", 256)
    config.only("fpn_feature_size", dims, default=256)
    config.only("mask_feature_size", dims, default=256)
    layer = {
        "self_attn_cfg": _attention(decoder, "decoder_attention_heads", dims),
        "cross_attn_cfg": _attention(decoder, "decoder_attention_heads", dims),
        "ffn_cfg": _feed_forward(decoder, decoder.whole("decoder_ffn_dim", 2048), dims),
    }
    head = {
        "type": "MaskFormerHead",
        "num_queries": decoder.whole("num_queries", 100, MOST_QUERIES),
        "pixel_decoder": {"type": "PixelDecoder", "norm_cfg": GROUP_NORM, "act_cfg": RELU},
        "enforce_decoder_input_project": True,
        "transformer_decoder": {
            "num_layers": decoder.whole("decoder_layers", 6, MOST_LAYERS),
            "layer_cfg": layer,
        },
        "mask_padding": False,
    }
    return _model("MaskFormer", config, head, dims, dims, classes)


def mask2former(config: HFConfig, classes: int) -> dict[str, Any]:
    """Mask2FormerForUniversalSegmentation."""
    config.only("activation_function", "relu")
    config.only("pre_norm", False)
    dims = config.whole("hidden_dim", 256)
    config.only("feature_size", dims, default=256)
    heads, drop = config.whole("num_attention_heads", 8), config.number("dropout", 0.0)
    deformable = {"embed_dims": dims, "num_heads": heads, "num_levels": 3, "num_points": 4}
    layer = {
        "self_attn_cfg": _attention(config, "num_attention_heads", dims),
        "cross_attn_cfg": _attention(config, "num_attention_heads", dims),
        "ffn_cfg": _feed_forward(config, config.whole("dim_feedforward", 2048), dims),
    }
    encoder = {
        "num_layers": config.whole("encoder_layers", 6, MOST_LAYERS),
        "layer_cfg": {
            "self_attn_cfg": {**deformable, "dropout": drop},
            "ffn_cfg": _feed_forward(config, config.whole("encoder_feedforward_dim", 1024), dims),
        },
    }
    head = {
        "type": "Mask2FormerHead",
        "num_queries": config.whole("num_queries", 100, MOST_QUERIES),
        "num_transformer_feat_level": 3,
        "pixel_decoder": {
            "type": "MSDeformAttnPixelDecoder",
            "norm_cfg": GROUP_NORM,
            "act_cfg": RELU,
            "encoder": encoder,
            "positional_encoding": {"num_feats": dims // 2, "normalize": True},
        },
        "enforce_decoder_input_project": bool(config.get("enforce_input_projection", False)),
        "transformer_decoder": {
            # the prediction before the first layer counts as one
            "num_layers": config.whole("decoder_layers", 10, MOST_LAYERS, least=2) - 1,
            "layer_cfg": layer,
        },
    }
    out = config.whole("mask_feature_size", 256)
    return _model("Mask2Former", config, head, dims, out, classes)


def _model(
    kind: str, config: HFConfig, head: dict[str, Any], dims: int, out: int, classes: int
) -> dict[str, Any]:
    """Instances of all classes, or the panoptic segmentation for COCO's 133."""
    found, channels = backbone(config)
    if len(channels) != 4:
        raise config.error(f"the backbone returns {len(channels)} maps; expected 4")
    panoptic = classes == COCO_PANOPTIC
    things = COCO_THINGS if panoptic else classes
    counts = {"num_things_classes": things, "num_stuff_classes": classes - things}
    return {
        "type": kind,
        "backbone": found,
        "panoptic_head": {
            **head,
            **counts,
            "in_channels": channels,
            "feat_channels": dims,
            "out_channels": out,
            "positional_encoding": {"num_feats": dims // 2, "normalize": True},
        },
        "panoptic_fusion_head": {"type": "MaskFormerFusionHead", **counts},
        "test_cfg": {
            "panoptic_on": panoptic,
            "instance_on": not panoptic,
            "max_per_image": 100,
            "object_mask_thr": 0.5,
            "iou_thr": 0.8,
            "filter_low_score": True,
        },
    }


def _attention(config: HFConfig, key: str, dims: int) -> dict[str, Any]:
    heads = config.whole(key, 8)
    if dims % heads:
        raise config.error(f"{key} {heads} does not divide {dims} channels")
    return {"embed_dims": dims, "num_heads": heads, "dropout": config.number("dropout", 0.0)}


def _feed_forward(config: HFConfig, channels: int, dims: int) -> dict[str, Any]:
    return {
        "embed_dims": dims,
        "feedforward_channels": channels,
        "ffn_drop": config.number("dropout", 0.0),
        "act_cfg": RELU,
    }
