"""Random symmetries of the atmosphere, to train on few fields: turning the globe, mirroring it."""

import numpy as np
import torch
from torch import Tensor

from cupola.structures.variables import split_channel

NORTHWARD = ("v", "v10", "v100")


class Symmetries:
    """Turns the fields of a window about the axis of the earth, and mirrors them at the equator.

    Forcings turn with the state, so that land, sun and weather stay together. In a mirror image
    northward winds change their sign; it needs rows that are symmetric about the equator.
    mean, std [C, 1, 1]: the statistics of the channels.
    """

    def __init__(self, channels: tuple[str, ...], mean: Tensor, std: Tensor) -> None:
        variables = [split_channel(name)[0] for name in channels]
        self._northward = torch.tensor(
            [variable is not None and variable.name in NORTHWARD for variable in variables]
        )[:, None, None]
        self._shift = 2 * mean / std

    def draw(self, rng: np.random.Generator, columns: int) -> tuple[int, bool]:
        """How far to turn, in columns, and whether to mirror."""
        return int(rng.integers(columns)), bool(rng.integers(2))

    def apply(self, field: Tensor, turn: int, mirror: bool) -> Tensor:
        """A z-scored field [C, H, W], turned and perhaps mirrored."""
        field = turned(field, turn, mirror)
        return torch.where(self._northward, -field - self._shift, field) if mirror else field


def turned(field: Tensor, turn: int, mirror: bool) -> Tensor:
    """The points of a field or mask [..., H, W], turned and perhaps mirrored."""
    field = field.roll(turn, dims=-1)
    return field.flip(-2) if mirror else field
