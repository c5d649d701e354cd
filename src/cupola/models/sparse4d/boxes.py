"""Sparse4D's boxes in space: encoding, key points, refinement and motion.

A box is eleven numbers, the code that the model regresses: x, y, z of the center, log l, log w,
log h, sine and cosine of the yaw, vx, vy, vz; meters and meters per second in the lidar's frame.
The original names the sizes W, L, H, but its data has the length first.

Letters: B streams, Q instances, C channels, P key points of a box.
Source: detection3d_blocks.py of Sparse4D.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.detr3d.box_head import PRIOR_PROBABILITY
from cupola.models.layers.scale import Scale
from cupola.models.sparse4d.layers import linear_relu_ln
from cupola.registry import MODELS

CODE = 11
CENTER, SIZE, YAW, VELOCITY = slice(0, 3), slice(3, 6), slice(6, 8), slice(8, CODE)
SINE, COSINE = 6, 7


def move_boxes(boxes: Tensor, matrix: Tensor, seconds: Tensor) -> Tensor:
    """Boxes [B, Q, 11] of an earlier frame as seen `seconds` [B] later, by matrix [B, 4, 4].

    As in the original, sine and cosine of the yaw change places: published weights expect it.
    """
    center = boxes[..., CENTER] + boxes[..., VELOCITY] * seconds[:, None, None]
    turn = matrix[:, None, :3, :3]  # [B, 1, 3, 3]
    center = (turn @ center[..., None])[..., 0] + matrix[:, None, :3, 3]
    direction = boxes[..., [COSINE, SINE]]
    direction = (turn[..., :2, :2] @ direction[..., None])[..., 0]  # cosine, sine
    velocity = (turn @ boxes[..., VELOCITY, None])[..., 0]
    return torch.cat((center, boxes[..., SIZE], direction, velocity), -1)


@MODELS.register_module()
class SparseBox3DEncoder(nn.Module):
    """The embedding of boxes [B, Q, 11] -> [B, Q, C]: of place, size, yaw and velocity.

    Those are added, or with `mode` "cat" joined; `embed_dims` then has their channels.
    """

    def __init__(
        self,
        embed_dims: int | Sequence[int],
        vel_dims: int = 3,
        mode: str = "add",
        output_fc: bool = True,
        in_loops: int = 1,
        out_loops: int = 2,
    ) -> None:
        super().__init__()
        if mode not in ("add", "cat"):
            raise ValueError(f"SparseBox3DEncoder: mode is {mode!r}, expected 'add' or 'cat'")
        channels = [embed_dims] * 5 if isinstance(embed_dims, int) else list(embed_dims)

        def network(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(*linear_relu_ln(outputs, in_loops, out_loops, inputs))

        self.mode, self.vel_dims = mode, vel_dims
        self.pos_fc = network(3, channels[0])
        self.size_fc = network(3, channels[1])
        self.yaw_fc = network(2, channels[2])
        if vel_dims > 0:
            self.vel_fc = network(vel_dims, channels[3])
        self.output_fc = network(channels[-1], channels[-1]) if output_fc else None

    def forward(self, boxes: Tensor) -> Tensor:
        parts = [
            self.pos_fc(boxes[..., CENTER]),
            self.size_fc(boxes[..., SIZE]),
            self.yaw_fc(boxes[..., YAW]),
        ]
        if self.vel_dims > 0:
            start = VELOCITY.start
            parts.append(self.vel_fc(boxes[..., start : start + self.vel_dims]))
        joined: Tensor = sum(parts[1:], parts[0]) if self.mode == "add" else torch.cat(parts, -1)
        return joined if self.output_fc is None else self.output_fc(joined)


@MODELS.register_module()
class SparseBox3DKeyPointsGenerator(nn.Module):
    """Points of a box: fixed ones in units of its sides, and learned ones within it."""

    def __init__(
        self,
        embed_dims: int = 256,
        num_learnable_pts: int = 0,
        fix_scale: Sequence[Sequence[float]] = ((0.0, 0.0, 0.0),),
    ) -> None:
        super().__init__()
        places = [[float(each) for each in place] for place in fix_scale]
        self.fix_scale = nn.Parameter(torch.tensor(places), requires_grad=False)
        self.num_learnable_pts = num_learnable_pts
        self.num_pts = len(places) + num_learnable_pts
        if num_learnable_pts > 0:
            self.learnable_fc = nn.Linear(embed_dims, num_learnable_pts * 3)

    def init_weights(self) -> None:
        """Learned points that do not depend on the box at first."""
        if self.num_learnable_pts > 0:
            nn.init.xavier_uniform_(self.learnable_fc.weight)
            nn.init.zeros_(self.learnable_fc.bias)

    def forward(self, boxes: Tensor, features: Tensor) -> Tensor:
        """boxes [B, Q, 11], features [B, Q, C] -> points [B, Q, P, 3] in meters."""
        size = boxes[..., None, SIZE].exp()
        points = self.fix_scale * size
        if self.num_learnable_pts > 0:
            learned = torch.unflatten(self.learnable_fc(features), -1, (-1, 3)).sigmoid() - 0.5
            points = torch.cat((points, learned * size), -2)
        sine, cosine = boxes[..., None, SINE], boxes[..., None, COSINE]  # [B, Q, 1]
        x, y, z = points.unbind(-1)
        turned = torch.stack((cosine * x - sine * y, sine * x + cosine * y, z), -1)
        return turned + boxes[..., None, CENTER]


@MODELS.register_module()
class SparseBox3DRefinementModule(nn.Module):
    """New boxes from an instance's features, its classes, and the quality of its box.

    The output for the velocity is a distance, divided by the time since the last frame.
    """

    def __init__(
        self,
        embed_dims: int = 256,
        output_dim: int = CODE,
        num_cls: int = 10,
        normalize_yaw: bool = False,
        refine_yaw: bool = False,
        with_cls_branch: bool = True,
        with_quality_estimation: bool = False,
    ) -> None:
        super().__init__()
        if output_dim != CODE or not with_cls_branch:
            raise ValueError(
                f"SparseBox3DRefinementModule: output_dim {output_dim} and with_cls_branch="
                f"{with_cls_branch} are not supported; set {CODE} and True"
            )
        self.normalize_yaw = normalize_yaw
        self.refined = 8 if refine_yaw else 6  # numbers that are added to those of the box
        C = embed_dims
        self.layers = nn.Sequential(
            *linear_relu_ln(C, 2, 2), nn.Linear(C, output_dim), Scale([1.0] * output_dim)
        )
        self.cls_layers = nn.Sequential(*linear_relu_ln(C, 1, 2), nn.Linear(C, num_cls))
        self.quality_layers = (
            nn.Sequential(*linear_relu_ln(C, 1, 2), nn.Linear(C, 2))
            if with_quality_estimation
            else None
        )

    def init_weights(self) -> None:
        """A prior per class."""
        nn.init.constant_(self.cls_layers[-1].bias, -math.log(1 / PRIOR_PROBABILITY - 1))

    def forward(
        self, feature: Tensor, boxes: Tensor, position: Tensor, seconds: Tensor, classify: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """feature and position [B, Q, C], boxes [B, Q, 11], seconds [B] -> boxes, and with
        `classify` logits [B, Q, classes] and quality [B, Q, 2] (centerness and yawness, logits)."""
        change = self.layers(feature + position)
        kept = change[..., : self.refined] + boxes[..., : self.refined]
        yaw = change[..., self.refined : 8]  # empty if it is refined
        velocity = change[..., VELOCITY] / seconds[:, None, None] + boxes[..., VELOCITY]
        refined = torch.cat((kept, yaw, velocity), -1)
        if self.normalize_yaw:
            yaw = torch.nn.functional.normalize(refined[..., YAW], dim=-1)
            refined = torch.cat((refined[..., : YAW.start], yaw, refined[..., VELOCITY]), -1)
        if not classify:
            return refined, None, None
        quality: Any = self.quality_layers
        return (
            refined,
            self.cls_layers(feature),
            None if quality is None else quality(feature + position),
        )
