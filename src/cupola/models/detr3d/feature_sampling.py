"""Projects 3-D points into the cameras and samples image features there.

Letters: B samples, N cameras, Q queries (points), C channels, L feature levels. "Rows" are the
pixels of all levels of all cameras of all samples, one row of C channels each.
Source: DETR3D (arXiv 2110.06922), section 3.3; detr3d_transformer.py, feature_sampling.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.ops.bilinear import bilinear_corners, weighted_rows

MIN_DEPTH = 1e-5


@dataclass(frozen=True)
class Cameras:
    """Projection from the ego's frame into the cameras.

    lidar2img: [B, N, 4, 4], meters -> pixels times depth.
    image_size: [B, 2], (height, width) in pixels, padding included.
    """

    lidar2img: Tensor
    image_size: Tensor

    def project(self, points: Tensor) -> "Projection":
        """Points [B, Q, 3] in meters -> their locations in each camera.

        A point is visible if it is in front of the camera and strictly inside the image.
        Comparisons with NaN are false, so a camera with NaN in its matrix sees nothing.
        """
        points = points.to(self.lidar2img.dtype)
        flat = torch.cat((points, torch.ones_like(points[..., :1])), dim=-1)
        image = flat[:, None] @ self.lidar2img.transpose(-1, -2)  # [B, N, Q, 4]
        depth = image[..., 2:3]
        size = self.image_size.flip(-1)[:, None, None]  # [B, 1, 1, 2], (width, height)
        uv = image[..., :2] / depth.clamp(min=MIN_DEPTH) / size
        inside = ((uv > 0) & (uv < 1)).all(-1)
        return Projection(uv, inside & (depth[..., 0] > MIN_DEPTH))


@dataclass(frozen=True)
class Projection:
    """uv: [B, N, Q, 2], fractions of width and height. visible: [B, N, Q], bool."""

    uv: Tensor
    visible: Tensor


@dataclass(frozen=True)
class Pyramid:
    """The feature maps that all decoder layers of a forward pass sample.

    levels: L maps [B, N, C, H_l, W_l].
    """

    levels: tuple[Tensor, ...]

    @cached_property
    def rows(self) -> Tensor:
        """All pixels as rows [sum over levels of B * N * H_l * W_l, C]; created on first use."""
        flat = [level.flatten(3).transpose(2, 3).flatten(0, 2) for level in self.levels]
        return torch.cat(flat)

    def gather(self, projection: Projection, weights: Tensor) -> Tensor:
        """Weighted sums over cameras and levels: weights [B, N, Q, L] -> [B, Q, C].

        Only the visible (camera, query) pairs are read, typically one in five.
        """
        B, N, Q, _ = weights.shape
        sample, camera, query = projection.visible.nonzero(as_tuple=True)  # P pairs each
        uv = projection.uv[sample, camera, query]  # [P, 2]
        weight = weights[sample, camera, query]  # [P, L]
        read = self._read_rows if self._table_pays(len(uv)) else self._read_levels
        pairs = read(uv, sample * N + camera, weight)  # [P, C]
        out = pairs.new_zeros(B * Q, pairs.shape[1])
        out = out.index_add(0, sample * Q + query, pairs).view(B, Q, -1)
        if not bool(out.isfinite().all()):  # non-finite samples count as 0, one by one
            return gather_dense(self.levels, projection, weights)
        return out

    def gather_all(self, projection: Projection, weights: Tensor) -> Tensor:
        """The result of `gather` in operators that can be exported, and without GridSample.

        Every (camera, query) pair is read, and samples that are not finite count as 0.
        """
        B, N, Q, L = weights.shape
        uv = projection.uv.reshape(-1, 2)  # [P, 2], P = B * N * Q
        image = torch.arange(B * N, device=uv.device)[:, None].expand(-1, Q).reshape(-1)
        masked = (weights * projection.visible[..., None]).reshape(-1, L)
        total = None
        for number, level in enumerate(self.levels):
            rows = level.flatten(3).transpose(2, 3).flatten(0, 2)  # [B * N * H_l * W_l, C]
            index, corner_weight = self._corners(number, uv)
            start = image * (level.shape[-2] * level.shape[-1])
            sample = torch.nan_to_num(weighted_rows(rows, index + start[:, None], corner_weight))
            part = sample * masked[:, number, None]  # [P, C]
            total = part if total is None else total + part
        assert total is not None
        return total.reshape(B, N, Q, -1).sum(1)

    def _table_pays(self, pairs: int) -> bool:
        """Whether building the table of rows is cheaper than reading the maps directly.

        The factor was measured on a CPU; in training the gradient of the table is cheaper too.
        """
        rows = sum(level[:, :, 0].numel() for level in self.levels)
        reads = pairs * 4 * len(self.levels)
        return "rows" in self.__dict__ or torch.is_grad_enabled() or rows < 4 * reads

    def _read_rows(self, uv: Tensor, image: Tensor, weight: Tensor) -> Tensor:
        """Weighted features [P, C] at uv [P, 2] of images [P], weight [P, L], from the table."""
        corners = [self._corners(level, uv) for level in range(len(self.levels))]
        starts, start = [], 0
        for level in self.levels:
            area = level.shape[-2] * level.shape[-1]
            starts.append(start + image * area)
            start += level.shape[0] * level.shape[1] * area
        index = torch.stack([i + s[:, None] for (i, _), s in zip(corners, starts, strict=True)], 1)
        bags = torch.stack([w for _, w in corners], 1) * weight[..., None]  # [P, L, 4]
        return weighted_rows(self.rows, index.flatten(1), bags.flatten(1))

    def _read_levels(self, uv: Tensor, image: Tensor, weight: Tensor) -> Tensor:
        """The same, directly from the maps."""
        total = uv.new_zeros(len(uv), self.levels[0].shape[2])
        for number, level in enumerate(self.levels):
            index, corner_weight = self._corners(number, uv)
            pixels = level.flatten(3).flatten(0, 1)[image[:, None], :, index]  # [P, 4, C]
            bags = (corner_weight * weight[:, number, None])[:, None]  # [P, 1, 4]
            total = total + (bags @ pixels)[:, 0]
        return total

    def _corners(self, level: int, uv: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels and bilinear weights around uv [P, 2] in one level: both [P, 4]."""
        height, width = self.levels[level].shape[-2:]
        # Pixel centers are at half-integers: align_corners=False.
        return bilinear_corners(uv[:, 1] * height - 0.5, uv[:, 0] * width - 0.5, (height, width))


def sample_levels(levels: Sequence[Tensor], projection: Projection) -> Tensor:
    """Every camera's feature at every point, visible or not: [B, C, Q, N, L]; NaN becomes 0.

    This is the original's method.
    """
    B, N, Q, _ = projection.uv.shape
    grid = (projection.uv * 2 - 1).view(B * N, Q, 1, 2)
    samples = [
        F.grid_sample(level.flatten(0, 1), grid, align_corners=False).view(B, N, -1, Q)
        for level in levels
    ]
    return torch.nan_to_num(torch.stack(samples, dim=-1)).permute(0, 2, 3, 1, 4)


def gather_dense(levels: Sequence[Tensor], projection: Projection, weights: Tensor) -> Tensor:
    """The result of Pyramid.gather without data-dependent indices."""
    masked = weights * projection.visible[..., None]  # [B, N, Q, L]
    return torch.einsum("bcqnl,bnql->bqc", sample_levels(levels, projection), masked)
