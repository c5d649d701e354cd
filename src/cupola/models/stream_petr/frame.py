"""What a temporal head gets for one frame, and what enters its decoder.

Letters: B streams, N cameras, Q queries, P propagated queries, M remembered queries, C channels.
"""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

FOCAL_UNIT = 1e3  # focal lengths are given to networks in thousands of pixels


@dataclass(frozen=True)
class Frame:
    """One moment of every stream.

    lidar2img, intrinsics: [B, N, 4, 4], for the images as given. ego_pose: [B, 4, 4], lidar to a
    frame that does not move. timestamp: [B], seconds, float64. image_size: (height, width) with
    padding. extrinsics: [B, N, 4, 4], lidar to camera; only RepDETR3D needs them.
    """

    lidar2img: Tensor
    intrinsics: Tensor
    ego_pose: Tensor
    timestamp: Tensor
    image_size: tuple[int, int]
    extrinsics: Tensor | None = None


class Queries(NamedTuple):
    """What enters the decoder.

    target, position: [B, Q + P, C]. references: [B, Q + P, 3] in 0..1, those of propagated queries
    may lie outside. memory, memory_position: [B, M - P, C].
    """

    target: Tensor
    position: Tensor
    references: Tensor
    memory: Tensor
    memory_position: Tensor


def check_counts(num_query: int, memory_len: int, topk_proposals: int, num_propagated: int) -> None:
    """ValueError for numbers of queries that do not fit each other."""
    if not 0 <= num_propagated <= memory_len:
        raise ValueError(
            f"num_propagated is {num_propagated}, expected 0 to memory_len ({memory_len})"
        )
    if topk_proposals > num_query + num_propagated:
        raise ValueError(
            f"topk_proposals is {topk_proposals}, but there are {num_query + num_propagated} "
            "queries (num_query + num_propagated)"
        )
