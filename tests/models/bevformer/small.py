"""A BEVFormer small enough to build and run in milliseconds, and a drive for it."""

import math
from typing import Any

import torch

from models.detr3d.small import PC_RANGE, small_batch, small_config

ORDER = ("self_attn", "norm", "cross_attn", "norm", "ffn", "norm")
INPUTS = ("pixels", "lidar2img", "can_bus")


def small_bevformer(**settings: Any) -> dict[str, Any]:
    """16 channels, 2 + 2 layers, 10 x 8 cells, 12 queries, 2 levels; `settings` go to the head."""
    base = small_config()
    old = base["pts_bbox_head"]
    common = {"embed_dims": 16, "num_heads": 2}
    rest = {"feedforward_channels": 32, "ffn_dropout": 0.1, "operation_order": ORDER,
            "ffn_cfgs": {"type": "FFN", "embed_dims": 16}}  # fmt: skip
    sampled = {"type": "MSDeformableAttention3D", "num_levels": 2, "num_points": 4, **common}
    encoder = {
        "type": "BEVFormerEncoder",
        "num_layers": 2,
        "pc_range": PC_RANGE,
        "num_points_in_pillar": 2,
        "return_intermediate": False,
        "transformerlayers": {
            "type": "BEVFormerLayer",
            "attn_cfgs": [
                {"type": "TemporalSelfAttention", "num_levels": 1, **common},
                {
                    "type": "SpatialCrossAttention",
                    "pc_range": PC_RANGE,
                    "embed_dims": 16,
                    "deformable_attention": sampled,
                },
            ],
            **rest,
        },
    }
    decoder = {
        "type": "DetectionTransformerDecoder",
        "num_layers": 2,
        "return_intermediate": True,
        "transformerlayers": {
            "type": "DetrTransformerDecoderLayer",
            "attn_cfgs": [
                {"type": "MultiheadAttention", "dropout": 0.1, **common},
                {"type": "CustomMSDeformableAttention", "num_levels": 1, **common},
            ],
            **rest,
        },
    }
    return {
        "type": "BEVFormer",
        "video_test_mode": True,
        "use_grid_mask": True,
        "img_backbone": base["img_backbone"],
        "img_neck": base["img_neck"],
        "pts_bbox_head": {
            "type": "BEVFormerHead",
            "bev_h": 10,
            "bev_w": 8,
            "num_query": 12,
            "num_classes": 3,
            "in_channels": 16,
            "with_box_refine": True,
            "transformer": {
                "type": "PerceptionTransformer",
                "embed_dims": 16,
                "rotate_center": [4, 5],
                "encoder": encoder,
                "decoder": decoder,
            },
            "bbox_coder": old["bbox_coder"],
            "positional_encoding": {
                "type": "LearnedPositionalEncoding",
                "num_feats": 8,
                "row_num_embed": 10,
                "col_num_embed": 8,
            },
            "loss_cls": old["loss_cls"],
            "loss_bbox": old["loss_bbox"],
            "loss_iou": {"type": "GIoULoss", "loss_weight": 0.0},
            **settings,
        },
        "train_cfg": base["train_cfg"],
    }


def can_bus(step: float, start: float = 600.0) -> torch.Tensor:
    """[18] of a vehicle that drives along y of the world and turns by 10 degrees a step."""
    degrees = 90.0 + 10 * step
    made = torch.zeros(18, dtype=torch.float64)
    made[:3] = torch.tensor([start, 2 * start + 4.0 * step, 0.0])
    half = math.radians(degrees) / 2
    made[3], made[6] = math.cos(half), math.sin(half)
    made[13] = 8.0
    made[16], made[17] = math.radians(degrees), degrees
    return made


def drive(frames: int, streams: int = 1) -> list[dict[str, Any]]:
    """The frames of a vehicle that moves and turns; every stream has images of its own."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for t in range(frames):
        batch = small_batch(samples=streams)
        batch["pixels"] = torch.randn(batch["pixels"].shape, generator=generator)
        made.append({**batch, "can_bus": can_bus(t).expand(streams, -1)})
    return made


def inputs(frame: dict[str, Any]) -> dict[str, Any]:
    """What forward takes of a frame."""
    return {key: frame[key] for key in INPUTS}
