"""A StreamPETR small enough to build and run in milliseconds, and a drive for it."""

from typing import Any

import torch

from models.detr3d.small import small_batch
from models.petr.small import poses, small_petr


def small_stream(**settings: Any) -> dict[str, Any]:
    """16 channels, 2 layers, 12 queries, a memory of 10 of which 4 are propagated."""
    config = small_petr("Petr3D", "StreamPETRHead")
    head = config["pts_bbox_head"]
    for key in ("with_multiview", "positional_encoding"):
        del head[key]
    layer = head["transformer"]["decoder"]["transformerlayers"]
    layer["type"] = "PETRTemporalDecoderLayer"
    layer["attn_cfgs"][1]["type"] = "PETRMultiheadFlashAttention"
    head["transformer"]["type"] = "PETRTemporalTransformer"
    head |= {
        "embed_dims": 16,
        "depth_num": 32,
        "memory_len": 10,
        "topk_proposals": 4,
        "num_propagated": 4,
        "scalar": 3,
        "noise_scale": 1.0,
        "split": 0.75,
        "match_with_velo": False,
        **settings,
    }
    return config


def drive(frames: int, streams: int = 1) -> list[dict[str, Any]]:
    """The frames of a vehicle that moves and turns; every stream has images of its own."""
    ego = poses(*range(frames))
    generator = torch.Generator().manual_seed(3)
    made = []
    for t in range(frames):
        batch = small_batch(samples=streams)
        batch["pixels"] = torch.randn(batch["pixels"].shape, generator=generator)
        intrinsics = torch.eye(4).repeat(streams, 6, 1, 1)
        intrinsics[..., 0, 0], intrinsics[..., 1, 1] = 80.0, 82.0
        made.append(
            {
                **batch,
                "intrinsics": intrinsics,
                "ego_pose": ego[t].expand(streams, 4, 4),
                "timestamp": torch.full((streams,), 1.5e9 + 0.5 * t, dtype=torch.float64),
            }
        )
    return made


INPUTS = ("pixels", "lidar2img", "intrinsics", "ego_pose", "timestamp")


def inputs(frame: dict[str, Any]) -> dict[str, Any]:
    """What forward takes of a frame."""
    return {key: frame[key] for key in INPUTS}
