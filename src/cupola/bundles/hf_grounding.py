"""Grounding DINO and MM-Grounding-DINO of transformers: their config.json as our build config."""

from typing import Any

from cupola.bundles.hf_backbone import backbone
from cupola.bundles.hf_config import HFConfig

MOST_LAYERS, MOST_QUERIES, LONGEST_TEXT = 100, 20_000, 4096
SEPARATORS = ["[CLS]", "[SEP]", ".", "?"]
COSTS = [
    {"type": "BinaryFocalLossCost", "weight": 2.0},
    {"type": "BBoxL1Cost", "weight": 5.0, "box_format": "xywh"},
    {"type": "IoUCost", "iou_mode": "giou", "weight": 2.0},
]
# What a text model needs to be: sizes, by the names of its config.json.
TEXT_SIZES = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}


def grounding_dino(config: HFConfig) -> dict[str, Any]:
    """GroundingDinoForObjectDetection."""
    return _model(config, {})


def mm_grounding_dino(config: HFConfig) -> dict[str, Any]:
    """MMGroundingDinoForObjectDetection, whose class scores are scaled and have a bias."""
    return _model(config, {"log_scale": "auto", "bias": True})


def _model(config: HFConfig, contrastive: dict[str, Any]) -> dict[str, Any]:
    config.only("position_embedding_type", "sine")
    config.only("two_stage", True)
    config.only("query_dim", 4)
    config.only("activation_function", "relu")
    dims, longest = config.whole("d_model", 256), config.whole("max_text_len", 256, LONGEST_TEXT)
    levels = config.whole("num_feature_levels", 4, MOST_LAYERS)
    found, channels = backbone(config)
    language = _language(config, longest)
    return {
        "type": "GroundingDINO",
        "num_queries": config.whole("num_queries", 900, MOST_QUERIES),
        "num_feature_levels": levels,
        "language_model": language,
        "backbone": found,
        "neck": {
            "type": "ChannelMapper",
            "in_channels": channels,
            "kernel_size": 1,
            "out_channels": dims,
            "act_cfg": None,
            "bias": True,
            "norm_cfg": {"type": "GN", "num_groups": 32},
            "num_outs": levels,
        },
        "encoder": _encoder(config, dims, levels),
        "decoder": _decoder(config, dims, levels),
        "positional_encoding": {
            "num_feats": dims // 2,
            "normalize": True,
            "temperature": config.number("positional_embedding_temperature", 20),
        },
        "bbox_head": {
            "type": "GroundingDINOHead",
            "num_classes": longest,
            "embed_dims": dims,
            "contrastive_cfg": {"max_text_len": longest, **contrastive},
            "loss_cls": {"type": "FocalLoss", "use_sigmoid": True, "loss_weight": 1.0},
        },
        "train_cfg": {"assigner": {"type": "HungarianAssigner", "match_costs": COSTS}},
        "test_cfg": {"max_per_img": 300},
    }


def _language(config: HFConfig, longest: int) -> dict[str, Any]:
    text = config.object("text_config") or HFConfig({}, config.path)
    text.only("model_type", "bert")
    text.only("hidden_act", "gelu")
    sizes = {key: text.whole(key, value, 10_000_000) for key, value in TEXT_SIZES.items()}
    return {
        "type": "BertModel",
        "name": "bert-base-uncased",
        "config": {**sizes, "layer_norm_eps": text.number("layer_norm_eps", 1e-12)},
        "max_tokens": min(longest, sizes["max_position_embeddings"]),
        "pad_to_max": False,
        "use_sub_sentence_represent": True,
        "special_tokens_list": SEPARATORS,
    }


def _encoder(config: HFConfig, dims: int, levels: int) -> dict[str, Any]:
    heads, width = config.whole("encoder_attention_heads", 8), config.whole("encoder_ffn_dim", 2048)
    if heads < 2 or dims % heads or width // 2 % (heads // 2):
        raise config.error(f"encoder_attention_heads {heads} does not divide {dims} channels")
    drop = config.number("dropout", 0.1)
    text = config.number("text_enhancer_dropout", 0.0)
    return {
        "num_layers": config.whole("encoder_layers", 6, MOST_LAYERS),
        "layer_cfg": {
            "self_attn_cfg": {
                "embed_dims": dims,
                "num_heads": heads,
                "num_levels": levels,
                "num_points": config.whole("encoder_n_points", 4, MOST_LAYERS),
                "dropout": drop,
            },
            "ffn_cfg": {"embed_dims": dims, "feedforward_channels": width, "ffn_drop": drop},
        },
        "text_layer_cfg": {
            "self_attn_cfg": {"embed_dims": dims, "num_heads": heads // 2, "dropout": text},
            "ffn_cfg": {"embed_dims": dims, "feedforward_channels": width // 2, "ffn_drop": text},
        },
        "fusion_layer_cfg": {
            "v_dim": dims,
            "l_dim": dims,
            "embed_dim": width // 2,
            "num_heads": heads // 2,
            "dropout": config.number("fusion_dropout", 0.0),
            "drop_path": config.number("fusion_droppath", 0.1),
        },
    }


def _decoder(config: HFConfig, dims: int, levels: int) -> dict[str, Any]:
    heads, drop = config.whole("decoder_attention_heads", 8), config.number("dropout", 0.1)
    if dims % heads:
        raise config.error(f"decoder_attention_heads {heads} does not divide {dims} channels")
    attention = {"embed_dims": dims, "num_heads": heads, "dropout": drop}
    points = config.whole("decoder_n_points", 4, MOST_LAYERS)
    width = config.whole("decoder_ffn_dim", 2048)
    return {
        "num_layers": config.whole("decoder_layers", 6, MOST_LAYERS),
        "layer_cfg": {
            "self_attn_cfg": attention,
            "cross_attn_text_cfg": attention,
            "cross_attn_cfg": {**attention, "num_levels": levels, "num_points": points},
            "ffn_cfg": {"embed_dims": dims, "feedforward_channels": width, "ffn_drop": drop},
        },
    }
