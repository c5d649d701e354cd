"""A DETR3D small enough to build and run in milliseconds."""

from typing import Any

import torch

PC_RANGE = [-30.0, -30.0, -5.0, 30.0, 30.0, 3.0]


def small_config(cameras: int = 6, refine: bool = True, points: int = 1) -> dict[str, Any]:
    """16 channels, 2 layers, 12 queries, 3 classes, two levels of a ResNet-18."""
    return {
        "type": "DETR3D",
        "img_backbone": {
            "type": "ResNet",
            "depth": 18,
            "stem_channels": 4,
            "base_channels": 4,
            "out_indices": (2, 3),
        },
        "img_neck": {"type": "FPN", "in_channels": [16, 32], "out_channels": 16, "num_outs": 2},
        "pts_bbox_head": {
            "type": "DETR3DHead",
            "num_query": 12,
            "num_classes": 3,
            "in_channels": 16,
            "with_box_refine": refine,
            "transformer": {
                "type": "Detr3DTransformer",
                "decoder": {
                    "type": "Detr3DTransformerDecoder",
                    "num_layers": 2,
                    "return_intermediate": True,
                    "transformerlayers": {
                        "type": "DetrTransformerDecoderLayer",
                        "attn_cfgs": [
                            {"type": "MultiheadAttention", "embed_dims": 16, "num_heads": 2},
                            {
                                "type": "Detr3DCrossAtten",
                                "pc_range": PC_RANGE,
                                "embed_dims": 16,
                                "num_points": points,
                                "num_levels": 2,
                                "num_cams": cameras,
                            },
                        ],
                        "feedforward_channels": 32,
                        "ffn_dropout": 0.1,
                        "operation_order": (
                            "self_attn",
                            "norm",
                            "cross_attn",
                            "norm",
                            "ffn",
                            "norm",
                        ),
                    },
                },
            },
            "bbox_coder": {
                "type": "NMSFreeCoder",
                "pc_range": PC_RANGE,
                "post_center_range": [-40, -40, -10, 40, 40, 10],
                "max_num": 20,
                "num_classes": 3,
            },
            "loss_cls": {"type": "FocalLoss", "use_sigmoid": True, "loss_weight": 2.0},
            "loss_bbox": {"type": "L1Loss", "loss_weight": 0.25},
        },
        "train_cfg": {
            "pts": {
                "assigner": {
                    "type": "HungarianAssigner3D",
                    "cls_cost": {"type": "FocalLossCost", "weight": 2.0},
                    "reg_cost": {"type": "BBox3DL1Cost", "weight": 0.25},
                    "iou_cost": {"type": "IoUCost", "weight": 0.0},
                }
            }
        },
    }


def small_batch(samples: int = 1, cameras: int = 6, size: tuple[int, int] = (64, 96)) -> dict:
    """Random images, the generator's cameras, one object per sample."""
    from cupola.data.driving import camera_rig

    generator = torch.Generator().manual_seed(0)
    rig = camera_rig(size)
    matrices = torch.stack([torch.from_numpy(c.lidar2img).float() for c in (rig * 2)[:cameras]])
    box = torch.tensor([[5.0, 8.0, -1.5, 4.0, 2.0, 1.5, 0.3, 1.0, 0.0]])
    return {
        "pixels": torch.randn(samples, cameras, 3, *size, generator=generator),
        "lidar2img": matrices.expand(samples, -1, -1, -1).clone(),
        "image_size": size,
        "targets": [{"boxes": box, "labels": torch.tensor([1])} for _ in range(samples)],
    }
