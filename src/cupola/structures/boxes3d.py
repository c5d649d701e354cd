"""3-D boxes as tensors [..., 9]: codes, corners, projection. All functions are pure.

A box is (x, y, z, l, w, h, yaw, vx, vy): meters, radians, meters per second, in the frame of the
ego's lidar (x right or forward depending on the dataset, z up). `l` is along the heading, yaw is
counter-clockwise seen from above. In "bottom" boxes z is the bottom of the box, in "center" boxes
its middle.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Signs of the corners' (l, w, h) half-extents: the four at the bottom, counter-clockwise from
# front left, then the four at the top.
CORNER_SIGNS = (
    (1, 1, -1),
    (-1, 1, -1),
    (-1, -1, -1),
    (1, -1, -1),
    (1, 1, 1),
    (-1, 1, 1),
    (-1, -1, 1),
    (1, -1, 1),
)
CORNER_EDGES = (
    *((0, 1), (1, 2), (2, 3), (3, 0)),
    *((4, 5), (5, 6), (6, 7), (7, 4)),
    *((0, 4), (1, 5), (2, 6), (3, 7)),
)


def bottom_to_center(boxes: Tensor) -> Tensor:
    """Moves z from the bottom of the box to its middle; [..., >= 6]."""
    return torch.cat((boxes[..., :2], boxes[..., 2:3] + boxes[..., 5:6] * 0.5, boxes[..., 3:]), -1)


def center_to_bottom(boxes: Tensor) -> Tensor:
    """Moves z from the middle of the box to its bottom; [..., >= 6]."""
    return torch.cat((boxes[..., :2], boxes[..., 2:3] - boxes[..., 5:6] * 0.5, boxes[..., 3:]), -1)


@dataclass(frozen=True)
class BoxCode:
    """The ten numbers that a head regresses for a box, in meters, and how they are ordered.

    By default cx, cy, log l, log w, cz, log h, sin, cos, vx, vy with the yaw itself. With
    `center_first` cz is the third number; with `turned` the angle is -yaw - pi/2, and with
    `width_first` the width comes before the length. The last two together are the boxes of
    MMDetection3D before version 1.0.
    """

    center_first: bool = False
    turned: bool = False
    width_first: bool = False

    @property
    def z(self) -> int:
        """Index of cz."""
        return 2 if self.center_first else 4

    def encode(self, boxes: Tensor) -> Tensor:
        """Center boxes [..., 9] -> codes [..., 10]. A side of 0 becomes -inf."""
        x, y, z, length, width, height, yaw = boxes[..., :7].unbind(-1)
        sides = (width.log(), length.log()) if self.width_first else (length.log(), width.log())
        middle = (z, *sides) if self.center_first else (*sides, z)
        angle = -yaw - math.pi / 2 if self.turned else yaw
        code = torch.stack((x, y, *middle, height.log(), angle.sin(), angle.cos()), -1)
        return torch.cat((code, boxes[..., 7:9]), -1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [..., 10] -> center boxes [..., 9]; the inverse of encode up to 2 pi in yaw."""
        x, y, a, b, c, log_h, sine, cosine = codes[..., :8].unbind(-1)
        z, first, second = (a, b, c) if self.center_first else (c, a, b)
        sides = (second.exp(), first.exp()) if self.width_first else (first.exp(), second.exp())
        angle = torch.atan2(sine, cosine)
        yaw = wrap_angle(-angle - math.pi / 2) if self.turned else angle
        box = torch.stack((x, y, z, *sides, log_h.exp(), yaw), -1)
        return torch.cat((box, codes[..., 8:10]), -1)


def encode_boxes(boxes: Tensor) -> Tensor:
    """Center boxes [..., 9] -> codes [..., 10]: cx, cy, log l, log w, cz, log h, sin, cos, vx, vy.

    A side of 0 becomes -inf.
    """
    return BoxCode().encode(boxes)


def decode_boxes(codes: Tensor) -> Tensor:
    """Codes [..., 10] -> center boxes [..., 9]; the inverse of encode_boxes up to 2 pi in yaw."""
    return BoxCode().decode(codes)


def wrap_angle(angle: Tensor) -> Tensor:
    """The same angle in [-pi, pi)."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


def corners(boxes: Tensor) -> Tensor:
    """Corners of center boxes: [..., >= 7] -> [..., 8, 3], meters, in the order CORNER_SIGNS."""
    signs = boxes.new_tensor(CORNER_SIGNS)  # [8, 3]
    local = boxes[..., None, 3:6] * 0.5 * signs  # [..., 8, 3]
    cosine, sine = boxes[..., 6, None].cos(), boxes[..., 6, None].sin()
    x = cosine * local[..., 0] - sine * local[..., 1]
    y = sine * local[..., 0] + cosine * local[..., 1]
    return boxes[..., None, :3] + torch.stack((x, y, local[..., 2]), -1)


def project(points: Tensor, lidar2img: Tensor, min_depth: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Points [..., 3] through matrices [..., 4, 4] -> pixels [..., 2] (u, v) and depth [...].

    For points at or behind the camera the depth is clamped to min_depth; check the depth first.
    """
    flat = torch.cat((points, torch.ones_like(points[..., :1])), -1)
    image = (lidar2img @ flat[..., None])[..., :3, 0]
    depth = image[..., 2]
    return image[..., :2] / depth.clamp(min=min_depth)[..., None], depth


def in_range(centers: Tensor, limits: tuple[float, ...] | list[float]) -> Tensor:
    """Whether centers [..., 3] lie in (x0, y0, z0, x1, y1, z1), borders included; bool [...]."""
    low, high = centers.new_tensor(limits[:3]), centers.new_tensor(limits[3:])
    return ((centers >= low) & (centers <= high)).all(-1)
