"""Anchors of SSD: sizes between a smallest and a largest one of each level."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cupola.models.boxes import AnchorGenerator, LegacyAnchorGenerator
from cupola.models.boxes.anchors import CPU, Pair, stride_pairs
from cupola.registry import TASK_UTILS

# Percent of the input that the first level's boxes have, by input size and the first of the ratios.
FIRST = {(300, 15): (7, 15), (300, 20): (10, 20), (512, 10): (4, 10), (512, 15): (7, 15)}


def sizes_of_levels(levels: int, size: int, ratios: Sequence[float]) -> tuple[list[int], list[int]]:
    """The smallest and the largest sides of each level in pixels, as in the original Caffe code."""
    low, high = int(ratios[0] * 100), int(ratios[1] * 100)
    if (size, low) not in FIRST:
        known = ", ".join(f"{side} with {first / 100}" for side, first in FIRST)
        raise ValueError(
            f"input_size {size} with basesize_ratio_range {tuple(ratios)}: set min_sizes and "
            f"max_sizes, or use {known}"
        )
    step = (high - low) // (levels - 2)
    starts = range(low, high + 1, step)
    first = FIRST[size, low]
    smallest = [first[0], *starts]
    largest = [first[1], *(each + step for each in starts)]
    return [size * x // 100 for x in smallest], [size * x // 100 for x in largest]


@TASK_UTILS.register_module()
class SSDAnchorGenerator(AnchorGenerator):
    """A square of the smallest size, one of the geometric mean, and the first in other ratios.

    Without `min_sizes` and `max_sizes` they follow from `input_size` and `basesize_ratio_range`.
    Source: mmdet/models/task_modules/prior_generators/anchor_generator.py.
    """

    def __init__(
        self,
        strides: Sequence[Pair],
        ratios: Sequence[Sequence[float]],
        min_sizes: Sequence[float] | None = None,
        max_sizes: Sequence[float] | None = None,
        basesize_ratio_range: Sequence[float] = (0.15, 0.9),
        input_size: int = 300,
        scale_major: bool = True,
        use_box_type: bool = False,
    ) -> None:
        self.strides = stride_pairs(strides)
        if min_sizes is None or max_sizes is None:
            found = sizes_of_levels(len(self.strides), input_size, basesize_ratio_range)
            min_sizes, max_sizes = found
        if not len(ratios) == len(min_sizes) == len(max_sizes) == len(self.strides):
            raise ValueError("ratios, min_sizes and max_sizes have one entry for each stride")
        self.scale_major, self.center_offset = scale_major, 0.0
        self.base_anchors = []
        for stride, sides, low, high in zip(
            self.strides, ratios, min_sizes, max_sizes, strict=True
        ):
            shapes = [1.0, *(x for ratio in sides for x in (1 / ratio, ratio))]
            anchors = self.of_a_cell(
                low,
                torch.tensor([1.0, math.sqrt(high / low)], device=CPU),
                torch.tensor(shapes, device=CPU),
                (stride[0] / 2, stride[1] / 2),
            )
            count = len(shapes)
            self.base_anchors.append(anchors[self.order(count)])

    @staticmethod
    def order(count: int) -> list[int]:
        """Which anchors are used, and in which order: the larger square is the second."""
        return [0, count, *range(1, count)]


@TASK_UTILS.register_module()
class LegacySSDAnchorGenerator(SSDAnchorGenerator):
    """SSD's anchors of MMDetection 1.x, with the cells' centers as these had them."""

    def __init__(
        self,
        strides: Sequence[Pair],
        ratios: Sequence[Sequence[float]],
        basesize_ratio_range: Sequence[float],
        input_size: int = 300,
        scale_major: bool = True,
        use_box_type: bool = False,
    ) -> None:
        super().__init__(strides, ratios, None, None, basesize_ratio_range, input_size, scale_major)

    def of_a_cell(
        self, base: float, scales: Tensor, ratios: Tensor, center: Sequence[float] | None = None
    ) -> Tensor:
        """The anchors of the first cell [A, 4], xyxy in pixels."""
        assert center is not None
        place = [(2 * x - 1) / 2 for x in center]
        return LegacyAnchorGenerator.of_a_cell(self, base, scales, ratios, place)  # type: ignore[arg-type]
