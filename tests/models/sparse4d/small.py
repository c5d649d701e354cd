"""A Sparse4D small enough to build and run in milliseconds, and a drive for it."""

from typing import Any

import torch

from models.detr3d.small import small_config
from models.stream_petr.small import drive

INPUTS = ("pixels", "lidar2img", "ego_pose", "timestamp")


def small_sparse4d(**settings: Any) -> dict[str, Any]:
    """16 channels, 12 instances of which 6 are kept, 3 classes, two refinements."""
    base, C = small_config(), 16
    attention = {
        "type": "MultiheadAttention",
        "embed_dims": 2 * C,
        "num_heads": 2,
        "batch_first": True,
        "dropout": 0.1,
    }
    points = {"type": "SparseBox3DKeyPointsGenerator"}
    head = {
        "type": "Sparse4DHead",
        "instance_bank": {
            "type": "InstanceBank",
            "num_anchor": 12,
            "embed_dims": C,
            "anchor": [[3.0 * i, 12.0 - 2 * i, 0, 1.4, 0.6, 0.5, 0, 1, 0, 0, 0] for i in range(12)],
            "anchor_handler": points,
            "num_temp_instances": 6,
            "feat_grad": True,
        },
        "anchor_encoder": {
            "type": "SparseBox3DEncoder",
            "embed_dims": [8, 2, 2, 4],
            "mode": "cat",
            "output_fc": False,
            "out_loops": 2,
        },
        "num_single_frame_decoder": 1,
        "operation_order": [
            *("deformable", "ffn", "norm", "refine"),
            *("temp_gnn", "gnn", "norm", "deformable", "ffn", "norm", "refine"),
        ],
        "temp_graph_model": attention,
        "graph_model": attention,
        "norm_layer": {"type": "LN", "normalized_shape": C},
        "ffn": {
            "type": "AsymmetricFFN",
            "in_channels": 2 * C,
            "pre_norm": {"type": "LN"},
            "embed_dims": C,
            "feedforward_channels": 2 * C,
        },
        "deformable_model": {
            "type": "DeformableFeatureAggregation",
            "embed_dims": C,
            "num_groups": 2,
            "num_levels": 2,
            "num_cams": 6,
            "use_camera_embed": True,
            "residual_mode": "cat",
            "kps_generator": {
                **points,
                "num_learnable_pts": 2,
                "fix_scale": [[0, 0, 0], [0.4, 0, 0]],
            },
        },
        "refine_layer": {
            "type": "SparseBox3DRefinementModule",
            "embed_dims": C,
            "num_cls": 3,
            "refine_yaw": True,
            "with_quality_estimation": True,
        },
        "decoder": {"type": "SparseBox3DDecoder", "num_output": 8},
        **settings,
    }
    return {
        "type": "Sparse4D",
        "img_backbone": base["img_backbone"],
        "img_neck": base["img_neck"],
        "depth_branch": {"type": "DenseDepthNet", "embed_dims": C, "num_depth_layers": 2},
        "head": head,
    }


def inputs(frame: dict[str, Any], *streams: int) -> dict[str, torch.Tensor]:
    """What forward takes of a frame, of all streams or of some."""
    chosen = list(streams) or slice(None)
    return {key: frame[key][chosen] for key in INPUTS}


__all__ = ["drive", "inputs", "small_sparse4d"]
