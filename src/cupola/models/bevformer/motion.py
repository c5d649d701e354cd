"""How the vehicle moved since the previous frame, and the bird's-eye view that moves with it.

The 18 numbers of a `can_bus` are those of structures/can_bus.py. Letters: B streams, K cells
of rows x columns, C channels.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

HEADING, DEGREES = 16, 17  # places in a can_bus


class BEVState(NamedTuple):
    """What a stream keeps between two frames.

    bev: [B, K, C], the bird's-eye view of the latest frame. position: [B, 3], meters, and angle:
    [B], degrees, of the vehicle then, both float64. exists: [B], 1 where the stream has had a
    frame; 0 makes the next frame the first one.
    """

    bev: Tensor
    position: Tensor
    angle: Tensor
    exists: Tensor


class Motion(NamedTuple):
    """can_bus: [B, 18], float64, position and degrees since the previous frame.

    previous: [B, K, C], the bird's-eye view then, or None if no stream has one. exists: [B], 1
    where a stream has one.
    """

    can_bus: Tensor
    previous: Tensor | None = None
    exists: Tensor | None = None


def motion_since(state: BEVState, can_bus: Tensor) -> Motion:
    """can_bus [B, 18] as measured -> since the frame of the state; zeros for first frames."""
    known = state.exists.to(can_bus.dtype)[:, None]
    shift = (can_bus[:, :3] - state.position) * known
    turn = (can_bus[:, DEGREES:] - state.angle[:, None]) * known
    return Motion(torch.cat((shift, can_bus[:, 3:DEGREES], turn), 1), state.bev, state.exists)


def grid_shift(can_bus: Tensor, lengths: tuple[float, float]) -> Tensor:
    """By which fractions (x, y) of the grid the vehicle moved, [B, 2]; `lengths` are its (y, x).

    y is along the heading and x to its right. Of float64.
    """
    dx, dy, heading = can_bus[:, 0], can_bus[:, 1], can_bus[:, HEADING]
    ahead = dx * heading.cos() + dy * heading.sin()
    right = dx * heading.sin() - dy * heading.cos()
    return torch.stack((right / lengths[1], ahead / lengths[0]), -1)


def rotate_grid(
    grid: Tensor, size: tuple[int, int], degrees: Tensor, center: tuple[float, float]
) -> Tensor:
    """A grid [B, K, C] of `size` (rows, columns), turned counterclockwise about `center` (x, y).

    Each cell takes the nearest one, or 0 outside. This is torchvision's `rotate`, in the order of
    its roundings, as a gather of rows: no picture is transposed, and it can be exported.
    """
    rows, columns = size
    real: dict[str, Any] = {"dtype": grid.dtype, "device": grid.device}
    theta = _inverse_turn(degrees, center[0] - columns / 2, center[1] - rows / 2).to(grid.dtype)
    x = torch.linspace(-columns / 2 + 0.5, columns / 2 - 0.5, columns, **real)
    y = torch.linspace(-rows / 2 + 0.5, rows / 2 - 0.5, rows, **real)
    places = torch.stack((x.expand(rows, -1), y[:, None].expand(-1, columns)), -1).flatten(0, 1)
    places = torch.cat((places, torch.ones_like(places[:, :1])), 1)  # [K, 3]
    half = torch.tensor([columns / 2, rows / 2], **real)
    normalized = places @ (theta.transpose(1, 2) / half)  # [B, K, 2], -1..1 between the borders
    at = (((normalized + 1) * (2 * half) - 1) / 2).round()
    inside = ((at >= 0) & (at < 2 * half)).all(-1)  # [B, K]
    index = (at[..., 1] * columns + at[..., 0]).where(inside, 0.0).long()
    turned = grid.gather(1, index[..., None].expand(-1, -1, grid.shape[-1]))
    return turned * inside[..., None]


def _inverse_turn(degrees: Tensor, x: float, y: float) -> Tensor:
    """[B, 2, 3]: from a place of the turned picture to its place before; (x, y) stays."""
    angle = degrees.double() * (math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    first = torch.stack((cos, -sin, x - cos * x + sin * y), -1)
    second = torch.stack((sin, cos, y - sin * x - cos * y), -1)
    return torch.stack((first, second), 1)
