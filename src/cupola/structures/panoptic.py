"""Panoptic segmentation: every pixel belongs to one segment, or to none."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

INSTANCE_OFFSET = 1000  # MMDetection's: segment id = label + INSTANCE_OFFSET * number of the thing


class Segment(NamedTuple):
    """One segment: its id in the map, class, whether it is a thing, score 0..1, area in pixels."""

    id: int
    label: int
    is_thing: bool
    score: float
    area: int


@dataclass(frozen=True)
class PanopticSegmentation:
    """ids: [H, W], int32, in pixels of the original image; `void` where there is no segment.

    Things are numbered from 1 and have the id label + 1000 * number; stuff of one class is one
    segment whose id is its label.
    """

    ids: Tensor
    segments: tuple[Segment, ...]
    void: int

    def masks(self) -> Tensor:
        """The masks of the segments, in their order: [N, H, W], bool."""
        found = self.ids.new_tensor([segment.id for segment in self.segments])
        return self.ids == found[:, None, None]


class TrueSegment(NamedTuple):
    """One segment of the ground truth; label -1 is a class that is not evaluated."""

    id: int
    label: int
    is_thing: bool
    crowd: bool = False


class PanopticTruth(NamedTuple):
    """ids: [H, W], int64, 0 where no segment is; the segments by those ids."""

    ids: NDArray[np.int64]
    segments: tuple[TrueSegment, ...]
