"""What of the boxes in space each camera sees: the truth of StreamPETR's 2-D head.

Letters: B samples, N cameras, M boxes, m those of one camera.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cupola.structures import boxes3d

LEAST = 2.0  # pixels: boxes narrower or lower are left out


class CameraTargets(NamedTuple):
    """Of one camera, in pixels: boxes [m, 4] xyxy, labels [m] and centers [m, 2] of boxes in space.

    All lie in the image.
    """

    boxes: Tensor
    labels: Tensor
    centers: Tensor


def camera_targets(
    targets: Sequence[Mapping[str, Tensor]], lidar2img: Tensor, size: tuple[int, int]
) -> list[CameraTargets]:
    """The objects of every camera of every sample, B * N.

    targets[b]: boxes [M, 9] with z at the bottom, labels [M]; lidar2img [B, N, 4, 4]; size (height,
    width). A box is that of its corners in front of the camera, cut off at the image. Left out are
    objects whose center is behind the camera, and those that nearer boxes hide completely.
    Sources: nuscenes_converter.py and ResizeCropFlipRotImage of StreamPETR, which project the
    annotations before they are filtered by range and lidar points.
    """
    found = []
    for target, matrices in zip(targets, lidar2img, strict=True):
        boxes = boxes3d.bottom_to_center(target["boxes"])
        points = torch.cat((boxes3d.corners(boxes), boxes[:, None, :3]), 1)  # [M, 9, 3]
        for matrix in matrices.to(points.dtype):
            found.append(_seen(*boxes3d.project(points, matrix), target["labels"], size))
    return found


def _seen(uv: Tensor, depth: Tensor, labels: Tensor, size: tuple[int, int]) -> CameraTargets:
    """uv [M, 9, 2] and depth [M, 9] of the corners and the center."""
    limit = uv.new_tensor((size[1], size[0]))
    front = (depth[:, :8] > 0)[..., None]
    low = torch.where(front, uv[:, :8], torch.inf).amin(1) if len(uv) else uv[:, 0]
    high = torch.where(front, uv[:, :8], -torch.inf).amax(1) if len(uv) else uv[:, 0]
    low, high = low.clamp(min=0).minimum(limit), high.clamp(min=0).minimum(limit)
    kept = ((high - low >= LEAST).all(1) & (depth[:, 8] > 0)).nonzero()[:, 0]
    boxes, centers = torch.cat((low, high), 1), uv[:, 8].clamp(min=0).minimum(limit)
    kept = kept[_uncovered(boxes[kept], depth[kept, 8], size)]
    return CameraTargets(boxes[kept], labels[kept], centers[kept])


def _uncovered(boxes: Tensor, depth: Tensor, size: tuple[int, int]) -> Tensor:
    """Indices of the boxes that show at least a pixel when nearer ones are drawn over them."""
    if not len(boxes):
        return torch.zeros(0, dtype=torch.long, device=boxes.device)
    drawn = torch.full(size, -1)
    edges = torch.cat((boxes[:, :2].ceil(), boxes[:, 2:].floor()), 1).long().tolist()
    for index in depth.argsort(descending=True, stable=True).tolist():
        x0, y0, x1, y1 = edges[index]
        drawn[y0:y1, x0:x1] = index
    shown = sorted(set(drawn.flatten().tolist()) - {-1})
    return torch.tensor(shown, dtype=torch.long, device=boxes.device)
