"""A PETR small enough to build and run in milliseconds."""

from typing import Any

import torch

from models.detr3d.small import PC_RANGE, small_config

RANGE = [-32.0, -32.0, -8.0, 32.0, 32.0, 8.0]


def small_petr(kind: str = "PETR", head: str = "PETRHead", **settings: Any) -> dict[str, Any]:
    """16 channels, 2 layers, 12 queries, 3 classes, 8 depths; `settings` go to the head."""
    base = small_config()
    old = base["pts_bbox_head"]
    attention = {"embed_dims": 16, "num_heads": 2, "dropout": 0.1}
    layer = {
        "type": "PETRTransformerDecoderLayer",
        "attn_cfgs": [
            {"type": "MultiheadAttention", **attention},
            {"type": "PETRMultiheadAttention", **attention},
        ],
        "feedforward_channels": 32,
        "ffn_dropout": 0.1,
        "with_cp": True,
        "operation_order": ("self_attn", "norm", "cross_attn", "norm", "ffn", "norm"),
    }
    decoder = {
        "type": "PETRTransformerDecoder",
        "return_intermediate": True,
        "num_layers": 2,
        "transformerlayers": layer,
    }
    return {
        "type": kind,
        "img_backbone": base["img_backbone"],
        "img_neck": {"type": "CPFPN", "in_channels": [16, 32], "out_channels": 16, "num_outs": 2},
        "pts_bbox_head": {
            "type": head,
            "num_classes": 3,
            "in_channels": 16,
            "num_query": 12,
            "LID": True,
            "depth_num": 8,
            "with_multiview": True,
            "position_range": RANGE,
            "transformer": {"type": "PETRTransformer", "decoder": decoder},
            "bbox_coder": old["bbox_coder"],
            "positional_encoding": {
                "type": "SinePositionalEncoding3D",
                "num_feats": 8,
                "normalize": True,
            },
            "loss_cls": old["loss_cls"],
            "loss_bbox": old["loss_bbox"],
            "loss_iou": {"type": "GIoULoss", "loss_weight": 0.0},
            **settings,
        },
        "train_cfg": base["train_cfg"],
    }


def poses(*steps: float) -> torch.Tensor:
    """Poses [F, 4, 4] of a vehicle that drives along y and turns a little, lidar to fixed."""
    made = []
    for step in steps:
        turn = torch.tensor(0.1 * step, dtype=torch.float64)
        pose = torch.eye(4, dtype=torch.float64)
        pose[:2, :2] = torch.stack(
            (torch.stack((turn.cos(), -turn.sin())), torch.stack((turn.sin(), turn.cos())))
        )
        pose[1, 3] = 600.0 + step
        made.append(pose)
    return torch.stack(made)


__all__ = ["PC_RANGE", "RANGE", "poses", "small_petr"]
