"""Anchors: boxes of a few sizes and shapes at every cell of a feature map.

Letters: A anchors of a cell. Source: mmdet/models/task_modules/prior_generators.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cupola.models.constants import CONSTANTS, cacheable
from cupola.registry import TASK_UTILS
from cupola.registry.budget import reserve

CPU = torch.device("cpu")  # base anchors are numbers even where models are built on `meta`
Pair = float | Sequence[float]


@TASK_UTILS.register_module()
class AnchorGenerator:
    """Anchors with base sizes (by default the strides) times `scales`, of the given `ratios` (h/w).

    Instead of `scales`, `octave_base_scale` * 2^(i / scales_per_octave). `scale_major` sorts a
    cell's anchors by ratio first. Anchors are centered at the cell's corner, moved by
    `center_offset` of the base size or by `centers` (x, y) in pixels per level.
    """

    def __init__(
        self,
        strides: Sequence[Pair],
        ratios: Sequence[float],
        scales: Sequence[float] | None = None,
        base_sizes: Sequence[float] | None = None,
        scale_major: bool = True,
        octave_base_scale: float | None = None,
        scales_per_octave: int | None = None,
        centers: Sequence[Sequence[float]] | None = None,
        center_offset: float = 0.0,
        use_box_type: bool = False,
    ) -> None:
        if scales is None:
            if octave_base_scale is None or not scales_per_octave:
                raise ValueError("set scales, or octave_base_scale and scales_per_octave")
            reserve(scales_per_octave)
            octaves = range(scales_per_octave)
            scales = [octave_base_scale * 2 ** (i / scales_per_octave) for i in octaves]
        self.strides = stride_pairs(strides)
        sizes = [float(min(each)) for each in self.strides] if base_sizes is None else base_sizes
        if len(sizes) != len(self.strides) or (centers and len(centers) != len(self.strides)):
            raise ValueError("base_sizes and centers have one entry for each of the strides")
        self.scale_major, self.center_offset = scale_major, center_offset
        self.base_anchors = [
            self.of_a_cell(
                size, _numbers(scales), _numbers(ratios), centers[i] if centers else None
            )
            for i, size in enumerate(sizes)
        ]

    @property
    def counts(self) -> list[int]:
        """The number of anchors of a cell on every level."""
        return [len(each) for each in self.base_anchors]

    def of_a_cell(
        self, base: float, scales: Tensor, ratios: Tensor, center: Sequence[float] | None = None
    ) -> Tensor:
        """The anchors of the first cell [A, 4], xyxy in pixels."""
        offset = self.center_offset * base
        x, y = (offset, offset) if center is None else center
        width, height = self.sizes(base, scales, ratios)
        return torch.stack(
            (x - 0.5 * width, y - 0.5 * height, x + 0.5 * width, y + 0.5 * height), -1
        )

    def sizes(self, base: float, scales: Tensor, ratios: Tensor) -> tuple[Tensor, Tensor]:
        """Widths and heights of a cell's anchors, each [A]."""
        high = ratios.sqrt()
        wide = 1 / high
        if self.scale_major:
            return tuple((base * side[:, None] * scales).flatten() for side in (wide, high))  # type: ignore[return-value]
        return tuple((base * scales[:, None] * side).flatten() for side in (wide, high))  # type: ignore[return-value]

    def __call__(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps [B, C, h, w] -> the anchors of each level [h * w * A, 4], cell by cell.

        They may be shared with other calls: do not change them in place.
        """
        if len(maps) != len(self.strides):
            raise ValueError(f"{len(maps)} feature maps for anchors of {len(self.strides)} strides")
        return [
            _of_level(each, base, stride)
            for each, base, stride in zip(maps, self.base_anchors, self.strides, strict=True)
        ]

    def valid(self, maps: Sequence[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """Whether the cell of each anchor begins within (height, width), [h * w * A] per level."""
        found = []
        for each, stride, count in zip(maps, self.strides, self.counts, strict=True):
            h, w = each.shape[-2:]
            across = torch.arange(w, device=each.device) * stride[0] < size[1]
            down = torch.arange(h, device=each.device) * stride[1] < size[0]
            cells = (down[:, None] & across).flatten()
            found.append(cells[:, None].expand(-1, count).flatten())
        return found


@TASK_UTILS.register_module()
class LegacyAnchorGenerator(AnchorGenerator):
    """Anchors of MMDetection 1.x: the last pixel belongs to a box, and corners are rounded."""

    def of_a_cell(
        self, base: float, scales: Tensor, ratios: Tensor, center: Sequence[float] | None = None
    ) -> Tensor:
        """The anchors of the first cell [A, 4], xyxy in pixels."""
        offset = self.center_offset * (base - 1)
        x, y = (offset, offset) if center is None else center
        width, height = (0.5 * (side - 1) for side in self.sizes(base, scales, ratios))
        return torch.stack((x - width, y - height, x + width, y + height), -1).round()


@TASK_UTILS.register_module()
class MlvlPointGenerator(AnchorGenerator):
    """One square anchor of the stride's size a cell, centered at `offset` strides from its corner.

    Source: mmdet/models/task_modules/prior_generators/point_generator.py, whose points they mark.
    """

    def __init__(self, strides: Sequence[Pair], offset: float = 0.5) -> None:
        centers = [(offset * x, offset * y) for x, y in stride_pairs(strides)]
        super().__init__(strides, ratios=[1.0], scales=[1.0], centers=centers)


def _of_level(level: Tensor, base: Tensor, stride: tuple[float, float]) -> Tensor:
    """A map [B, C, h, w], its base anchors [A, 4] -> the anchors [h * w * A, 4]."""

    def make() -> Tensor:
        return (base.to(level)[None] + corners(level, stride)[:, None]).reshape(-1, 4)

    if not cacheable(level):
        return make()
    shape = (level.shape[-2], level.shape[-1])
    key = ("anchors", tuple(base.flatten().tolist()), stride, shape, level.dtype)
    return CONSTANTS.get(key, level, make)


def stride_pairs(strides: Sequence[Pair]) -> list[tuple[float, float]]:
    """Strides, each a number or (x, y), as pairs."""
    reserve(len(strides))
    pairs = [(each, each) if isinstance(each, (int, float)) else each for each in strides]
    return [(x, y) for x, y in pairs]


def corners(like: Tensor, stride: tuple[float, float]) -> Tensor:
    """The corner of every cell twice, [h * w, 4] as (x, y, x, y), in pixels, row by row."""
    height, width = like.shape[-2:]
    x = torch.arange(width, device=like.device) * stride[0]
    y = torch.arange(height, device=like.device) * stride[1]
    down, across = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((across, down, across, down), -1).flatten(0, 1).to(like.dtype)


def _numbers(values: Any) -> Tensor:
    return torch.tensor([float(each) for each in values], device=CPU)
