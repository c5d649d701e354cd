"""The 3-D position of every image cell: points on its camera ray, as the network sees them.

Letters: B samples, N cameras, h and w size of the feature map, D depths.
"""

import math

import torch
from torch import Tensor

from cupola.models.layers import inverse_sigmoid, sine_waves

EPS = 1e-5


def depth_bins(start: float, end: float, count: int, linear_increasing: bool) -> Tensor:
    """Depths [count] in meters from `start` towards `end`.

    Equal steps, or with `linear_increasing` steps that grow linearly (LID: CaDDN, arXiv
    2103.01100, equation 2).
    """
    index = torch.arange(count, dtype=torch.float32)
    if linear_increasing:
        return start + (end - start) / (count * (1 + count)) * index * (index + 1)
    return start + (end - start) / count * index


def frustum(columns: Tensor, rows: Tensor, depths: Tensor) -> Tensor:
    """Pixel coordinates [w] and [h], depths [D] -> (u * d, v * d, d, 1) [h, w, D, 4]."""
    h, w, D = rows.shape[0], columns.shape[0], depths.shape[0]
    scale = depths.clamp(min=EPS)
    u = (columns[None, :, None] * scale).expand(h, w, D)
    v = (rows[:, None, None] * scale).expand(h, w, D)
    d = depths.expand(h, w, D)
    return torch.stack((u, v, d, torch.ones_like(d)), dim=-1)


def points_on_rays(image_points: Tensor, img2lidar: Tensor, limits: Tensor) -> Tensor:
    """Frustum [..., 4] and matrices [B, N, 4, 4] -> points [B, N, ..., 3] in the lidar frame.

    As fractions of `limits` (x0, y0, z0, x1, y1, z1), not clipped.
    """
    B, N = img2lidar.shape[:2]
    flat = image_points.flatten(0, -2)  # [P, 4]
    points = flat @ img2lidar[..., :3, :].flatten(0, 1).transpose(1, 2)  # [B * N, P, 3]
    points = (points - limits[:3]) / (limits[3:] - limits[:3])
    return points.view(B, N, *image_points.shape[:-1], 3)


def position_input(points: Tensor) -> Tensor:
    """Fractions [B, N, h, w, D, 3] -> logits [B * N, 3 * D, h, w], channel 3 * depth + axis."""
    logits = inverse_sigmoid(points.flatten(0, 1).flatten(-2), EPS)  # [B * N, h, w, 3 * D]
    return logits.permute(0, 3, 1, 2)


def encode_points(points: Tensor, num_feats: int) -> Tensor:
    """Sines and cosines of points [..., 3] in 0..1 -> [..., 3 * num_feats], in the order y, x, z.

    Source: petr_head.py, pos2posemb3d.
    """
    x, y, z = (points * (2 * math.pi)).unbind(-1)
    return sine_waves(torch.stack((y, x, z), -1), num_feats).flatten(-2)


def invert_cameras(matrices: Tensor) -> Tensor:
    """The inverses of projections [..., 4, 4] whose last row is (0, 0, 0, 1), in float64.

    A singular matrix gives NaN or infinity. The formula of cofactors is used, because ONNX has
    no operator for inverses.
    """
    matrices = matrices.to(torch.float64)
    a, b, c = matrices[..., :3, :3].unbind(-2)  # rows
    columns = torch.stack((_cross(b, c), _cross(c, a), _cross(a, b)), dim=-1)
    inverse = columns / (a * columns[..., 0]).sum(-1)[..., None, None]
    shift = -(inverse @ matrices[..., :3, 3:])
    return torch.cat((torch.cat((inverse, shift), -1), matrices[..., 3:, :]), -2)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    x, y, z = a.unbind(-1)
    u, v, w = b.unbind(-1)
    return torch.stack((y * w - z * v, z * u - x * w, x * v - y * u), -1)
