"""What a stream remembers of its best queries, and how that moves with the vehicle.

Letters: B streams, M remembered queries, K new ones, C channels.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class StreamState(NamedTuple):
    """The memory between two frames, newest queries first.

    embedding: [B, M, C]. reference_point: [B, M, 3], meters, in a frame that does not move.
    timestamp: [B, M, 1], seconds, float64: minus the time of the frame. egopose: [B, M, 4, 4],
    from the lidar of a query's frame to that fixed frame. velo: [B, M, 2], meters per second.
    exists: [B], 1 where the stream has had a frame; 0 makes the next frame the first one.
    """

    embedding: Tensor
    reference_point: Tensor
    timestamp: Tensor
    egopose: Tensor
    velo: Tensor
    exists: Tensor


def empty_memory(batch: int, length: int, like: Tensor) -> StreamState:
    """Zeros with the dtype and device of `like` [.., C]."""
    return StreamState(
        like.new_zeros(batch, length, like.shape[-1]),
        like.new_zeros(batch, length, 3),
        torch.zeros(batch, length, 1, dtype=torch.float64, device=like.device),
        like.new_zeros(batch, length, 4, 4),
        like.new_zeros(batch, length, 2),
        like.new_zeros(batch),
    )


def move_points(points: Tensor, pose: Tensor) -> Tensor:
    """Points [B, M, 3] by a pose [B, 4, 4]."""
    return points @ pose[:, :3, :3].transpose(1, 2) + pose[:, None, :3, 3]


def invert_pose(pose: Tensor) -> Tensor:
    """The inverse of rotations, scaled or not, with a shift [B, 4, 4], without a solver."""
    turn = pose[:, :3, :3].transpose(1, 2)
    turn = turn / turn[:, :, :1].square().sum(1, keepdim=True)  # by the square of the scale
    shift = -(turn @ pose[:, :3, 3:])
    return torch.cat((torch.cat((turn, shift), -1), pose[:, 3:]), 1)


def to_present(
    state: StreamState, world2lidar: Tensor, timestamp: Tensor, length: int
) -> StreamState:
    """The newest `length` queries as seen from the present lidar, ages in seconds.

    world2lidar [B, 4, 4], timestamp [B] float64. Streams without an earlier frame get zeros.
    """
    exists = state.exists

    def kept(value: Tensor) -> Tensor:
        value = value[:, :length]
        return value * exists.view(-1, *[1] * (value.dim() - 1)).to(value.dtype)

    return StreamState(
        kept(state.embedding),
        kept(move_points(state.reference_point, world2lidar)),
        kept(state.timestamp + timestamp[:, None, None]),
        kept(world2lidar[:, None] @ state.egopose),
        kept(state.velo),
        exists,
    )


def pad_first_frame(memory: StreamState, points: Tensor) -> StreamState:
    """Puts fixed points [P, 3] in meters first in the memory of streams without a past."""
    new = (1 - memory.exists)[:, None, None]  # [B, 1, 1]
    count = len(points)
    eye = torch.eye(4, dtype=points.dtype, device=points.device)
    places = torch.cat(
        (
            memory.reference_point[:, :count] + new * points,
            memory.reference_point[:, count:],
        ),
        1,
    )
    poses = torch.cat(
        (memory.egopose[:, :count] + new[..., None] * eye, memory.egopose[:, count:]), 1
    )
    return memory._replace(reference_point=places, egopose=poses)


def remember(
    memory: StreamState,
    best: Tensor,
    embedding: Tensor,
    points: Tensor,
    velo: Tensor,
    ego_pose: Tensor,
    timestamp: Tensor,
) -> StreamState:
    """The memory as seen from the present, with the queries `best` [B, K] in front.

    embedding [B, Q, C], points [B, Q, 3] in meters and velo [B, Q, 2] are those of the present
    frame, whose ego_pose is [B, 4, 4] and timestamp [B]. -> the state for the next frame.
    """
    B, K = best.shape

    def chosen(value: Tensor) -> Tensor:
        index = best[..., None].expand(B, K, value.shape[-1])
        return value.gather(1, index).detach()

    eye = torch.eye(4, dtype=points.dtype, device=points.device).expand(B, K, 4, 4)
    age = torch.zeros(B, K, 1, dtype=torch.float64, device=points.device)
    reference_point = torch.cat((chosen(points), memory.reference_point), 1)
    return StreamState(
        torch.cat((chosen(embedding), memory.embedding), 1),
        move_points(reference_point, ego_pose),
        torch.cat((age, memory.timestamp), 1) - timestamp[:, None, None],
        ego_pose[:, None] @ torch.cat((eye, memory.egopose), 1),
        torch.cat((chosen(velo), memory.velo), 1),
        torch.ones_like(memory.exists),
    )
