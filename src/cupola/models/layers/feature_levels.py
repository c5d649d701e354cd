"""Feature maps of several sizes as one sequence of cells.

Letters: B images, L levels, S cells of all levels, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cupola.models.layers.position_encoding import SinePositionalEncoding


@dataclass(frozen=True)
class FeatureLevels:
    """The cells of all levels, level by level and row by row.

    cells: [B, S, C]. positions: [B, S, C], the encoding of place and level. padding: [B, S], True =
    padded, or None. shapes: (height, width) of each level. valid_ratios: [B, L, 2], the part of the
    width and of the height that is not padding.
    """

    cells: Tensor
    positions: Tensor
    padding: Tensor | None
    shapes: tuple[tuple[int, int], ...]
    valid_ratios: Tensor


def flatten_levels(
    maps: Sequence[Tensor],
    padding_mask: Tensor | None,
    positional_encoding: SinePositionalEncoding,
    level_embed: Tensor,
) -> FeatureLevels:
    """maps [B, C, h_i, w_i], padding_mask [B, H, W] of the images, level_embed [L, C] -> levels.

    Source: mmdet/models/detectors/deformable_detr.py, pre_transformer.
    """
    cells, positions, paddings, ratios = [], [], [], []
    for features, embedding in zip(maps, level_embed, strict=True):
        padding = feature_mask(padding_mask, features)
        place = map_positions(positional_encoding, features, padding)
        cells.append(features.flatten(2).transpose(1, 2))  # [B, hw, C]
        positions.append(place.flatten(2).transpose(1, 2) + embedding)
        if padding is not None:
            paddings.append(padding.flatten(1))
            ratios.append(valid_ratio(padding))
    B = maps[0].shape[0]
    return FeatureLevels(
        torch.cat(cells, 1),
        torch.cat(positions, 1),
        torch.cat(paddings, 1) if paddings else None,
        tuple((each.shape[-2], each.shape[-1]) for each in maps),
        torch.stack(ratios, 1) if ratios else maps[0].new_ones(B, len(maps), 2),
    )


def feature_mask(padding_mask: Tensor | None, features: Tensor) -> Tensor | None:
    """The padding mask at the size of the feature map, by nearest: [B, H, W] -> [B, h, w]."""
    if padding_mask is None:
        return None
    rows, columns = (
        _nearest(padding_mask.shape[axis - 2], features.shape[axis - 2], padding_mask.device)
        for axis in range(2)
    )
    return padding_mask[:, rows][:, :, columns]


def _nearest(size: int, cells: int, device: torch.device) -> Tensor:
    """The place among `size` that F.interpolate reads for each of `cells`, in its arithmetic.

    In exported graphs each runtime rounds a Resize in its own way, but not these steps.
    """
    scale = torch.scalar_tensor(size, dtype=torch.float32, device=device) / cells
    place = torch.arange(cells, dtype=torch.float32, device=device) * scale
    return place.floor().long().clamp(max=size - 1)


def map_positions(
    encoding: SinePositionalEncoding, features: Tensor, padding: Tensor | None
) -> Tensor:
    """The encoding [B, C, h, w] of a feature map [B, C, h, w] with its mask [B, h, w] or None."""
    if padding is not None:
        found: Tensor = encoding(padding)
    else:
        B, _, h, w = features.shape
        found = encoding(features.new_zeros(1, h, w, dtype=torch.bool)).expand(B, -1, -1, -1)
    return found.to(features.dtype)


def valid_ratio(padding: Tensor) -> Tensor:
    """The part of the width and of the height that is image: [B, h, w] -> [B, 2]."""
    height = (~padding[:, :, 0]).sum(1) / padding.shape[1]
    width = (~padding[:, 0, :]).sum(1) / padding.shape[2]
    return torch.stack((width, height), -1)


def cell_centers(levels: FeatureLevels) -> Tensor:
    """The center of every cell in every level: [B, S, L, 2], (x, y) as fractions of that level.

    A cell is at the same place of the image in all levels, padding left out.
    """
    centers = []
    for level, (height, width) in enumerate(levels.shapes):
        x, y = _grid(height, width, levels.valid_ratios)
        ratio = levels.valid_ratios[:, level, None]  # [B, 1, 2]
        centers.append(torch.stack((x, y), -1) / ratio)  # [B, hw, 2], fractions of the image
    return torch.cat(centers, 1)[:, :, None] * levels.valid_ratios[:, None]


def _grid(height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """x and y of the centers of a map's cells as fractions of the map, each [hw]."""
    y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) / height
    x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) / width
    return x.repeat(height), y[:, None].expand(height, width).reshape(-1)
