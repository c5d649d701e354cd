"""Small detectors that search for texts, and a tokenizer of a few words."""

from collections.abc import Mapping
from typing import Any

from cupola.files.tokenizer import GuardedTokenizer
from cupola.files.wordpiece import _wordpiece

WORDS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", "?", ",", "##s", "cat", "dog", "traffic", "light"),
    *("red", "the", "on", "left", "person", "small", "truck"),
]
BERT = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "max_position_embeddings": 64,
}
SWIN = {
    "type": "SwinTransformer",
    "embed_dims": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 3,
    "mlp_ratio": 4,
    "qkv_bias": True,
    "drop_path_rate": 0.0,
    "patch_norm": True,
    "out_indices": (1, 2, 3),
    "convert_weights": False,
}


def small_tokenizer() -> GuardedTokenizer:
    """Of WORDS, which also knows the plural s."""
    return _wordpiece({word: number for number, word in enumerate(WORDS)}, lowercase=True)


def grounding_dino(
    contrastive: Mapping[str, Any] | None = None, queries: int = 7, layers: int = 2
) -> dict[str, Any]:
    """Grounding DINO of 32 channels over a small Swin and a small BERT."""
    C = 32
    return {
        "type": "GroundingDINO",
        "num_queries": queries,
        "data_preprocessor": {"type": "DetDataPreprocessor"},
        "language_model": {
            "type": "BertModel",
            "name": "tiny",
            "config": BERT,
            "max_tokens": 40,
            "pad_to_max": False,
            "use_sub_sentence_represent": True,
            "special_tokens_list": ["[CLS]", "[SEP]", ".", "?"],
        },
        "backbone": SWIN,
        "neck": {
            "type": "ChannelMapper",
            "in_channels": [16, 32, 64],
            "kernel_size": 1,
            "out_channels": C,
            "act_cfg": None,
            "bias": True,
            "norm_cfg": {"type": "GN", "num_groups": 32},
            "num_outs": 4,
        },
        "encoder": {
            "num_layers": layers,
            "layer_cfg": {
                "self_attn_cfg": {"embed_dims": C, "num_heads": 4, "num_levels": 4, "dropout": 0.0},
                "ffn_cfg": {"embed_dims": C, "feedforward_channels": 24, "ffn_drop": 0.0},
            },
            "text_layer_cfg": {
                "self_attn_cfg": {"embed_dims": C, "num_heads": 2, "dropout": 0.0},
                "ffn_cfg": {"embed_dims": C, "feedforward_channels": 12, "ffn_drop": 0.0},
            },
            "fusion_layer_cfg": {
                "v_dim": C,
                "l_dim": C,
                "embed_dim": 12,
                "num_heads": 2,
                "dropout": 0.0,
            },
        },
        "decoder": {
            "num_layers": layers,
            "layer_cfg": {
                "self_attn_cfg": {"embed_dims": C, "num_heads": 4, "dropout": 0.0},
                "cross_attn_text_cfg": {"embed_dims": C, "num_heads": 4, "dropout": 0.0},
                "cross_attn_cfg": {"embed_dims": C, "num_heads": 4, "dropout": 0.0},
                "ffn_cfg": {"embed_dims": C, "feedforward_channels": 24, "ffn_drop": 0.0},
            },
            "post_norm_cfg": None,
        },
        "positional_encoding": {
            "num_feats": C // 2,
            "normalize": True,
            "offset": 0.0,
            "temperature": 20,
        },
        "bbox_head": {
            "type": "GroundingDINOHead",
            "num_classes": 40,
            "embed_dims": C,
            "sync_cls_avg_factor": True,
            "contrastive_cfg": {"max_text_len": 40, **(contrastive or {})},
            "loss_cls": {"type": "FocalLoss", "use_sigmoid": True, "loss_weight": 1.0},
            "loss_bbox": {"type": "L1Loss", "loss_weight": 5.0},
        },
        "dn_cfg": {"group_cfg": {"dynamic": True, "num_dn_queries": 10}},
        "test_cfg": {"max_per_img": 9},
    }


def glip(early_fuse: bool = True, train: bool = False, **head: Any) -> dict[str, Any]:
    """GLIP of 32 channels and two layers over a small Swin and a small BERT."""
    assigner = {
        "type": "ATSSAssigner",
        "topk": 9,
        "iou_calculator": {"type": "BboxOverlaps2D_GLIP"},
    }
    return {
        "type": "GLIP",
        "data_preprocessor": {"type": "DetDataPreprocessor", "pad_size_divisor": 32},
        "backbone": SWIN,
        "neck": {
            "type": "FPN",
            "in_channels": [16, 32, 64],
            "out_channels": 32,
            "start_level": 0,
            "relu_before_extra_convs": True,
            "add_extra_convs": "on_output",
            "num_outs": 5,
        },
        "bbox_head": {
            "type": "ATSSVLFusionHead",
            "lang_model_name": "tiny",
            "lang_model_config": BERT,
            "num_classes": 80,
            "in_channels": 32,
            "feat_channels": 32,
            "early_fuse": early_fuse,
            "num_dyhead_blocks": 2,
            "anchor_generator": {
                "type": "AnchorGenerator",
                "ratios": [1.0],
                "octave_base_scale": 8,
                "scales_per_octave": 1,
                "strides": [8, 16, 32, 64, 128],
                "center_offset": 0.5,
            },
            "bbox_coder": {
                "type": "DeltaXYWHBBoxCoderForGLIP",
                "target_means": [0.0, 0.0, 0.0, 0.0],
                "target_stds": [0.1, 0.1, 0.2, 0.2],
            },
            "loss_cls": {"type": "FocalLoss", "use_sigmoid": True},
            "loss_bbox": {"type": "GIoULoss", "loss_weight": 2.0},
            **head,
        },
        "language_model": {"type": "BertModel", "name": "tiny", "config": BERT, "max_tokens": 40},
        "train_cfg": {"assigner": assigner, "pos_weight": -1} if train else None,
        "test_cfg": {
            "nms_pre": 1000,
            "min_bbox_size": 0,
            "score_thr": 0.05,
            "nms": {"type": "nms", "iou_threshold": 0.6},
            "max_per_img": 100,
        },
    }
