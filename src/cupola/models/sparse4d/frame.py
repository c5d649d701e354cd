"""What Sparse4D gets for one frame, what it answers, and what it keeps between two frames.

Letters: B streams, N cameras, L refinements, K refinements with classes, Q instances, M kept ones,
C channels.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Frame:
    """One moment of every stream.

    lidar2img: [B, N, 4, 4], for the images as given. ego_pose: [B, 4, 4], float64, lidar to a
    frame that does not move. timestamp: [B], seconds, float64. image_size: (height, width).
    """

    lidar2img: Tensor
    ego_pose: Tensor
    timestamp: Tensor
    image_size: tuple[int, int]


class Sparse4DOutput(NamedTuple):
    """What was found in one frame; the last refinement comes last.

    boxes: [L, B, Q, 11], codes in meters (see boxes.py). logits: [K, B, Q, classes] of the
    refinements that have classes: in training all, else that after the single-frame layers and the
    last one. quality: [K, B, Q, 2], logits of centerness and yawness, or None. tracks: [B, Q],
    int64, the number of each instance in its stream, -1 for none; None in training.
    """

    logits: Tensor
    boxes: Tensor
    quality: Tensor | None
    tracks: Tensor | None


class InstanceState(NamedTuple):
    """The M instances that a stream keeps, best first, in the lidar frame of their moment.

    feature: [B, M, C]. anchor: [B, M, 11], boxes. confidence: [B, M], 0..1. tracks: [B, M], int64.
    next_track: [B], int64, the number of the next new instance. ego_pose: [B, 4, 4] and timestamp:
    [B], float64, of their moment. exists: [B], 1 where the stream has had a frame; 0 makes the next
    frame the first one.
    """

    feature: Tensor
    anchor: Tensor
    confidence: Tensor
    tracks: Tensor
    next_track: Tensor
    ego_pose: Tensor
    timestamp: Tensor
    exists: Tensor


def empty_state(batch: int, kept: int, like: Tensor, code: int) -> InstanceState:
    """Before the first frame; dtype and device as `like` [.., C]."""
    device = like.device
    return InstanceState(
        like.new_zeros(batch, kept, like.shape[-1]),
        like.new_zeros(batch, kept, code),
        like.new_zeros(batch, kept),
        torch.full((batch, kept), -1, device=device),
        torch.zeros(batch, dtype=torch.int64, device=device),
        torch.eye(4, dtype=torch.float64, device=device).repeat(batch, 1, 1),
        torch.zeros(batch, dtype=torch.float64, device=device),
        like.new_zeros(batch),
    )
